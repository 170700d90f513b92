"""The running event loop as a value, for tests that run on asyncio and on trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import anyio
import attrs
from anyio import to_thread

from mailauth_io._event_loop import Adapter, current_adapter, run, runs_on_trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@attrs.frozen
class Loop:
    """The event loop *name*, ``asyncio`` or ``trio``, or ``uvloop`` before it runs: then its name is ``asyncio``."""

    name: str

    @property
    def adapter(self) -> Adapter:
        return current_adapter()

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Start the loop, run *function* in it, and return its result."""
        return run(self.name, function)

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await to_thread.run_sync(function, *args)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def sleep_forever(self) -> None:
        await anyio.sleep_forever()

    def event(self) -> anyio.Event:
        return anyio.Event()


def named(name: str) -> Loop:
    """Return the loop *name*, running or not."""
    return Loop(name)


def current() -> Loop:
    """Return the running loop."""
    return Loop("trio" if runs_on_trio() else "asyncio")
