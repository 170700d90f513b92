"""An exception in a session is logged with its message, its traceback and the peer, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import traceback
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from mailauth import ACCEPT, pop3, smtp
from mailauth_io import logs, server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.listener import Listener, Session
from mailauth_io.adapters.stream import Peer
from tests.io import loops
from tests.io.line_echo import dial, on_both_loops, read_all_or_reset

WORDS = "a mistake in a program"


def serve(protocol: str, session: Session[Any], **options: Any) -> AbstractAsyncContextManager[Listener]:
    adapter = loops.current().adapter
    if protocol == "SMTP":
        return adapter.serve_smtp(session, smtp.ServerSettings(), **options)
    return adapter.serve_pop3(session, pop3.ServerSettings(), **options)


def greet(connection: AsyncServerConnection[Any], event: object) -> None:
    match event:
        case smtp.Connected() as question:
            connection.answer(question, ACCEPT)
        case pop3.Connected() as question:
            connection.answer(question, ACCEPT)


async def raises(connection: AsyncServerConnection[Any]) -> None:
    raise ZeroDivisionError(WORDS)


async def raises_at_an_event(connection: AsyncServerConnection[Any]) -> None:
    async for event in connection:
        if isinstance(event, smtp.Noop | pop3.Capa):
            raise ZeroDivisionError(WORDS)
        greet(connection, event)


async def raises_at_the_end(connection: AsyncServerConnection[Any]) -> None:
    try:
        await until_closed(connection)
    finally:
        raise ZeroDivisionError(WORDS)


async def until_closed(connection: AsyncServerConnection[Any]) -> None:
    async for event in connection:
        greet(connection, event)


async def raises_beside(connection: AsyncServerConnection[Any]) -> None:
    """Raise in a child task, so that the exception is in a group."""
    if loops.current().name == "trio":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raises, connection)
    else:
        async with asyncio.TaskGroup() as group:
            group.create_task(raises(connection))


SESSIONS = [raises, raises_at_an_event, raises_at_the_end, raises_beside]


@contextlib.asynccontextmanager
async def visited(protocol: str, session: Session[Any], **options: Any) -> AsyncIterator[tuple[Listener, Any]]:
    async with serve(protocol, session, **options) as listener:
        with await loops.current().in_thread(dial, listener.port) as client:
            yield listener, client


def the_failure(caplog: pytest.LogCaptureFixture) -> tuple[logging.LogRecord, str]:
    """Return the only error in the log and its traceback, empty if there is none."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    caplog.clear()
    shown = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
    return record, shown


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
@pytest.mark.parametrize("session", SESSIONS)
def test_an_exception_is_logged_with_message_traceback_and_peer(
    name: str, protocol: str, session: Session[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Before the first event, at an event, during cleanup, and from a child task."""

    async def main() -> int:
        async with visited(protocol, session) as (_, client):
            port: int = client.getsockname()[1]
            client.sendall(b"NOOP\r\nCAPA\r\nQUIT\r\n")
            await loops.current().in_thread(read_all_or_reset, client)
            return port

    port = loops.named(name).run(main)
    record, shown = the_failure(caplog)
    assert isinstance(record.msg, logs.Event)
    assert record.msg.name == "session failed"
    assert (record.msg.fields["peer"], record.msg.fields["port"]) == ("127.0.0.1", port)
    where = raises if session is raises_beside else session
    assert f", in {where.__name__}\n" in shown
    assert f"ZeroDivisionError: {WORDS}\n" in shown
    if session is raises_beside:
        assert "ExceptionGroup" in shown
    else:
        assert record.getMessage().startswith(
            f'session failed peer=127.0.0.1 port={port} reason="ZeroDivisionError: {WORDS}"'
        )


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
@pytest.mark.parametrize("session", SESSIONS)
def test_on_error_gets_the_exception_and_the_peer_after_the_log_record(
    name: str, protocol: str, session: Session[Any], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[Exception, Peer, int]] = []

    def report(error: Exception, peer: Peer) -> None:
        calls.append((error, peer, len(caplog.records)))

    async def main() -> int:
        caplog.clear()
        async with visited(protocol, session, on_error=report) as (_, client):
            port: int = client.getsockname()[1]
            client.sendall(b"NOOP\r\nCAPA\r\nQUIT\r\n")
            await loops.current().in_thread(read_all_or_reset, client)
            return port

    caplog.set_level(logging.ERROR)
    port = loops.named(name).run(main)
    ((error, peer, logged),) = calls
    record, _ = the_failure(caplog)
    assert record.exc_info
    assert error is record.exc_info[1]
    assert (peer, logged) == (Peer("127.0.0.1", port), 1)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_exception_in_on_error_is_logged_and_server_continues(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def report(error: Exception, peer: Peer) -> None:
        raise LookupError("a mistake in the hook") from error

    async def main() -> None:
        async with serve("SMTP", raises, on_error=report) as listener:
            for _ in range(2):
                with await loops.current().in_thread(dial, listener.port) as client:
                    await loops.current().in_thread(read_all_or_reset, client)

    loops.named(name).run(main)
    names = [record.msg.name for record in caplog.records if isinstance(record.msg, logs.Event)]
    assert names == ["session failed", "error hook failed"] * 2
    assert 'reason="LookupError: a mistake in the hook"' in caplog.records[1].getMessage()


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_on_error_must_be_a_function(name: str) -> None:
    async def main() -> None:
        wrong: Any = "report"
        with pytest.raises(TypeError, match="on_error must be a function, not str"):
            async with serve("SMTP", raises, on_error=wrong):
                pass

    loops.named(name).run(main)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_ready_server_passes_on_error_to_every_port(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: object) -> None:
        raise ZeroDivisionError(WORDS)

    monkeypatch.setattr("mailauth_io.server.smtp_session.SmtpSession.run", fail)
    monkeypatch.setattr("mailauth_io.server.pop3_session.Pop3Session.run", fail)
    calls: list[str] = []
    kept = server.Stores(
        accounts=stores.MemoryAccounts({}), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )

    async def main() -> None:
        config = server.Config(smtp=0, pop3=0)
        async with server.serve(config, kept, on_error=lambda error, peer: calls.append(str(error))) as running:
            for port in (running.smtp, running.pop3):
                assert port is not None
                with await loops.current().in_thread(dial, port) as client:
                    await loops.current().in_thread(read_all_or_reset, client)

    loops.named(name).run(main)
    assert calls == [WORDS, WORDS]


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
@pytest.mark.parametrize("grace", [20.0, 0.0])
def test_exception_during_shutdown_is_logged_and_shutdown_completes(
    name: str, protocol: str, grace: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The session ends by itself, or is cancelled at the end of the grace period."""
    caplog.set_level(logging.ERROR)

    async def main() -> None:
        begun = asyncio.Event() if name == "asyncio" else trio.Event()

        async def session(connection: AsyncServerConnection[Any]) -> None:
            begun.set()
            try:
                if grace:
                    await until_closed(connection)
                else:
                    await loops.current().sleep_forever()
            finally:
                raise ZeroDivisionError(WORDS)

        async with visited(protocol, session, grace=grace):
            await begun.wait()

    loops.named(name).run(main)
    record, shown = the_failure(caplog)
    assert record.getMessage().startswith("session failed peer=127.0.0.1 ")
    assert ", in session\n" in shown
    assert f"ZeroDivisionError: {WORDS}\n" in shown


def test_group_of_exception_and_cancellation_ends_one_session(caplog: pytest.LogCaptureFixture) -> None:
    """A nursery that is cancelled while one of its tasks fails raises both.

    The exception must stop neither the server nor the cleanup of another session.
    """

    async def main() -> None:
        begun, second, failed, cleaned_up = (trio.Event() for _ in range(4))

        async def session(connection: AsyncServerConnection[Any]) -> None:
            if begun.is_set():
                return await cleans_up()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(raises_when_cancelled)
                begun.set()
                await trio.sleep_forever()

        async def cleans_up() -> None:
            second.set()
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(1, shield=True):
                    await failed.wait()
                    cleaned_up.set()

        async def raises_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                failed.set()
                raise ZeroDivisionError(WORDS)

        async with visited("SMTP", session, grace=0.0) as (listener, _):
            await begun.wait()
            with await loops.current().in_thread(dial, listener.port):
                await second.wait()
        assert cleaned_up.is_set()

    trio.run(main)
    record, shown = the_failure(caplog)
    assert record.getMessage().startswith("session failed peer=127.0.0.1 ")
    assert ", in raises_when_cancelled\n" in shown
    assert "Cancelled" not in shown.partition("During handling")[2]


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
@pytest.mark.parametrize("grouped", [False, True])
def test_oserror_in_a_session_is_logged_with_traceback(
    name: str, protocol: str, grouped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An OSError comes from the session's own files and sockets."""

    async def session(connection: AsyncServerConnection[Any]) -> None:
        error = FileNotFoundError(2, "No such file or directory", "settings")
        raise ExceptionGroup("tasks failed", [error]) if grouped else error

    async def main() -> None:
        async with visited(protocol, session) as (_, client):
            await loops.current().in_thread(read_all_or_reset, client)

    loops.named(name).run(main)
    record, shown = the_failure(caplog)
    assert ", in session\n" in shown
    assert "No such file or directory: 'settings'" in shown
    assert ('reason="ExceptionGroup: tasks failed (1 ' if grouped else 'reason="FileNotFoundError: [Errno 2] N') in (
        record.getMessage()
    )
    assert "test_session_failures.py:" in record.getMessage()


@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
def test_cancelled_error_of_another_task_is_logged_as_session_failure(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On asyncio, a session that awaits a cancelled task gets its CancelledError, but was not cancelled itself."""

    async def session(connection: AsyncServerConnection[Any]) -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        other.cancel()
        await other

    reported: list[Exception] = []

    async def main() -> None:
        async with visited(protocol, session, on_error=lambda error, peer: reported.append(error)) as (_, client):
            await loops.current().in_thread(read_all_or_reset, client)

    asyncio.run(main())
    record, shown = the_failure(caplog)
    assert record.getMessage().startswith("session failed peer=127.0.0.1 ")
    assert ", in session\n" in shown
    assert "CancelledError" in shown
    (error,) = reported
    assert isinstance(error.__cause__, asyncio.CancelledError)


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
def test_connection_reset_raises_nothing_in_the_session(
    name: str, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So a client cannot cause tracebacks in the log."""
    ended: list[bool] = []

    async def main() -> None:
        begun = loops.current().event()

        async def session(connection: AsyncServerConnection[Any]) -> None:
            begun.set()
            await until_closed(connection)
            ended.append(True)

        async with visited(protocol, session) as (_, client):
            await begun.wait()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()

    loops.named(name).run(main)
    assert ended == [True]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@on_both_loops
async def test_exception_in_build_is_logged_and_server_continues(loop: loops.Loop) -> None:
    """The server continues."""

    def build(entropy: bytes, tls: object) -> smtp.ServerConnection:
        raise ZeroDivisionError(WORDS)

    handler = _Kept()
    logging.getLogger("mailauth_io").addHandler(handler)
    try:
        async with loop.adapter.serve(raises, build) as listener:
            for _ in range(2):
                with await loop.in_thread(dial, listener.port) as client:
                    assert await loop.in_thread(read_all_or_reset, client) == b""
    finally:
        logging.getLogger("mailauth_io").removeHandler(handler)
    assert [", in build\n" in text for text in handler.texts] == [True, True]


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.exc_info
        self.texts.append("".join(traceback.format_exception(record.exc_info[1])))
