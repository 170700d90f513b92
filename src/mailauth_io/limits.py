"""The limits of an adapter: the number of connections, and the timeouts of a connection.

The timeouts of commands and of message content are set by the machines (``NeedData``).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

import attrs

from mailauth.addresses import limit_key, limit_network

from ._checks import check_function, check_integer, check_nat64_prefixes, check_number, check_type, field
from .logs import Event

__all__ = [
    "LOGGER",
    "ConnectionLimiter",
    "Limits",
]

QUIET_SECONDS: Final = 60.0
"""The period in seconds of a LogLimit, which prevents an attack from filling the log."""

_REMEMBERED: Final = 1_024
"""Maximum number of addresses whose keys are cached: each connection needs them several times."""

LOGGER: Final = logging.getLogger("mailauth_io")


@attrs.frozen(kw_only=True)
class Limits:
    """The limits that ``serve`` and ``connect`` apply to their peers.

    Raises ValueError for a number that is not above zero or not finite, and TypeError for a value that is not a number.

    Fields:

    connections
        Maximum number of open connections of all listeners that share a ConnectionLimiter.  One network (IPv4: /24,
        IPv6: /48), which usually has one owner, may have half of them, or *connections_per_address* if that is more.
    connections_per_address
        Maximum number of open connections from one address.  The ConnectionLimiter decides what one address is:
        with its defaults, all addresses of an IPv6 /64.
    proxy_header_timeout
        Seconds until the PROXY header is complete.  Use at least three, so that a lost segment can be sent again (PROXY
        protocol section 2).
    connect_timeout
        Seconds until ``connect`` has a TCP connection; the TLS handshake has its own timeout.  30 seconds is the
        default of Postfix (smtp_connect_timeout).
    handshake_timeout
        Seconds until the TLS handshake is complete; data received does not restart the timeout.
    write_timeout
        Seconds that a write may wait for a peer that does not read; RFC 5321 section 4.5.3.2.5 requires at least
        three minutes for each block.
    min_rate
        Minimum average rate at which a peer must read, in bytes per second.  Each byte read adds 1 / *min_rate*
        seconds to the time left, up to *write_timeout*.  No RFC gives a number; the default is the minimum rate that
        Postfix requires of incoming message content (smtpd_min_data_rate).

    For example:

        limits = adapters.Limits(connections_per_address=20, write_timeout=180.0)
        async with on_asyncio.serve_smtp(session, settings, limits=limits) as listener:
            await stopped.wait()
    """

    connections: int = attrs.field(default=5_000, validator=field(check_integer, 1))

    connections_per_address: int = attrs.field(default=256, validator=field(check_integer, 1))

    proxy_header_timeout: float = attrs.field(default=10.0, validator=field(check_number))

    connect_timeout: float = attrs.field(default=30.0, validator=field(check_number))

    handshake_timeout: float = attrs.field(default=30.0, validator=field(check_number))

    write_timeout: float = attrs.field(default=300.0, validator=field(check_number))

    min_rate: float = attrs.field(default=500.0, validator=field(check_number))


class LogLimit:
    """Limits log lines to *each* a minute for one key, such as a network, and *most* a minute in all.

    For example:

        failures = LogLimit(10, 100)
        failures.log(logging.INFO, "TLS failed", {"peer": peer.address}, network)
    """

    def __init__(self, each: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = each
        self._most = most
        self._clock = clock
        self._ends = float("-inf")  # of the current minute
        self._logged: Counter[object] = Counter()
        self._suppressed = 0

    def admits(self, key: object = None) -> bool:
        """Count a line, and return whether it may be logged."""
        now = self._clock()
        if now >= self._ends:
            self._ends = now + QUIET_SECONDS
            self._logged.clear()
        if self._logged[key] >= self._each or self._logged.total() >= self._most:
            self._suppressed += 1
            return False
        self._logged[key] += 1
        return True

    def log(self, level: int, name: str, fields: Mapping[str, object], key: object = None) -> None:
        """Log the event *name*, with the number of lines suppressed before it, or suppress it if a limit is reached."""
        if self.admits(key):
            LOGGER.log(level, Event(name, {**fields, "suppressed": self._suppressed or None}))
            self._suppressed = 0


class ConnectionLimiter:
    """Counts the open connections.  Listeners that share a limiter share its limits.

    What counts as one address is decided by ``mailauth.addresses.limit_key()`` with *ipv6_prefix* and
    *nat64_prefixes*.  Raises TypeError or ValueError for an invalid argument.

    For example:

        >>> limiter = adapters.ConnectionLimiter(adapters.Limits(connections=100))  # for serve(limiter=limiter)
        >>> limiter.acquire("192.0.2.1")
        True
        >>> limiter.release("192.0.2.1")
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        ipv6_prefix: int = 64,
        nat64_prefixes: Collection[IPv6Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_type("limits", limits, Limits, optional=True)
        check_function("clock", clock)
        check_integer("ipv6_prefix", ipv6_prefix, 1, 128)
        check_nat64_prefixes("nat64_prefixes", nat64_prefixes)
        self._limits = limits or Limits()
        self._keys = lru_cache(_REMEMBERED)(
            partial(_keys, partial(limit_key, ipv6_prefix=ipv6_prefix, nat64_prefixes=nat64_prefixes))
        )
        self._refusals = LogLimit(1, 1, clock)
        self._total = 0
        self._per_network = max(self._limits.connections // 2, self._limits.connections_per_address)
        self._by_address: dict[object, int] = {}  # without zeros
        self._by_network: dict[object, int] = {}

    def __len__(self) -> int:
        return self._total

    def acquire(self, address: str) -> bool:
        """Count a connection from *address*.  Returns False, and logs the refusal, if it would exceed a limit.

        After True, call ``release()`` once with the same address when the connection is closed.
        """
        limits = self._limits
        if self._total >= limits.connections:
            self._log_refusal(address, f"{self._total} connections are open")
            return False
        counted, network = self._keys(address)
        from_address = self._by_address.get(counted, 0)
        if from_address >= limits.connections_per_address:
            self._log_refusal(address, f"{from_address} connections are open from this address")
            return False
        from_network = self._by_network.get(network, 0)
        if from_network >= self._per_network:
            self._log_refusal(address, f"{from_network} connections are open from its network")
            return False
        self._by_address[counted] = from_address + 1
        self._by_network[network] = from_network + 1
        self._total += 1
        return True

    def release(self, address: str) -> None:
        """Stop counting a connection from *address*."""
        self._total -= 1
        counted, network = self._keys(address)
        for connections, key in ((self._by_address, counted), (self._by_network, network)):
            if connections[key] == 1:
                del connections[key]
            else:
                connections[key] -= 1

    def keys(self, address: str) -> tuple[str, str]:
        """Return the keys by which *address* is counted: its ``limit_key``, and the network of this key, as text."""
        return self._keys(address)

    def _log_refusal(self, address: str, reason: str) -> None:
        self._refusals.log(logging.WARNING, "connection refused", {"peer": address, "reason": reason})


def _keys(key: Callable[[str], IPv4Address | IPv6Address | str], address: str) -> tuple[str, str]:
    counted = key(address)
    return str(counted), str(limit_network(counted))  # a str keeps its hash; an address computes it at each use, slowly
