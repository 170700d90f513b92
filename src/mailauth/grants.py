"""POP before SMTP: which addresses logged in lately, and who did so there.

Knows no protocol, no policy and no clock: every call that needs the time takes *now*, in seconds on any clock that
never steps back, the same one for all calls.  The address is the caller's word: give it the socket's, or that of a
trusted PROXY header, and nothing that the client merely said.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

import attrs

from ._errors import LocalProtocolError

LIFETIME: Final = 1800.0
"""Seconds.  Half an hour is what servers with POP before SMTP used to give: long enough to write a letter."""

IDENTITIES_PER_ADDRESS: Final = 16
"""Grants of different identities kept for one address; one more replaces the oldest (architecture.md, invariant 4)."""

MAX_GRANTS: Final = 1_000_000
"""Grants in all (architecture.md, invariant 4), about 250 MB; one more costs the oldest of all."""

Address: TypeAlias = str | IPv4Address | IPv6Address
"""An IP address as text, without brackets or port, or as a value; the value is looked up faster, an IPv6 one by far."""

_ALL: Final = (1 << 128) - 1
_MAPPED: Final = 0xFFFF << 32  # ::ffff:0:0/96, the IPv4-mapped addresses (RFC 4291 section 2.5.5.2)
_1ST: Final[Mapping[str, int]] = {str(octet): octet << 24 | _MAPPED for octet in range(256)}
_2ND: Final[Mapping[str, int]] = {str(octet): octet << 16 for octet in range(256)}
_3RD: Final[Mapping[str, int]] = {str(octet): octet << 8 for octet in range(256)}
_4TH: Final[Mapping[str, int]] = {str(octet): octet for octet in range(256)}


def _to_number(address: Address, mask: int = _ALL) -> int:
    """The key of an address, folded in this order: IPv4-mapped to IPv4, zone dropped, IPv6 cut by *mask*.

    128 bits, with an IPv4 address as its mapped one, so that the first fold costs nothing.
    """
    if isinstance(address, str):
        if ":" not in address:
            try:
                a, b, c, d = address.split(".")
                return _1ST[a] | _2ND[b] | _3RD[c] | _4TH[d]  # a sixth of what ipaddress takes
            except (KeyError, ValueError):
                raise LocalProtocolError(f"{address!r} is no IP address") from None
        try:
            address = IPv6Address(address)
        except ValueError:
            raise LocalProtocolError(f"{address!r} is no IP address") from None
    number = int(address)
    if isinstance(address, IPv4Address):
        return number | _MAPPED
    return number if number >> 32 == 0xFFFF else number & mask


def _to_address(number: int) -> IPv4Address | IPv6Address:
    if number >> 32 == 0xFFFF:
        return IPv4Address(number & 0xFFFF_FFFF)
    return IPv6Address(number)


def _mask(ipv6_prefix: int) -> int:
    if not 1 <= ipv6_prefix <= 128:
        raise LocalProtocolError("an IPv6 prefix has 1 to 128 bits")
    return _ALL >> 128 - ipv6_prefix << 128 - ipv6_prefix


def normalize_address(address: Address, ipv6_prefix: int = 128) -> IPv4Address | IPv6Address:
    """The address that stands for *address* in every store of grants, whatever its spelling.

    An IPv4-mapped IPv6 address becomes the IPv4 one, a zone is dropped, and of an IPv6 address (never of an IPv4 one)
    only the first *ipv6_prefix* bits stay.  Raises LocalProtocolError for what is no address or no prefix.
    """
    return _to_address(_to_number(address, _mask(ipv6_prefix)))


@attrs.frozen(repr=False, weakref_slot=False)
class Grant:
    """*identity* logged in from *address*, and until *expires* that address may relay on its account.

    Raises LocalProtocolError for an address that is none and for an empty identity.
    """

    _number: int = attrs.field(converter=_to_number, alias="address")  # an address object weighs three times as much
    identity: str
    expires: float
    """Seconds on the caller's clock: the login plus the lifetime.  At this very moment the grant is over."""

    def __attrs_post_init__(self) -> None:
        if not self.identity:
            raise LocalProtocolError("a grant belongs to an identity")

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """As folded: never IPv4-mapped, without a zone; where a prefix is set, the first address of it."""
        return _to_address(self._number)

    def __repr__(self) -> str:
        return f"Grant(address={str(self.address)!r}, identity={self.identity!r}, expires={self.expires!r})"


@attrs.frozen
class Unavailable:
    """The type of UNAVAILABLE."""


UNAVAILABLE: Final = Unavailable()
"""The store of grants cannot tell now.  It is neither yes nor no."""

Lookup: TypeAlias = Grant | Unavailable | None
"""What a store of grants says about an address; None: no grant."""


