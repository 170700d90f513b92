"""The common part of the grant stores: limits, the exception, and the items of a list of grants."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import attrs

from mailauth import LocalProtocolError
from mailauth.grants import GrantTable

from .._checks import check_address, check_number, check_text, field

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
