"""Asking a store that may be slow, busy or silent, without ever waiting long for it.

Knows threads and a clock, no store.  Whoever asks gets an answer or an exception within the patience: a few threads do
the work, so silence takes no more of them, and once it is met others are not made to wait for the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

from .. import _threads
from ._grants import TIMEOUT

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS: Final = 8
"""Questions at a time; a store that works answers each within a millisecond."""

PAUSE: Final = 2.0
"""Seconds after a silence in which nobody is made to wait for the next one; then one question tries it again."""


class StoreTimeout(Exception):
    """The store gave no answer in time, or did so a moment ago."""

    def __init__(self) -> None:
        super().__init__("no answer in time")


class BoundedExecutor:
    """Runs what blocks in threads of its own, made when they are first needed."""

    def __init__(
        self, *, timeout: float = TIMEOUT, pause: float = PAUSE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = timeout
        self._pause = pause
        self._clock = clock
        self._threads: _threads.Threads | None = None
        self._silent_until: float | None = None

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in a thread.  Raises Silent when it takes longer than the patience, whatever for.

        A TimeoutError that *function* raises means the same.  What was not done in time may still be done later.
        """
        if self._silent_until is not None:
            now = self._clock()
            if now < self._silent_until:
                raise StoreTimeout
            self._silent_until = now + self._patience + self._pause  # this one tries it, the others wait no longer
        if self._threads is None or not self._threads.in_own_loop:
            self._threads = _threads.threads(THREADS)
        try:
            answer = await self._threads.within(self._patience, function, *args)
        except TimeoutError:
            self._silent_until = self._clock() + self._pause
            raise StoreTimeout from None
        except BaseException:
            self._silent_until = None
            raise
        self._silent_until = None
        return answer
