"""How much an adapter bears of its peers: how many of them there may be, and how long each of them may take.

Knows no protocol and no loop.  How long a command may take is said by the machines themselves, in ``NeedData``.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs

from ._addresses import key
from .logs import Event

QUIET_SECONDS: Final = 60.0
"""Between two lines of the log about refused connections: a flood of them shall not become one of lines."""

LOGGER: Final = logging.getLogger("mailauth_io")


@attrs.frozen(kw_only=True)
class Limits:
    """What ``serve`` takes from its peers.  Raises ValueError for numbers that would serve nobody."""

    connections: int = attrs.field(default=5_000, validator=attrs.validators.ge(1))
    """Connections at a time, of all listeners that share a Crowd."""

    connections_per_address: int = attrs.field(default=256, validator=attrs.validators.ge(1))
    """Of those from one address, exactly: neighbours are not added up, an IPv4-mapped address counts as IPv4."""

    proxy_header_timeout: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    """Seconds for a whole PROXY header; three at least, for a segment that has to be sent again (section 2)."""

    handshake_timeout: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    """Seconds for a whole TLS handshake, however many octets it takes to come to nothing."""

    write_timeout: float = attrs.field(default=300.0, validator=attrs.validators.gt(0))
    """Seconds that a peer may keep a Send from getting on; RFC 5321 section 4.5.3.2.5 gives no block less than three
    minutes."""

    min_rate: float = attrs.field(default=500.0, validator=attrs.validators.gt(0))
    """Octets a second at which a peer has to read in the long run; each earns its time, up to *write_timeout*.  No RFC
    names a number; it is the rate at which Postfix wants content to come in."""


class ConnectionLimiter:
    """Who is connected now.  Listeners that share one are limited together."""

    def __init__(self, limits: Limits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._total = 0
        self._by_address: Counter[object] = Counter()
        self._quiet_until = float("-inf")
        self._suppressed = 0

    def __len__(self) -> int:
        return self._total

    def acquire(self, address: str) -> bool:
        """Count a connection from *address*; False if there is no room for it.

        Whoever was let in must ``release()`` by the same address.
        """
        limits = self._limits
        if self._total >= limits.connections:
            self._log_refusal(address, f"there are {self._total} connections")
            return False
        who = key(address)
        if self._by_address[who] >= limits.connections_per_address:
            self._log_refusal(address, f"it has {self._by_address[who]} connections")
            return False
        self._by_address[who] += 1
        self._total += 1
        return True

    def release(self, address: str) -> None:
        """That connection is over."""
        self._total -= 1
        who = key(address)
        self._by_address[who] -= 1
        if not self._by_address[who]:
            del self._by_address[who]

    def _log_refusal(self, address: str, reason: str) -> None:
        now = self._clock()
        if now < self._quiet_until:
            self._suppressed += 1
            return
        LOGGER.warning(
            Event("connection refused", {"peer": address, "reason": reason, "suppressed": self._suppressed or None})
        )
        self._quiet_until = now + QUIET_SECONDS
        self._suppressed = 0
