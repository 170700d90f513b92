"""Shared by the tests of interceptors: a session of each protocol that asks every question, and interceptors."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from mailauth import Question, pop3, sasl, smtp
from mailauth_io import server, stores
from mailauth_io.logs import Event
from mailauth_io.server import PASS, Decision, Interceptor, SessionView
from tests.io.server_support import (
    PASSWORD,
    TIMEOUT,
    Run,
    Served,
    accounts,
    meet,
)
from tests.io.tls import client_context

MESSAGE = b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n"
BUSY = smtp.Reply(450, "4.7.1", "not now")
NO = smtp.Reply(554, "5.7.1", "not you")

SMTP_STEPS: dict[type[Question[Any]], str] = {
    smtp.Connected: "greeting",
    smtp.StartTls: "STARTTLS",
    sasl.CheckPassword: "AUTH",
    smtp.Mail: "MAIL",
    smtp.Rcpt: "RCPT",
    smtp.Data: "DATA",
    smtp.MessageComplete: "content",
}
"""Each question of a session of ``submit()``, and the step whose reply depends on it."""

POP3_STEPS: dict[type[Question[Any]], str] = {
    pop3.Connected: "greeting",
    pop3.Stls: "STLS",
    sasl.CheckPassword: "PASS",
    pop3.OpenMaildrop: "PASS",
    pop3.Retrieve: "RETR",
    pop3.RetrieveMore: "RETR",
    pop3.Update: "QUIT",
}
"""The same for ``collect()``."""


class Client:
    """A raw client that records the reply to each step, and ``closed`` for a connection that was closed."""

    def __init__(self, port: int | None, *, tls: bool = False) -> None:
        assert port is not None
        self.connection: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.replies: dict[str, str] = {}
        if tls:
            self.start_tls()
        else:
            self.file = self.connection.makefile("rb")

    def start_tls(self) -> None:
        self.connection = client_context().wrap_socket(self.connection, server_hostname="localhost")
        self.file = self.connection.makefile("rb")

    def line(self) -> str:
        try:
            return self.file.readline().decode() or "closed"
        except (ConnectionError, ssl.SSLError):
            return "closed"

    def step(self, name: str, text: bytes = b"", *, goes_on: str = "[23]") -> bool:
        """Send *text*, record the last line of the reply, and return whether the session goes on."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.connection.sendall(text)
        while re.match("[0-9]{3}-", reply := self.line()):
            pass
        self.replies[name] = reply.strip()
        return re.match(goes_on, reply) is not None

    def close(self) -> dict[str, str]:
        self.file.close()
        self.connection.close()
        return self.replies


def plain(name: str = "alice", password: str = PASSWORD) -> bytes:
    return base64.b64encode(f"\0{name}\0{password}".encode())


def submit(served: Served, recipients: Sequence[str] = ("bob@example.test",)) -> dict[str, str]:
    """Log in after STARTTLS and send MESSAGE; stop at the first negative reply.  Return the replies by step."""
    client = Client(served.ports.smtp)
    for name, text in (
        ("greeting", b""),
        ("EHLO", b"EHLO client.test\r\n"),
        ("STARTTLS", b"STARTTLS\r\n"),
        ("EHLO", b"EHLO client.test\r\n"),
        ("AUTH", b"AUTH PLAIN %s\r\n" % plain()),
        ("MAIL", b"MAIL FROM:<alice@example.test>\r\n"),
        *(("RCPT", f"RCPT TO:<{recipient}>\r\n".encode()) for recipient in recipients),
        ("DATA", b"DATA\r\n"),
        ("content", MESSAGE + b".\r\n"),
        ("QUIT", b"QUIT\r\n"),
    ):
        if not client.step(name, text):
            break
        if name == "STARTTLS":
            client.start_tls()
    return client.close()


def collect(served: Served) -> dict[str, str]:
    """Log in after STLS, retrieve and delete a message of several pieces; stop at the first negative reply."""
    client = Client(served.ports.pop3)
    for name, text in (
        ("greeting", b""),
        ("STLS", b"STLS\r\n"),
        ("USER", b"USER alice\r\n"),
        ("PASS", f"PASS {PASSWORD}\r\n".encode()),
        ("RETR", b"RETR 1\r\n"),
        ("DELE", b"DELE 1\r\n"),
        ("QUIT", b"QUIT\r\n"),
    ):
        if not client.step(name, text, goes_on=r"\+OK"):
            break
        if name == "STLS":
            client.start_tls()
        if name == "RETR":
            while (line := client.line()) not in (".\r\n", "closed"):
                pass
            if line == "closed":
                client.replies["RETR"] = "closed"
                break
    return client.close()


