"""Both adapters: iteration, waking, timeouts, cancellation, and the limit on data read ahead."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mailauth import CloseReason, Tls
from mailauth_io import on_asyncio, on_trio
from mailauth_io.adapters.connection import AsyncServerConnection
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.line_echo import (
    Echo,
    EchoClient,
    EchoEvent,
    Line,
    cancel_when_blocked,
    connecting,
    dial,
    echo,
    impatient,
    listen_only,
    on_both_loops,
    read_all,
    read_all_or_reset,
    serving,
    talk,
)


@on_both_loops
async def test_lines_that_arrive_in_pieces_are_answered_in_order(loop: loops.Loop) -> None:
    """The application never gets Send and NeedData; a line that arrives in pieces is one question."""
    async with serving(loop, echo) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                assert read_line(connection) == b"hello\r\n"
                connection.sendall(b"on")
                connection.sendall(b"e\r\ntwo\r\nQU")
                assert read_line(connection) == b"one\r\n"
                connection.sendall(b"IT\r\n")
                return read_all(connection)

        assert await loop.in_thread(client) == b"two\r\nbye\r\n"


@on_both_loops
async def test_half_closed_client_still_gets_its_replies(loop: loops.Loop) -> None:
    """Complete lines are processed even if the client has closed its sending side."""
    async with serving(loop, echo) as listener:
        assert await loop.in_thread(talk, listener.port, b"one\r\ntwo\r\nhal") == b"hello\r\none\r\ntwo\r\n"


@on_both_loops
async def test_peer_address_is_read_from_the_socket(loop: loops.Loop) -> None:
    """The address of the peer is read from the socket; a client may choose its source address."""
    peers = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        peers.append(connection.peer)
        await echo(connection)

    async with serving(loop, session) as listener:
        assert listener.address == "127.0.0.1"
        async with await connecting(loop, listener.port, local_address="127.0.0.2") as client:
            assert (
                client.peer == on_asyncio.Peer("127.0.0.1", listener.port) == on_trio.Peer("127.0.0.1", listener.port)
            )
            assert await anext(client) == Line(text=b"hello")
    assert [peer.address for peer in peers] == ["127.0.0.2"]


@on_both_loops
async def test_shut_down_from_another_task_wakes_the_read(loop: loops.Loop) -> None:
    """The session waits for data that never arrives; ``shut_down()`` in another task ends it in order."""
    connections: list[AsyncServerConnection[EchoEvent]] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        connections.append(connection)
        await echo(connection)

    async with serving(loop, session) as listener, await connecting(loop, listener.port) as client:
        assert await anext(client) == Line(text=b"hello")
        connections[0].shut_down(CloseReason.SHUT_DOWN)
        connections[0].shut_down(CloseReason.TIMED_OUT)  # a second call does nothing
        assert [event async for event in client] == [Line(text=b"closing: SHUT_DOWN")]


@on_both_loops
async def test_timeout_shuts_down_the_machine_with_timed_out(loop: loops.Loop) -> None:
    """After the seconds in NeedData without data, the machine is shut down with TIMED_OUT."""
    async with serving(loop, echo, build=impatient) as listener:
        assert await loop.in_thread(listen_only, listener.port) == b"hello\r\nclosing: TIMED_OUT\r\n"


@on_both_loops
async def test_shorter_timeout_set_later_is_applied(loop: loops.Loop) -> None:
    """The timer was set for five minutes; a later, shorter timeout still applies."""
    machines: list[Echo] = []

    def build(entropy: bytes, tls: Tls | None) -> Echo:
        machines.append(Echo(entropy=entropy, tls=tls))
        return machines[0]

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                machines[0].timeout = 0.01
                connection.answer(event, event.text)

    async with serving(loop, session, build=build) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.sendall(b"hurry\r\n")
                return read_all(connection)

        assert await loop.in_thread(client) == b"hurry\r\nclosing: TIMED_OUT\r\n"


@on_both_loops
async def test_client_times_out_if_the_server_sends_nothing(loop: loops.Loop) -> None:
    """A server that sends nothing for too long: the client's machine is shut down, and the iteration ends."""
    events: list[object] = []
    async with serving(loop, echo) as listener, await connecting(loop, listener.port) as client:
        async for event in client:
            events.append(event)
            assert isinstance(client.machine, EchoClient)
            client.machine.timeout = 0.01
    assert events == [Line(text=b"hello")]


