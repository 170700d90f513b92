"""The loop interface for loop-independent code, and the errors without a running loop."""

from __future__ import annotations

import sys
import threading

import pytest

from mailauth_io import _loops, on_asyncio, on_trio
from tests.io.line_echo import cancel_when_blocked, on_both_loops


@on_both_loops
async def test_the_loop_that_runs_is_found_and_brings_its_adapter(loop: _loops.Loop) -> None:
    """``current()`` detects the loop by itself."""
    expected = {"asyncio": on_asyncio, "trio": on_trio}
    assert loop.adapter is expected[loop.name]


@on_both_loops
async def test_what_blocks_runs_in_a_thread(loop: _loops.Loop) -> None:
    """Arguments and results are passed on; an exception is raised unchanged."""
    assert await loop.in_thread(lambda a, b: (a + b, threading.get_ident()), 1, 2) != (3, threading.get_ident())
    with pytest.raises(ZeroDivisionError):
        await loop.in_thread(divmod, 1, 0)


@on_both_loops
async def test_a_lock_lets_one_in(loop: _loops.Loop) -> None:
    """A second task waits, and may be cancelled while waiting."""
    lock = loop.lock()

    async def second() -> None:
        async with lock:
            raise AssertionError("two hold one lock")

    async with lock:
        await cancel_when_blocked(second)
    async with lock:
        pass


@on_both_loops
async def test_sleeping_ends_in_time_or_never(loop: _loops.Loop) -> None:
    """``sleep`` returns by itself; ``sleep_forever`` ends only by cancellation."""
    await loop.sleep(0)
    await cancel_when_blocked(loop.sleep_forever)


@on_both_loops
async def test_what_lasts_too_long_is_cut_off(loop: _loops.Loop) -> None:
    """``within`` raises TimeoutError only at the deadline; other results and exceptions pass through."""
    with pytest.raises(TimeoutError):
        async with loop.within(0.0):
            await loop.sleep_forever()
    async with loop.within(60.0):
        await loop.sleep(0)
    with pytest.raises(ZeroDivisionError):
        async with loop.within(60.0):
            raise ZeroDivisionError


def test_without_a_loop_there_is_no_current_one() -> None:
    """RuntimeError in code outside a loop."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        _loops.current()


def test_a_name_that_is_no_loop_is_refused() -> None:
    """Only asyncio and trio are supported."""
    with pytest.raises(ValueError, match="unknown event loop 'twisted'"):
        _loops.named("twisted")


def test_without_trio_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio is an optional dependency (extra)."""
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError, match=r"pip install 'mailauth\[trio\]'"):
        _loops.named("trio")
    assert _loops.named("asyncio").name == "asyncio"
