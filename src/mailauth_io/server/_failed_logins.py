"""Recent failed logins by address, and the delay before the next failed login is answered.

Only addresses are counted, not user names, because a client can send any name.  This module computes delays; the
sessions sleep.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from mailauth.addresses import limit_key, limit_network

from .._checks import check_function, check_integer, check_number

MAX_DELAY: Final = 2.0
"""Maximum delay in seconds.  Clients wait for minutes (RFC 5321 section 4.5.3.2), but users notice a long delay."""

MEMORY: Final = 900.0
"""Seconds without a failed login after which the entry of an address is removed."""

MAX_ADDRESSES: Final = 16_384
"""Maximum number of addresses, about 12 MB at most.  In a full table, the one that failed longest ago is removed."""

SHARE: Final = 64
"""The divisor of the table: one network (IPv4: /24, IPv6: /48) has at most 256 addresses in it, as many as a /24 has.
So the owner of a /48 removes none but its own."""

RECENT: Final = 600.0
"""Seconds after a failed login during which logins from its address have lower priority (``stores.Hashing``)."""

_Key: TypeAlias = IPv4Address | IPv6Address | str

_SHARES: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
"""Fractions of the maximum delay for the first, second, ... failure.  A single typing mistake causes no delay."""


class FailedLogins:
    """A table of failed logins by address, shared by all sessions, so that parallel connections count together.

    ``server.serve()`` has one.  A session of your own delays the reply to a failed login like this:

        failed_logins = server.FailedLogins()  # once, for all sessions

        case sasl.AuthenticationFailed():
            await anyio.sleep(failed_logins.delay(connection.peer.address, time.monotonic()))
    """

    def __init__(
        self,
        *,
        longest: float = MAX_DELAY,
        max_addresses: int = MAX_ADDRESSES,
        key: Callable[[str], IPv4Address | IPv6Address | str] = limit_key,
    ) -> None:
        """*longest* is the maximum delay in seconds; 0 disables delays.  *max_addresses* is the size of the table.

        One network (IPv4: /24, IPv6: /48) has at most a 64th of it.

        *key* decides what one address is.  Raises TypeError or ValueError for an invalid argument.
        """
        check_number("longest", longest, zero=True)
        check_integer("max_addresses", max_addresses, 1)
        check_function("key", key)
        self._longest = longest
        self._maximum = max_addresses
        self._share = max(max_addresses // SHARE, 1)
        self._key = key
        self._failed: OrderedDict[_Key, tuple[int, float]] = OrderedDict()  # count, last time; oldest first
        self._networks: dict[object, dict[_Key, None]] = {}  # their addresses, oldest first

    def __len__(self) -> int:
        """Return the number of addresses in the table."""
        return len(self._failed)

    def delay(self, address: str, now: float) -> float:
        """Count a failed login from *address* at *now*; return the delay of its reply in seconds.

        *now* is in seconds on a monotonic clock.  A successful login does not reset the count: otherwise an attacker
        with one valid account could log in between guesses.
        """
        failures = self._note(address, now, 1)
        return self._longest * _SHARES[min(failures, len(_SHARES)) - 1]

    def note(self, address: str, now: float) -> None:
        """Record that a login from *address* failed at *now*, without counting it.

        ``delay()`` counts it when the reply is sent.
        """
        self._note(address, now, 0)

    def failed_recently(self, address: str, now: float) -> bool:
        """Return whether a login from *address* failed in the last RECENT seconds."""
        _, when = self._failed.get(self._key(address), (0, now - RECENT))
        return now - when < RECENT

    def _note(self, address: str, now: float, more: int) -> int:
        self._forget(now)
        address_key = self._key(address)
        failures = self._failed.pop(address_key, (0, now))[0] + more
        self._failed[address_key] = failures, now
        of_network = self._networks.setdefault(limit_network(address_key), {})
        of_network.pop(address_key, None)
        of_network[address_key] = None
        if len(of_network) > self._share:
            self._remove(next(iter(of_network)))
        elif len(self._failed) > self._maximum:
            self._remove(next(iter(self._failed)))
        return failures

    def _forget(self, now: float) -> None:
        while self._failed and next(iter(self._failed.values()))[1] + MEMORY <= now:
            self._remove(next(iter(self._failed)))

    def _remove(self, key: _Key) -> None:
        del self._failed[key]
        network = limit_network(key)
        of_network = self._networks[network]
        del of_network[key]
        if not of_network:
            del self._networks[network]
