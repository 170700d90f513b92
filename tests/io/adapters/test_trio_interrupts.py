"""How a wait on trio is interrupted: ``trio.lowlevel.notify_closing()`` on a socket that stays open."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from mailauth_io.limits import Limits
from mailauth_io.on_trio import _Stream
from tests.io.time_machine import beside, connected, run_in_no_time

FAR = 3600.0


def run(test: Callable[[_Stream, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        stream, theirs = await connected("trio", Limits())
        assert isinstance(stream, _Stream)
        with theirs:
            await test(stream, theirs)
            stream.abort()

    run_in_no_time("trio", main)


def test_notify_closing_ends_a_wait_and_leaves_the_socket_open() -> None:
    """What the adapter needs of trio.  If this fails with a new release, ``_interrupt_wait()`` needs another way."""

    async def main() -> None:
        ours, theirs = trio.socket.socketpair()

        async def interrupt() -> None:
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.notify_closing(ours)

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.recv(10)

        await beside(interrupt, receive)
        await theirs.send(b"after")
        assert await ours.recv(10) == b"after"
        ours.close()
        theirs.close()

    trio.run(main)


def test_woken_read_consumes_nothing_and_the_next_read_succeeds() -> None:
    async def test(stream: _Stream, theirs: socket.socket) -> None:
        async def wake() -> None:
            await trio.testing.wait_all_tasks_blocked()
            stream.wake()

        assert await beside(wake, lambda: stream.read(FAR)) is None
        theirs.send(b"after")
        assert await stream.read(FAR) == b"after"

    run(test)


def test_a_wait_that_times_out_leaves_the_stream_usable() -> None:
    async def test(stream: _Stream, theirs: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            await stream.read(trio.current_time() + 10.0)
        theirs.send(b"after")
        assert await stream.read(trio.current_time() + FAR) == b"after"

    run(test)


def test_an_interrupt_without_a_wait_changes_nothing() -> None:
    """A deadline can pass between two waits; the next wait has its own deadline."""

    async def test(stream: _Stream, theirs: socket.socket) -> None:
        stream.expire()
        theirs.send(b"after")
        assert await stream.read(trio.current_time() + FAR) == b"after"

    run(test)


def test_aborted_read_returns_the_end_of_the_stream() -> None:
    """The same exception as for an interrupt, but this time the socket is closed."""

    async def test(stream: _Stream, theirs: socket.socket) -> None:
        async def abort() -> None:
            await trio.testing.wait_all_tasks_blocked()
            stream.abort()

        assert await beside(abort, lambda: stream.read(FAR)) == b""
        stream.wake()
        assert await stream.read(FAR) == b""

    run(test)


def test_deadline_that_passes_before_a_writable_socket_is_written_ends_the_write() -> None:
    """The task is then about to run, and does not wait for the socket."""

    async def test(stream: _Stream, theirs: socket.socket) -> None:
        waiting = trio.lowlevel.wait_writable
        waits = 0

        async def wait_writable(sock: socket.socket) -> None:
            nonlocal waits
            waits += 1
            if waits == 1:
                theirs.recv(100_000)
            await waiting(sock)
            await trio.sleep(stream.limits.write_timeout + 1.0)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio.lowlevel, "wait_writable", wait_writable)
            with trio.fail_after(FAR), pytest.raises(TimeoutError):
                await stream.write_all(bytes(1_000_000))
        assert waits == 2

    run(test)
