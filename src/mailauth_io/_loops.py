"""The few things that loop-neutral code needs from the loop it runs in, and the adapter for that loop.

Knows asyncio and trio by name; trio is imported only where it runs already, or where it is asked for.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, Protocol, TypeVar, TypeVarTuple, Unpack

from mailauth import ClientMachine

from ._adapter import Client
from ._listener import (
    ClientFactory,
    ConnectOptions,
    Listener,
    MachineFactory,
    ServeOptions,
    ServePop3,
    ServeSmtp,
    Session,
)

E = TypeVar("E")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Adapter(Protocol):
    """What ``on_asyncio`` and ``on_trio`` both have; their docstrings say what it does."""

    def serve(
        self, session: Session[E], build: MachineFactory[E], **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]: ...

    @property
    def serve_smtp(self) -> ServeSmtp: ...

    @property
    def serve_pop3(self) -> ServePop3: ...

    async def connect(
        self, machine: ClientMachine[E] | ClientFactory[E], host: str, port: int, **options: Unpack[ConnectOptions]
    ) -> Client[E]: ...


class Event(Protocol):
    """What ``asyncio.Event`` and ``trio.Event`` have in common."""

    def set(self) -> object: ...

    async def wait(self) -> object: ...


class Loop(ABC):
    """The loop that runs, as far as code that is neutral to it may know."""

    name: ClassVar[str]
    """``asyncio`` or ``trio``."""

    @property
    @abstractmethod
    def adapter(self) -> Adapter:
        """The adapter for this loop."""

    @abstractmethod
    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Start the loop with *function* and run it to its end: for the outermost program alone."""

    @abstractmethod
    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in a thread, for what blocks.  It runs to its end even when the waiting is cancelled."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let others run for *seconds*."""

    @abstractmethod
    async def sleep_forever(self) -> None:
        """Wait until cancelled."""

    @abstractmethod
    def within(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """``async with`` it: what takes longer than *seconds* is cancelled, and TimeoutError is raised."""

    @abstractmethod
    def lock(self) -> AbstractAsyncContextManager[object]:
        """A new lock, taken by ``async with``: one task at a time, in order of arrival."""

    @abstractmethod
    def event(self) -> Event:
        """A new event, to be set once."""


class _Asyncio(Loop):
    name = "asyncio"

    @property
    def adapter(self) -> Adapter:
        from . import on_asyncio

        return on_asyncio

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        async def main() -> T:
            return await function()

        return asyncio.run(main())

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.to_thread(function, *args)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def sleep_forever(self) -> None:
        await asyncio.get_running_loop().create_future()

    def within(self, seconds: float) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(seconds)

    def lock(self) -> AbstractAsyncContextManager[object]:
        return asyncio.Lock()

    def event(self) -> Event:
        return asyncio.Event()


class _Trio(Loop):
    name = "trio"

    def __init__(self) -> None:
        try:
            import trio
        except ImportError:
            raise ImportError("the trio loop needs the package trio: pip install 'mailauth[trio]'") from None
        self._trio = trio

    @property
    def adapter(self) -> Adapter:
        from . import on_trio

        return on_trio

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        return self._trio.run(function)

    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._trio.to_thread.run_sync(function, *args)

    async def sleep(self, seconds: float) -> None:
        await self._trio.sleep(seconds)

    async def sleep_forever(self) -> None:
        await self._trio.sleep_forever()

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        with self._trio.move_on_after(seconds) as waiting:
            yield
        if waiting.cancelled_caught:
            raise TimeoutError

    def lock(self) -> AbstractAsyncContextManager[object]:
        return self._trio.Lock()

    def event(self) -> Event:
        return self._trio.Event()


def named(name: str) -> Loop:
    """The loop ``asyncio`` or ``trio``, running or not.  Raises ImportError, saying what to install, without trio."""
    if name == "asyncio":
        return _Asyncio()
    if name == "trio":
        return _Trio()
    raise ValueError(f"{name!r} is no loop: asyncio and trio are")


def current() -> Loop:
    """The loop that runs this code.  Raises RuntimeError when none does."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            return _Trio()
    asyncio.get_running_loop()
    return _Asyncio()
