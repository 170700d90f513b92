"""Calls to a store that may not respond: in a few threads, with a timeout, and with a pause after a timeout."""

from __future__ import annotations

import threading
from functools import partial
from ipaddress import IPv6Network

import pytest
from anyio.lowlevel import checkpoint

from mailauth_io.stores._bounded_executor import THREADS, BoundedExecutor, StoreTimeout
from tests.io import loops
from tests.io.line_echo import on_both_loops
from tests.io.server_support import Clock
from tests.io.time_machine import together


class Sleeper:
    """A store that sleeps until it is woken, and counts its calls."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        self.waiting.release()
        assert self.woken.wait(20)
        return "awake"


@on_both_loops
async def test_run_returns_result_or_raises_exception(loop: loops.Loop) -> None:
    asking = BoundedExecutor()
    assert await asking.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await asking.run(divmod, 1, 0)
    assert await asking.run(divmod, 7, 2) == (3, 1)


@on_both_loops
async def test_calls_time_out_without_starting_more_threads(loop: loops.Loop) -> None:
    """The timeout also applies to calls that get no thread."""
    asking, sleeper = BoundedExecutor(timeout=0.01), Sleeper()

    async def ask() -> None:
        with pytest.raises(StoreTimeout):
            await asking.run(sleeper)

    await together(*(3 * THREADS * [ask]))
    assert sleeper.asked <= THREADS
    sleeper.woken.set()


@on_both_loops
async def test_calls_for_one_network_leave_threads_to_others(loop: loops.Loop) -> None:
    """Anybody can cause a call with each RCPT, in hundreds of connections (architecture.md, invariant 4)."""
    asking, sleeper = BoundedExecutor(timeout=20.0, nat64_prefixes=[IPv6Network("2001:db8::/96")]), Sleeper()

    async def ask(number: int) -> None:
        address = f"192.0.2.{number}" if number % 2 else f"2001:db8::192.0.2.{number}"
        assert await asking.run(sleeper, address=address) == "awake"

    async def other() -> None:
        admission = asking._workers.admission
        while admission.running + admission.waiting < 3 * THREADS:
            await checkpoint()
        try:
            assert admission.running < THREADS
            assert await asking.run(len, "x", address="198.51.100.1") == 1
            assert await asking.run(len, "x") == 1
        finally:
            sleeper.woken.set()

    await together(*(partial(ask, number) for number in range(3 * THREADS)), other)


@on_both_loops
async def test_timeout_while_the_store_answers_other_calls_causes_no_pause(loop: loops.Loop) -> None:
    """A client that makes many calls waits for a thread until the timeout, and must not stop those of others."""
    asking, asked, answered = BoundedExecutor(timeout=20.0), threading.Event(), threading.Event()

    def slow() -> None:
        asked.set()
        assert answered.wait(20)
        raise TimeoutError

    async def first() -> None:
        with pytest.raises(StoreTimeout):
            await asking.run(slow, address="192.0.2.1")

    async def other() -> None:
        await loop.in_thread(asked.wait)
        with pytest.raises(ZeroDivisionError):  # an answer, too
            await asking.run(divmod, 1, 0, address="198.51.100.1")
        answered.set()

    await together(first, other)
    assert await asking.run(len, "x", address="198.51.100.1") == 1


@on_both_loops
async def test_only_one_call_tries_the_store_after_a_timeout_and_pause(loop: loops.Loop) -> None:
    """Other calls fail at once, while that one waits and during the pause after each timeout."""
    clock, asked = Clock(), 0
    asking, sleeper = BoundedExecutor(timeout=20.0, pause=5.0, clock=clock), Sleeper()

    def silent() -> None:
        nonlocal asked
        asked += 1
        raise TimeoutError

    for _ in range(3):
        with pytest.raises(StoreTimeout):
            await asking.run(silent)
    assert asked == 1
    clock.now += 5

    async def first() -> None:
        assert await asking.run(sleeper) == "awake"

    async def others() -> None:
        await loop.in_thread(sleeper.waiting.acquire)
        with pytest.raises(StoreTimeout):
            await asking.run(silent)
        sleeper.woken.set()

    await together(first, others)
    assert asked == 1
    assert await asking.run(len, "x") == 1


@on_both_loops
async def test_connection_refused_error_causes_no_pause(loop: loops.Loop) -> None:
    """A refused connection takes no time, so there is no pause.  The store is used as soon as it is back."""
    clock = Clock()
    asking = BoundedExecutor(timeout=20.0, clock=clock)

    def down() -> None:
        raise ConnectionRefusedError

    def silent() -> None:
        raise TimeoutError

    with pytest.raises(StoreTimeout):
        await asking.run(silent)
    clock.now += 5
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await asking.run(down)
    assert await asking.run(len, "x") == 1
