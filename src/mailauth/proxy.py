"""The PROXY protocol, versions 1 and 2, read by whoever is behind a proxy: who is the client, really?

Follows "The PROXY protocol, Versions 1 & 2" by HAProxy Technologies (2020); its sections are cited.  Knows neither SMTP
nor POP3, and not whom to believe: the header may be read from peers that are known to be proxies, and from nobody else,
since it is a claim that any client could make.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from typing import Final, TypeAlias

import attrs

from ._errors import LocalProtocolError

MAX_TEXT: Final = 107
"""Octets of a version 1 header with its CRLF (section 2.1)."""

MAX_BINARY: Final = 16_384
"""Octets of a version 2 header: section 2.2 allows 65,551 but has it fit a TCP segment; this leaves room for a client's
certificate."""

_CRLF: Final = b"\r\n"
_UNKNOWN: Final = b"PROXY UNKNOWN"
_BEGINNINGS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", _UNKNOWN)
_SHORTEST_TEXT: Final = 15
_SPACES: Final = 5  # of a version 1 header with addresses
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_ADDRESS: Final = rb"([0-9A-Fa-f:.]{2,39})"
_TEXT: Final = re.compile(rb"PROXY TCP([46]) %b %b %b %b\r\n" % (_ADDRESS, _ADDRESS, _PORT, _PORT))

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PREFIX: Final = 16  # octets of a version 2 header before its addresses
_LOCAL: Final = 0x20  # version and command
_PROXY: Final = 0x21
_ADDRESSES: Final = (0, 12, 36, 216)  # octets of addresses and ports by family: none, IPv4, IPv6, UNIX
_STREAM: Final = 0x1
_CRC32C: Final = 0x03  # the type of the checksum (section 2.2.3)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@attrs.frozen
class Endpoint:
    """One end of the connection between the client and the proxy."""

    address: Address
    port: int


@attrs.frozen(kw_only=True)
class Proxied:
    """The connection is made for a client, over TCP."""

    source: Endpoint
    """The client."""
    destination: Endpoint
    """Where it connected to."""


class Unproxied(enum.Enum):
    """A valid header without addresses: those of the socket hold."""

    LOCAL = "the proxy speaks for itself: a health check"
    UNKNOWN = "the proxy does not say for whom, or names no address of TCP"


@attrs.frozen
class Invalid:
    """No valid header: the connection must be dropped (sections 2.1 and 2.2)."""

    reason: str


Header: TypeAlias = Proxied | Unproxied | Invalid


class HeaderReader:
    """Takes a header out of the first octets of a connection, and not one octet more.

    Read at most ``wanted`` octets, give them to ``receive_data()``, and go on until there is a ``header``.
    """

    __slots__ = ("_data", "header", "wanted")

    def __init__(self) -> None:
        self._data = bytearray()
        self.header: Header | None = None
        """What the header says, once it is whole; an Invalid as soon as it cannot become one."""
        self.wanted = _SHORTEST_TEXT
        """How many octets may be read next: never past the end of a valid header.  0 when there is a ``header``."""

    def receive_data(self, data: bytes) -> None:
        """Take what was read; ``b""`` is the end of the stream.

        Raises LocalProtocolError for more than ``wanted`` octets, and for any when the header is there.
        """
        if self.header is not None:
            raise LocalProtocolError("the header is whole: what follows is not for it")
        if len(data) > self.wanted:
            raise LocalProtocolError(f"{len(data)} octets may reach past the header's end: {self.wanted} are wanted")
        if not data:
            self._end(Invalid("the stream ended inside the header"))
            return
        self._data += data
        if _SIGNATURE.startswith(bytes(self._data[: len(_SIGNATURE)])):
            self._take_binary()
        else:
            self._take_text()

    def _end(self, header: Header) -> None:
        self.header = header
        self.wanted = 0

    # Version 1, section 2.1

    def _take_text(self) -> None:
        data = bytes(self._data)
        size = len(data)
        if not any(data.startswith(words[:size]) for words in _BEGINNINGS):
            return self._end(Invalid("neither version 1 nor version 2"))
        if _CRLF in data:
            return self._end(_read_text(data))
        unknown = data.startswith(_UNKNOWN)
        if unknown and data[len(_UNKNOWN) : size].strip(b"\r")[:1] not in (b"", b" "):
            return self._end(Invalid("something follows UNKNOWN without a blank"))
        blanks = data.count(b" ")
        if not unknown and (blanks > _SPACES or b"\r" in data[:-1] or b"\n" in data):
            return self._end(Invalid("not a version 1 header"))
        if size >= MAX_TEXT:
            return self._end(Invalid(f"a version 1 header of over {MAX_TEXT} octets"))
        if size < _SHORTEST_TEXT:
            self.wanted = _SHORTEST_TEXT - size
            return
        # Nothing may be read behind the CRLF: it needs one octet or two, and each blank that lacks brings two more.
        least = 1 if data.endswith(b"\r") else 2
        if not unknown:
            least += 2 * (_SPACES - blanks)
        self.wanted = min(least, MAX_TEXT - size)

    # Version 2, section 2.2

    def _take_binary(self) -> None:
        data = self._data
        if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
            return self._end(Invalid("neither LOCAL nor PROXY of version 2"))
        if len(data) < _PREFIX:
            self.wanted = _PREFIX - len(data)
            return
        size = _PREFIX + int.from_bytes(data[14:16], "big")
        if size > MAX_BINARY:
            return self._end(Invalid(f"a version 2 header of over {MAX_BINARY} octets"))
        self.wanted = size - len(data)
        if self.wanted == 0:
            self._end(_read_binary(bytes(data)))


def _read_text(data: bytes) -> Header:
    if data.startswith(_UNKNOWN):
        rest = data[len(_UNKNOWN) :]
        if data.endswith(_CRLF) and rest.startswith((b" ", _CRLF)):
            return Unproxied.UNKNOWN  # whatever stands before the CRLF is to be ignored
        return Invalid("something follows UNKNOWN without a blank")
    found = _TEXT.fullmatch(data)
    if found is None:
        return Invalid("not a version 1 header")
    family, *words = (word.decode("ascii") for word in found.groups())
    read: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    read = ipaddress.IPv4Address if family == "4" else ipaddress.IPv6Address
    try:
        source, destination = read(words[0]), read(words[1])
    except ValueError:
        return Invalid(f"not an address of TCP{family}")
    ports = int(words[2]), int(words[3])
    if max(ports) > 65_535:
        return Invalid("a port is over 65535")
    return Proxied(source=Endpoint(source, ports[0]), destination=Endpoint(destination, ports[1]))


def _read_binary(data: bytes) -> Header:
    if data[12] == _LOCAL:
        return Unproxied.LOCAL  # its family and its addresses are to be discarded
    family, transport = data[13] >> 4, data[13] & 0xF
    if family > 3 or transport > 2:
        return Invalid("an address family or a transport that is none")
    if family == 0 or transport == 0:
        return Unproxied.UNKNOWN  # its addresses are to be ignored
    end = _PREFIX + _ADDRESSES[family]
    if len(data) < end:
        return Invalid("too short for its addresses")
    fault = _fault_in_fields(data, end)
    if fault:
        return Invalid(fault)
    if family == 3 or transport != _STREAM:
        return Unproxied.UNKNOWN
    address: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    address, size = (ipaddress.IPv4Address, 4) if family == 1 else (ipaddress.IPv6Address, 16)
    middle = _PREFIX + size
    ports = middle + size
    return Proxied(
        source=Endpoint(address(data[_PREFIX:middle]), int.from_bytes(data[ports : ports + 2], "big")),
        destination=Endpoint(address(data[middle:ports]), int.from_bytes(data[ports + 2 : end], "big")),
    )


def _fault_in_fields(data: bytes, start: int) -> str:
    """What is wrong with the type-length-value fields behind the addresses; all but the checksum are passed over."""
    checked = False
    while start < len(data):
        value = start + 3
        end = value + int.from_bytes(data[start + 1 : value], "big")
        if value > len(data) or end > len(data):
            return "a field reaches past the end"
        if data[start] == _CRC32C:
            if checked or end - value != 4:  # many of them would make the work grow with the square of the size
                return "a header has one checksum, of four octets"
            checked = True
            if crc32c(data[:value] + bytes(4) + data[end:]) != int.from_bytes(data[value:end], "big"):
                return "the checksum is wrong"
        start = end
    return ""


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_CRC32C_TABLE: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum of a version 2 header (section 2.2.3, RFC 9260 appendix A)."""
    remainder = 0xFFFFFFFF
    for octet in data:
        remainder = remainder >> 8 ^ _CRC32C_TABLE[(remainder ^ octet) & 0xFF]
    return remainder ^ 0xFFFFFFFF
