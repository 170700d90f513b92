"""SMTP and POP3 servers in a thread that follow a script, for tests of the clients.

A script maps a step to the bytes of the reply (empty: the server is silent from then on) or to an End.  The step of a
command is its verb, or its verb and which one of them it is in the connection (``MAIL 2``); of RCPT also the mailbox
(``RCPT bob@example.org``).  A step that is not in the script gets the reply of a working server.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import BinaryIO, TypeAlias

import attrs

from tests.io.server_support import TIMEOUT


@attrs.frozen
class End:
    """Send these bytes, then close the connection."""

    last: bytes = b""


Script: TypeAlias = Mapping[str, bytes | End]
SILENT = b""


class _Over(Exception):
    """The connection ends: the script closes it, or the client has closed it."""


@attrs.define
class Peer:
    """What a server has received, on all connections."""

    port: int = 0
    heard: list[str] = attrs.field(factory=list)
    """The command lines in order."""
    messages: list[bytes] = attrs.field(factory=list)
    """SMTP: the content of each complete message, dot-stuffed if it came by DATA."""
    deleted: list[int] = attrs.field(factory=list)
    """POP3: the messages that QUIT removed."""
    silent: threading.Event = attrs.field(factory=threading.Event)
    """Set when the server does not reply."""
    ended: threading.Event = attrs.field(factory=threading.Event)
    """Set when the server has closed its side of a connection."""
    failures: list[Exception] = attrs.field(factory=list)

    def verbs(self) -> list[str]:
        return [line.partition(" ")[0] for line in self.heard]


@attrs.define
class _Session:
    peer: Peer
    script: Script
    connection: socket.socket
    reader: BinaryIO
    count: Counter[str] = attrs.field(factory=Counter)

    def reply(self, step: str, usual: bytes, detail: str = "") -> bool:
        """Send the reply of the script to *step*; return whether it is positive."""
        self.count[step] += 1
        found = [name for name in (f"{step} {detail}", f"{step} {self.count[step]}", step) if name in self.script]
        said = self.script[found[0]] if found else usual
        if isinstance(said, End):
            self.connection.sendall(said.last)
            raise _Over
        if not said:
            self.peer.silent.set()
            while self.reader.read(65_536):
                pass
            raise _Over
        self.connection.sendall(said)
        return said[:1] in (b"2", b"3", b"+")

    def line(self) -> bytes:
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise _Over
        return line

    def command(self) -> tuple[str, str]:
        text = self.line().decode().rstrip("\r\n")
        self.peer.heard.append(text)
        verb, _, argument = text.partition(" ")
        return verb, argument


def ehlo(*keywords: str) -> bytes:
    """Return a reply to EHLO that offers these extensions."""
    lines = ["script.test", *keywords]
    return "".join(
        f"250{'-' if number < len(lines) else ' '}{line}\r\n" for number, line in enumerate(lines, 1)
    ).encode()


def _smtp(session: _Session) -> None:
    """The steps: GREETING, a verb, MESSAGE (the end of DATA), BDAT, LAST (BDAT with LAST)."""
    content, mail, recipients = b"", False, 0
    session.reply("GREETING", b"220 script.test ESMTP\r\n")
    while True:
        verb, argument = session.command()
        match verb:
            case "EHLO":
                session.reply(verb, ehlo("PIPELINING", "AUTH PLAIN"))
            case "AUTH":
                session.reply(verb, b"235 2.7.0 welcome\r\n")
            case "MAIL":
                mail, recipients, content = session.reply(verb, b"250 2.1.0 sender ok\r\n"), 0, b""
            case "RCPT":
                mailbox = argument.removeprefix("TO:<").partition(">")[0]
                usual = b"250 2.1.5 recipient ok\r\n" if mail else b"503 5.5.1 MAIL first\r\n"
                recipients += session.reply(verb, usual, mailbox)
            case "DATA":
                usual = b"354 go ahead\r\n" if mail and recipients else b"503 5.5.1 RCPT first\r\n"
                if session.reply(verb, usual):
                    while (line := session.line()) != b".\r\n":
                        content += line
                    session.peer.messages.append(content)
                    session.reply("MESSAGE", b"250 2.0.0 queued\r\n")
            case "BDAT":
                size, _, last = argument.partition(" ")
                content += session.reader.read(int(size))
                if last:
                    session.peer.messages.append(content)
                session.reply("LAST" if last else "BDAT", b"250 2.0.0 chunk ok\r\n")
            case _:
                session.reply(verb, b"250 2.0.0 ok\r\n")
                if verb == "QUIT":
                    return


MAILS = (b"Subject: one\r\n\r\nfirst\r\n", b"Subject: two\r\n\r\n.second\r\n", b"Subject: three\r\n\r\nthird\r\n")


def _pop3(session: _Session) -> None:
    """The steps: GREETING, and a verb."""
    marked: list[int] = []
    numbered = list(enumerate(MAILS, start=1))
    session.reply("GREETING", b"+OK script.test\r\n")
    while True:
        verb, argument = session.command()
        match verb:
            case "CAPA":
                session.reply(verb, b"+OK\r\nUSER\r\nUIDL\r\n.\r\n")
            case "LIST":
                sizes = b"".join(b"%d %d\r\n" % (number, len(mail)) for number, mail in numbered)
                session.reply(verb, b"+OK\r\n" + sizes + b".\r\n")
            case "UIDL":
                session.reply(
                    verb, b"+OK\r\n" + b"".join(b"%d id-%d\r\n" % (number, number) for number, _ in numbered) + b".\r\n"
                )
            case "RETR" | "TOP":
                mail = MAILS[int(argument.split()[0]) - 1].replace(b"\r\n.", b"\r\n..")
                session.reply(verb, b"+OK\r\n" + mail + b".\r\n", argument)
            case "DELE":
                if session.reply(verb, b"+OK\r\n", argument):
                    marked.append(int(argument))
            case "RSET":
                marked.clear()
                session.reply(verb, b"+OK\r\n")
            case "QUIT":
                session.peer.deleted += marked
                session.reply(verb, b"+OK\r\n")
                return
            case _:
                session.reply(verb, b"+OK\r\n")


@contextlib.contextmanager
def _serving(protocol: Callable[[_Session], None], script: Script) -> Generator[Peer]:
    peer = Peer()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return  # the listener was shut down
            connection.settimeout(TIMEOUT)
            with connection, connection.makefile("rb") as reader:
                try:
                    with contextlib.suppress(_Over):
                        protocol(_Session(peer, script, connection, reader))
                    connection.shutdown(socket.SHUT_WR)
                    peer.ended.set()
                    while reader.read(65_536):  # a reset could discard data that the client has not read
                        pass
                except TimeoutError as error:  # the client kept its connection open
                    peer.failures.append(error)
                except OSError:
                    peer.ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.port = listener.getsockname()[1]
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield peer
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert peer.failures == []


def smtp_server(script: Script) -> contextlib.AbstractContextManager[Peer]:
    return _serving(_smtp, script)


def pop3_server(script: Script) -> contextlib.AbstractContextManager[Peer]:
    return _serving(_pop3, script)
