"""Hashing is bounded, out of the loop, and gives up in time: on both loops, without waiting."""

from __future__ import annotations

import os
import threading

import pytest

from mailauth_io import _loops
from mailauth_io.stores import Hashing, HashingBusy
from tests.io.line_echo import cancel_when_blocked, on_both_loops
from tests.io.time_machine import together


@on_both_loops
async def test_hashing_runs_in_a_thread(loop: _loops.Loop) -> None:
    """With its arguments and its result; an exception comes back as it is."""
    hashing = Hashing()
    result, thread = await hashing.run(lambda one, other: (one + other, threading.get_ident()), 1, 2)
    assert result == 3
    assert thread != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await hashing.run(divmod, 1, 0)


class Slow:
    """A hash that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end = threading.Event()

    def __call__(self) -> str:
        self.begun.release()
        assert self.end.wait(20)
        return "done"


@on_both_loops
async def test_who_finds_no_thread_in_time_is_turned_away(loop: _loops.Loop) -> None:
    """454 and [SYS/TEMP] come of it; with a free thread even no patience is enough."""
    hashing = Hashing(most=1, patience=0.0)
    slow = Slow()

    async def first() -> None:
        await hashing.run(slow)

    async def second() -> None:
        await loop.in_thread(slow.begun.acquire)
        try:
            with pytest.raises(HashingBusy):
                await hashing.run(len, "x")
        finally:
            slow.end.set()

    assert await hashing.run(len, "x") == 1
    await together(first, second)
    assert await hashing.run(len, "x") == 1


@on_both_loops
async def test_who_waits_gets_the_thread_that_is_free_next(loop: _loops.Loop) -> None:
    hashing = Hashing(most=2)
    slow = Slow()
    done: list[str] = []

    async def one() -> None:
        done.append(await hashing.run(slow))

    async def release() -> None:
        await loop.in_thread(slow.begun.acquire)
        await loop.in_thread(slow.begun.acquire)
        assert not slow.begun.acquire(blocking=False)  # the third waits
        slow.end.set()

    await together(one, one, one, release)
    assert done == ["done"] * 3


def test_a_hash_goes_on_when_nobody_waits_for_it_and_its_thread_is_taken_until_then() -> None:
    """A client that hangs up again and again gets no more threads than the others.

    Only asyncio cancels a task that waits for a thread; trio lets the thread end first.
    """

    async def main() -> None:
        hashing, patient = Hashing(most=1, patience=0.0), Hashing(most=1)
        slow = Slow()
        await cancel_when_blocked(lambda: hashing.run(slow))
        await _loops.current().in_thread(slow.begun.acquire)
        with pytest.raises(HashingBusy):
            await hashing.run(len, "x")
        patient._threads = hashing._threads
        slow.end.set()
        assert await patient.run(len, "x") == 1

    _loops.named("asyncio").run(main)


def test_one_hashing_serves_one_loop_after_another() -> None:
    """The accounts of a test, or of a program that starts its loop anew."""
    hashing = Hashing()
    for name in ("asyncio", "trio", "asyncio"):

        async def main() -> int:
            return await hashing.run(len, "xx")

        assert _loops.named(name).run(main) == 2


def test_two_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Made(Exception):
        pass

    def threads(most: int) -> None:
        made.append(most)
        raise Made

    monkeypatch.setattr("mailauth_io._threads.threads", threads)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)

    async def main() -> None:
        with pytest.raises(Made):
            await Hashing().run(len, "x")

    _loops.named("asyncio").run(main)
    assert made == [6]
