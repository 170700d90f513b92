"""The layer between the sessions and the grant store: excluded networks, and a warning about shared addresses."""

from __future__ import annotations

from collections.abc import Collection
from types import NoneType
from typing import Final

from mailauth import LocalProtocolError
from mailauth.addresses import Network, is_within
from mailauth.grants import Grant, Lookup, Unavailable

from ..logs import Event
from ..stores import Grants
from ._log import LOGGER
from ._results import check_result

MANY_IDENTITIES: Final = 8
"""Maximum number of identities with grants at one address without a warning in the log.  An address with more may be a
proxy, and all its clients share the grants."""

REMEMBERED: Final = 1024
"""Maximum number of addresses remembered so that the warning is logged once for each."""


class GrantService:
    """Makes and finds grants in the store *grants*, except for addresses in the networks *never*.

    A peer without an IP address gets no grant.
    """

    def __init__(self, grants: Grants, never: Collection[Network]) -> None:
        self._grants = grants
        self._never = tuple(never)
        self._warned: set[object] = set()

    async def grant(self, session: str, address: str, identity: str) -> None:
        """Make a grant for *identity*, which has logged in from *address*.  Raises what the store raises."""
        if self._is_excluded(address):
            LOGGER.info(Event("grant not made", {"connection": session, "peer": address, "identity": identity}))
            return
        identities = await self._grants.grant(address, identity)
        check_result(self._grants, "grant", identities, int, "the number of identities at the address")
        if identities > MANY_IDENTITIES and (key := self._grants.settings.key(address)) not in self._warned:
            if len(self._warned) >= REMEMBERED:
                self._warned.clear()
            self._warned.add(key)
            fields: dict[str, object] = {"connection": session, "peer": address, "identities": identities}
            LOGGER.warning(Event("many identities at one address", fields))

    async def find(self, address: str) -> Lookup:
        """Look up the active grant for *address*.  Raises what the store raises."""
        if self._is_excluded(address):
            return None
        found = await self._grants.find(address)
        check_result(self._grants, "find", found, (Grant, Unavailable, NoneType), "a Grant, UNAVAILABLE or None")
        return found

    async def revoke_identity(self, identity: str, older_than: float) -> None:
        """Revoke the grants of *identity* that are older than *older_than* seconds."""
        revoked = await self._grants.revoke_identity(identity, older_than)
        check_result(self._grants, "revoke_identity", revoked, int, "the number of grants revoked")

    def _is_excluded(self, address: str) -> bool:
        try:
            return is_within(address, self._never)
        except LocalProtocolError:
            return True
