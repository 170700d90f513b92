"""What the tests of stores and server share: running one coroutine function on either loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import pytest
import trio

T = TypeVar("T")


class Run(Protocol):
    """Run a coroutine function to its end on one loop and give its result."""

    def __call__(self, main: Callable[[], Awaitable[T]], /) -> T: ...


def run_on_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await main()

    coroutine: Coroutine[Any, Any, T] = whole()
    return asyncio.run(coroutine)


def run_on_trio(main: Callable[[], Awaitable[T]]) -> T:
    return trio.run(main)


on_both_loops = pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])
