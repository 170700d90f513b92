"""A limit on incoming message content for each client address.

It prevents one address from using up the memory that all messages share (architecture.md, invariant 4).  The total is
limited by ``stores.Budget``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailauth.addresses import limit_key

from ..stores import BudgetExceeded

SHARE: Final = 4
"""The divisor of the budget: one address may hold a quarter of it, or one message of the maximum size if that is more.
A client that starts messages and never completes them gets 452, and other clients can still deliver."""


class InboundQuota:
    """Bytes of incoming content by address.  *most* is the limit for one address; *key* decides what one address is."""

    def __init__(self, most: int, key: Callable[[str], object] = limit_key) -> None:
        self._most = most
        self._key = key
        self._held: dict[object, int] = {}  # no entries with 0 bytes

    def __len__(self) -> int:
        """Return the number of addresses that hold content."""
        return len(self._held)

    def take(self, address: str, size: int) -> None:
        """Add *size* bytes for *address*.  Raises BudgetExceeded, and adds nothing, if the limit would be exceeded."""
        address_key = self._key(address)
        held = self._held.get(address_key, 0) + size
        if held > self._most:
            raise BudgetExceeded
        self._held[address_key] = held

    def release(self, address: str, size: int) -> None:
        """Subtract *size* bytes for *address*."""
        address_key = self._key(address)
        held = self._held.pop(address_key, 0) - size
        if held > 0:
            self._held[address_key] = held
