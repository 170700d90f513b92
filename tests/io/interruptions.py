"""Cancels a task at its n-th suspension, so that a test can try every n; and what must be true afterwards."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

import anyio
import attrs
import trio

from mailauth_io._workers import CLEANUP, DNS, FILES
from tests.io import loops
from tests.io.server_support import TIMEOUT

T = TypeVar("T")


@attrs.define
class Interruption:
    """Cancels the task that awaits ``of()`` when it suspends for the time number *at*, counted from 1.

    With *late*, on asyncio, the cancellation arrives when what the task waits for has just happened, and the task has
    not run since.  On trio a task that is about to run cannot be cancelled before its next checkpoint.
    """

    at: int
    late: bool = False
    suspensions: int = 0

    @property
    def happened(self) -> bool:
        return self.suspensions >= self.at

    def of(self, awaitable: Awaitable[T], cancel: Callable[[], object]) -> Awaitable[T]:
        """Return an awaitable for *awaitable* that calls *cancel*, which cancels the task, at the right time."""
        return _Counted(self, awaitable, cancel)

    def suspended(self, trap: object, cancel: Callable[[], object]) -> None:
        self.suspensions += 1
        if self.suspensions != self.at:
            return
        if self.late and isinstance(trap, asyncio.Future):
            # The task adds its own callback later, so it is cancelled before it is woken.
            trap.add_done_callback(lambda _: cancel())
        else:
            cancel()

    async def run(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Run *function* in a task, and return its result; None if it was cancelled."""
        if loops.current().name == "trio":
            with trio.CancelScope() as scope:
                return await self.of(function(), scope.cancel)
            return None

        async def whole() -> T:
            task = asyncio.current_task()
            assert task is not None
            return await self.of(function(), task.cancel)

        task = asyncio.create_task(whole())
        with suppress(asyncio.CancelledError):
            return await task
        return None


class _Counted(Awaitable[T], Generic[T]):
    def __init__(self, interruption: Interruption, awaitable: Awaitable[T], cancel: Callable[[], object]) -> None:
        self._interruption = interruption
        self._awaitable = awaitable
        self._cancel = cancel

    def __await__(self) -> Generator[Any, Any, T]:
        steps: Any = self._awaitable.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                trap = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            self._interruption.suspended(trap, self._cancel)
            value = error = None
            try:
                value = yield trap
            except BaseException as thrown:
                error = thrown


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks and threads run until *condition* is true.  Raises TimeoutError."""
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await loops.current().sleep(0)


def open_descriptors() -> dict[str, str]:
    """Return what each open descriptor of this process refers to."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the directory itself
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


async def until_threads_end() -> None:
    """Wait until no thread works on files, also for a task that was cancelled, and what they left is removed."""
    await until(lambda: not _borrowed())
    CLEANUP.finish(TIMEOUT)


@asynccontextmanager
async def nothing_left() -> AsyncGenerator[None]:
    """Check that the body leaves no descriptor, no task, and no thread that works for it."""
    before, tasks = open_descriptors(), running_tasks()
    yield

    def settled() -> bool:
        return running_tasks() == tasks and open_descriptors().keys() <= before.keys() and not _borrowed()

    try:
        await until(settled)
    except TimeoutError:
        now = open_descriptors()
        left = {number: target for number, target in now.items() if number not in before}
        raise AssertionError(f"left: {left}, {running_tasks() - tasks}, {_borrowed()} threads") from None


def running_tasks() -> set[Any]:
    """Return the tasks of the loop; none on trio, where each is a child of another."""
    return set() if loops.current().name == "trio" else set(asyncio.all_tasks())


def _borrowed() -> int:
    return FILES.admission.running + DNS.admission.running


async def at_every_suspension(scenario: Callable[[Interruption], Awaitable[None]]) -> int:
    """Call *scenario* with an Interruption at the first suspension, the second, and so on, until it no longer happens.

    Returns the number of suspensions.  On asyncio, each is also interrupted late.
    """
    most = 0
    for late in (False, True) if loops.current().name == "asyncio" else (False,):
        at = 1
        while True:
            interruption = Interruption(at, late=late)
            try:
                async with nothing_left():
                    await scenario(interruption)
            except BaseException as error:
                error.add_note(f"interrupted at suspension {at}{', late' if late else ''}")
                raise
            if not interruption.happened:
                break
            at += 1
        most = max(most, at - 1)
    gc.collect()  # a warning about an open resource belongs to this test
    return most
