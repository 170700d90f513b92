"""Enforces the deadlines of many streams with one timer.

A timer for each connection would take 200 bytes, and two of them for each session, since the last reads have an earlier
deadline.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final, Protocol

__all__ = ["Timed", "Timekeeper"]


class Timed(Protocol):
    """A stream that has a deadline.

    For example:

        def wait_until(stream: timekeeper.Timed, keeper: timekeeper.Timekeeper, due: float) -> None:
            stream.due = due
            keeper.wake_by(due)
    """

    due: float
    """The deadline of the pending wait, or infinity.  After the wait it may stay, until ``expire()`` is called."""

    def expire(self) -> None:
        """End the pending wait, if its deadline has passed.  If nothing waits, ``due`` may be set to infinity."""
        ...


class Timekeeper(ABC):
    """The deadlines of *streams*, which may change.  An adapter implements ``set_timer()``.

    For example:

        class Keeper(timekeeper.Timekeeper):
            def set_timer(self, when: float) -> None:
                self.next_check = when
    """

    __slots__ = ("_next", "_streams")

    RESOLUTION: Final = 0.1
    """Minimum seconds between two checks of all streams, unless a wait with an earlier deadline begins."""

    def __init__(self, streams: Iterable[Timed]) -> None:
        self._streams = streams
        self._next = math.inf

    @abstractmethod
    def set_timer(self, when: float) -> None:
        """Call ``check()`` at the time *when*, and not at the time set before.  Infinity: do not call it."""

    def wake_by(self, due: float) -> None:
        """Check the streams no later than *due*."""
        if due < self._next:
            self._next = due
            self.set_timer(due)

    def check(self, now: float) -> float:
        """Expire the streams whose deadline has passed.  Returns the time of the next check, or infinity."""
        soonest = math.inf
        for stream in self._streams:
            if stream.due <= now:
                stream.expire()
            if stream.due < soonest:
                soonest = stream.due
        self._next = max(soonest, now + self.RESOLUTION) if soonest < math.inf else soonest
        return self._next
