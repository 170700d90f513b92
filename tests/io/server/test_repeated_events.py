"""Events that one client repeats: the first ones are logged one by one, the others are counted, on both loops."""

from __future__ import annotations

import logging
import socket
from typing import Any

import attrs
import pytest

from mailauth import Question, pop3, smtp
from mailauth_io import logs, server, stores
from mailauth_io.server._log import MAX_EQUAL_EVENTS
from tests.io.by_hand import converse
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, accounts, meet, on_both_loops

pytestmark = on_both_loops

INPUT = 15_000
"""Bytes that a client sends."""

LONG = "x" * 240
HELLO = f"EHLO {LONG}\r\nMAIL FROM:<{LONG[:60]}@{LONG[:60]}.{LONG[:60]}.test>\r\n"


class Unavailable(Exception):
    pass


class BrokenAccounts:
    """An application's store that always fails."""

    async def refresh(self, *, at_once: bool = False) -> None:
        return None

    async def find(self, name: str) -> stores.Account | None:
        raise Unavailable("no connection")

    def credentials(self) -> tuple[stores.Credential, ...]:
        return tuple(accounts().credentials())

    async def token_owner(self, token: bytes) -> str | None:
        return None


class UnreadableMaildrops:
    """Its maildrops have one message, which cannot be read."""

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        raise OSError(5, "Input/output error")

    async def open(self, name: str) -> Unreadable:
        return Unreadable()


class Unreadable:
    messages = (pop3.Message(unique_id="1", size=1),)

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        raise OSError(5, "Input/output error", "/maildrop/new/1")

    async def update(self, deleted: frozenset[int]) -> None:
        pass

    def close(self) -> None:
        pass


@attrs.frozen(kw_only=True)
class Case:
    """A client that repeats *commands* after *begin*."""

    port: str = "smtp"
    begin: str = ""
    commands: str
    events: tuple[str, ...]
    """The events of each repetition, to which the client gets a reply that starts with *code*."""
    code: bytes
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    accounts: type[Any] | None = None
    interceptors: tuple[server.InterceptorFunction, ...] = ()


async def fail_at_mail(view: server.SessionView, question: Question[Any]) -> server.Decision:
    if isinstance(question, smtp.Mail):
        raise Unavailable("no connection")
    return server.PASS


MESSAGE = "MAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n\r\n.\r\n"
CASES = {
    "remote recipients": Case(
        begin=HELLO, commands="RCPT TO:<a@b.test>\r\n", events=("recipient refused",), code=b"550 5.7"
    ),
    "unknown recipients": Case(
        begin=HELLO, commands="RCPT TO:<nobody@example.test>\r\n", events=("recipient refused",), code=b"550 5.1"
    ),
    "accounts that fail": Case(
        begin=HELLO, commands="RCPT TO:<nobody@example.test>\r\n", code=b"451",
        events=("recipient refused", "store failed"), accounts=BrokenAccounts,
    ),
    "messages that cannot be stored": Case(
        begin="EHLO c\r\n", commands=MESSAGE, events=("message", "store failed"), code=b"451"
    ),
    "aborted messages": Case(
        begin="EHLO c\r\n", events=("message aborted",), code=b"250 2.0.0 reset",
        commands="MAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nBDAT 1\r\nxRSET\r\n",
    ),
    "logins that fail temporarily": Case(
        begin="EHLO c\r\n", commands="AUTH PLAIN AGFsaWNlAHg=\r\n", code=b"454",
        events=("login failed", "store failed"), accounts=BrokenAccounts, options={"legacy": True},
    ),
    "an interceptor that fails": Case(
        begin="EHLO c\r\n", commands="MAIL FROM:<>\r\n", events=("interceptor failed",), code=b"451",
        interceptors=(fail_at_mail,),
    ),
    "messages that cannot be read": Case(
        port="pop3", begin=f"USER alice\r\nPASS {PASSWORD}\r\n", commands="RETR 1\r\n", code=b"-ERR",
        events=("message not readable", "store failed"), options={"legacy": True},
    ),
    "invalid commands": Case(commands="EHLO\r\n", events=("command refused",), code=b"501"),
}  # fmt: skip


