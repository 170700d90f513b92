"""The adapter for blocking sockets and threads, with the clients of the standard library and with its own."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

import attrs
import pytest

from examples import threads_adapter
from mailauth import ACCEPT, CloseReason, Question, Tls, pop3, sasl, smtp
from mailauth_io.adapters import AsyncServerConnection, Limits, Listener, ServeOptions
from tests.examples.programs import ROOT
from tests.io.line_echo import read_all
from tests.io.tls import client_context, server_context
from tests.test_readme import lines_of_code

SETTINGS = smtp.ServerSettings(mechanisms_without_tls=frozenset({"PLAIN", "LOGIN"}))
MESSAGE = "Subject: test\r\n\r\nHello.\r\n"


@attrs.define
class Application:
    """Accepts the password of alice, and keeps her messages."""

    messages: list[bytes] = attrs.field(factory=list)
    threads: set[int] = attrs.field(factory=set)
    aborted: list[object] = attrs.field(factory=list)
    logins: list[tuple[str | None, bool]] = attrs.field(factory=list)

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        self.threads.add(threading.get_ident())
        content = b""
        async for event in connection:
            match event:
                case sasl.CheckPassword(password=password) as q:
                    connection.answer(q, ACCEPT if password == b"wonderland" else sasl.Refusal.BAD_CREDENTIALS)
                    self.logins.append((connection.identity, connection.tls is not None))
                case smtp.Rcpt() as q:
                    connection.answer(q, ACCEPT if connection.identity else smtp.Reply(550, "5.7.1", "log in first"))
                case smtp.MessageChunk(data=data):
                    content += data
                case smtp.MessageComplete() as q:
                    self.messages.append(content)
                    connection.answer(q, ACCEPT)
                case smtp.MessageAborted(reason=reason):
                    self.aborted.append(reason)
                case smtp.Connected() | smtp.StartTls() | smtp.Mail() | smtp.Data() as q:
                    connection.answer(q, ACCEPT)
                case Question() as q:
                    connection.answer(q, q.unavailable)


@contextmanager
def serving(
    session: Any, settings: smtp.ServerSettings = SETTINGS, **options: Unpack[ServeOptions]
) -> Iterator[Listener]:
    """Serve SMTP, as a synchronous context manager; no thread is left at the end."""
    before = set(threading.enumerate())
    context = threads_adapter.serve_smtp(session, settings, **options)
    listener = threads_adapter.run(enter(context))
    try:
        yield listener
    finally:
        threads_adapter.run(leave(context))
    for thread in set(threading.enumerate()) - before:
        thread.join(20)  # a session that has ended is not joined by the listener
        assert not thread.is_alive()


async def enter(context: Any) -> Listener:
    listener: Listener = await context.__aenter__()
    return listener


async def leave(context: Any) -> None:
    await context.__aexit__(None, None, None)


def dial(listener: Listener) -> socket.socket:
    return socket.create_connection((listener.address, listener.port), timeout=20)


def test_adapter_has_fewer_than_150_lines_of_code() -> None:
    assert lines_of_code((ROOT / "examples" / "threads_adapter.py").read_text(encoding="utf-8")) < 150


@pytest.mark.parametrize("tls", ["none", "STARTTLS", "implicit"])
def test_login_and_message_are_accepted_in_each_tls_mode(tls: str) -> None:
    application = Application()
    settings = attrs.evolve(SETTINGS, starttls=True) if tls == "STARTTLS" else SETTINGS
    context = None if tls == "none" else server_context()
    implicit = tls == "implicit"
    with serving(application.session, settings, ssl_context=context, implicit_tls=implicit) as listener:
        name = "localhost"
        with (
            smtplib.SMTP_SSL(name, listener.port, timeout=20, context=client_context())
            if implicit
            else smtplib.SMTP(name, listener.port, timeout=20)
        ) as client:
            if tls == "STARTTLS":
                client.starttls(context=client_context())
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("alice@example.test", "bob@example.test", MESSAGE)
            client.login("alice", "wonderland")
            client.sendmail("alice@example.test", "bob@example.test", MESSAGE)
    assert application.messages == [MESSAGE.encode()]
    assert application.logins == [("alice", tls != "none")]


def test_each_connection_has_its_own_thread() -> None:
    application = Application()
    with serving(application.session) as listener, dial(listener) as first, dial(listener) as second:
        assert first.recv(100)[:4] == second.recv(100)[:4] == b"220 "
        second.sendall(b"QUIT\r\n")
        assert read_all(second)[:4] == b"221 "
        first.sendall(b"QUIT\r\n")
        assert read_all(first)[:4] == b"221 "
    assert len(application.threads) == 2
    assert threading.get_ident() not in application.threads


def test_idle_session_gets_421_when_the_listener_closes() -> None:
    with serving(Application().session, grace=60.0) as listener:
        client = dial(listener)
        assert client.recv(100)[:4] == b"220 "
    with client:
        assert read_all(client)[:4] == b"421 "


def test_incomplete_message_is_aborted_after_the_grace_period() -> None:
    application = Application()
    with serving(application.session, grace=0.2) as listener:
        client = dial(listener)
        client.sendall(b"EHLO c\r\nAUTH PLAIN AGFsaWNlAHdvbmRlcmxhbmQ=\r\n")
        client.sendall(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n")
        replies = b""
        while b"\r\n354 " not in replies:
            replies += client.recv(1000)
        assert b"\r\n235 " in replies
    with client:
        assert read_all(client) == b""
    assert application.aborted == [CloseReason.PEER_CLOSED]


def test_a_silent_client_times_out() -> None:
    with serving(Application().session, attrs.evolve(SETTINGS, timeout=0.05)) as listener, dial(listener) as client:
        assert b"\r\n421 4.4.2 timeout" in read_all(client)


def test_connection_over_the_limit_is_rejected_with_421() -> None:
    with serving(Application().session, limits=Limits(connections=1)) as listener, dial(listener) as first:
        assert first.recv(100)[:4] == b"220 "
        with dial(listener) as second:
            assert read_all(second)[:4] == b"421 "


def test_a_session_may_abort_its_connection() -> None:
    events: list[object] = []

    async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        question = await anext(connection)
        assert isinstance(question, smtp.Connected)
        connection.abort()
        connection.answer(question, ACCEPT)
        events.extend([event async for event in connection])

    with serving(session) as listener, dial(listener) as client:
        assert read_all(client) == b""
    assert events == []


def test_a_failure_in_a_session_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        raise KeyError("x")

    with serving(session) as listener, dial(listener) as client:
        assert read_all(client) == b""
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_asyncio_coroutine_is_rejected() -> None:
    with pytest.raises(RuntimeError, match="call a blocking function instead"):
        threads_adapter.run(asyncio.sleep(0))


def test_pop3_client_and_server_of_the_adapter_use_stls() -> None:
    """Both ends are this adapter, over STLS."""

    async def session(connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
        async for event in connection:
            match event:
                case pop3.Connected() | pop3.Stls() | pop3.Update() as q:
                    connection.answer(q, ACCEPT)
                case pop3.OpenMaildrop() as q:
                    connection.answer(q, pop3.Maildrop(messages=()))
                case Question() as q:
                    connection.answer(q, q.unavailable)

    def build(tls: Tls | None) -> pop3.ClientConnection:
        return pop3.ClientConnection(tls=tls)

    async def main() -> Tls | None:
        async with threads_adapter.serve_pop3(
            session, pop3.ServerSettings(stls=True), ssl_context=server_context()
        ) as listener:
            connecting = threads_adapter.connect(
                build, listener.address, listener.port, ssl_context=client_context(), server_hostname="localhost"
            )
            async with await connecting as client:
                await anext(client)
                for command in (pop3.Capa(), pop3.Stls(), pop3.Quit()):
                    client.send(command)
                    await anext(client)
                assert [event async for event in client] == []
                return client.tls

    assert threads_adapter.run(main()) is not None
