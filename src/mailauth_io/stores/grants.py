"""The common part of the grant stores: their settings, limits, the exception, and the items of a list of grants."""

from __future__ import annotations

import time
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any, Final

import attrs

from mailauth import LocalProtocolError
from mailauth.addresses import grant_key
from mailauth.grants import LIFETIME, GrantTable

from .._checks import check_address, check_nat64_prefixes, check_number, check_text, field

TIMEOUT: Final = 2.0
"""Seconds to wait for an answer of a store outside this process.  After that the store counts as unavailable."""

MAX_SWEPT_PER_LOGIN: Final = 100
"""Maximum number of expired grants removed from a shared store at each login, so that no login takes long."""


def boot_time() -> float:
    """Return seconds of a monotonic clock that also counts the time in which the system is suspended, if there is one.

    A grant must not last longer because the computer slept: meanwhile the address may have got another user.  On Linux
    ``time.monotonic()`` stands still then.
    """
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class GrantsError(Exception):
    """The grant store cannot be used.  The text is one sentence for the administrator, and contains no secret.

    For example:

        try:
            grant_store = sqlite_grants.SqliteGrants(Path("grants.db"))
        except stores.GrantsError as error:
            sys.exit(str(error))
    """


def make_table(**settings: Any) -> GrantTable:
    """Return a table with these settings, which checks them.  Raises ValueError for an invalid one."""
    try:
        return GrantTable(**settings)
    except LocalProtocolError as error:
        raise ValueError(str(error)) from None


def _nat64_set(prefixes: Collection[IPv6Network]) -> frozenset[IPv6Network]:
    check_nat64_prefixes("nat64_prefixes", prefixes)
    return frozenset(prefixes)


@attrs.frozen(kw_only=True)
class GrantSettings:
    """The settings of a grant store.  Raises TypeError or ValueError for a wrong value.

    For example:

        >>> settings = stores.GrantSettings(lifetime=900.0, ipv6_prefix=64)
        >>> settings.key("2001:db8::1")
        IPv6Address('2001:db8::')
    """

    lifetime: float = LIFETIME
    """Seconds from a login to the expiry of its grant, at most a year.  It applies to logins at this store: grants that
    another process has made keep their own lifetime."""

    ipv6_prefix: int = 128
    """The number of leading bits of an IPv6 address that a grant covers (``mailauth.addresses.grant_key``)."""

    nat64_prefixes: frozenset[IPv6Network] = attrs.field(default=frozenset[IPv6Network](), converter=_nat64_set)
    """The NAT64 prefixes besides 64:ff9b::/96, in which a grant covers a single address."""

    def __attrs_post_init__(self) -> None:
        make_table(lifetime=self.lifetime, ipv6_prefix=self.ipv6_prefix, nat64_prefixes=self.nat64_prefixes)

    def key(self, address: str) -> IPv4Address | IPv6Address:
        """Return the key under which the grants of *address* are stored.  Raises LocalProtocolError."""
        return grant_key(address, self.ipv6_prefix, tuple(self.nat64_prefixes))

    def describe_keys(self) -> str:
        """Return the settings that decide the keys, as text.  All processes that share a store must have the same."""
        prefixes = ", ".join(f'"{prefix}"' for prefix in sorted(self.nat64_prefixes))
        return f"ipv6_prefix = {self.ipv6_prefix} and nat64_prefixes = [{prefixes}]"


@attrs.frozen(kw_only=True)
class ActiveGrant:
    """An active grant, as listed by a store.  Raises TypeError or ValueError for a wrong value.

    For example:

        for grant in await grant_store.active():
            print(grant.address, grant.identity, f"{grant.remaining:.0f} s")
    """

    address: IPv4Address | IPv6Address = attrs.field(validator=field(check_address))
    """The key of the address (``mailauth.addresses.grant_key``)."""

    identity: str = attrs.field(validator=field(check_text))

    remaining: float = attrs.field(validator=field(check_number, zero=True, infinite=True))
    """Seconds until it expires."""
