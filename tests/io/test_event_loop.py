"""The adapter for the running event loop, and the error without the package of a loop."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import pytest

from mailauth_io import on_asyncio, on_trio
from mailauth_io._event_loop import check_event_loop, current_adapter, run, runs_on_trio
from tests.io import loops
from tests.io.line_echo import on_both_loops


@on_both_loops
async def test_current_adapter_matches_running_event_loop(loop: loops.Loop) -> None:
    assert current_adapter() is {"asyncio": on_asyncio, "trio": on_trio}[loop.name]


def test_current_adapter_outside_event_loop_raises_runtime_error() -> None:
    """RuntimeError in code outside a loop."""
    with pytest.raises(RuntimeError):
        current_adapter()


def test_missing_trio_raises_import_error_with_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio is an optional dependency (extra)."""
    check_event_loop("trio")
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError, match=r"pip install 'mailauth\[trio\]'"):
        check_event_loop("trio")
    check_event_loop("asyncio")


def test_run_starts_the_loop_of_that_name() -> None:
    async def module(suffix: str) -> str:
        return ("trio" if runs_on_trio() else type(asyncio.get_running_loop()).__module__) + suffix

    names = [run(name, module, "!") for name in ("asyncio", "trio", "uvloop")]
    assert names == ["asyncio.unix_events!", "trio!", "uvloop!"]


def test_trio_that_is_being_imported_by_another_thread_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))

    async def main() -> object:
        return current_adapter()

    assert asyncio.run(main()) is on_asyncio
    assert not runs_on_trio()
