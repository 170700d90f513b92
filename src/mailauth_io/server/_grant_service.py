"""Which logins make a grant, and what is odd about them: between the sessions and the store of grants.

Knows networks that get none, and the store; what a grant opens is told by the policy.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mailauth.grants import Lookup

from .._addresses import Network, is_within
from ..logs import Event
from ..stores import Grants
from ._log import LOGGER

MANY_IDENTITIES: Final = 8
"""Identities with grants at one address; beyond that it may well be a proxy, whose clients would all share them."""

REMEMBERED: Final = 1024
"""Crowded addresses that were told already and are not told again."""


class GrantService:
    """A store of grants, without those of the networks in *never*."""

    def __init__(self, grants: Grants, never: Collection[Network]) -> None:
        self._grants = grants
        self._never = tuple(never)
        self._warned: set[str] = set()

    async def grant(self, session: str, address: str, identity: str) -> None:
        """*identity* has logged in from *address*.  Raises what the store raises."""
        if self._is_excluded(address):
            LOGGER.info(Event("no grant", {"connection": session, "peer": address, "identity": identity}))
            return
        identities = await self._grants.grant(address, identity)
        if identities > MANY_IDENTITIES and address not in self._warned:
            if len(self._warned) >= REMEMBERED:
                self._warned.clear()
            self._warned.add(address)
            LOGGER.warning(Event("crowded address", {"connection": session, "peer": address, "identities": identities}))

    async def find(self, address: str) -> Lookup:
        """The grant that lets *address* relay now.  Raises what the store raises."""
        return None if self._is_excluded(address) else await self._grants.find(address)

    async def revoke_identity(self, identity: str, older_than: float) -> None:
        """End the grants of *identity*, but for logins in the last *older_than* seconds."""
        await self._grants.revoke_identity(identity, older_than)

    def _is_excluded(self, address: str) -> bool:
        return bool(self._never) and is_within(address, self._never)
