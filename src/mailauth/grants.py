"""POP before SMTP: the client addresses with a recent POP login, and the identities that logged in.

This module reads no clock: each call that needs the time takes *now*, in seconds on a monotonic clock, the same one for
all calls.  Addresses are not verified: pass the address of the socket or of a trusted PROXY header, never one that the
client sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

import attrs

from ._validators import check_integer, check_number
from .errors import LocalProtocolError

__all__ = [
    "IDENTITIES_PER_ADDRESS",
    "LIFETIME",
    "MAX_GRANTS",
    "MAX_LIFETIME",
    "UNAVAILABLE",
    "Address",
    "Grant",
    "GrantTable",
    "Lookup",
    "Unavailable",
    "normalize_address",
]

LIFETIME: Final = 1800.0
"""The default lifetime of a grant, in seconds: half an hour, as was usual with POP before SMTP."""

MAX_LIFETIME: Final = 31_536_000.0
"""The maximum lifetime of a grant, in seconds: a year.  An address does not belong to one user for longer."""

IDENTITIES_PER_ADDRESS: Final = 16
"""Maximum grants of an address, one per identity.  A new one replaces the oldest (architecture.md, invariant 4)."""

MAX_GRANTS: Final = 1_000_000
"""Maximum grants in all, about 250 MB.  A new one replaces the oldest (architecture.md, invariant 4)."""

Address: TypeAlias = str | IPv4Address | IPv6Address
"""An IP address: text without brackets or port, or an ``ipaddress`` object, which is faster, above all for IPv6."""

_ALL: Final = (1 << 128) - 1
_MAPPED: Final = 0xFFFF << 32  # ::ffff:0:0/96, the IPv4-mapped addresses (RFC 4291 section 2.5.5.2)
_1ST: Final[Mapping[str, int]] = {str(octet): octet << 24 | _MAPPED for octet in range(256)}
_2ND: Final[Mapping[str, int]] = {str(octet): octet << 16 for octet in range(256)}
_3RD: Final[Mapping[str, int]] = {str(octet): octet << 8 for octet in range(256)}
_4TH: Final[Mapping[str, int]] = {str(octet): octet for octet in range(256)}


def _to_number(address: Address, mask: int = _ALL) -> int:
    """Return the key of *address*, a number of 128 bits.

    The zone is removed, and *mask* is applied to an IPv6 address.  An IPv4 address has the same key as its IPv4-mapped
    IPv6 address.  Raises LocalProtocolError for an invalid address.
    """
    if isinstance(address, str):
        if ":" not in address:
            try:
                a, b, c, d = address.split(".")
                return _1ST[a] | _2ND[b] | _3RD[c] | _4TH[d]  # takes a sixth of the time of ipaddress
            except (KeyError, ValueError):
                raise LocalProtocolError(f"invalid IP address {address!r}; use one such as 192.0.2.1") from None
        try:
            address = IPv6Address(address)
        except ValueError:
            raise LocalProtocolError(f"invalid IP address {address!r}; use one such as 192.0.2.1") from None
    elif not isinstance(address, (IPv4Address, IPv6Address)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LocalProtocolError(
            f"address must be a str, an IPv4Address or an IPv6Address, not {type(address).__name__}; use '192.0.2.1'"
        )
    number = int(address)
    if isinstance(address, IPv4Address):
        return number | _MAPPED
    return number if number >> 32 == 0xFFFF else number & mask


def _to_address(number: int) -> IPv4Address | IPv6Address:
    if number >> 32 == 0xFFFF:
        return IPv4Address(number & 0xFFFF_FFFF)
    return IPv6Address(number)


def _mask(ipv6_prefix: int) -> int:
    check_integer("ipv6_prefix", ipv6_prefix, 1, 128)
    return _ALL >> 128 - ipv6_prefix << 128 - ipv6_prefix


def _check_identity(identity: object) -> None:
    """Reject bytes, which are never equal to the identity of a login: its grants could not be revoked."""
    if not isinstance(identity, str):
        raise LocalProtocolError(f"identity must be a str, not {type(identity).__name__}; use .decode() for bytes")


def normalize_address(address: Address, ipv6_prefix: int = 128) -> IPv4Address | IPv6Address:
    """Return the normal form of *address*, which is its key in every grant store.

    An IPv4-mapped IPv6 address becomes the IPv4 address, and a zone is removed.  Of an IPv6 address only the first
    *ipv6_prefix* bits are kept; an IPv4 address is kept whole.
    Raises LocalProtocolError for an invalid address or prefix.

        >>> grants.normalize_address("::ffff:192.0.2.1")
        IPv4Address('192.0.2.1')
    """
    return _to_address(_to_number(address, _mask(ipv6_prefix)))


@attrs.frozen(repr=False, weakref_slot=False)
class Grant:
    """Permission for *address* to relay until *expires*, because *identity* has logged in from there.

    Raises LocalProtocolError for an invalid address and for an empty identity.

        >>> grants.Grant("::ffff:192.0.2.1", "alice", expires=1800.0)
        Grant(address='192.0.2.1', identity='alice', expires=1800.0)
    """

    # An int takes a third of the memory of an address object.
    _number: int = attrs.field(converter=_to_number, alias="address")
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
        """The address in normal form (``normalize_address()``); with a prefix, the first address of the network."""
        return _to_address(self._number)

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


class GrantTable:
    """A grant store in memory.

    It keeps one grant for each pair of address and identity.  A new login of the same pair replaces it.  Addresses are
    normalized as by ``normalize_address()`` with *ipv6_prefix*.

    *lifetime* is in seconds, at most a year; with 0, no grant is ever active.  Raises
    LocalProtocolError for settings out of range.

        >>> table = grants.GrantTable(lifetime=1800)
        >>> grant = table.grant("192.0.2.1", "alice", now=0.0)
        >>> table.permits("192.0.2.1", now=1799.0), table.permits("192.0.2.1", now=1800.0)
        (True, False)
    """

    __slots__ = ("_by_address", "_count", "_identities", "_lifetime", "_mask", "_max_grants", "_order")

    def __init__(
        self,
        *,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        max_grants: int = MAX_GRANTS,
    ) -> None:
        check_number("lifetime", lifetime)
        if not 0 <= lifetime <= MAX_LIFETIME:
            raise LocalProtocolError(
                f"lifetime must be 0 to 31,536,000 seconds (a year), not {lifetime}; use a number such as 1800"
            )
        check_integer("identities_per_address", identities_per_address, 1)
        check_integer("max_grants", max_grants, 1)
        self._lifetime = lifetime
        self._mask = _mask(ipv6_prefix)
        self._identities = identities_per_address
        self._max_grants = max_grants
        # Most addresses have one identity, and a tuple would add a quarter to the memory of its grant.
        self._by_address: dict[int, Grant | tuple[Grant, ...]] = {}  # in a tuple the oldest grant is first
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

        The new grant replaces that of the same pair.  If the address has too many grants, its oldest is removed; then,
        if the table has too many, the oldest of all.
        """
        grant = Grant(_to_address(_to_number(address, self._mask)), identity, now + self._lifetime)
        if not self._lifetime:
            return grant
        kept = [other for other in self._all_at(grant._number) if other.identity != identity]
        del kept[: max(0, len(kept) + 1 - self._identities)]
        self._put(grant._number, (*kept, grant))
        self._order.append(grant)
        while self._count > self._max_grants:
            self._drop(self._order.popleft())
        self._drop_replaced()
        return grant

    def find(self, address: Address, now: float) -> Grant | None:
        """Return the active grant of the latest login from *address*; None if there is none.  Takes O(1)."""
        number = _to_number(address, self._mask)
        entry = self._by_address.get(number)
        if entry is None:
            return None
        if type(entry) is Grant:
            return entry if now < entry.expires else None
        for grant in reversed(self._all_at(number)):
            if now < grant.expires:
                return grant
        return None

    def permits(self, address: Address, now: float) -> bool:
        """Return whether *address* has an active grant: a login less than ``lifetime`` seconds old, and not revoked."""
        return self.find(address, now) is not None

    def active(self, now: float, address: Address | None = None) -> list[Grant]:
        """Return the active grants of *address*, or of all addresses; the oldest login first."""
        grants = self._order if address is None else self._all_at(_to_number(address, self._mask))
        return [grant for grant in grants if now < grant.expires and self._is_current(grant)]

    def revoke_identity(self, *identities: str, until: float = math.inf) -> int:
        """Revoke the grants of *identities* at all addresses and return their number.

        Use it when an account is removed or its password changes.  Grants that expire after *until* are kept: their
        logins are later than the change.  Other identities at the same addresses keep their grants.

        It scans the whole table, once for all *identities*.  An index would add a fifth to the memory of every grant,
        for a rare operation.
        """
        for identity in identities:
            _check_identity(identity)
        names = frozenset(identities)
        revoked = sum(self._drop(grant) for grant in self._order if grant.identity in names and grant.expires <= until)
        self._drop_replaced()
        return revoked

    def revoke_address(self, address: Address) -> int:
        """Revoke every grant of *address* and return their number."""
        number = _to_number(address, self._mask)
        revoked = len(self._all_at(number))
        self._put(number, ())
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

    def _all_at(self, number: int) -> tuple[Grant, ...]:
        entry = self._by_address.get(number, ())
        return (entry,) if isinstance(entry, Grant) else entry

    def _put(self, number: int, grants: tuple[Grant, ...]) -> None:
        self._count += len(grants) - len(self._all_at(number))
        if len(grants) > 1:
            self._by_address[number] = grants
        elif grants:
            self._by_address[number] = grants[0]
        else:
            self._by_address.pop(number, None)

    def _drop(self, grant: Grant) -> bool:
        """Remove *grant*, compared by identity.  Return False if it was already replaced or revoked."""
        before = self._all_at(grant._number)
        kept = tuple(other for other in before if other is not grant)
        self._put(grant._number, kept)
        return len(kept) < len(before)

    def _drop_replaced(self) -> None:
        """Rebuild the order once it holds more than twice the number of grants: amortized O(1) per login."""
        if len(self._order) > 2 * self._count + 64:
            self._order = deque(grant for grant in self._order if self._is_current(grant))

    def _is_current(self, grant: Grant) -> bool:
        return any(grant is kept for kept in self._all_at(grant._number))
