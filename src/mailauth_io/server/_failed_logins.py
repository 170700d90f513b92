"""How often logins from an address have failed lately, and so how long the next refusal from there is held back.

Knows addresses and times, and no names: those are the client's word.  Decides, and leaves the waiting to the sessions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from .._addresses import key

MAX_DELAY: Final = 2.0
"""Seconds.  Clients wait for minutes (RFC 5321 section 4.5.3.2), the person in front of one does not."""

MEMORY: Final = 900.0
"""Seconds without a failed login after which those of an address are forgotten."""

MAX_ADDRESSES: Final = 16_384
"""Maximum number of addresses, about 4 MB; the one that failed longest ago is dropped."""

NETWORK: Final = 64
"""Bits of an IPv6 address that count: whoever has one of that network has them all (RFC 4291 section 2.5.4)."""

RECENT: Final = 600.0
"""Seconds after a failed login in which logins from its address give way to others (``stores.Hashing``)."""

_SHARES: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
"""Of the longest delay, from the first failure on: a slip of the finger costs nothing."""


class FailedLogins:
    """A table of addresses, one for all sessions: the failures of many connections at once are counted together.

    *longest* is in seconds, 0 for no delay at all.
    """

    def __init__(self, *, longest: float = MAX_DELAY, max_addresses: int = MAX_ADDRESSES) -> None:
        self._longest = longest
        self._maximum = max_addresses
        self._failed: OrderedDict[object, tuple[int, float]] = OrderedDict()  # how often, and when last; oldest first

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._failed)

    def delay(self, address: str, now: float) -> float:
        """One more login from *address* has failed, at *now*: the seconds that its refusal is to wait.

        *now* is seconds on any clock that never steps back.  No success takes anything back: who has one password
        would try others between two logins of his own.
        """
        failures = self._note(address, now, 1)
        return self._longest * _SHARES[min(failures, len(_SHARES)) - 1]

    def note(self, address: str, now: float) -> None:
        """A login from *address* has failed at *now*; it is counted by ``delay``, if its refusal is sent at all."""
        self._note(address, now, 0)

    def failed_lately(self, address: str, now: float) -> bool:
        """Whether a login from *address* has failed in the last RECENT seconds."""
        _, when = self._failed.get(key(address, NETWORK), (0, now - RECENT))
        return now - when < RECENT

    def _note(self, address: str, now: float, more: int) -> int:
        self._forget(now)
        who = key(address, NETWORK)
        failures = self._failed.pop(who, (0, now))[0] + more
        self._failed[who] = failures, now
        if len(self._failed) > self._maximum:
            self._failed.popitem(last=False)
        return failures

    def _forget(self, now: float) -> None:
        while self._failed and next(iter(self._failed.values()))[1] + MEMORY <= now:
            self._failed.popitem(last=False)
