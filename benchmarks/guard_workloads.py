"""The workloads for ``guard.py``: sessions in memory, with the lines of real clients.

Run as a program, it runs each workload twice, with few rounds and with many, each time in a child process.  It prints
the name of the workload, the difference in rounds, and the two process ids.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable
from typing import Final

from mailauth import ACCEPT, Closed, MessageChunk, NeedData, Notice, Send, Tls, pop3, sasl, smtp

ENTROPY: Final = bytes(range(32))
TLS: Final = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")
SMTP_SETTINGS: Final = smtp.ServerSettings(host_name="mx.example.test")
POP3_SETTINGS: Final = pop3.ServerSettings(host_name="pop.example.test")

HEADER: Final = (
    b"From: alice@example.test\r\nTo: bob@example.test\r\nSubject: a message\r\n"
    b"Date: Fri, 20 Nov 2026 09:23:41 +0000\r\nMessage-ID: <4f1b2c@example.test>\r\n\r\n"
)
LINE: Final = b"sixty-two octets of text, and no dot at the start of any line.\r\n"
DOTTED_LINE: Final = b"." + LINE[1:]
KILOBYTE: Final = HEADER + LINE * 6 + DOTTED_LINE + LINE * 6
STUFFED_KILOBYTE: Final = HEADER + LINE * 6 + b"." + DOTTED_LINE + LINE * 6
LARGE: Final = HEADER + (LINE * 9 + DOTTED_LINE) * 160
"""100 KB; every tenth line begins with a dot."""
PIECE: Final = 65_536
"""The most that an adapter reads at once."""


class SmtpServer:
    """A server with an application that accepts every message and sends a queue id in its final reply."""

    def __init__(self, tls: Tls | None = None) -> None:
        self.connection = smtp.ServerConnection(SMTP_SETTINGS, entropy=ENTROPY, tls=tls)
        self.sent: list[bytes] = []
        self.messages = 0
        self.received = 0
        self.closed = False
        self.pull()

    def receive(self, data: bytes) -> list[bytes]:
        """Pass in *data* from the client, and return the bytes sent to it."""
        before = len(self.sent)
        self.connection.receive_data(data)
        self.pull()
        return self.sent[before:]

    def pull(self) -> None:
        connection = self.connection
        while True:
            event = connection.next_event()
            match event:
                case Send(data=data):
                    self.sent.append(data)
                case MessageChunk(data=data):
                    self.received += len(data)
                case NeedData():
                    return
                case smtp.Mail() | smtp.Rcpt() | smtp.Data() | smtp.Connected() as question:
                    connection.answer(question, ACCEPT)
                case smtp.MessageComplete() as question:
                    self.messages += 1
                    connection.answer(question, smtp.Reply(250, "2.0.0", f"queued as 4F1B2C{self.messages:06d}"))
                case sasl.CheckPassword(password=b"secret") as question:
                    connection.answer(question, ACCEPT)
                case Closed():
                    self.closed = True
                    return
                case smtp.Hello() | smtp.Quit() | sasl.AuthenticationStarted() | sasl.Authenticated():
                    pass
                case _:
                    raise AssertionError(f"not expected here: {event}")

    def check(self, messages: int, received: int) -> None:
        if (self.messages, self.received) != (messages, received):
            raise AssertionError(f"{self.messages} messages, {self.received} bytes of content were received")


def smtp_session(tls: Tls | None, lines: Iterable[bytes], content: bytes) -> SmtpServer:
    """Run one session from the greeting to QUIT, waiting for each reply."""
    server = SmtpServer(tls)
    for line in lines:
        server.receive(line)
    server.check(1, len(content))
    if not server.closed:
        raise AssertionError("the session is still open")
    return server


def device(times: int) -> list[bytes]:
    """A device that sends one message per session: EHLO, MAIL with SIZE and BODY, 1 KB of content, QUIT."""
    lines = (
        b"EHLO scanner.example.test\r\n",
        b"MAIL FROM:<scanner@example.test> SIZE=%d BODY=8BITMIME\r\n" % len(KILOBYTE),
        b"RCPT TO:<bob@example.test>\r\n",
        b"DATA\r\n",
        STUFFED_KILOBYTE + b".\r\n",
        b"QUIT\r\n",
    )
    for _ in range(times):
        server = smtp_session(None, lines, KILOBYTE)
    return server.sent


def submission(times: int) -> list[bytes]:
    """smtplib with TLS: AUTH PLAIN and one message per session, in the spelling of smtplib."""
    lines = (
        b"ehlo laptop.example.test\r\n",
        b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n",
        b"mail FROM:<alice@example.test> size=%d\r\n" % len(KILOBYTE),
        b"rcpt TO:<bob@example.test>\r\n",
        b"data\r\n",
        STUFFED_KILOBYTE + b".\r\n",
        b"quit\r\n",
    )
    for _ in range(times):
        server = smtp_session(TLS, lines, KILOBYTE)
    return server.sent


def groups(times: int) -> list[bytes]:
    """A relay on one connection: MAIL, 20 RCPT and DATA pipelined, then 1 KB of content."""
    mail = b"MAIL FROM:<list-bounces@example.test> SIZE=%d BODY=8BITMIME\r\n" % len(KILOBYTE)
    recipients = b"".join(b"RCPT TO:<subscriber%d@example.test>\r\n" % number for number in range(20))
    server = SmtpServer()
    server.receive(b"EHLO relay.example.test\r\n")
    for _ in range(times):
        server.sent.clear()
        server.receive(mail + recipients + b"DATA\r\n")
        server.receive(STUFFED_KILOBYTE + b".\r\n")
    server.check(times, times * len(KILOBYTE))
    return server.sent


def collection(times: int) -> list[bytes]:
    """A POP3 client with TLS that retrieves and deletes two messages of 1 KB per session."""
    lines = (
        b"CAPA\r\n",
        b"USER alice\r\n",
        b"PASS secret\r\n",
        b"STAT\r\n",
        b"LIST\r\n",
        b"UIDL\r\n",
        b"RETR 1\r\n",
        b"DELE 1\r\n",
        b"RETR 2\r\n",
        b"DELE 2\r\n",
        b"QUIT\r\n",
    )
    maildrop = pop3.Maildrop(
        messages=tuple(pop3.Message(size=len(KILOBYTE), unique_id=f"1795.{number}") for number in (1, 2))
    )
    for _ in range(times):
        connection = pop3.ServerConnection(POP3_SETTINGS, entropy=ENTROPY, tls=TLS)
        sent = pull_pop3(connection, maildrop)
        for line in lines:
            connection.receive_data(line)
            sent += pull_pop3(connection, maildrop)
        if not isinstance(connection.next_event(), Closed):
            raise AssertionError("the session is still open")
    return sent


def pull_pop3(connection: pop3.ServerConnection, maildrop: pop3.Maildrop) -> list[bytes]:
    """Answer all questions until the server waits for the client, and return the bytes sent to it."""
    sent = []
    while True:
        event = connection.next_event()
        match event:
            case Send(data=data):
                sent.append(data)
            case NeedData() | Closed():
                return sent
            case pop3.Retrieve() as question:
                connection.answer(question, pop3.Content(data=KILOBYTE))
            case pop3.OpenMaildrop() as question:
                connection.answer(question, maildrop)
            case sasl.CheckPassword(password=b"secret") as question:
                connection.answer(question, ACCEPT)
            case pop3.Update(deleted=deleted) as question if deleted == {1, 2}:
                connection.answer(question, ACCEPT)
            case pop3.Connected() as question:
                connection.answer(question, ACCEPT)
            case pop3.CommandRejected() | sasl.AuthenticationFailed():
                raise AssertionError(f"not expected here: {event}")
            case Notice():
                pass
            case _:
                raise AssertionError(f"not expected here: {event}")


def relay(times: int) -> list[bytes]:
    """The client machine sends 100 KB to the server machine in pieces of 64 KiB."""
    pieces = [LARGE[start : start + PIECE] for start in range(0, len(LARGE), PIECE)]
    mail = smtp.Mail(reverse_path=smtp.Mailbox.parse("alice@example.test"), size=len(LARGE))
    rcpt = smtp.Rcpt(forward_path=smtp.Mailbox.parse("bob@example.test"))
    for _ in range(times):
        server, client = SmtpServer(), smtp.ClientConnection()
        client.receive_data(server.sent[0])
        exchange(client, server)
        client.send(smtp.Hello(domain="relay.example.test"))
        exchange(client, server)
        client.send(mail)
        client.send(rcpt)
        client.send(smtp.Data())
        exchange(client, server)
        for piece in pieces:
            client.send(MessageChunk(data=piece))
            exchange(client, server)
        client.send(smtp.MessageComplete())
        exchange(client, server)
        client.send(smtp.Quit())
        exchange(client, server)
        server.check(1, len(LARGE))
        if not server.closed:
            raise AssertionError("the session is still open")
    return server.sent


def exchange(client: smtp.ClientConnection, server: SmtpServer) -> None:
    """Pass bytes both ways until neither side has data to send."""
    while True:
        event = client.next_event()
        match event:
            case Send(data=data):
                for start in range(0, len(data), PIECE):
                    for reply in server.receive(data[start : start + PIECE]):
                        client.receive_data(reply)
            case NeedData() | Closed():
                return
            case smtp.ReplyReceived(reply=smtp.Reply(code=code)) if code < 400:
                pass
            case _:
                raise AssertionError(f"not expected here: {event}")


Workload = Callable[[int], list[bytes]]
"""Runs a number of rounds and returns what the server sent in the last one.  Raises if a round did not succeed."""

WORKLOADS: Final[dict[str, tuple[Workload, int]]] = {
    "device": (device, 300),
    "submission": (submission, 300),
    "groups": (groups, 300),
    "collection": (collection, 300),
    "relay": (relay, 30),
}
"""Each workload with the number of rounds that are counted."""
BASE: Final = 10
"""Rounds of the shorter run; the interpreter specializes its instructions in the first rounds."""


def run(workload: Workload, rounds: int) -> int:
    """Run *workload* in a child process, which inherits the imports, and return its process id."""
    child = os.fork()
    if child == 0:
        gc.disable()  # otherwise the time of a collection depends on the imports
        gc.freeze()
        workload(rounds)
        gc.collect()  # so that reference cycles are counted
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{rounds} rounds of {workload.__name__} failed")
    return child


def main() -> None:
    children = [(run(workload, BASE), run(workload, BASE + rounds)) for workload, rounds in WORKLOADS.values()]
    for (name, (_, rounds)), (fewer, more) in zip(WORKLOADS.items(), children, strict=True):
        print(name, rounds, fewer, more)


if __name__ == "__main__":
    main()
