"""Grants in memory: the core's table behind the Protocol that a store elsewhere could have, too.

Knows nothing but the table; the time comes with each call.
"""

from __future__ import annotations

from mailauth.grants import LIFETIME, GrantTable, Lookup


class MemoryGrants:
    """Grants that end with the process.  *lifetime* is in seconds; raises LocalProtocolError as GrantTable does."""

    def __init__(self, *, lifetime: float = LIFETIME, ipv6_prefix: int = 128) -> None:
        self._table = GrantTable(lifetime=lifetime, ipv6_prefix=ipv6_prefix)

    async def find(self, address: str, now: float) -> Lookup:
        return self._table.find(address, now)

    async def grant(self, address: str, identity: str, now: float) -> None:
        self._table.expire(now)  # each grant is swept once: cheap, and no task is needed for it
        self._table.grant(address, identity, now)

    async def revoke_identity(self, identity: str) -> None:
        self._table.revoke_identity(identity)

    async def revoke_address(self, address: str) -> None:
        self._table.revoke_address(address)
