"""Both adapters: the addresses that a server listens on, and the end of connections, sessions and servers."""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading

import pytest
import trio

from mailauth import CloseReason, RemoteProtocolError
from mailauth_io import on_trio
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.line_echo import (
    EchoClient,
    EchoEvent,
    Ended,
    Line,
    connecting,
    dial,
    echo,
    on_both_loops,
    read_all,
    read_all_or_reset,
    serving,
    talk,
)


@pytest.fixture
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for clients that keep the connection open after the last reply."""
    monkeypatch.setattr("mailauth_io.adapters.connection.LINGER_SECONDS", 0.01)


@on_both_loops
async def test_server_listens_on_an_ipv6_address(loop: loops.Loop) -> None:
    """A host may be an IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    peers = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        peers.append(connection.peer.address)
        await echo(connection)

    async with serving(loop, session, host="::1") as listener:

        def client() -> bytes:
            with socket.create_connection((listener.address, listener.port), timeout=20) as connection:
                connection.sendall(b"QUIT\r\n")
                return read_all(connection)

        assert await loop.in_thread(client) == b"hello\r\nbye\r\n"
    assert peers == ["::1"]


@on_both_loops
async def test_port_in_use_raises_oserror(loop: loops.Loop) -> None:
    """``serve`` raises OSError, not an exception group, when it cannot listen."""
    async with serving(loop, echo) as listener:
        with pytest.raises(OSError, match=r"(?i)in use"):
            async with serving(loop, echo, port=listener.port):
                raise AssertionError("two servers share a port")