def at(kind: type[Question[Any]], decide: Callable[[], Decision]) -> server.InterceptorFunction:
    """Return an interceptor that decides on the questions of the class *kind*."""

    async def interceptor(view: SessionView, question: Question[Any]) -> Decision:
        return decide() if isinstance(question, kind) else PASS

    return interceptor


def deciding(kind: type[Question[Any]], decision: Decision) -> server.InterceptorFunction:
    return at(kind, lambda: decision)


def fail() -> Decision:
    raise ZeroDivisionError("a mistake in an interceptor")


def hanging(kind: type[Question[Any]]) -> Interceptor:
    async def hang(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, kind):
            await anyio.sleep_forever()
        return PASS

    return Interceptor(hang, timeout=0.01)


def kept_stores() -> server.Stores:
    return server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), budget=stores.Budget()
    )


def used(kept: server.Stores) -> int:
    """Return the bytes that stored messages use, after the server has stopped; more would be a leak."""
    return kept.budget.size - kept.budget.free


def run_smtp(
    run: Run,
    *interceptors: Interceptor | server.InterceptorFunction,
    recipients: Sequence[str] = ("bob@example.test",),
    **options: Any,
) -> tuple[dict[str, str], int]:
    """Return the replies to ``submit()``, and the bytes of the stored mail."""
    kept = kept_stores()
    replies = meet(run, lambda served: submit(served, recipients), kept=kept, interceptors=interceptors, **options)
    return replies, used(kept)


def run_pop3(
    run: Run, *interceptors: Interceptor | server.InterceptorFunction, **options: Any
) -> tuple[dict[str, str], int]:
    """Return the replies to ``collect()``, and the bytes of the mail that is left."""
    kept = kept_stores()

    async def fill() -> None:
        content = stores.MessageContent.of(b"Subject: long\r\n\r\n" + b"down the rabbit-hole\r\n" * 8_000, kept.budget)
        copy = await kept.maildrops.stage("alice", b"", content)
        await copy.commit()
        content.release()

    anyio.run(fill)
    replies = meet(run, collect, kept=kept, interceptors=interceptors, **options)
    return replies, used(kept)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    return [record.msg.fields for record in caplog.records if isinstance(record.msg, Event) and record.msg.name == name]


def refusal(protocol: str, kind: type[Question[Any]]) -> server.Answer:
    """Return a permanent refusal of a question."""
    if issubclass(kind, sasl.CheckPassword):
        return sasl.Refusal.BAD_CREDENTIALS
    return NO if protocol == "SMTP" else pop3.Unavailable.PERMANENT


REFUSED: dict[tuple[str, type[Question[Any]]], str] = {
    ("SMTP", sasl.CheckPassword): "535 5.7.8",
    ("POP3", sasl.CheckPassword): "-ERR [AUTH]",
    ("POP3", pop3.RetrieveMore): "closed",
}
UNAVAILABLE: dict[tuple[str, type[Question[Any]]], str] = {
    ("SMTP", sasl.CheckPassword): "454 4.7.0",
    ("SMTP", smtp.Connected): "421 4.3.2",
    ("POP3", pop3.RetrieveMore): "closed",
}
QUESTIONS = [
    *(pytest.param("SMTP", kind, id=f"SMTP-{kind.__name__}") for kind in SMTP_STEPS),
    *(pytest.param("POP3", kind, id=f"POP3-{kind.__name__}") for kind in POP3_STEPS),
]
on_each_question = pytest.mark.parametrize(("protocol", "kind"), QUESTIONS)


def run_session(
    run: Run,
    protocol: str,
    kind: type[Question[Any]],
    *interceptors: Interceptor | server.InterceptorFunction,
    **options: Any,
) -> tuple[dict[str, str], str, bool]:
    """Return the replies, the reply to the step of *kind*, and whether the mail was delivered, or deleted."""
    if protocol == "SMTP":
        replies, size = run_smtp(run, *interceptors, **options)
        return replies, replies[SMTP_STEPS[kind]], size > 0
    replies, size = run_pop3(run, *interceptors, **options)
    return replies, replies[POP3_STEPS[kind]], size == 0


def begins_with(reply: str, expected: str) -> bool:
    """Return whether *reply* is *expected*; a greeting has no enhanced status code (RFC 2034 section 4)."""
    return reply.startswith((expected, expected[:3] + " ")) if expected[0].isdigit() else reply.startswith(expected)
