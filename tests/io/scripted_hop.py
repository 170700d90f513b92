"""A next hop whose replies are scripted, which fails STARTTLS in one of many ways and records all bytes received."""

from __future__ import annotations

import contextlib
import enum
import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator

import attrs
import trustme

from tests.io.tls import server_context


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
    """A server in a thread.  *breaks* is how STARTTLS fails; None: it works, with a trusted certificate."""

    breaks: Break | None = Break.NOT_OFFERED
    auth: str = AUTH
    replies: dict[str, bytes] = attrs.field(factory=dict)
    """The reply to a verb, to ``AUTH`` with a mechanism, or to ``.``, where it differs from the usual one.  No reply
    and the end of the connection if it is empty."""
    extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME")
    after_message: bytes = b""
    """Sent together with the reply to a message."""
    greeting: bytes = b"220 far.test ESMTP\r\n"
    """If it is empty or a rejection, the connection is closed after it."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port, which is then set here."""
    clear: list[bytes] = attrs.field(factory=list)
    """The clear text received on each connection, without TLS handshakes."""
    inside: list[bytes] = attrs.field(factory=list)
    """The data received inside TLS, on each connection that has it."""
    messages: list[bytes] = attrs.field(factory=list)
    """The content of the messages that were complete."""
    _newest: socket.socket | None = None

    def commands(self) -> list[list[str]]:
        """Return the verbs received in clear text on each connection."""
        return [[line.split(b" ")[0].decode("latin-1") for line in said.split(b"\r\n")[:-1]] for said in self.clear]

    def logins(self) -> list[list[str]]:
        """Return the mechanisms of the logins on each connection."""
        return [re.findall(r"AUTH (\S+)", said.decode("latin-1")) for said in self.inside or self.clear]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with socket.create_server((self.host, self.port)) as listener:
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
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # say() sends at once
                self._serve(connection, number)

    def say(self, data: bytes, *, close: bool = False) -> None:
        """Send *data* on the newest connection, as a reply to no command; then close that connection if *close*."""
        assert self._newest is not None
        self._newest.sendall(data)
        if close:
            self._newest.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, number: int) -> None:
        self._newest = connection
        connection.sendall(self.greeting)
        if self.greeting.startswith(b"2"):
            self._talk(connection, self.clear, number)

    def _talk(self, connection: socket.socket, heard: list[bytes], number: int) -> None:
        with connection.makefile("rb") as lines:
            for line in lines:
                heard[number] += line
                words = line.split()
                verb = words[0].upper().decode("latin-1")
                key = f"AUTH {words[1].decode('latin-1')}" if verb == "AUTH" else verb
                if verb == "STARTTLS" and self.breaks is None:
                    self._secure_session(connection)
                    return
                if verb == "STARTTLS":
                    if not self._start_tls(connection):
                        return
                    continue
                reply = self._reply(key)
                connection.sendall(reply)
                if verb == "DATA" and reply.startswith(b"354"):
                    reply = self._take_content(connection, lines)
                if verb == "QUIT" or not reply:
                    return

    def _secure_session(self, connection: socket.socket) -> None:
        """Accept STARTTLS, and continue the session inside TLS."""
        connection.sendall(b"220 go\r\n")
        with server_context().wrap_socket(connection, server_side=True) as secured:
            self.inside.append(b"")
            self._talk(secured, self.inside, len(self.inside) - 1)

    def _reply(self, key: str) -> bytes:
        """Return the reply to a verb, or to AUTH with a mechanism."""
        if key in self.replies:
            return self.replies[key]
        if key == "EHLO":
            offered = ["far.test", self.auth, *self.extensions]
            if self.breaks is not Break.NOT_OFFERED:
                offered.insert(1, "STARTTLS")
            return b"".join(b"250-%b\r\n" % word.encode() for word in offered) + b"250 HELP\r\n"
        usual = {"AUTH PLAIN": b"235 2.7.0 ok\r\n", "DATA": b"354 go\r\n", "QUIT": b"221 2.0.0 bye\r\n"}
        return usual.get(key, b"535 5.7.8 no\r\n" if key.startswith("AUTH ") else b"250 2.0.0 ok\r\n")

    def _take_content(self, connection: socket.socket, lines: Iterable[bytes]) -> bytes:
        content = b""
        for line in lines:
            if line == b".\r\n":
                self.messages.append(content)
                reply = self._reply(".")
                connection.sendall(reply + self.after_message)
                return reply
            content += line
        return b""

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