@on_both_loops
async def test_a_connection_that_is_refused_has_the_exception_of_the_system(loop: loops.Loop) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(ConnectionRefusedError) as raised:
            await connecting(loop, bound.getsockname()[1])
    assert raised.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("errors", "expected", "text"),
    [
        ((OSError(errno.ECONNREFUSED, "one"), OSError(errno.ECONNREFUSED, "two")), ConnectionRefusedError, "one"),
        ((OSError(errno.ECONNREFUSED, "one"), OSError(errno.ENETUNREACH, "two")), OSError, "all attempts failed"),
        ((OSError("local_address is incompatible"),), OSError, "local_address"),
    ],
)
def test_on_trio_the_exception_is_that_of_every_address(
    errors: tuple[OSError, ...], expected: type[OSError], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(host: str, port: int, *, local_address: str | None) -> None:
        raise OSError("all attempts failed") from ExceptionGroup("all attempts failed", errors)

    monkeypatch.setattr(trio, "open_tcp_stream", fail)

    async def main() -> None:
        with pytest.raises(expected, match=text) as raised:
            await on_trio.connect(EchoClient(), "localhost", 25)
        assert type(raised.value) is expected

    trio.run(main)


@on_both_loops
async def test_exception_in_the_body_of_the_context_is_raised_unchanged(loop: loops.Loop) -> None:
    """The exception is not wrapped in an exception group."""
    with pytest.raises(KeyError, match="mine"):
        async with serving(loop, echo):
            raise KeyError("mine")


@on_both_loops
async def test_last_reply_can_be_read_after_a_failed_send(loop: loops.Loop) -> None:
    """The server sends a last reply and resets while the client writes: the client reads the reply, then the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"go away\r\n")  # closed with unread data, so a reset follows

        async with await connecting(loop, server.getsockname()[1]) as client:
            client.send(Line(text=b"x"))
            await client.flush()
            await loop.in_thread(refuse)
            for _ in range(3):
                client.send(Line(text=bytes(5_000_000)))
                await client.flush()
            assert await anext(client) == Line(text=b"go away")
            with pytest.raises(RemoteProtocolError, match="before it had replied"):
                await anext(client)
            with pytest.raises(RemoteProtocolError, match="before it had replied"):
                await anext(client)


@on_both_loops
async def test_session_ends_when_the_client_resets_the_connection(loop: loops.Loop) -> None:
    """The replies cannot be sent: the application learns that the peer has closed, and the server continues."""
    ends: list[CloseReason] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, bytes(1_000_000))
            elif isinstance(event, Ended):
                ends.append(event.reason)
                over.set()

    over = threading.Event()
    async with serving(loop, session) as listener:

        def client() -> None:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(b"line\r\n" * 100)

        await loop.in_thread(client)
        assert await loop.in_thread(over.wait, 20)
        assert ends == [CloseReason.PEER_CLOSED]
        assert await loop.in_thread(talk, listener.port, b"") == b"hello\r\n"


@on_both_loops
async def test_last_reply_is_received_despite_unprocessed_input(loop: loops.Loop) -> None:
    """Data after QUIT is read and discarded: closing with unread data sends a reset, which can destroy ``bye``."""
    async with serving(loop, echo) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                connection.sendall(b"QUIT\r\n" + bytes(300_000))
                return read_all(connection)

        assert await loop.in_thread(client) == b"hello\r\nbye\r\n"


@on_both_loops
async def test_abort_closes_the_connection_without_a_reply(loop: loops.Loop) -> None:
    """No reply is sent, and the iteration of the session ends as if the peer had disconnected."""
    ends: list[EchoEvent] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            connection.abort()
            ends.append(event)
            if isinstance(event, Line):
                connection.answer(event, b"never said")

    async with serving(loop, session) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.sendall(b"x\r\n")
                return read_all_or_reset(connection)

        assert await loop.in_thread(client) == b""
    assert ends == [Line(text=b"x"), Ended(reason=CloseReason.PEER_CLOSED)]


@on_both_loops
async def test_abort_from_another_task_ends_the_iteration(loop: loops.Loop) -> None:
    """``abort()`` wakes the read too."""
    ends: list[EchoEvent] = []
    connections: list[AsyncServerConnection[EchoEvent]] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        connections.append(connection)
        ends.extend([event async for event in connection])

    async with serving(loop, session) as listener:
        with await loop.in_thread(dial, listener.port) as connection:
            assert await loop.in_thread(read_line, connection) == b"hello\r\n"
            connections[0].abort()
            connections[0].abort()
            assert await loop.in_thread(read_all_or_reset, connection) == b""
    assert ends == [Ended(reason=CloseReason.PEER_CLOSED)]


def test_exception_in_a_session_is_logged_and_closes_only_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its message and its traceback."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                raise KeyError(event.text)

    async def main() -> None:
        loop = loops.current()
        async with serving(loop, session) as listener:
            for _ in range(2):
                answer = await loop.in_thread(talk, listener.port, b"word\r\n")
                assert answer in (b"hello\r\n", b"")

    for name in ("asyncio", "trio"):
        caplog.clear()
        loops.named(name).run(main)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [record.name for record in errors] == ["mailauth_io", "mailauth_io"]
        assert caplog.text.count("\nKeyError: b'word'\n") == 2
        assert caplog.text.count("in session\n    raise KeyError(event.text)\n") == 2


@on_both_loops
async def test_session_that_returns_early_sends_the_closing_reply(loop: loops.Loop) -> None:
    """The machine is shut down, and its last reply is sent."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        question = await anext(connection)
        assert isinstance(question, Line)
        connection.answer(question, b"enough")

    async with serving(loop, session) as listener:
        answer = await loop.in_thread(talk, listener.port, b"x\r\n")
    assert answer == b"hello\r\nenough\r\nclosing: SHUT_DOWN\r\n"


@pytest.mark.usefixtures("no_linger")
@on_both_loops
async def test_leaving_the_context_shuts_down_all_sessions(loop: loops.Loop) -> None:
    """Each session is shut down, sends its last reply, and is waited for; new connections are refused."""
    async with serving(loop, echo) as listener:
        connections = [await loop.in_thread(dial, listener.port) for _ in range(3)]
        for connection in connections:
            assert await loop.in_thread(read_line, connection) == b"hello\r\n"
    for connection in connections:
        with connection:
            assert await loop.in_thread(read_all, connection) == b"closing: SHUT_DOWN\r\n"
    with pytest.raises(ConnectionRefusedError):
        dial(listener.port)


@on_both_loops
async def test_blocked_session_is_cancelled_after_the_grace_period(loop: loops.Loop) -> None:
    """An application that is stuck is cancelled after ``grace`` seconds, and its connection is closed."""
    ended: list[str] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        await anext(connection)
        reached.set()
        try:
            await loop.sleep_forever()
        finally:
            ended.append("cancelled")

    reached = threading.Event()
    async with serving(loop, session, grace=0.01) as listener:
        connection = await loop.in_thread(dial, listener.port)
        connection.sendall(b"x\r\n")
        await loop.in_thread(reached.wait, 20)
    with connection:
        assert await loop.in_thread(read_all_or_reset, connection) == b"hello\r\n"
    assert ended == ["cancelled"]


@pytest.mark.usefixtures("no_linger")
@on_both_loops
async def test_a_listener_can_be_closed_before_its_context_is_left(loop: loops.Loop) -> None:
    """``aclose()`` does the same as leaving the context.  A second call does nothing."""
    async with serving(loop, echo) as listener:
        with await loop.in_thread(dial, listener.port) as connection:
            assert await loop.in_thread(read_line, connection) == b"hello\r\n"
            await listener.aclose()
            assert await loop.in_thread(read_all, connection) == b"closing: SHUT_DOWN\r\n"


@on_both_loops
async def test_leaving_the_client_context_sends_the_last_command(loop: loops.Loop) -> None:
    """``aclose()`` shuts the machine down, and writes its last command."""
    ends: list[CloseReason] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        ends.extend([event.reason async for event in connection if isinstance(event, Ended)])

    async with serving(loop, session) as listener:
        async with await connecting(loop, listener.port) as client:
            assert await anext(client) == Line(text=b"hello")
        with pytest.raises(StopAsyncIteration):
            await anext(client)
    assert ends == [CloseReason.QUIT]


@pytest.mark.usefixtures("no_linger")
@on_both_loops
async def test_session_ends_if_the_peer_does_not_read_within_the_timeout(loop: loops.Loop) -> None:
    """A Send that the peer does not read within the timeout fails, and the session ends."""
    ends: list[CloseReason] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, bytes(50_000_000))
            elif isinstance(event, Ended):
                ends.append(event.reason)
                over.set()

    over = threading.Event()
    async with serving(loop, session, limits=Limits(write_timeout=0.01)) as listener:
        with await loop.in_thread(dial, listener.port) as connection:
            connection.sendall(b"x\r\n")
            assert await loop.in_thread(over.wait, 20)
    assert ends == [CloseReason.PEER_CLOSED]
