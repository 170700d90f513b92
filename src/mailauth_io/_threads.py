"""A bounded number of threads apart from those that everything else shares, on either loop.

Knows asyncio and trio by name, as ``_loops`` does; knows nothing of the work.
"""

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


class Threads(ABC):
    """Threads that belong to the loop in which they were made."""

    @property
    @abstractmethod
    def in_own_loop(self) -> bool:
        """Whether the loop that runs now is theirs."""

    @abstractmethod
    async def run(self, ended: Callable[[T | None], None], function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in one of them.

        It runs to its end even when the waiting is cancelled.  When it has ended, and its thread is free, *ended* is
        called in the loop with the result, or with None if *function* raised or its result is not awaited any more.
        """

    @abstractmethod
    async def within(self, seconds: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in one of them.  Raises TimeoutError when it has not ended within *seconds*.

        The wait for a free thread counts.  The work goes on after that, and after the waiting is cancelled; its thread
        is taken until it has ended.
        """


class _AsyncioThreads(Threads):
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
        """Call *function* in the loop, from a thread; when the loop has ended this is not needed any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


class _TrioThreads(Threads):
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
            # A thread that nobody waits for keeps its place in the limiter until it has ended.
            return await self._trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=self._limiter)
        if waiting.cancelled_caught:
            raise TimeoutError
        raise AssertionError("the work returns or raises")


def threads(most: int) -> Threads:
    """*most* threads for the loop that runs."""
    return _TrioThreads(most) if _loops.current().name == "trio" else _AsyncioThreads(most)
