"""The adapter for the running event loop, and the error without the package of a loop."""

from __future__ import annotations

import sys

import pytest

from mailauth_io import on_asyncio, on_trio
from mailauth_io._event_loop import check_event_loop, current_adapter
from tests.io import loops
from tests.io.line_echo import on_both_loops


@on_both_loops
async def test_the_loop_that_runs_is_found_and_brings_its_adapter(loop: loops.Loop) -> None:
    assert current_adapter() is {"asyncio": on_asyncio, "trio": on_trio}[loop.name]


def test_without_a_loop_there_is_no_adapter() -> None:
    """RuntimeError in code outside a loop."""
    with pytest.raises(RuntimeError):
        current_adapter()


def test_without_trio_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio is an optional dependency (extra)."""
    check_event_loop("trio")
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError, match=r"pip install 'mailauth\[trio\]'"):
        check_event_loop("trio")
    check_event_loop("asyncio")
