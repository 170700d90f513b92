"""A bounded thread pool for one kind of work, on asyncio or trio (architecture.md, invariant 12)."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from . import _loops

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ThreadPool(ABC):
    """A bounded thread pool that belongs to the loop in which it was created."""

    @property
    @abstractmethod
    def in_own_loop(self) -> bool:
        """Whether the running loop is the one that the pool belongs to."""

    @abstractmethod
    async def run(self, ended: Callable[[T | None], None], function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``function(*args)`` in a thread of the pool, and return its result.

        Cancelling the wait does not stop the function.  When the function has ended and its thread is free, *ended* is
        called in the loop, with the result, or with None if *function* raised or its result is no longer awaited.
        """

    @abstractmethod
    async def within(self, seconds: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``function(*args)`` in a thread of the pool, and return its result.

        Raises TimeoutError if it has not ended within *seconds*, including the wait for a free thread.  Neither a
        timeout nor a cancellation stops the function: it keeps its thread until it ends.
        """


class _AsyncioThreads(ThreadPool):
    def __init__(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(most)
        self._executor = ThreadPoolExecutor(most, "mailauth")

    @property
    def in_own_loop(self) -> bool:
        return _loops.current().name == "asyncio" and asyncio.get_running_loop() is self._loop

    async def run(self, ended: Callable[[T | None], None], function: Callable[[*Ts], T], *args: *Ts) -> T:
        result = None
        work = self._executor.submit(function, *args)
        try:
            result = await asyncio.wrap_future(work)
            return result
        finally:
            if work.done():
                ended(result)
            else:
                work.add_done_callback(lambda _: self._call(ended, None))

    async def within(self, seconds: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        async with asyncio.timeout(seconds):
            await self._free.acquire()
            return await self.run(lambda _: self._free.release(), function, *args)

    def _call(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call *function* in the loop, from a thread.  Does nothing if the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


class _TrioThreads(ThreadPool):
    def __init__(self, most: int) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._limiter = trio.CapacityLimiter(most)

    @property
    def in_own_loop(self) -> bool:
        return _loops.current().name == "trio" and self._trio.lowlevel.current_trio_token() is self._token

    async def run(self, ended: Callable[[T | None], None], function: Callable[[*Ts], T], *args: *Ts) -> T:
        result = None
        try:
            result = await self._trio.to_thread.run_sync(function, *args, limiter=self._limiter)
            return result
        finally:
            ended(result)

    async def within(self, seconds: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        with self._trio.move_on_after(seconds) as waiting:
            # An abandoned thread keeps its place in the limiter until it ends.
            return await self._trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._limiter)
        if waiting.cancelled_caught:
            raise TimeoutError
        raise AssertionError("unreachable: the function returned or raised")


def thread_pool(most: int) -> ThreadPool:
    """Return a pool of at most *most* threads for the running loop."""
    return _TrioThreads(most) if _loops.current().name == "trio" else _AsyncioThreads(most)
