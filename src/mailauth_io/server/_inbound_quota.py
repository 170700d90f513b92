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

    def __init__(self, most: int, keys: Callable[[str], tuple[str, str]]) -> None:
        self.most = most
        self._keys = keys
        self.by_address: dict[str, int] = {}  # no entries with 0 bytes
        self.by_network: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of addresses and networks that hold content."""
        return len(self.by_address) + len(self.by_network)

    def share_of(self, address: str) -> AddressQuota:
        """Return what a session with the client at *address* counts its content with."""
        return AddressQuota(self, *self._keys(address))


class AddressQuota:
    """Counts the content of one session for its address.  *address* and *network* are the keys as text.

    A session counts each recipient and each chunk: the hash of a text is kept, and that of an address is not.
    """

    __slots__ = ("_address", "_network", "_quota")

    def __init__(self, quota: InboundQuota, address: str, network: str) -> None:
        self._quota = quota
        self._address = address
        self._network = network

    def take(self, size: int) -> None:
        """Add *size* bytes.  Raises BudgetExceeded, and adds nothing, if a limit would be exceeded."""
        quota = self._quota
        of_address = quota.by_address.get(self._address, 0) + size
        of_network = quota.by_network.get(self._network, 0) + size
        if of_address > quota.most or of_network > quota.most * NETWORK:
            raise BudgetExceeded
        quota.by_address[self._address] = of_address
        quota.by_network[self._network] = of_network

    def release(self, size: int) -> None:
        """Subtract *size* bytes."""
        for held, key in ((self._quota.by_address, self._address), (self._quota.by_network, self._network)):
            left = held.pop(key, 0) - size
            if left > 0:
                held[key] = left