def talk(port: int, data: bytes) -> list[bytes]:
    """Send *data* at once, and return the lines of the replies."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        heard = b""
        while piece := connection.recv(65_536):
            heard += piece
    return heard.splitlines()


def run_case(run: Run, case: Case, caplog: pytest.LogCaptureFixture) -> tuple[bytes, list[bytes]]:
    """Run *case*, and return what the client sends and the lines that it receives."""
    begin, commands = case.begin.encode(), case.commands.encode()
    data = begin + commands * ((INPUT - len(begin)) // len(commands))
    kept = server.Stores(
        accounts=(case.accounts or accounts)(), maildrops=UnreadableMaildrops(), outbox=stores.MemoryOutbox()
    )

    def client(served: Served) -> list[bytes]:
        port = getattr(served.ports, case.port)
        assert isinstance(port, int)
        return talk(port, data)

    options = {"postmaster": None, **case.options}
    with caplog.at_level(logging.DEBUG, logger="mailauth_io"):
        caplog.clear()
        return data, meet(run, client, kept=kept, interceptors=case.interceptors, **options)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logs.Event]:
    found = [record.msg for record in caplog.records]
    return [event for event in found if isinstance(event, logs.Event) and event.name == name]


@pytest.mark.parametrize("name", CASES)
def test_a_client_cannot_fill_the_log(run: Run, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log grows by at most three bytes for each byte that the client sends, tracebacks included."""
    case = CASES[name]
    data, replies = run_case(run, case, caplog)
    repeated = sum(line.startswith(case.code) for line in replies)
    assert repeated > MAX_EQUAL_EVENTS + 5
    for event in case.events:
        *single, last = events(caplog, event)
        assert len(single) == MAX_EQUAL_EVENTS
        assert last.fields["suppressed"] == repeated - MAX_EQUAL_EVENTS
        assert last.fields["connection"] == single[0].fields["connection"]
        assert last.fields.get("reason") == single[0].fields.get("reason")
        assert "suppressed" not in single[-1].fields
    written = sum(len(logs.TextFormatter().format(record)) + 1 for record in caplog.records)
    assert written < 3 * len(data)


def test_each_accepted_message_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The client knows the queue id from the reply, and may ask the operator about it."""

    def client(served: Served) -> list[bytes]:
        port = served.ports.smtp
        assert port is not None
        return talk(port, b"EHLO c\r\n" + MESSAGE.encode() * 3 * MAX_EQUAL_EVENTS)

    with caplog.at_level(logging.INFO, logger="mailauth_io"):
        replies = meet(run, client)
    ids = [line.split()[-1].decode() for line in replies if b" queued as " in line]
    assert len(ids) == 3 * MAX_EQUAL_EVENTS
    assert [event.fields["queue_id"] for event in events(caplog, "message")] == ids


def test_events_are_counted_for_each_session_and_reason(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Two sessions at once, each with two reasons."""
    remote, unknown = "RCPT TO:<a@b.test>\r\n", "RCPT TO:<x@example.test>\r\n"
    commands = remote * (MAX_EQUAL_EVENTS + 3) + unknown * (MAX_EQUAL_EVENTS + 1)

    def client(served: Served) -> None:
        port = served.ports.smtp
        assert port is not None
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as other:
            converse(other, "EHLO c", "MAIL FROM:<>", *commands.splitlines())
            talk(port, f"EHLO c\r\nMAIL FROM:<>\r\n{commands}".encode())

    with caplog.at_level(logging.INFO, logger="mailauth_io"):
        meet(run, client)
    refused = [event.fields for event in events(caplog, "recipient refused")]
    sessions = {fields["connection"] for fields in refused}
    assert len(sessions) == 2
    for session in sessions:
        mine = [fields for fields in refused if fields["connection"] == session]
        assert len(mine) == 2 * MAX_EQUAL_EVENTS + 2
        assert [(fields["reason"], fields["suppressed"]) for fields in mine if "suppressed" in fields] == [
            ("NO_GRANT", 3), ("LOCAL", 1),
        ]  # fmt: skip
