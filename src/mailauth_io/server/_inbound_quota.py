"""A limit on incoming message content for each client address.

It prevents one address from using up the memory that all messages share (architecture.md, invariant 4).  The total is
limited by ``stores.Budget``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..stores import BudgetExceeded

SHARE: Final = 4
"""The divisor of the budget: one address may hold a quarter of it, or one message of the maximum size if that is more.
A client that starts messages and never completes them gets 452, and other clients can still deliver."""

NETWORK: Final = 2
"""One network (IPv4: /24, IPv6: /48), which usually has one owner, may hold this many times as much as one address."""


class InboundQuota:
    """Bytes of incoming content by address.

    *most* is the limit for one address.  *keys* is ``ConnectionLimiter.keys``, which decides what one address and one
    network are.
    """

    def __init__(self, most: int, keys: Callable[[str], tuple[object, object]]) -> None:
        self._most = most
        self._keys = keys
        self._by_address: dict[object, int] = {}  # no entries with 0 bytes
        self._by_network: dict[object, int] = {}

    def __len__(self) -> int:
        """Return the number of addresses and networks that hold content."""
        return len(self._by_address) + len(self._by_network)

    def take(self, address: str, size: int) -> None:
        """Add *size* bytes for *address*.  Raises BudgetExceeded, and adds nothing, if a limit would be exceeded."""
        counted, network = self._keys(address)
        of_address = self._by_address.get(counted, 0) + size
        of_network = self._by_network.get(network, 0) + size
        if of_address > self._most or of_network > self._most * NETWORK:
            raise BudgetExceeded
        self._by_address[counted] = of_address
        self._by_network[network] = of_network

    def release(self, address: str, size: int) -> None:
        """Subtract *size* bytes for *address*."""
        for held, key in zip((self._by_address, self._by_network), self._keys(address), strict=True):
            left = held.pop(key, 0) - size
            if left > 0:
                held[key] = left
