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
    def at_home(self) -> bool:
        """Whether the loop that runs now is theirs."""

    @abstractmethod
    async def run(self, patience: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in one of them.  Raises TimeoutError when none gets free within *patience* seconds.

        It runs to its end even when the waiting is cancelled, and its thread is taken until then.
        """

    @abstractmethod
    async def within(self, seconds: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """As ``run``, but the work counts too: TimeoutError when it has not ended within *seconds*.

        Nobody waits for it any longer then, nor when the waiting is cancelled.
        """


class _AsyncioThreads(Threads):
    def __init__(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(most)
        self._executor = ThreadPoolExecutor(most, "mailauth")

    @property
    def at_home(self) -> bool:
        return _loops.current().name == "asyncio" and asyncio.get_running_loop() is self._loop

    async def run(self, patience: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if self._free.locked():
            async with asyncio.timeout(patience):
                await self._free.acquire()
        else:
            await self._free.acquire()
        work = self._executor.submit(function, *args)
        work.add_done_callback(lambda _: self._let_go())
        return await asyncio.wrap_future(work)

    async def within(self, seconds: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        async with asyncio.timeout(seconds):
            return await self.run(seconds, function, *args)

    def _let_go(self) -> None:
        """In the thread: another may begin.  When the loop is gone nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._free.release)


class _TrioThreads(Threads):
    def __init__(self, most: int) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._free = trio.Semaphore(most)
        self._limiter = trio.CapacityLimiter(most)  # never waited for: the semaphore has let in no more

    @property
    def at_home(self) -> bool:
        return _loops.current().name == "trio" and self._trio.lowlevel.current_trio_token() is self._token

    async def run(self, patience: float, function: Callable[[*Ts], T], *args: *Ts) -> T:
        try:
            self._free.acquire_nowait()
        except self._trio.WouldBlock:
            with self._trio.move_on_after(patience) as waiting:
                await self._free.acquire()
            if waiting.cancelled_caught:
                raise TimeoutError from None
        try:
            return await self._trio.to_thread.run_sync(function, *args, limiter=self._limiter)
        finally:
            self._free.release()

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
