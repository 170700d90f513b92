"""Waiting in a test for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TIMEOUT: Final = 30.0
"""Seconds after which the test fails."""


def wait_until(condition: Callable[[], object]) -> None:
    """Return when *condition* is true.  Raises AssertionError after TIMEOUT."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition is still false"
        time.sleep(0.001)