class GrantTable:
    """The grants, in memory: one for each pair of address and identity, replaced by each new login of that pair.

    Addresses are folded first: an IPv4-mapped IPv6 address is the IPv4 one, a zone is dropped, and of an IPv6 address
    (never of an IPv4 one) only the first *ipv6_prefix* bits count.

    *lifetime* is in seconds; with 0 no grant ever lives.  Raises LocalProtocolError for settings out of range.
    """

    __slots__ = ("_at", "_count", "_identities", "_lifetime", "_mask", "_maximum", "_order")

    def __init__(
        self,
        *,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        max_grants: int = MAX_GRANTS,
    ) -> None:
        if not (lifetime >= 0 and math.isfinite(lifetime)):
            raise LocalProtocolError("a lifetime is a finite number of seconds, 0 or more")
        if identities_per_address < 1 or max_grants < 1:
            raise LocalProtocolError("a table of grants has room for one at least")
        self._lifetime = lifetime
        self._mask = _mask(ipv6_prefix)
        self._identities = identities_per_address
        self._maximum = max_grants
        # Most addresses have one identity, and a tuple around its grant would be a quarter of its weight.
        self._at: dict[int, Grant | tuple[Grant, ...]] = {}  # a tuple has the oldest first
        self._count = 0
        self._order: deque[Grant] = deque()  # the oldest login first; replaced and revoked grants are skipped

    def __len__(self) -> int:
        """Grants kept, expired ones that no sweep has met yet included."""
        return self._count

    @property
    def lifetime(self) -> float:
        """Seconds from a login to the end of its grant."""
        return self._lifetime

    def grant(self, address: Address, identity: str, now: float) -> Grant:
        """*identity* has proved itself by POP from *address*: call it at once, before +OK leaves, whatever comes after.

        Replaces the grant of that pair.  Where there is no more room the oldest grant leaves: first among those of this
        address, then among all.  Never to be called for a message sent: sending extends nothing.
        """
        grant = Grant(_to_address(_to_number(address, self._mask)), identity, now + self._lifetime)
        if not self._lifetime:
            return grant
        kept = [other for other in self._all_at(grant._number) if other.identity != identity]
        del kept[: max(0, len(kept) + 1 - self._identities)]
        self._put(grant._number, (*kept, grant))
        self._order.append(grant)
        while self._count > self._maximum:
            self._drop(self._order.popleft())
        self._drop_replaced()
        return grant

    def find(self, address: Address, now: float) -> Grant | None:
        """The latest login's grant that still lives at *address*; None when none does.  O(1)."""
        number = _to_number(address, self._mask)
        entry = self._at.get(number)
        if entry is None:
            return None
        if type(entry) is Grant:
            return entry if now < entry.expires else None
        for grant in reversed(self._all_at(number)):
            if now < grant.expires:
                return grant
        return None

    def permits(self, address: Address, now: float) -> bool:
        """True if somebody logged in from *address* less than ``lifetime`` seconds before *now* and was not revoked."""
        return self.find(address, now) is not None

    def active(self, now: float, address: Address | None = None) -> list[Grant]:
        """The grants that live at *address*, or everywhere; the oldest login first."""
        grants = self._order if address is None else self._all_at(_to_number(address, self._mask))
        return [grant for grant in grants if now < grant.expires and self._is_current(grant)]

    def revoke_identity(self, *identities: str, until: float = math.inf) -> int:
        """End the grants of *identities* at every address; others at the same addresses keep theirs.  Returns how many.

        Grants that expire later than *until* stay: their logins came after whatever the revocation is for.

        For accounts that go and passwords that change.  Walks the whole table, once for all of them: an index would
        make every grant a fifth heavier, for something this rare.
        """
        gone = frozenset(identities)
        revoked = sum(self._drop(grant) for grant in self._order if grant.identity in gone and grant.expires <= until)
        self._drop_replaced()
        return revoked

    def revoke_address(self, address: Address) -> int:
        """End every grant at *address*.  Returns how many."""
        number = _to_number(address, self._mask)
        revoked = len(self._all_at(number))
        self._put(number, ())
        self._drop_replaced()
        return revoked

    def expire(self, now: float) -> int:
        """Free the memory of grants that are over at *now*, in time linear in their number.  Returns how many.

        Nothing else depends on it: ``find()`` judges each grant by its own expiry.
        """
        freed = 0
        while self._order and self._order[0].expires <= now:
            freed += self._drop(self._order.popleft())
        return freed

    def _all_at(self, number: int) -> tuple[Grant, ...]:
        entry = self._at.get(number, ())
        return (entry,) if isinstance(entry, Grant) else entry

    def _put(self, number: int, grants: tuple[Grant, ...]) -> None:
        self._count += len(grants) - len(self._all_at(number))
        if not grants:
            self._at.pop(number, None)
        else:
            self._at[number] = grants if len(grants) > 1 else grants[0]

    def _drop(self, grant: Grant) -> bool:
        """Take *grant* out, by identity; False when it was replaced or revoked before."""
        before = self._all_at(grant._number)
        kept = tuple(other for other in before if other is not grant)
        self._put(grant._number, kept)
        return len(kept) < len(before)

    def _drop_replaced(self) -> None:
        """Keep the order within twice the grants, at O(1) a login: it is made anew only when it grows beyond."""
        if len(self._order) > 2 * self._count + 64:
            self._order = deque(grant for grant in self._order if self._is_current(grant))

    def _is_current(self, grant: Grant) -> bool:
        return any(grant is kept for kept in self._all_at(grant._number))
