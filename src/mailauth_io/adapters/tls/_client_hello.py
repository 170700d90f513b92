"""Reads the protocols that a TLS client offers by ALPN: the ssl module reports only the one that was selected.

This module does no I/O, and ignores other errors: the TLS library rejects data that is not a valid ClientHello.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_HANDSHAKE: Final = 22  # the type of a record (RFC 8446 section 5.1)
_CLIENT_HELLO: Final = 1  # the type of a message in it (section 4)
_ALPN: Final = 16  # the type of an extension (RFC 7301 section 3.1)

_MAX_SIZE: Final = 65_536
"""Maximum bytes of a ClientHello that are buffered.  OpenSSL accepts twice as many; real ones have fewer than 2,000."""


class ClientHello:
    """An incremental parser: pass it the client's data until *protocols* is not None.

    The data may be split at any point, and the message over several TLS records.
    """

    __slots__ = ("_message", "_received", "protocols")

    def __init__(self) -> None:
        self._received = bytearray()
        self._message = bytearray()
        self.protocols: frozenset[str] | None = None
        """The offered names; empty if there are none or the data is not a ClientHello; None while data is missing."""

    def receive_data(self, data: bytes) -> None:
        """Parse *data* from the client.  Does nothing once *protocols* is known."""
        received, message = self._received, self._message
        received += data
        while self.protocols is None and len(received) >= 5:
            size = int.from_bytes(received[3:5], "big")
            if received[0] != _HANDSHAKE or size == 0 or len(message) > _MAX_SIZE:
                self.protocols = frozenset()
            elif len(received) < 5 + size:
                return
            else:
                message += received[5 : 5 + size]
                del received[: 5 + size]
                self._look()

    def _look(self) -> None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            self.protocols = frozenset()
        elif len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            self.protocols = frozenset(_offered(bytes(message)))


class _Reader:
    """Reads fields with a length prefix.  A field that is truncated is returned without an error."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def vector(self, size_of_length: int) -> bytes:
        return self.take(int.from_bytes(self.take(size_of_length), "big"))


def _offered(message: bytes) -> Iterator[str]:
    """Yield the names in the ALPN extension of a complete ClientHello (RFC 8446 section 4.1.2)."""
    reader = _Reader(message)
    reader.take(1)
    hello = _Reader(reader.vector(3))
    hello.take(2 + 32)  # version and random
    for size_of_length in (1, 2, 1):  # session id, cipher suites, compression methods
        hello.vector(size_of_length)
    extensions = _Reader(hello.vector(2))
    while extensions:
        kind = int.from_bytes(extensions.take(2), "big")
        body = _Reader(extensions.vector(2))
        names = _Reader(body.vector(2) if kind == _ALPN else b"")
        while names:
            yield names.vector(1).decode("ascii", "backslashreplace")
