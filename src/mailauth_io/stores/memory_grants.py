"""Grants in memory: ``mailauth.grants.GrantTable`` with the interface of the shared stores."""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv6Network

from mailauth.grants import ADDRESSES_PER_IDENTITY, IDENTITIES_PER_ADDRESS, LIFETIME, MAX_GRANTS, Lookup

from .._checks import check_function
from .grants import ActiveGrant, GrantSettings, boot_time, make_table


class MemoryGrants:
    """Grants that are lost when the process ends.

    The settings are those of GrantTable; an invalid one is a ValueError.  *clock* is monotonic, in seconds; by
    default it also counts the time in which the system is suspended (on Linux).

        grant_store = stores.MemoryGrants(lifetime=900.0, ipv6_prefix=64)
        await grant_store.grant("2001:db8::1", "alice")
    """

    def __init__(
        self,
        *,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        nat64_prefixes: Collection[IPv6Network] = (),
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        addresses_per_identity: int = ADDRESSES_PER_IDENTITY,
        max_grants: int = MAX_GRANTS,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        check_function("clock", clock)
        self.settings = GrantSettings(lifetime=lifetime, ipv6_prefix=ipv6_prefix, nat64_prefixes=nat64_prefixes)
        self._table = make_table(
            lifetime=lifetime,
            ipv6_prefix=ipv6_prefix,
            nat64_prefixes=nat64_prefixes,
            identities_per_address=identities_per_address,
            addresses_per_identity=addresses_per_identity,
            max_grants=max_grants,
        )
        self._clock = clock

    async def find(self, address: str) -> Lookup:
        """Return the newest active grant of *address*, or None."""
        return self._table.find(address, self._clock())

    async def grant(self, address: str, identity: str) -> int:
        """Store a grant, and return the number of identities that have grants at *address*."""
        now = self._sweep()
        self._table.grant(address, identity, now)
        return len(self._table.active(now, address))

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        """Revoke the grants of *identity* that are *older_than* seconds old or more.  Return how many were active."""
        now = self._sweep()
        return self._table.revoke_identity(identity, until=now - older_than + self._table.lifetime)

    async def revoke_address(self, address: str) -> int:
        """Revoke every grant of *address*, and return the number of active ones."""
        self._sweep()
        return self._table.revoke_address(address)

    async def active(self) -> list[ActiveGrant]:
        """Return all active grants, the oldest login first."""
        now = self._clock()
        return [
            ActiveGrant(address=grant.address, identity=grant.identity, remaining=grant.expires - now)
            for grant in self._table.active(now)
        ]

    def close(self) -> None:
        """Do nothing: there is no file or connection to close."""

    def _sweep(self) -> float:
        """Remove expired grants and return the time.  Each grant is removed once, so no separate task is needed."""
        now = self._clock()
        self._table.expire(now)
        return now
