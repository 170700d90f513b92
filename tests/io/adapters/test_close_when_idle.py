"""Shutdown of a server: a message in progress may be completed; all other sessions end at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mailauth import ACCEPT, Question, pop3, smtp
from mailauth_io import server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.line_echo import dial, on_both_loops, read_all
from tests.io.server_support import accounts

GOODBYE = b"421 4.3.2 service shutting down, closing connection\r\n"
CONTENT = b"MAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"


@pytest.fixture(autouse=True)
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for clients that keep the connection open after the last reply."""
    monkeypatch.setattr("mailauth_io.adapters.connection.LINGER_SECONDS", 0.01)


async def accept(connection: AsyncServerConnection[Any]) -> None:
    async for event in connection:
        match event:
            case pop3.OpenMaildrop():
                connection.answer(event, pop3.Maildrop(messages=(pop3.Message(size=10, unique_id="x"),)))
            case Question():
                connection.answer(event, ACCEPT)


@on_both_loops
async def test_message_in_progress_is_accepted_and_followed_by_421(loop: loops.Loop) -> None:
    """RFC 5321 section 3.8: the client learns that its message is stored, and does not send it again."""
    async with loop.adapter.serve_smtp(accept, smtp.ServerSettings(), grace=3_600.0) as listener:
        connection = await loop.in_thread(dial, listener.port)
        connection.sendall(b"EHLO c\r\n" + CONTENT + b"first line\r\n")

        def until_354() -> None:
            while read_line(connection)[:4] != b"354 ":
                pass

        await loop.in_thread(until_354)
        listener.shut_down()
        connection.sendall(b"second line\r\n")
        connection.sendall(b".\r\n")
        with connection:
            assert await loop.in_thread(read_line, connection) == b"250 2.0.0 message accepted\r\n"
            assert await loop.in_thread(read_all, connection) == GOODBYE


@on_both_loops
async def test_sessions_without_message_content_get_421_immediately(loop: loops.Loop) -> None:
    """Idle sessions, a transaction without content, and an incomplete command."""
    clients = []
    async with loop.adapter.serve_smtp(accept, smtp.ServerSettings(), grace=3_600.0) as listener:
        for said in (b"", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\n", b"EHLO c\r\nNOO"):
            connection = await loop.in_thread(dial, listener.port)
            connection.sendall(said)
            clients.append(connection)
            for _ in range(1 + 5 * (b"EHLO" in said) + 2 * (b"RCPT" in said)):
                await loop.in_thread(read_line, connection)
    while clients:
        with clients.pop() as connection:
            assert await loop.in_thread(read_all, connection) == GOODBYE


@on_both_loops
async def test_pop3_session_ends_without_entering_update(loop: loops.Loop) -> None:
    """RFC 1939 section 6: only QUIT enters the UPDATE state."""
    events: list[Any] = []

    async def session(connection: AsyncServerConnection[Any]) -> None:
        async for event in connection:
            events.append(event)
            if isinstance(event, pop3.OpenMaildrop):
                connection.answer(event, pop3.Maildrop(messages=(pop3.Message(size=10, unique_id="x"),)))
            elif isinstance(event, Question):
                connection.answer(event, ACCEPT)

    settings = pop3.ServerSettings(mechanisms_without_tls=frozenset({"USER"}))
    async with loop.adapter.serve_pop3(session, settings, grace=3_600.0) as listener:
        connection = await loop.in_thread(dial, listener.port)
        connection.sendall(b"USER a\r\nPASS b\r\nDELE 1\r\n")
        for _ in range(4):
            await loop.in_thread(read_line, connection)
    with connection:
        assert await loop.in_thread(read_all, connection) == b""
    assert isinstance(events[-1], pop3.Dele)


@on_both_loops
async def test_incomplete_message_is_cut_off_after_the_grace_period(loop: loops.Loop) -> None:
    """Then it is not acknowledged, and the client sends it again."""
    aborted: list[Any] = []

    async def session(connection: AsyncServerConnection[Any]) -> None:
        try:
            await accept(connection)
        finally:
            aborted.append(connection)

    async with loop.adapter.serve_smtp(session, smtp.ServerSettings(), grace=0.05) as listener:
        connection = await loop.in_thread(dial, listener.port)
        connection.sendall(b"HELO c\r\n" + CONTENT + b"x\r\n")
        for _ in range(5):
            await loop.in_thread(read_line, connection)
    assert len(aborted) == 1
    with connection:
        assert await loop.in_thread(read_all, connection) == b""


@pytest.fixture
def long_linger(no_linger: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for such clients, for longer than a test may take."""
    for name in ("LINGER_SECONDS", "LINGER_TOTAL"):
        monkeypatch.setattr(f"mailauth_io.adapters.connection.{name}", 3_600.0)


@pytest.mark.usefixtures("long_linger")
@on_both_loops
async def test_clients_that_do_not_close_are_waited_for_until_the_grace_period_ends(loop: loops.Loop) -> None:
    """A test of a mail client that stays idle ends as soon.  The client has received its 421."""
    async with loop.adapter.serve_smtp(accept, smtp.ServerSettings(), grace=0.05) as listener:
        connection = await loop.in_thread(dial, listener.port)
        await loop.in_thread(read_line, connection)
    with connection:
        assert await loop.in_thread(read_all, connection) == GOODBYE


@on_both_loops
async def test_message_in_progress_at_shutdown_is_stored(loop: loops.Loop) -> None:
    """The message is in the maildrop after the server has stopped."""
    maildrops = stores.MemoryMaildrops()
    kept = server.Stores(accounts=accounts(), maildrops=maildrops, outbox=stores.MemoryOutbox())
    ready = threading.Event()

    async with server.serve(server.Config(smtp=0, grace=3_600.0), kept) as ports:
        assert ports.smtp is not None
        port = ports.smtp

        def client() -> bytes:
            with dial(port) as connection, dial(port) as idle:
                read_line(idle)
                connection.sendall(b"HELO c\r\n" + CONTENT + b"half a")
                for _ in range(5):
                    read_line(connection)
                ready.set()
                assert read_all(idle) == GOODBYE
                connection.sendall(b" message\r\n.\r\n")
                return read_all(connection)

        said: list[bytes] = []
        thread = threading.Thread(target=lambda: said.append(client()))
        thread.start()
        await loop.in_thread(ready.wait, 20)
    thread.join(20)
    assert said[0].startswith(b"250 2.0.0 ")
    assert said[0].endswith(GOODBYE)
    opened = await maildrops.open("alice")
    assert not isinstance(opened, pop3.Unavailable)
    assert len(opened.messages) == 1


@on_both_loops
async def test_close_when_idle_closes_a_single_connection(loop: loops.Loop) -> None:
    """From any task.  A second call does nothing."""
    connections: list[AsyncServerConnection[Any]] = []

    async def session(connection: AsyncServerConnection[Any]) -> None:
        connections.append(connection)
        await accept(connection)

    async with loop.adapter.serve_smtp(session, smtp.ServerSettings()) as listener:
        with await loop.in_thread(dial, listener.port) as connection:
            await loop.in_thread(read_line, connection)
            connections[0].close_when_idle()
            connections[0].close_when_idle()
            assert await loop.in_thread(read_all, connection) == GOODBYE
