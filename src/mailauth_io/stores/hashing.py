"""Where passwords are hashed: in threads of their own, a few at a time, and never in the loop.

Knows neither schemes nor accounts.  A flood of logins costs its own clients their patience, and nobody else anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

from .. import _threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PER_CORE: Final = 2
"""Hashes at a time for each core: one computes while the other waits for memory or for the interpreter."""

PATIENCE: Final = 10.0
"""Seconds that a login waits for its turn; clients wait for minutes (RFC 5321 section 4.5.3.2)."""


class HashingBusy(Exception):
    """Too many logins were in front of this one: a temporary failure, the password was not looked at."""


class Hashing:
    """The threads that all accounts of a server share, made when the first password is hashed."""

    def __init__(self, *, most: int | None = None, patience: float = PATIENCE) -> None:
        """*most* at a time (PER_CORE for each core unless given); *patience* in seconds."""
        self._most = PER_CORE * (os.cpu_count() or 1) if most is None else most
        self._patience = patience
        self._threads: _threads.Threads | None = None

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in a thread.  Raises HashingBusy when its turn does not come in time."""
        if self._threads is None or not self._threads.at_home:
            self._threads = _threads.threads(self._most)
        try:
            return await self._threads.run(self._patience, function, *args)
        except TimeoutError:
            raise HashingBusy from None
