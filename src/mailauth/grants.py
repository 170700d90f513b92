"""POP before SMTP: the client addresses with a recent POP login, and the identities that logged in.

This module reads no clock: each call that needs the time takes *now*, in seconds on a monotonic clock, the same one for
all calls.  Addresses are not verified: pass the address of the socket or of a trusted PROXY header, never one that the
client sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final, TypeAlias

import attrs

from ._validators import check_integer, check_number
from .addresses import ALL_BITS, Address, NumericKey, nat64_tuple, numeric_grant_key, prefix_mask, to_address
from .errors import LocalProtocolError

__all__ = [
    "ADDRESSES_PER_IDENTITY",
    "IDENTITIES_PER_ADDRESS",
    "LIFETIME",
    "MAX_GRANTS",
    "MAX_LIFETIME",
    "UNAVAILABLE",
    "Grant",
    "GrantTable",
    "Lookup",
    "Unavailable",
]

LIFETIME: Final = 1800.0
"""The default lifetime of a grant, in seconds: half an hour, as was usual with POP before SMTP."""

MAX_LIFETIME: Final = 31_536_000.0
"""The maximum lifetime of a grant, in seconds: a year.  An address does not belong to one user for longer."""

IDENTITIES_PER_ADDRESS: Final = 16
"""Maximum grants of an address, one per identity.  A new one replaces the oldest (architecture.md, invariant 4)."""

ADDRESSES_PER_IDENTITY: Final = 1_000
"""Maximum grants of an identity, one per address.  A new one replaces the oldest (architecture.md, invariant 4).

