"""The layer between the sessions and the grant store.

It excludes networks, warns about shared addresses, and remembers the logins whose grants could not be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import NoneType
from typing import Final

from mailauth import LocalProtocolError
from mailauth.addresses import Network, is_within
from mailauth.grants import UNAVAILABLE, Grant, GrantTable, Lookup, Unavailable

from ..logs import Event
from ..stores import Grants
from ..stores.grants import boot_time
from ._log import LOGGER
from ._results import check_result

MANY_IDENTITIES: Final = 8
"""Maximum number of identities with grants at one address without a warning in the log.  An address with more may be a
proxy, and all its clients share the grants."""

REMEMBERED: Final = 1024
"""Maximum number of addresses remembered so that the warning is logged once for each."""

MAX_NOT_STORED: Final = 16_384
"""Maximum number of logins whose grants could not be stored.  Their table has the rules of grants (``GrantTable``), so
one account cannot remove those of others."""


class GrantService:
    """Makes and finds grants in the store *grants*, except for addresses in the networks *never*.

    A peer without an IP address gets no grant.  *clock* is in seconds.
    """

    def __init__(self, grants: Grants, never: Collection[Network], *, clock: Callable[[], float] = boot_time) -> None:
        self._grants = grants
        self._never = tuple(never)
        self._clock = clock
        self._warned: set[object] = set()
        settings = grants.settings
        self._not_stored = GrantTable(
            lifetime=settings.lifetime,
            ipv6_prefix=settings.ipv6_prefix,
            nat64_prefixes=settings.nat64_prefixes,
            max_grants=MAX_NOT_STORED,
        )

    async def grant(self, session: str, address: str, identity: str) -> None:
        """Make a grant for *identity*, which has logged in from *address*.

        Raises what the store raises, after ``note_not_stored()``.
        """
        if self._is_excluded(address):
            LOGGER.info(Event("grant not made", {"connection": session, "peer": address, "identity": identity}))
            return
        try:
            identities = await self._grants.grant(address, identity)
            check_result(self._grants, "grant", identities, int, "the number of identities at the address")
        except Exception:
            self.note_not_stored(address, identity)
            raise
        self._not_stored.revoke_address(address)
        if identities > MANY_IDENTITIES and (key := self._grants.settings.key(address)) not in self._warned:
            if len(self._warned) >= REMEMBERED:
                self._warned.clear()
            self._warned.add(key)
            fields: dict[str, object] = {"connection": session, "peer": address, "identities": identities}
            LOGGER.warning(Event("many identities at one address", fields))

    def note_not_stored(self, address: str, identity: str) -> None:
        """Remember that *identity* has logged in from *address*, but that its grant could not be made.

        Until the grant would have expired, or a later login makes one, ``find()`` does not return that there is none:
        the mail of a client that has logged in would bounce.
        """
        if self._is_excluded(address):
            return
        now = self._clock()
        self._not_stored.expire(now)
        self._not_stored.grant(address, identity, now)

    async def find(self, address: str) -> Lookup:
        """Look up the active grant for *address*.  Raises what the store raises.

        Returns UNAVAILABLE if there is none because the store has failed at a login.
        """
        if self._is_excluded(address):
            return None
        found = await self._grants.find(address)
        check_result(self._grants, "find", found, (Grant, Unavailable, NoneType), "a Grant, UNAVAILABLE or None")
        return UNAVAILABLE if found is None and self._not_stored.permits(address, self._clock()) else found

    async def revoke_identity(self, identity: str, older_than: float) -> None:
        """Revoke the grants of *identity* that are older than *older_than* seconds."""
        self._not_stored.revoke_identity(identity, until=self._clock() - older_than + self._grants.settings.lifetime)
        revoked = await self._grants.revoke_identity(identity, older_than)
        check_result(self._grants, "revoke_identity", revoked, int, "the number of grants revoked")

    def _is_excluded(self, address: str) -> bool:
        try:
            return is_within(address, self._never)
        except LocalProtocolError:
            return True
