"""The configuration of the next hop, the server to which remote mail is relayed.  The connection is in ``_relay``."""

from __future__ import annotations

import math
import secrets
import ssl
from typing import Final

import attrs

from mailauth import LocalProtocolError, Tls, sasl

from .._checks import check_client_context, check_number, check_port, check_text, check_type, field


@attrs.frozen(kw_only=True)
class Timeouts:
    """Timeouts for the next hop, in seconds.  Each is for a whole step: partial input does not restart it.

    Raises TypeError or ValueError for a value that is not a finite number above 0.

        timeouts = server.Timeouts(connect=10.0, idle=30.0)
        hop = server.NextHop(host="relay.example", port=25, tls_required=False, timeouts=timeouts)
    """

    recipient: float = attrs.field(default=270.0, validator=field(check_number))
    """For everything that one RCPT of the client can cause: connection, TLS, login, MAIL and RCPT.  The client waits
    meanwhile, and should do so for at least five minutes (RFC 5321 section 4.5.3.2.3)."""

    connect: float = attrs.field(default=30.0, validator=field(check_number))
    """For a connection to one address of the next hop, with the handshake of implicit TLS.  After that the next address
    is tried.  30 seconds is the default of Postfix (smtp_connect_timeout)."""

    data: float = attrs.field(default=120.0, validator=field(check_number))
    """For the reply to DATA (RFC 5321 section 4.5.3.2.4)."""

    block: float = attrs.field(default=180.0, validator=field(check_number))
    """For sending 64 KiB of content (RFC 5321 section 4.5.3.2.5)."""

    final_reply: float = attrs.field(default=600.0, validator=field(check_number))
    """For the reply to the end of the message (RFC 5321 section 4.5.3.2.6).  A larger value has no effect, because the
    core's client connection has the same limit.  The client is already waiting when this timeout starts; see
    docs/relay.md."""

    idle: float = attrs.field(default=60.0, validator=field(check_number))
    """The time since the last use after which a connection is not reused: it may have been dropped without notice."""

    quit: float = attrs.field(default=5.0, validator=field(check_number))
    """For QUIT, whose result does not matter."""

    check: float = attrs.field(default=5.0, validator=field(check_number))
    """For the connection test when the server starts.  Its result is only reported."""


@attrs.frozen(kw_only=True)
class Login:
    """The account of this server at the next hop.

    Raises TypeError or ValueError for a name or a password that no mechanism can transmit; the error text does not
    contain the value.

        >>> login = server.Login(name="alice", password=b"wonderland")
        >>> [mechanism.name for mechanism in login.mechanisms(None)]  # without TLS
        ['SCRAM-SHA-256', 'SCRAM-SHA-1']
    """

    name: str = attrs.field(validator=field(check_text))
    password: bytes = attrs.field(repr=False, validator=field(check_type, bytes))

    def __attrs_post_init__(self) -> None:
        try:
            self.mechanisms(None, clear_text=True)  # builds all mechanisms, which validate name and password
        except LocalProtocolError as error:
            raise ValueError(str(error)) from None

    def mechanisms(self, tls: Tls | None, *, clear_text: bool = False) -> tuple[sasl.ClientMechanism, ...]:
        """Return new client mechanisms for one login, the strongest first.

        Without TLS they are the SCRAM mechanisms only, unless *clear_text* also allows those that reveal the password,
        or an MD5 digest of it, to an eavesdropper.
        """
        entropy = secrets.token_bytes(32)
        found = sasl.password_mechanisms(self.name, self.password, entropy=entropy, tls=tls, clear_text=clear_text)
        if tls is None and not clear_text:
            found = tuple(mechanism for mechanism in found if mechanism.name.startswith("SCRAM-"))
        return found


CLEAR_TEXT_SECONDS: Final = 600.0
"""Seconds for which mail is sent in clear text, where that is allowed, after STARTTLS has failed at a next hop.  No RFC
gives a number: each new attempt costs a connection, and the next hop is rarely repaired sooner."""


@attrs.define
class TlsFailure:
    """The time until which STARTTLS is not tried again at a next hop, shared by all sessions.

    For example:

        >>> failure = server.TlsFailure()
        >>> failure.record(now=100.0)
        >>> failure.is_recent(now=699.0), failure.is_recent(now=700.0)
        (True, False)
    """

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


@attrs.frozen(kw_only=True)
class NextHop:
    """The server to which remote mail is relayed at once.

    Raises TypeError or ValueError for an invalid value, and ValueError for an invalid combination of fields.

        >>> login = server.Login(name="alice", password=b"wonderland")
        >>> hop = server.NextHop(host="relay.example", port=587, ssl_context=ssl.create_default_context(), login=login)
        >>> str(hop)
        'smtp://relay.example:587'
    """

    host: str = attrs.field(validator=field(check_text))
    port: int = attrs.field(validator=field(check_port, 1))

    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False, validator=field(check_client_context))
    """For implicit TLS, or for STARTTLS where it is offered; it also holds the trusted CAs.  None: no TLS, and
    *tls_required* must be false."""

    implicit_tls: bool = attrs.field(default=False, validator=field(check_type, bool))
    """Start TLS at once, as on port 465."""

    tls_required: bool = attrs.field(default=True, validator=field(check_type, bool))
    """Send no mail without TLS, even if STARTTLS is not offered: an attacker can remove it.  If False and there is no
    *login*, mail is sent in clear text if STARTTLS is not offered, is rejected or fails."""

    login: Login | None = attrs.field(
        default=None, validator=field(check_type, Login, use="Login(name=..., password=...)", optional=True)
    )
    """The login of this server.  The credentials of its clients are never passed on.  With a login and an
    *ssl_context*, no mail is sent without TLS, even if *tls_required* is false."""

    clear_text_login: bool = attrs.field(default=False, validator=field(check_type, bool))
    """Without an *ssl_context*: also log in with PLAIN, LOGIN or CRAM-MD5, not only with SCRAM.  An eavesdropper can
    then learn the password."""

    timeouts: Timeouts = attrs.field(factory=Timeouts, validator=field(check_type, Timeouts))

    tls_failure: TlsFailure = attrs.field(factory=TlsFailure, init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.ssl_context is None and (self.implicit_tls or self.tls_required):
            raise ValueError("implicit_tls and tls_required need an ssl_context")
        if self.clear_text_login and (self.ssl_context is not None or self.login is None):
            raise ValueError("clear_text_login needs a login and must be used without an ssl_context")

    @property
    def needs_tls(self) -> bool:
        """Whether neither mail nor a login may be sent without TLS."""
        return self.tls_required or (self.login is not None and self.ssl_context is not None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.implicit_tls else 'smtp'}://{host}:{self.port}"
