"""Content that is on its way in, by the address it comes from: nobody fills alone the memory that all messages share.

Knows addresses and octets, and no session.  The memory in all is bounded by ``stores.Budget``.
"""

from __future__ import annotations

from typing import Final

from .._addresses import key
from ..stores import BudgetExceeded
from ._failed_logins import NETWORK

SHARE: Final = 4
"""One address may hold a fourth of the budget, and one message of the greatest size at least: a client that begins
messages and ends none is put off, and others deliver."""


class InboundQuota:
    """Octets by address.  *most* are what one address may hold."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[object, int] = {}  # only those that hold some

    def __len__(self) -> int:
        """Addresses that hold some."""
        return len(self._held)

    def take(self, address: str, size: int) -> None:
        """Raises Full when that is more than *address* may hold, and takes none then."""
        who = key(address, NETWORK)
        held = self._held.get(who, 0) + size
        if held > self._most:
            raise BudgetExceeded
        self._held[who] = held

    def release(self, address: str, size: int) -> None:
        who = key(address, NETWORK)
        held = self._held.pop(who, 0) - size
        if held > 0:
            self._held[who] = held
