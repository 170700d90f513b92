"""The layer between the sessions and the grant store.

It excludes networks, warns about shared addresses, and remembers the logins whose grants could not be stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from types import NoneType
from typing import Final

from mailauth import LocalProtocolError
from mailauth.addresses import Network, is_within
from mailauth.grants import UNAVAILABLE, Grant, Lookup, Unavailable

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
"""Maximum number of addresses without the grant that a login should have made.  Over it, the oldest of the account with
the most addresses is removed, so that an account that logs in from many addresses removes no others."""


class GrantService:
    """Makes and finds grants in the store *grants*, except for addresses in the networks *never*.

    A peer without an IP address gets no grant.  *clock* is in seconds.
    """

    def __init__(self, grants: Grants, never: Collection[Network], *, clock: Callable[[], float] = boot_time) -> None:
        self._grants = grants
        self._never = tuple(never)
        self._clock = clock
        self._warned: set[object] = set()
        self._not_stored: OrderedDict[object, tuple[str, float]] = OrderedDict()  # identity, expiry; oldest login first
        self._not_stored_for: dict[str, dict[object, None]] = {}  # the same addresses by identity; oldest login first

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
        self._forget(self._grants.settings.key(address))
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
        key = self._grants.settings.key(address)
        self._forget(key)
        self._not_stored[key] = identity, self._clock() + self._grants.settings.lifetime
        self._not_stored_for.setdefault(identity, {})[key] = None
        if len(self._not_stored) > MAX_NOT_STORED:
            most = max(self._not_stored_for, key=lambda name: len(self._not_stored_for[name]))
            self._forget(next(iter(self._not_stored_for[most])))

    async def find(self, address: str) -> Lookup:
        """Look up the active grant for *address*.  Raises what the store raises.

        Returns UNAVAILABLE if there is none because the store has failed at a login.
        """
        if self._is_excluded(address):
            return None
        found = await self._grants.find(address)
        check_result(self._grants, "find", found, (Grant, Unavailable, NoneType), "a Grant, UNAVAILABLE or None")
        return UNAVAILABLE if found is None and self._is_not_stored(address) else found

    def _is_not_stored(self, address: str) -> bool:
        now = self._clock()
        while self._not_stored and next(iter(self._not_stored.values()))[1] <= now:
            self._forget(next(iter(self._not_stored)))
        return bool(self._not_stored) and self._grants.settings.key(address) in self._not_stored

    def _forget(self, key: object) -> None:
        """Remove the address *key* from the table of grants that could not be stored, if it is there."""
        identity, _ = self._not_stored.pop(key, (None, 0.0))
        if identity is not None:
            addresses = self._not_stored_for[identity]
            del addresses[key]
            if not addresses:
                del self._not_stored_for[identity]

    async def revoke_identity(self, identity: str, older_than: float) -> None:
        """Revoke the grants of *identity* that are older than *older_than* seconds."""
        since = self._clock() - older_than + self._grants.settings.lifetime
        for key in tuple(self._not_stored_for.get(identity, ())):
            if self._not_stored[key][1] <= since:
                self._forget(key)
        revoked = await self._grants.revoke_identity(identity, older_than)
        check_result(self._grants, "revoke_identity", revoked, int, "the number of grants revoked")

    def _is_excluded(self, address: str) -> bool:
        try:
            return is_within(address, self._never)
        except LocalProtocolError:
            return True
