"""Clients and event loops with simulated clocks, so that long timeouts are tested without waiting."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio.testing

from mailauth_io import on_asyncio, on_trio
from mailauth_io.adapters.stream import Peer, Stream
from mailauth_io.adapters.turns import Share
from mailauth_io.limits import Limits
from tests.io import loops

T = TypeVar("T")


class MemoryStream(Stream):
    """The server's end of a connection without a socket.  A subclass supplies the input."""

    def __init__(self) -> None:
        self.heard = b""
        self.started_at = 0.0
        self.share = Share()
        self.limit_key = None
        self.turns = 0

    def write(self, data: bytes) -> None:
        self.heard += data

    async def checkpoint(self) -> None:
        self.turns += 1

    def put_back(self, data: bytes) -> None:
        raise NotImplementedError

    def drop_unread(self) -> int:
        return 0

    def wake(self) -> None:
        pass

    def peer(self) -> Peer:
        raise NotImplementedError

    def fileno(self) -> int:
        return -1

    def half_close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class SlowClient(MemoryStream):
    """A client that sends each piece some seconds after the server began to wait for it, and then nothing more.

    Only waiting takes time.  A test adds the time of the application to ``seconds`` itself.
    """

    def __init__(self, *says: tuple[float, bytes]) -> None:
        super().__init__()
        self.seconds = 0.0
        self.now = lambda: self.seconds
        self._says = deque(says)
        self._here: bytes | None = None

    def take(self) -> bytes | None:
        if self._here is None and self._says and not self._says[0][0]:
            return self._says.popleft()[1]
        data, self._here = self._here, None
        return data

    async def wait_readable(self, due: float) -> None:
        after, data = self._says[0] if self._says else (float("inf"), b"")
        if self.seconds + after > due:
            self.seconds = max(self.seconds, due)
            raise TimeoutError
        self._says.popleft()
        self.seconds += after
        self._here = data


class _Selector(selectors.DefaultSelector):
    """A selector that advances the clock instead of sleeping."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout else timeout)
        if not ready and timeout:
            self.seconds += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.seconds


def run_in_no_time(name: str, main: Callable[[], Awaitable[T]]) -> T:
    """Run *main* on the loop *name*; its clock jumps to the next deadline when all tasks wait."""

    async def whole() -> T:
        return await main()

    if name == "trio":
        return trio.run(whole, clock=trio.testing.MockClock(autojump_threshold=0))
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(whole())


async def connected(name: str, limits: Limits) -> tuple[Stream, socket.socket]:
    """Return a stream of the loop *name*, and its peer, a non-blocking socket."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    if name == "trio":
        return on_trio._Stream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), limits), theirs
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: on_asyncio.TransportStream(loop, limits), sock=ours)
    return stream, theirs


async def together(*functions: Callable[[], Awaitable[None]]) -> None:
    """Run all *functions* concurrently until all have ended."""
    if loops.current().name == "trio":
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(function() for function in functions))


async def beside(background: Callable[[], Awaitable[object]], main: Callable[[], Awaitable[T]]) -> T:
    """Run *main*, with *background* in another task, and return the result of *main*."""
    if loops.current().name == "trio":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background)
            result = await main()
            nursery.cancel_scope.cancel()
        return result

    async def run() -> None:
        await background()

    task = asyncio.create_task(run())
    try:
        return await main()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
