"""The transcript: the lines that the clients and the server have sent, with TLS removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from mailauth import Tls

MAX_LINE: Final = 200
"""Characters of a line that ``str()`` shows."""

SHOWN_LINES: Final = 12
"""Lines of a multi-line response that ``str()`` shows."""

SHOWN_CONNECTIONS: Final = 20
"""Connections that ``str()`` shows, the last ones."""

FIRST_LINES: Final = 40
LAST_LINES: Final = 160
"""Lines of a connection that ``str()`` shows, if it has more than both together."""

CLIENT: Final = "C"
SERVER: Final = "S"
NOTE: Final = "*"

RULE: Final = "a rule replies"
NOT_SENT: Final = "the reply of the rule is not sent"
TLS_FAILED: Final = "TLS handshake failed"
CLIENT_CLOSED: Final = "the client closed the connection"
"""The beginnings of the notes that explain why no message has arrived."""


@attrs.frozen
class Line:
    """A line of a transcript.

    For example:

        >>> str(testing.Line("C", b"QUIT", tls=True))
        'C: QUIT'
    """

    source: str
    """``"C"`` for the client, ``"S"`` for the server, and ``"*"`` for a note of the test kit."""
    data: bytes
    """The line without its line end.  Content is one line, whose data is a description of it."""
    tls: bool = attrs.field(kw_only=True)
    """Whether it was sent in TLS."""

    @property
    def text(self) -> str:
        """The line as printable text; other bytes are written as ``\\xNN``."""
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def printable(self) -> str:
        """The line as ``str()`` shows it: without control characters, and not longer than ``MAX_LINE``."""
        text = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in self.text)
        return text if len(text) <= MAX_LINE else text[:MAX_LINE] + "..."

    def __str__(self) -> str:
        return f"{self.source}: {self.printable}"


class ConnectionTranscript:
    """The transcript of one connection.

    For example:

        [connection] = mail_server.transcript.connections
        assert connection.commands[-1] == "QUIT"
    """

    def __init__(self, number: int, service: str, peer: str) -> None:
        self.number = number
        """Its position in the order of connections, from 1."""
        self.service = service
        """The name of the port: ``"smtp"``, ``"smtps"``, ``"pop3"`` or ``"pop3s"``."""
        self.peer = peer
        """The address of the client."""
        self.tls: Tls | None = None
        """The TLS session; None before TLS begins."""
        self.lines: list[Line] = []
        """The lines so far."""

    @property
    def protocol(self) -> str:
        """``"SMTP"`` or ``"POP3"``."""
        return self.service.removesuffix("s").upper()

    @property
    def commands(self) -> tuple[str, ...]:
        """The lines that the client has sent, without the content of messages."""
        return tuple(line.text for line in tuple(self.lines) if line.source == CLIENT)

    @property
    def replies(self) -> tuple[str, ...]:
        """The lines that the server has sent."""
        return tuple(line.text for line in tuple(self.lines) if line.source == SERVER)

    def add(self, source: str, data: bytes) -> None:
        """Add the line *data*."""
        self.lines.append(Line(source, data, tls=self.tls is not None))

    def note(self, text: str) -> None:
        """Add *text*, a note of the test kit."""
        self.add(NOTE, text.encode())

    def __str__(self) -> str:
        shown = [f"{self.protocol} connection {self.number} from {self.peer} to the port {self.service}:"]
        run = 0
        for line in tuple(self.lines):
            run = run + 1 if line.source == SERVER else 0
            if run <= SHOWN_LINES:
                shown.append(f"  {line}")
            elif run == SHOWN_LINES + 1:
                shown.append("  S: ...")
        left_out = len(shown) - FIRST_LINES - LAST_LINES
        if left_out > 0:
            shown[FIRST_LINES:-LAST_LINES] = [f"  ({left_out} lines are not shown)"]
        return "\n".join(shown)


class Transcript:
    """The transcripts of all connections of a test, in the order in which they were opened.

    For example:

        print(mail_server.transcript)
        assert "STARTTLS" in mail_server.transcript.commands
    """

    def __init__(self) -> None:
        self._connections: list[ConnectionTranscript] = []

    def open(self, service: str, peer: str) -> ConnectionTranscript:
        """Return a new, empty transcript of a connection."""
        connection = ConnectionTranscript(len(self._connections) + 1, service, peer)
        self._connections.append(connection)
        return connection

    @property
    def connections(self) -> tuple[ConnectionTranscript, ...]:
        """One for each connection."""
        return tuple(self._connections)

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands of all connections."""
        return tuple(command for connection in self.connections for command in connection.commands)

    def __iter__(self) -> Iterator[ConnectionTranscript]:
        return iter(self.connections)

    def __len__(self) -> int:
        return len(self._connections)

    def __repr__(self) -> str:
        return f"<Transcript of {len(self)} connections; print() shows it>"

    def __str__(self) -> str:
        connections = self.connections
        left_out = len(connections) - SHOWN_CONNECTIONS
        shown = [f"(The first {left_out} connections are not shown.)"] if left_out > 0 else []
        shown += map(str, connections[-SHOWN_CONNECTIONS:])
        return "\n".join(shown) or "No client has connected."
