"""TLS over any Stream, by the ssl module's memory BIOs: both loops share one handshake, one end, one set of rules.

Knows no protocol and no loop.  The least TLS version and whom to trust are the affair of the context.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

import attrs

from mailauth import Tls

from ._client_hello import ClientHello
from ._stream import READ_SIZE, Peer, Stream
from .channel_binding import BindingContext, channel_bindings
from .limits import LOGGER
from .logs import Event

SMTP: Final = "smtp"
POP3: Final = "pop3"
"""The names of the two in ALPN: of POP3 as registered, of SMTP as Exim and Postfix have it."""

_NO_APPLICATION_PROTOCOL: Final = bytes.fromhex("15 0303 0002 02 78")
"""A fatal alert in a record of its own (RFC 7301 section 3.2, RFC 8446 section 6)."""


class NoApplicationProtocol(ConnectionAbortedError):
    """The client means to speak another protocol inside TLS (RFC 7301)."""


@attrs.frozen(kw_only=True)
class TlsOptions:
    """How handshakes are done: the same for all connections of a listener."""

    context: ssl.SSLContext

    timeout: float
    """Seconds for a whole handshake."""

    hostname: str | None = None
    """What the certificate of a server must be good for; None on the server's side."""

    alpn: str | None = None
    """A server's protocol: a client that offers any by ALPN must offer this one.  None: nobody looks."""


class TlsLayer:
    """One TLS session: octets of the wire on one side, octets of the application on the other."""

    __slots__ = ("_incoming", "_object", "_outgoing", "ended")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.ended = False
        """The peer has said its last word inside TLS, or broke the layer."""

    def step_handshake(self) -> bool:
        """One step of the handshake; True when it is done.  Raises ssl.SSLError."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def check_protocol(self, alpn: str | None) -> None:
        """Raise NoApplicationProtocol when the context chose another than *alpn*: a client offered both."""
        chosen = self._object.selected_alpn_protocol()
        if None not in (alpn, chosen) and alpn != chosen:
            raise NoApplicationProtocol(f"{chosen} was chosen, not {alpn}")

    def feed(self, data: bytes) -> None:
        """Octets from the wire; ``b""`` is the end of the stream."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def take(self) -> bytes:
        """Octets for the wire; ``b""`` when there are none."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def decrypt(self) -> bytes | None:
        """All that can be read by now; ``b""`` at the end, None for nothing yet."""
        parts: list[bytes] = []
        try:
            while part := self._object.read(READ_SIZE):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # cut off without close_notify, or forged: only what was read before is good
            self.ended = True
        return b"".join(parts) if parts or self.ended else None

    def encrypt(self, data: bytes) -> bytes:
        """*data* for the wire.  Raises ssl.SSLError when the layer is broken."""
        self._object.write(data)
        return self.take()

    def close_notify(self) -> bytes:
        """The last word of this side, for the wire."""
        with contextlib.suppress(ssl.SSLError):  # mostly it says that the peer's own close_notify is still to come
            self._object.unwrap()
        return self.take()

    @property
    def tls(self) -> Tls:
        """The session as a fact for the core."""
        cipher = self._object.cipher()
        return Tls(
            version=self._object.version() or "",
            cipher=cipher[0] if cipher else "",
            peer_certificate=self._object.getpeercert() or None,
            channel_bindings=self._channel_bindings(),
        )

    def _channel_bindings(self) -> dict[str, bytes]:
        """By the server's certificate: a client was shown it, a server has it from a BindingContext or not at all."""
        if not self._object.server_side:
            return channel_bindings(self._object.getpeercert(binary_form=True))
        context = self._object.context  # the one that an sni_callback chose
        return context.channel_bindings if isinstance(context, BindingContext) else {}


async def start(stream: Stream, tls_options: TlsOptions, *, server_side: bool) -> TlsLayer:
    """Do a handshake on *stream*.  Raises OSError (ssl.SSLError and TimeoutError are such) when it fails."""
    layer = TlsLayer(tls_options.context, server_side=server_side, server_hostname=tls_options.hostname)
    due = stream.now() + tls_options.timeout
    hello = ClientHello() if server_side and tls_options.alpn is not None else None
    while True:
        if hello is None:
            try:
                done = layer.step_handshake()
            finally:
                data = layer.take()  # a failure has an alert to send
                if data:
                    await stream.write_all(data)
            if done:
                layer.check_protocol(tls_options.alpn)
                return layer
        received = await stream.read(due)
        if received is None:
            raise ConnectionAbortedError("shut down during the TLS handshake")
        if not received:
            raise ConnectionResetError("the peer closed the connection during the TLS handshake")
        layer.feed(received)
        if hello is not None:
            hello.receive_data(received)
            if hello.protocols is not None:
                if hello.protocols and tls_options.alpn not in hello.protocols:
                    await stream.write_all(_NO_APPLICATION_PROTOCOL)
                    raise NoApplicationProtocol(f"offered {hello.protocols}, not {tls_options.alpn}")
                hello = None


def log_failure(peer: Peer, error: OSError) -> None:
    """A handshake with *peer* came to nothing: one line."""
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
    LOGGER.info(Event("TLS failed", {"peer": peer.address, "port": peer.port, "reason": reason}))
