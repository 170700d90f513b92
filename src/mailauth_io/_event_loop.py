"""The adapter for the running event loop, for code that works on asyncio and trio, and the loops of the command."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple

from ._daemon_threads import FILES
from .adapters.functions import Connect, Serve, ServePop3, ServeSmtp

E = TypeVar("E")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Adapter(Protocol):
    """The interface of ``on_asyncio`` and ``on_trio``; see their docstrings."""

    @property
    def serve(self) -> Serve: ...

    @property
    def serve_smtp(self) -> ServeSmtp: ...

    @property
    def serve_pop3(self) -> ServePop3: ...

    @property
    def connect(self) -> Connect: ...


def current_adapter() -> Adapter:
    """Return the adapter for the running event loop.  Raises RuntimeError outside an event loop."""
    if runs_on_trio():
        from . import on_trio

        return on_trio
    asyncio.get_running_loop()
    from . import on_asyncio

    return on_asyncio


@contextlib.asynccontextmanager
async def fail_after(seconds: float) -> AsyncGenerator[None]:
    """Raise TimeoutError if the body takes longer than *seconds*."""
    if runs_on_trio():
        import trio

        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError
    else:
        async with asyncio.timeout(seconds):
            yield


async def run_in_daemon_thread(function: Callable[[], T]) -> T:
    """Call *function* in a daemon thread, and return its result.  A cancellation abandons the thread."""
    if runs_on_trio():
        import trio

        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)
    return await FILES.run(function)


def runs_on_trio() -> bool:
    """Return whether the caller is a task of trio, without importing trio: a program on asyncio need not have it."""
    with contextlib.suppress(RuntimeError):
        if asyncio.current_task() is not None:
            return False
    # Another thread may be importing trio at this moment: its attributes are then missing.
    in_trio_task = getattr(getattr(sys.modules.get("trio"), "lowlevel", None), "in_trio_task", None)
    return in_trio_task is not None and bool(in_trio_task())


def is_task_cancelled() -> bool:
    """Return whether the running task was cancelled by asyncio's own ``Task.cancel()``.

    Raises RuntimeError if no event loop is running.
    """
    task = None if runs_on_trio() else asyncio.current_task()
    return task is not None and task.cancelling() > 0


def check_event_loop(name: str) -> None:
    """Check that the event loop *name*, ``asyncio``, ``trio`` or ``uvloop``, is installed.

    Raises ImportError, which names the package to install.
    """
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"the {name} loop needs the package {name}: pip install 'mailauth[{name}]'")


def run(name: str, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Start the event loop *name*, run *function* in it, and return its result.  uvloop is another loop for asyncio."""
    import anyio  # `mailauth send` works without it

    options: dict[str, Any] = {"use_uvloop": True} if name == "uvloop" else {}
    return anyio.run(function, *arguments, backend="trio" if name == "trio" else "asyncio", backend_options=options)
