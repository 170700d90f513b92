"""TLS over any Stream, with the memory BIOs of the ssl module: the same code for both loops.

The minimum TLS version and the trusted authorities are set in the context.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

import attrs

from mailauth import Tls

from ..stream import READ_SIZE, Stream
from ..turns import CONNECTION, EVENTS_PER_TURN, HANDSHAKE
from ._client_hello import ClientHello
from ._record_counter import RecordCounter
from .channel_binding import UNIQUE, BindingContext, channel_bindings

__all__ = ["POP3", "SMTP", "NoApplicationProtocol", "TlsLayer", "TlsOptions", "start_tls"]

SMTP: Final = "smtp"
POP3: Final = "pop3"
"""The ALPN names: that of POP3 is registered; that of SMTP is the one that Exim and Postfix use."""

_NO_APPLICATION_PROTOCOL: Final = bytes.fromhex("15 0303 0002 02 78")
"""A fatal alert in a record of its own (RFC 7301 section 3.2, RFC 8446 section 6)."""

MAX_UNSENT: Final = 1_024
"""Maximum bytes of TLS messages that wait for the next write, to answer the peer's, such as a KeyUpdate (RFC 8446
section 4.6.3).  A peer that sends 40 of these without reading a reply is not using TLS as it is meant."""


class NoApplicationProtocol(ConnectionAbortedError):
    """The client offered protocols by ALPN, but not the one of this server (RFC 7301).

    For example:

        try:
            tls_layer.check_protocol(layer.SMTP)
        except layer.NoApplicationProtocol:
            stream.abort()
    """


@attrs.frozen(kw_only=True)
class TlsOptions:
    """The TLS options of all connections of a listener, or of one client.

    For example:

        options = layer.TlsOptions(context=ssl.create_default_context(), timeout=30.0, hostname="mx.example")
        tls_layer = await layer.start_tls(stream, options, server_side=False)
    """

    context: ssl.SSLContext

    timeout: float
    """Seconds for a whole handshake."""

    hostname: str | None = None
    """The name that the server's certificate must be valid for; None on the server's side.

    A dot at its end, which makes it absolute in the DNS, is not part of it: it is neither sent as SNI (RFC 6066 section
    3) nor in certificates."""

    alpn: str | None = None
    """The server's protocol: a client that offers any by ALPN must offer this one.  None: not checked."""


class TlsLayer:
    """One TLS session: translates between encrypted bytes and application data.

    For example:

        tls_layer = layer.TlsLayer(context, server_side=True, server_hostname=None)
        while not tls_layer.step_handshake():
            sock.sendall(tls_layer.take())
            tls_layer.feed(sock.recv(65_536))
        sock.sendall(tls_layer.take())
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "_records", "ended")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._records = RecordCounter()
        if server_hostname is not None and len(server_hostname) > 1:
            server_hostname = server_hostname.removesuffix(".")
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.ended = False
        """Whether the peer has sent close_notify, invalid data, or too many requests to change keys."""

    def step_handshake(self) -> bool:
        """Do one step of the handshake.  Returns True when it is complete.  Raises ssl.SSLError if it fails."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def check_protocol(self, alpn: str | None) -> None:
        """Raise NoApplicationProtocol if the context has selected a protocol other than *alpn*."""
        chosen = self._object.selected_alpn_protocol()
        if None not in (alpn, chosen) and alpn != chosen:
            raise NoApplicationProtocol(f"the ssl_context chose {chosen} by ALPN, not {alpn}")

    @property
    def records(self) -> int:
        """The number of TLS records that have begun in the data from the peer."""
        return self._records.number

    def feed(self, data: bytes, most_records: int | None = None) -> bytes:
        """Add encrypted *data* from the peer; ``b""`` is the end of the stream.

        Returns the part of *data* that was not added, if it contains more than *most_records* records.  A record takes
        CPU time even if it is empty, or only asks for new keys.
        """
        if not data:
            self._incoming.write_eof()
            return b""
        size = self._records.count(data, most_records)
        self._incoming.write(data[:size])
        return data[size:]

    def take(self) -> bytes:
        """Return encrypted data for the peer; ``b""`` if there is none."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def decrypt(self) -> bytes | None:
        """Return all application data that can be decrypted so far; ``b""`` at the end, None if there is none yet."""
        parts: list[bytes] = []
        incoming, session = self._incoming, self._object
        try:
            while part := session.read(READ_SIZE):
                parts.append(part)
                if not incoming.pending and not session.pending():
                    break  # the next read() would fail, at twice the cost of this one
            else:
                self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # no close_notify, or a forged record: only the data before it is valid
            self.ended = True
        if self._outgoing.pending > MAX_UNSENT:
            self.ended = True
        return b"".join(parts) if parts or self.ended else None

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt *data* for the peer.  Raises ssl.SSLError if the TLS session has failed."""
        self._object.write(data)
        return self.take()

    def close_notify(self) -> bytes:
        """Return the close_notify alert of this side, encrypted for the peer."""
        with contextlib.suppress(ssl.SSLError):  # usually: the peer's own close_notify has not arrived yet
            self._object.unwrap()
        return self.take()

    @property
    def tls(self) -> Tls:
        """The properties of the session, for the core."""
        cipher = self._object.cipher()
        return Tls(
            version=self._object.version() or "",
            cipher=cipher[0] if cipher else "",
            peer_certificate=self._object.getpeercert() or None,
            channel_bindings=self._channel_bindings(),
        )

    def _channel_bindings(self) -> dict[str, bytes]:
        """Return the channel bindings: ``tls-server-end-point``, and ``tls-unique`` from the handshake.

        A client receives the certificate in the handshake.  A server knows it only if the context is a BindingContext,
        and has no binding otherwise: with ``tls-unique`` alone it would offer -PLUS forms that few clients can use.
        TLS 1.3 does not define ``tls-unique``; OpenSSL returns the client's Finished message, which Cyrus SASL uses.
        """
        if self._object.server_side:
            context = self._object.context  # may have been set by an sni_callback
            found = context.channel_bindings if isinstance(context, BindingContext) else {}
            if not found:
                return {}
        else:
            found = channel_bindings(self._object.getpeercert(binary_form=True))
        unique = self._object.get_channel_binding(UNIQUE)
        return found if unique is None else {**found, UNIQUE: unique}


async def start_tls(stream: Stream, tls_options: TlsOptions, *, server_side: bool) -> TlsLayer:
    """Do a TLS handshake on *stream*.  Raises OSError (ssl.SSLError and TimeoutError are OSErrors) if it fails."""
    layer = TlsLayer(tls_options.context, server_side=server_side, server_hostname=tls_options.hostname)
    due = stream.now() + tls_options.timeout
    hello = ClientHello() if server_side and tls_options.alpn is not None else None
    cost = HANDSHAKE
    while True:
        if hello is None:
            try:
                done = layer.step_handshake()
            finally:
                data = layer.take()  # after a failure: the alert
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
        if server_side:
            await stream.take_turn(cost)
            cost = CONNECTION
        records = layer.records
        if rest := layer.feed(received, EVENTS_PER_TURN):
            stream.put_back(rest)
        stream.share.left -= layer.records - records
        if hello is not None:
            hello.receive_data(received[: len(received) - len(rest)])
            if hello.protocols is not None:
                if hello.protocols and tls_options.alpn not in hello.protocols:
                    await stream.write_all(_NO_APPLICATION_PROTOCOL)
                    raise NoApplicationProtocol(f"offered {sorted(hello.protocols)} by ALPN, not {tls_options.alpn}")
                hello = None
