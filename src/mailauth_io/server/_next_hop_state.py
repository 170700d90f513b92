"""What all sessions of a server know about its next hop."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from typing import Final

import attrs

from mailauth import sasl

from ._session_limiter import SessionLimiter
from .next_hop import NextHop

CLEAR_TEXT_SECONDS: Final = 600.0
"""Seconds for which mail is sent in clear text, where that is allowed, after STARTTLS has failed at a next hop.  No RFC
gives a number: each new attempt costs a connection, and the next hop is rarely repaired sooner."""


@attrs.define
class TlsFailure:
    """The time until which STARTTLS is not tried again at a next hop."""

    _until: float = -math.inf

    def record(self, now: float) -> None:
        """Record that STARTTLS failed at *now*, in seconds on the server's clock."""
        self._until = now + CLEAR_TEXT_SECONDS

    def clear(self) -> None:
        """Allow STARTTLS again at once."""
        self._until = -math.inf

    def is_recent(self, now: float) -> bool:
        """Return whether STARTTLS failed in the last CLEAR_TEXT_SECONDS."""
        return now < self._until


RETRY_SECONDS: Final = 900.0
"""Seconds without a second login on a connection, after a next hop has refused every mechanism.  No RFC gives a number:
the password may be wrong, and many failed logins can block the address of this server (for example by fail2ban)."""


@attrs.define
class LoginHistory:
    """The mechanisms that a next hop has refused before another one worked."""

    _refused: frozenset[tuple[str, str]] = frozenset()  # names and channel bindings
    _until: float = -math.inf

    def sort(self, mechanisms: Iterable[sasl.ClientMechanism]) -> tuple[sasl.ClientMechanism, ...]:
        """Return *mechanisms*, all of which the next hop offers, in the order in which they should be tried.

        Those that were refused come last.  A mechanism without channel binding never comes before one with it (RFC 5802
        section 6).
        """
        offered = tuple(mechanisms)
        first = [mechanism for mechanism in offered if _key(mechanism) not in self._refused]
        if any(_is_bound(mechanism) for mechanism in offered):
            first = [mechanism for mechanism in first if _is_bound(mechanism)]
        return (*first, *(mechanism for mechanism in offered if mechanism not in first))

    def record_success(self, mechanism: sasl.ClientMechanism, refused: Iterable[sasl.ClientMechanism]) -> None:
        """Record that *mechanism* worked, after those in *refused* were refused."""
        self._refused = (self._refused | {_key(each) for each in refused}) - {_key(mechanism)}
        self._until = -math.inf

    def record_failure(self, now: float) -> None:
        """Record that all mechanisms were refused at *now*, in seconds on the server's clock.

        Call it only if ``may_retry()`` was true: a single refused login is not evidence about the others.
        """
        self._until = now + RETRY_SECONDS

    def may_retry(self, now: float) -> bool:
        """Return whether a second mechanism may be tried on a connection."""
        return now >= self._until


def _key(mechanism: sasl.ClientMechanism) -> tuple[str, str]:
    return mechanism.name, getattr(mechanism, "channel_binding", "")


def _is_bound(mechanism: sasl.ClientMechanism) -> bool:
    return mechanism.name.endswith("-PLUS")


@attrs.frozen(eq=False)
class NextHopState:
    """What all sessions of a server know about its next hop."""

    hop: NextHop
    token: str = attrs.field(factory=lambda: secrets.token_hex(16), init=False)
    """Random text in the greetings of the server.  If the next hop has it in its own greeting, it is that server.  It
    is public."""
    sessions: SessionLimiter = attrs.field(
        default=attrs.Factory(lambda self: SessionLimiter(self.hop.max_sessions), takes_self=True), init=False
    )
    tls_failure: TlsFailure = attrs.field(factory=TlsFailure, init=False)
    login_history: LoginHistory = attrs.field(factory=LoginHistory, init=False)