No user has so many addresses within the lifetime of a grant, and only a thousand identities can fill a store."""

MAX_GRANTS: Final = 1_000_000
"""Maximum grants in all, about 250 MB.  A new one replaces the oldest of the identity that has the most, so that no
identity can remove the grants of the others (architecture.md, invariant 4)."""


def _to_key(address: Address) -> NumericKey:
    return numeric_grant_key(address, ALL_BITS, ())


def _check_identity(identity: object) -> None:
    """Reject bytes, which are never equal to the identity of a login: its grants could not be revoked."""
    if not isinstance(identity, str):
        raise LocalProtocolError(f"identity must be a str, not {type(identity).__name__}; use .decode() for bytes")


@attrs.frozen(repr=False, weakref_slot=False)
class Grant:
    """Permission for *address* to relay until *expires*, because *identity* has logged in from there.

    Raises LocalProtocolError for an invalid address and for an empty identity.

        >>> grants.Grant("::ffff:192.0.2.1", "alice", expires=1800.0)
        Grant(address='192.0.2.1', identity='alice', expires=1800.0)
    """

    _key: NumericKey = attrs.field(converter=_to_key, alias="address")
    identity: str
    expires: float
    """The time of the login plus the lifetime, in seconds on the caller's clock.  The grant is active before it."""

    def __attrs_post_init__(self) -> None:
        _check_identity(self.identity)
        if not self.identity:
            raise LocalProtocolError("identity must not be empty")
        check_number("expires", self.expires)

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The key of the address (``addresses.grant_key()``); with a prefix, the first address of the network."""
        return to_address(self._key)

    def __repr__(self) -> str:
        return f"Grant(address={str(self.address)!r}, identity={self.identity!r}, expires={self.expires!r})"


@attrs.frozen
class Unavailable:
    """The type of UNAVAILABLE.

    For example:

        if isinstance(lookup, grants.Unavailable):
            connection.answer(question, policy.LOOKUP_FAILED)  # 451
    """


UNAVAILABLE: Final = Unavailable()
"""The result of a lookup when the grant store has failed: it is unknown whether there is a grant."""

Lookup: TypeAlias = Grant | Unavailable | None
"""The result of a lookup in a grant store; None means no grant."""


class _IdentityIndex:
    """The grants of each identity, the oldest login first, and the identity that has the most."""

    __slots__ = ("_by_count", "_by_identity", "_most")

    def __init__(self) -> None:
        self._by_identity: dict[str, Grant | list[Grant]] = {}  # a list of one would add a fifth to its memory
        self._by_count: dict[int, dict[str, None]] = {}  # the identities with two grants or more, by their number
        self._most = 1

    def of(self, identity: str) -> Sequence[Grant]:
        """Return the grants of *identity*."""
        entry = self._by_identity.get(identity, ())
        return (entry,) if isinstance(entry, Grant) else entry

    def oldest_of_most(self) -> Grant | None:
        """Return the oldest grant of the identity that has the most; None if no identity has two."""
        if self._most == 1:
            return None
        return self.of(next(iter(self._by_count[self._most])))[0]

    def add(self, grant: Grant) -> None:
        """Add *grant*, the latest of its identity."""
        entry = self._by_identity.setdefault(grant.identity, grant)
        if entry is grant:
            return
        if isinstance(entry, Grant):
            self._by_identity[grant.identity] = entry = [entry]
        entry.append(grant)
        self._rank(grant.identity, len(entry) - 1, len(entry))

    def remove(self, grant: Grant) -> None:
        """Remove *grant*, compared by identity.  It is fast for the oldest of its identity."""
        grants = self.of(grant.identity)
        place = next(place for place, each in enumerate(grants) if each is grant)
        if len(grants) > 2 and isinstance(grants, list):
            del grants[place]
            self._rank(grant.identity, len(grants) + 1, len(grants))
        else:
            self.replace(grant.identity, [each for each in grants if each is not grant])

    def replace(self, identity: str, grants: list[Grant]) -> None:
        """Replace the grants of *identity* by *grants*, a part of them."""
        before = len(self.of(identity))
        if len(grants) > 1:
            self._by_identity[identity] = grants
        elif grants:
            self._by_identity[identity] = grants[0]
        else:
            self._by_identity.pop(identity, None)
        self._rank(identity, before, len(grants))

    def _rank(self, identity: str, before: int, now: int) -> None:
        if before > 1:
            identities = self._by_count[before]
            del identities[identity]
            if not identities:
                del self._by_count[before]
        if now > 1:
            self._by_count.setdefault(now, {})[identity] = None
        self._most = max(self._most, now)
        while self._most > 1 and self._most not in self._by_count:  # amortized O(1): each login adds at most 1
            self._most -= 1


class GrantTable:
    """A grant store in memory.

    It keeps one grant for each pair of address and identity.  A new login of the same pair replaces it.  What is one
    address is decided by ``addresses.grant_key()`` with *ipv6_prefix* and *nat64_prefixes*.

    *lifetime* is in seconds, at most a year; with 0, no grant is ever active.  The other settings limit the grants of
    one address, of one identity, and in all; the time of a login grows with the first two.  Raises LocalProtocolError
    for settings out of range.

        >>> table = grants.GrantTable(lifetime=1800)
        >>> grant = table.grant("192.0.2.1", "alice", now=0.0)
        >>> table.permits("192.0.2.1", now=1799.0), table.permits("192.0.2.1", now=1800.0)
        (True, False)
    """

    __slots__ = (
        "_addresses",
        "_by_address",
        "_by_identity",
        "_count",
        "_identities",
        "_lifetime",
        "_mask",
        "_max_grants",
        "_nat64_prefixes",
        "_order",
    )

    def __init__(
        self,
        *,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        nat64_prefixes: Collection[IPv6Network] = (),
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        addresses_per_identity: int = ADDRESSES_PER_IDENTITY,
        max_grants: int = MAX_GRANTS,
    ) -> None:
        check_number("lifetime", lifetime)
        if not 0 <= lifetime <= MAX_LIFETIME:
            raise LocalProtocolError(
                f"lifetime must be 0 to 31,536,000 seconds (a year), not {lifetime}; use a number such as 1800"
            )
        check_integer("identities_per_address", identities_per_address, 1)
        check_integer("addresses_per_identity", addresses_per_identity, 1)
        check_integer("max_grants", max_grants, 1)
        self._lifetime = lifetime
        self._mask = prefix_mask(ipv6_prefix)
        self._nat64_prefixes = nat64_tuple(nat64_prefixes)
        self._identities = identities_per_address
        self._addresses = addresses_per_identity
        self._max_grants = max_grants
        # Most addresses have one identity, and a tuple would add a quarter to the memory of its grant.
        self._by_address: dict[NumericKey, Grant | tuple[Grant, ...]] = {}  # in a tuple the oldest grant is first
        self._by_identity = _IdentityIndex()
        self._count = 0
        # The oldest login first.  It may hold replaced and revoked grants, which are skipped.
        self._order: deque[Grant] = deque()

    def __len__(self) -> int:
        """Return the number of grants kept, including expired ones that ``expire()`` has not removed yet."""
        return self._count

    @property
    def lifetime(self) -> float:
        """The seconds from a login to the expiry of its grant."""
        return self._lifetime

    def grant(self, address: Address, identity: str, now: float) -> Grant:
        """Add a grant: *identity* has logged in by POP from *address* at *now*.

        Call it as soon as the login has succeeded, before ``+OK`` is sent.  Do not call it for a message: sending does
        not extend a grant.

        The new grant replaces that of the same pair.  If the address or the identity has too many grants, its oldest is
        removed.  Then, if the table has too many, the oldest grant of the identity that has the most is removed; if all
        identities have one, the oldest of all.
        """
        grant = Grant(to_address(self._key(address)), identity, now + self._lifetime)
        if not self._lifetime:
            return grant
        for replaced in [other for other in self._all_at(grant._key) if other.identity == identity]:
            self._drop(replaced)
        for grants, most in (
            (self._all_at(grant._key), self._identities),
            (self._by_identity.of(identity), self._addresses),
        ):
            for oldest in grants[: max(0, len(grants) - most + 1)]:
                self._drop(oldest)
        self._put(grant._key, (*self._all_at(grant._key), grant))
        self._by_identity.add(grant)
        self._order.append(grant)
        while self._count > self._max_grants:
            self._drop(self._by_identity.oldest_of_most() or self._order.popleft())
        self._drop_replaced()
        return grant

    def find(self, address: Address, now: float) -> Grant | None:
        """Return the active grant of the latest login from *address*; None if there is none.  Takes O(1)."""
        key = self._key(address)
        entry = self._by_address.get(key)
        if entry is None:
            return None
        if type(entry) is Grant:
            return entry if now < entry.expires else None
        for grant in reversed(self._all_at(key)):
            if now < grant.expires:
                return grant
        return None

    def permits(self, address: Address, now: float) -> bool:
        """Return whether *address* has an active grant: a login less than ``lifetime`` seconds old, and not revoked."""
        return self.find(address, now) is not None

    def active(self, now: float, address: Address | None = None) -> list[Grant]:
        """Return the active grants of *address*, or of all addresses; the oldest login first."""
        grants = self._order if address is None else self._all_at(self._key(address))
        return [grant for grant in grants if now < grant.expires and self._is_current(grant)]

    def revoke_identity(self, *identities: str, until: float = math.inf) -> int:
        """Revoke the grants of *identities* at all addresses and return their number.

        Use it when an account is removed or its password changes.  Grants that expire after *until* are kept: their
        logins are later than the change.  Other identities at the same addresses keep their grants.
        """
        for identity in identities:
            _check_identity(identity)
        before = self._count
        for identity in identities:
            grants = self._by_identity.of(identity)
            self._by_identity.replace(identity, [grant for grant in grants if grant.expires > until])
            for grant in grants:
                if grant.expires <= until:
                    self._remove_from_address(grant)
        self._drop_replaced()
        return before - self._count

    def revoke_address(self, address: Address) -> int:
        """Revoke every grant of *address* and return their number."""
        revoked = sum(map(self._drop, self._all_at(self._key(address))))
        self._drop_replaced()
        return revoked

    def expire(self, now: float) -> int:
        """Remove the grants that have expired at *now* and return their number.  Takes time linear in that number.

        This only frees memory: ``find()`` ignores expired grants anyway.
        """
        freed = 0
        while self._order and self._order[0].expires <= now:
            freed += self._drop(self._order.popleft())
        return freed

    def _key(self, address: Address) -> NumericKey:
        return numeric_grant_key(address, self._mask, self._nat64_prefixes)

    def _all_at(self, key: NumericKey) -> tuple[Grant, ...]:
        entry = self._by_address.get(key, ())
        return (entry,) if isinstance(entry, Grant) else entry

    def _put(self, key: NumericKey, grants: tuple[Grant, ...]) -> None:
        self._count += len(grants) - len(self._all_at(key))
        if len(grants) > 1:
            self._by_address[key] = grants
        elif grants:
            self._by_address[key] = grants[0]
        else:
            self._by_address.pop(key, None)

    def _drop(self, grant: Grant) -> bool:
        """Remove *grant*, compared by identity.  Return False if it was already replaced or revoked."""
        if not self._remove_from_address(grant):
            return False
        self._by_identity.remove(grant)
        return True

    def _remove_from_address(self, grant: Grant) -> bool:
        before = self._all_at(grant._key)
        kept = tuple(other for other in before if other is not grant)
        self._put(grant._key, kept)
        return len(kept) < len(before)

    def _drop_replaced(self) -> None:
        """Rebuild the order once it holds more than twice the number of grants: amortized O(1) per login."""
        if len(self._order) > 2 * self._count + 64:
            self._order = deque(grant for grant in self._order if self._is_current(grant))

    def _is_current(self, grant: Grant) -> bool:
        return any(grant is kept for kept in self._all_at(grant._key))