@on_both_loops
async def test_cancelled_read_loses_no_data(loop: loops.Loop) -> None:
    """The read is cancelled after half a line; the next call continues there."""
    lines: list[bytes] = []
    cancelled = threading.Event()

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        first = await anext(connection)
        assert isinstance(first, Line)
        connection.answer(first, first.text)
        await cancel_when_blocked(connection.__anext__)
        cancelled.set()
        async for event in connection:
            if isinstance(event, Line):
                lines.append(event.text)
                connection.answer(event, event.text)

    async with serving(loop, session) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                connection.sendall(b"first\r\nsec")
                cancelled.wait(20)
                connection.sendall(b"ond\r\nQUIT\r\n")
                return read_all(connection)

        assert await loop.in_thread(client) == b"hello\r\nfirst\r\nsecond\r\nbye\r\n"
    assert lines == [b"second"]


@on_both_loops
async def test_cancelled_send_makes_further_calls_raise(loop: loops.Loop) -> None:
    """It is unknown how many bytes were sent; each further call raises."""
    told: list[str] = []
    over = threading.Event()

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        event = await anext(connection)
        assert isinstance(event, Line)
        connection.answer(event, bytes(50_000_000))
        await cancel_when_blocked(connection.__anext__)
        for _ in range(2):
            with pytest.raises(ConnectionAbortedError, match="cancelled during a write") as caught:
                await anext(connection)
            told.append(str(caught.value))
        over.set()

    async with serving(loop, session) as listener:

        def client() -> int:
            with dial(listener.port) as connection:
                connection.sendall(b"much\r\n")
                over.wait(20)
                return len(read_all_or_reset(connection))

        assert await loop.in_thread(client) < 50_000_000
    assert len(told) == 2


@on_both_loops
async def test_iterating_with_an_unanswered_question_raises_runtime_error(loop: loops.Loop) -> None:
    """RuntimeError, and the question stays open."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        question = await anext(connection)
        with pytest.raises(RuntimeError, match="not been answered"):
            await anext(connection)
        assert isinstance(question, Line)
        connection.answer(question, b"late")
        await echo(connection)

    async with serving(loop, session) as listener:
        assert await loop.in_thread(talk, listener.port, b"x\r\n") == b"hello\r\nlate\r\n"


@on_both_loops
async def test_flush_writes_queued_data_and_keeps_received_events(loop: loops.Loop) -> None:
    """More data than any buffer holds is written as fast as the server reads; events are kept in order."""
    received: list[int] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                received.append(len(event.text))
                connection.answer(event, b"%d" % len(event.text))

    async with serving(loop, session) as listener, await connecting(loop, listener.port) as client:
        for _ in range(20_000):
            client.send(Line(text=bytes(900)))
            await client.flush()
        got = [await anext(client) for _ in range(20_001)]
    assert got[:2] == [Line(text=b"hello"), Line(text=b"900")]
    assert received == [900] * 20_000


def test_reading_is_paused_while_a_question_is_unanswered() -> None:
    """A connection buffers a bounded amount of data: on asyncio, which pushes data, the transport is paused."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        question = await anext(connection)
        stream = connection._stream
        assert isinstance(stream, on_asyncio.TransportStream)
        while not stream._paused:
            await asyncio.sleep(0)
        assert 0 < len(stream.unread) <= 65_536
        assert isinstance(question, Line)
        connection.answer(question, b"")
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, b"")

    async def main() -> None:
        loop = loops.current()
        async with serving(loop, session) as listener:

            def client() -> int:
                with dial(listener.port) as connection:
                    connection.sendall(b"x\r\n")
                    connection.sendall(b"line\r\n" * 20_000 + b"QUIT\r\n")
                    return len(read_all(connection))

            assert await loop.in_thread(client) == len(b"hello\r\nbye\r\n") + 2 * 20_001

    asyncio.run(main())


def test_data_that_arrives_with_the_cancellation_is_kept() -> None:
    """On asyncio, data can arrive for a read that was cancelled in the same iteration; the next call returns it."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        stream = connection._stream
        assert isinstance(stream, on_asyncio.TransportStream)
        task = asyncio.ensure_future(anext(connection))
        while stream._reader is None:
            await asyncio.sleep(0)
        task.cancel()
        stream.data_received(b"kept\r\n")
        with pytest.raises(asyncio.CancelledError):
            await task
        await echo(connection)

    async def main() -> None:
        loop = loops.current()
        async with serving(loop, session) as listener:
            with await loop.in_thread(dial, listener.port) as connection:
                assert await loop.in_thread(read_line, connection) == b"hello\r\n"
                assert await loop.in_thread(read_line, connection) == b"kept\r\n"

    asyncio.run(main())
