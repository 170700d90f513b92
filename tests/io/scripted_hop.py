"""A next hop that fails STARTTLS in one of many ways, and records all bytes received."""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
import threading
from collections.abc import Iterator

import attrs
import trustme


class Break(enum.Enum):
    """How STARTTLS fails."""

    NOT_OFFERED = enum.auto()
    REFUSED = enum.auto()
    """454; the session continues in clear text."""
    UNKNOWN = enum.auto()
    """502; the session continues in clear text."""
    CLOSED_AT_ONCE = enum.auto()
    """The connection is closed without a reply."""
    CLOSED = enum.auto()
    """220, then the connection is closed."""
    GARBAGE = enum.auto()
    """220, then data that is not TLS."""
    ALERT = enum.auto()
    """220, then a fatal TLS alert."""
    INJECTED = enum.auto()
    """220, followed by another reply in clear text (CVE-2021-23993)."""
    WRONG_CERTIFICATE = enum.auto()
    """A handshake with a certificate of an untrusted CA."""
    GOING_DOWN = enum.auto()
    """421."""


AUTH = "AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256"

_REPLIES = {
    Break.REFUSED: b"454 4.7.0 not now\r\n",
    Break.UNKNOWN: b"502 5.5.1 what?\r\n",
    Break.CLOSED_AT_ONCE: b"",
    Break.CLOSED: b"220 go\r\n",
    Break.GARBAGE: b"220 go\r\n",
    Break.ALERT: b"220 go\r\n",
    Break.INJECTED: b"220 go\r\n250 far.test\r\n",
    Break.WRONG_CERTIFICATE: b"220 go\r\n",
    Break.GOING_DOWN: b"421 4.3.2 going down\r\n",
}


@attrs.define
class ScriptedHop:
    """A server in a thread.  *breaks* is how STARTTLS fails; None accepts it."""

    breaks: Break | None
    auth: str = AUTH
    mail: bytes = b"250 2.1.0 ok\r\n"
    """The reply to MAIL without TLS."""
    port: int = 0
    clear: list[bytes] = attrs.field(factory=list)
    """The clear text received on each connection, without TLS handshakes."""
    inside: list[bytes] = attrs.field(factory=list)
    """The data received inside TLS."""

    def commands(self) -> list[list[str]]:
        """Return the verbs received in clear text on each connection."""
        return [[line.split(b" ")[0].decode("latin-1") for line in said.split(b"\r\n")[:-1]] for said in self.clear]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            self.clear.append(b"")
            number = len(self.clear) - 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(20)
                self._serve(connection, number)

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.sendall(b"220 far.test ESMTP\r\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                self.clear[number] += line
                verb = line.split()[0].upper()
                if verb == b"STARTTLS":
                    if not self._start_tls(connection):
                        return
                elif verb == b"AUTH":
                    connection.sendall(b"235 2.7.0 ok\r\n" if b" PLAIN " in line else b"535 5.7.8 no\r\n")
                elif verb == b"EHLO":
                    offered = ["far.test", self.auth, "PIPELINING"]
                    if self.breaks is not Break.NOT_OFFERED:
                        offered.insert(1, "STARTTLS")
                    connection.sendall(
                        b"".join(b"250-%b\r\n" % word.encode() for word in offered) + b"250 8BITMIME\r\n"
                    )
                elif verb == b"DATA":
                    connection.sendall(b"354 go\r\n")
                    for content in lines:
                        if content == b".\r\n":
                            break
                    connection.sendall(b"250 2.0.0 taken\r\n")
                elif verb == b"QUIT":
                    connection.sendall(b"221 2.0.0 bye\r\n")
                    return
                else:
                    connection.sendall(self.mail if verb == b"MAIL" else b"250 2.0.0 ok\r\n")

    def _start_tls(self, connection: socket.socket) -> bool:
        """Answer STARTTLS; return whether the session continues in clear text."""
        assert self.breaks is not None
        connection.sendall(_REPLIES[self.breaks])
        match self.breaks:
            case Break.REFUSED | Break.UNKNOWN:
                return True
            case Break.GARBAGE:
                connection.sendall(b"x" * 100)
                connection.recv(65_536)
            case Break.ALERT:
                connection.recv(65_536)
                connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            case Break.WRONG_CERTIFICATE:
                self._secure(connection)
        return False

    def _secure(self, connection: socket.socket) -> None:
        """Do a TLS handshake and record what the client sends after it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        with context.wrap_socket(connection, server_side=True) as secured:
            self.inside.append(secured.recv(65_536))
