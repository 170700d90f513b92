"""The next hop: the one server that mail for elsewhere is handed on to, as values that are checked when made.

Knows where it is, what must be proved on the way, and how long it may take; what is said to it is in ``_relaying``.
"""

from __future__ import annotations

import math
import secrets
import ssl
from typing import Final

import attrs

from mailauth import Tls, sasl


@attrs.frozen(kw_only=True)
class Timeouts:
    """Seconds that the next hop may take; all of them are counted in whole, whatever trickles in meanwhile."""

    recipient: float = 270.0
    """For all that one RCPT of our client can lead to: connection, TLS, login, MAIL and RCPT.  Our client waits for it,
    five minutes at least if it does as it should (RFC 5321 section 4.5.3.2.3)."""

    data: float = 120.0
    """For the reply to DATA (RFC 5321 section 4.5.3.2.4)."""

    block: float = 180.0
    """For taking 64 KiB of content (RFC 5321 section 4.5.3.2.5)."""

    final_reply: float = 600.0
    """For the reply to the message (RFC 5321 section 4.5.3.2.6); more changes nothing, for the client machine waits no
    longer.  Our client began to wait for it before: see docs/relay.md."""

    idle: float = 60.0
    """How long ago a connection was last used that is used again: an older one may be gone without a word."""

    quit: float = 5.0
    """For QUIT, which nobody waits for."""

    check: float = 5.0
    """For the look at the next hop before the server begins, which decides nothing."""


@attrs.frozen(kw_only=True)
class Login:
    """The account that this server itself has at the next hop.

    Raises LocalProtocolError for a name or a password that no mechanism can carry; the text does not hold it.
    """

    name: str
    password: bytes = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        self.mechanisms(None, clear_text=True)  # every one of them, for their checks of name and password

    def mechanisms(self, tls: Tls | None, *, clear_text: bool = False) -> tuple[sasl.ClientMechanism, ...]:
        """New ones for each login, the strongest first.

        Outside TLS they are those of SCRAM alone, unless *clear_text* allows what shows the password, or an MD5 digest
        of it, to whoever listens.
        """
        entropy = secrets.token_bytes(32)
        found = sasl.password_mechanisms(self.name, self.password, entropy=entropy, tls=tls, clear_text=clear_text)
        if tls is None and not clear_text:
            found = tuple(mechanism for mechanism in found if mechanism.name.startswith("SCRAM-"))
        return found


CLEAR_TEXT_SECONDS: Final = 600.0
"""How long mail goes to a next hop in clear text, where that is allowed, after its STARTTLS broke.  No RFC names a
number: each new try costs a connection, and a server is not repaired sooner."""


@attrs.define
class TlsFailure:
    """Until when STARTTLS is not tried at a next hop again; all sessions share it."""

    _until: float = -math.inf

    def record(self, now: float) -> None:
        """It broke at *now*, which is seconds on the clock of the server."""
        self._until = now + CLEAR_TEXT_SECONDS

    def clear(self) -> None:
        """Try it again at once."""
        self._until = -math.inf

    def is_recent(self, now: float) -> bool:
        """Whether it broke a short time ago."""
        return now < self._until


@attrs.frozen(kw_only=True)
class NextHop:
    """Where mail for elsewhere goes at once.  Raises ValueError for what cannot be."""

    host: str
    port: int

    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    """For implicit TLS, or for STARTTLS where it is offered; whom to trust is said in it.  None: no TLS, and
    *tls_required* must be false."""

    implicit_tls: bool = False
    """TLS comes first, as on port 465."""

    tls_required: bool = True
    """No mail outside TLS: a next hop that offers no STARTTLS, or is made to look so, gets nothing.  False: without a
    login mail goes in clear text where STARTTLS is not offered, is refused, or breaks."""

    login: Login | None = None
    """What we log in with.  Nothing that our own clients log in with is ever passed on.  With a login and an
    *ssl_context* nothing goes outside TLS, whatever *tls_required* says."""

    clear_text_login: bool = False
    """Without an *ssl_context*: log in by PLAIN, LOGIN or CRAM-MD5, too, and not by SCRAM alone.  Whoever can read the
    connection then has the password."""

    timeouts: Timeouts = attrs.field(factory=Timeouts)

    tls_failure: TlsFailure = attrs.field(factory=TlsFailure, init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.ssl_context is None and (self.implicit_tls or self.tls_required):
            raise ValueError("TLS to the next hop needs an ssl_context")
        if self.clear_text_login and (self.ssl_context is not None or self.login is None):
            raise ValueError("clear_text_login goes with a login and without an ssl_context")

    @property
    def needs_tls(self) -> bool:
        """Whether nothing may be said outside TLS but what leads there."""
        return self.tls_required or (self.login is not None and self.ssl_context is not None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.implicit_tls else 'smtp'}://{host}:{self.port}"
