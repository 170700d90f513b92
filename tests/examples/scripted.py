"""Servers that follow a script: they reply at each step as a test requires, and record the commands they receive.

A script maps a step to the bytes to send (empty for no reply) or to an End.  A step that is not in the script gets the
reply of a working server.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

import attrs

TIMEOUT = 30.0
"""Seconds after which a connection that hangs fails the test."""


@attrs.frozen
class End:
    """Send these bytes, then close the connection."""

    last: bytes = b""


Script: TypeAlias = Mapping[str, bytes | End]


class _Over(Exception):
    """The script ends the connection here, or the client has closed it."""


@attrs.define
class Server:
    port: int
    heard: list[str] = attrs.field(factory=list)
    """The command lines in order."""
    messages: list[bytes] = attrs.field(factory=list)
    """SMTP: the complete messages, whatever the reply to them was."""
    deleted: list[int] = attrs.field(factory=list)
    """POP3: the deleted messages: those marked before QUIT."""


@attrs.define
class _Session:
    server: Server
    script: Script
    connection: socket.socket
    reader: BinaryIO

    def say(self, step: str, usual: bytes) -> bool:
        """Send the script's reply to *step*; return whether it is positive."""
        said = self.script.get(step, usual)
        if isinstance(said, End):
            self.connection.sendall(said.last)
            raise _Over
        self.connection.sendall(said)
        return said[:1] in (b"2", b"3", b"+")

    def line(self) -> bytes:
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise _Over
        return line

    def command(self) -> tuple[str, str]:
        """Return the verb and the argument of the next command."""
        text = self.line().decode("latin-1").rstrip("\r\n")
        self.server.heard.append(text)
        verb, _, argument = text.partition(" ")
        return verb, argument


def _smtp(session: _Session) -> None:
    """The steps: GREETING, EHLO, AUTH, STARTTLS, MAIL, RCPT (or RCPT with a mailbox), DATA, MESSAGE, RSET, QUIT."""
    session.say("GREETING", b"220 script.test ESMTP\r\n")
    while True:
        verb, argument = session.command()
        match verb:
            case "EHLO":
                session.say("EHLO", b"250-script.test\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n")
            case "RCPT":
                mailbox = argument.removeprefix("TO:<").partition(">")[0]
                step = f"RCPT {mailbox}"
                session.say(step if step in session.script else "RCPT", b"250 2.1.5 recipient ok\r\n")
            case "DATA":
                if session.say("DATA", b"354 go ahead\r\n"):
                    content = b""
                    while (line := session.line()) != b".\r\n":
                        content += line
                    session.server.messages.append(content)
                    session.say("MESSAGE", b"250 2.0.0 queued\r\n")
            case "AUTH":
                session.say("AUTH", b"235 2.7.0 welcome\r\n")
            case _:
                session.say(verb, b"250 2.0.0 ok\r\n")
                if verb == "QUIT":
                    return


MESSAGES = (b"Subject: one\r\n\r\nfirst\r\n", b"Subject: two\r\n\r\nsecond\r\n", b"Subject: three\r\n\r\nthird\r\n")


def _pop3(session: _Session) -> None:
    """The steps: GREETING, CAPA, USER, PASS, LIST, QUIT; RETR and DELE with the number of a message."""
    marked = []
    session.say("GREETING", b"+OK script.test\r\n")
    while True:
        verb, argument = session.command()
        match verb:
            case "CAPA":
                session.say("CAPA", b"+OK\r\nUSER\r\n.\r\n")
            case "LIST":
                sizes = b"".join(b"%d %d\r\n" % (n, len(message)) for n, message in enumerate(MESSAGES, start=1))
                session.say("LIST", b"+OK\r\n" + sizes + b".\r\n")
            case "UIDL":
                session.say("UIDL", b"+OK\r\n1 a\r\n2 b\r\n3 c\r\n.\r\n")
            case "RETR":
                session.say(f"RETR {argument}", b"+OK\r\n" + MESSAGES[int(argument) - 1] + b".\r\n")
            case "DELE":
                if session.say(f"DELE {argument}", b"+OK\r\n"):
                    marked.append(int(argument))
            case "QUIT":
                session.server.deleted += marked
                session.say("QUIT", b"+OK\r\n")
                return
            case _:
                session.say(verb, b"+OK\r\n")


@contextmanager
def _serving(protocol: Callable[[_Session], None], script: Script) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(port=listener.getsockname()[1])

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener was shut down
                while True:
                    connection, _ = listener.accept()
                    with connection, connection.makefile("rb") as reader:
                        connection.settimeout(TIMEOUT)
                        with contextlib.suppress(_Over, ConnectionError):
                            protocol(_Session(server, script, connection, reader))
                        with contextlib.suppress(OSError):
                            connection.shutdown(socket.SHUT_WR)
                            while reader.read(65_536):  # a reset could discard data that the client has not read
                                pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def smtp_server(script: Script) -> contextlib.AbstractContextManager[Server]:
    return _serving(_smtp, script)


def pop3_server(script: Script) -> contextlib.AbstractContextManager[Server]:
    return _serving(_pop3, script)
