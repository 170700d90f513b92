"""The servers of other projects, each started when a test first asks for it, once in each process of the test run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.interop.peers import Peer, Recipe, running


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[[Recipe], Peer]]:
    with ExitStack() as stack:
        yield cache(lambda recipe: stack.enter_context(running(recipe)))
