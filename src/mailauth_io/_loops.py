"""The operations that loop-independent code needs from the running event loop, and the adapter for that loop.

trio is imported only if it is already in use, or if its loop is requested by name.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, Protocol, TypeVar, TypeVarTuple, Unpack

from mailauth import ClientMachine

from .adapters.connection import Client
from .adapters.functions import ClientFactory, ConnectOptions, ServeOptions, ServePop3, ServeSmtp
from .adapters.listener import Listener, MachineFactory, Session

E = TypeVar("E")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Adapter(Protocol):
    """The interface of ``on_asyncio`` and ``on_trio``; see their docstrings."""

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
    """The interface that ``asyncio.Event`` and ``trio.Event`` share."""

    def set(self) -> object: ...

    async def wait(self) -> object: ...


class Loop(ABC):
    """The interface of an event loop for loop-independent code."""

    name: ClassVar[str]
    """``asyncio`` or ``trio``."""

    @property
    @abstractmethod
    def adapter(self) -> Adapter:
        """The adapter for this loop."""

    @abstractmethod
    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Start the loop, run *function* in it, and return its result.  Raises RuntimeError in a running loop."""

    @abstractmethod
    async def in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run blocking ``function(*args)`` in a thread.  Cancelling the wait does not stop the function."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait for *seconds*."""

    @abstractmethod
    async def sleep_forever(self) -> None:
        """Wait until cancelled."""

    @abstractmethod
    def within(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Return an asynchronous context manager that cancels its body after *seconds*, and raises TimeoutError."""

    @abstractmethod
    def lock(self) -> AbstractAsyncContextManager[object]:
        """Return a new lock, acquired by ``async with``; waiting tasks get it in order of arrival."""

    @abstractmethod
    def event(self) -> Event:
        """Return a new event, which must be set only once."""


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
    """Return the loop *name* (``asyncio`` or ``trio``), running or not.

    Raises ImportError, which names the package to install, if trio is missing; ValueError for another *name*.
    """
    if name == "asyncio":
        return _Asyncio()
    if name == "trio":
        return _Trio()
    raise ValueError(f"unknown event loop {name!r}: use asyncio or trio")


def current() -> Loop:
    """Return the running loop.  Raises RuntimeError if there is none."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            return _Trio()
    asyncio.get_running_loop()
    return _Asyncio()
