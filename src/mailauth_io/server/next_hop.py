"""The configuration of the next hop, the server to which remote mail is relayed."""

from __future__ import annotations

import secrets
import ssl
from typing import Final

import attrs

from mailauth import LocalProtocolError, Tls, sasl

from .._checks import (
    check_choice,
    check_client_context,
    check_integer,
    check_number,
    check_port,
    check_text,
    check_type,
    field,
)


@attrs.frozen(kw_only=True)
class Timeouts:
    """Timeouts for the next hop, in seconds.  Each is for a whole step: partial input does not restart it.

    Raises TypeError or ValueError for a value that is not a finite number above 0.

    Fields:

    recipient
        For everything that one RCPT of the client can cause: the wait for a session, connection, TLS, login, MAIL
        and RCPT.  The client waits meanwhile, and should do so for at least five minutes (RFC 5321 section
        4.5.3.2.3).
    session
        For the wait until another session with the next hop is possible (*max_sessions* of NextHop).  No RFC gives a
        number.  It must be much less than *recipient*, because a mail loop through other servers ends with it.  A
        client that keeps the server waiting for half of this time during a transaction loses its session to one that
        waits.
    connect
        For a TCP connection to one address of the next hop.  30 seconds is the default of Postfix
        (smtp_connect_timeout).  If there is another address, this is also the time for the greeting, EHLO and TLS
        at this one.  After that the next address is tried.
    data
        For the reply to DATA (RFC 5321 section 4.5.3.2.4).
    block
        For sending 64 KiB of content (RFC 5321 section 4.5.3.2.5).
    final_reply
        For the reply to the end of the message (RFC 5321 section 4.5.3.2.6).  A larger value has no effect, because
        the core's client connection has the same limit.  The client is already waiting when this timeout starts;
        see docs/relay.md.
    idle
        The time since the last use after which a connection is not reused: it may have been dropped without notice.
    quit
        For QUIT, whose result does not matter.
    check
        For the connection test when the server starts.  Its result is only reported.

    For example:

        timeouts = server.Timeouts(connect=10.0, idle=30.0)
        hop = server.NextHop(host="relay.example", port=25, tls_required=False, timeouts=timeouts)
    """

    recipient: float = attrs.field(default=270.0, validator=field(check_number))

    session: float = attrs.field(default=60.0, validator=field(check_number))

    connect: float = attrs.field(default=30.0, validator=field(check_number))

    data: float = attrs.field(default=120.0, validator=field(check_number))

    block: float = attrs.field(default=180.0, validator=field(check_number))

    final_reply: float = attrs.field(default=600.0, validator=field(check_number))

    idle: float = attrs.field(default=60.0, validator=field(check_number))

    quit: float = attrs.field(default=5.0, validator=field(check_number))

    check: float = attrs.field(default=5.0, validator=field(check_number))


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

    def mechanisms(
        self, tls: Tls | None, *, clear_text: bool = False, only: str | None = None
    ) -> tuple[sasl.ClientMechanism, ...]:
        """Return new client mechanisms for one login, the strongest first.

        Without TLS they are the SCRAM mechanisms only, unless *clear_text* also allows those that reveal the password,
        or an MD5 digest of it, to an eavesdropper.  *only* is the name of the one that is wanted, or None for all.  A
        SCRAM mechanism that is named without -PLUS says that the client does not support channel binding.
        """
        found = sasl.password_mechanisms(
            self.name, self.password, entropy=secrets.token_bytes(32), tls=tls, clear_text=clear_text,
            channel_binding="prefer" if only is None or only.endswith("-PLUS") else "none",
        )  # fmt: skip
        if tls is None and not clear_text:
            found = tuple(mechanism for mechanism in found if mechanism.name.startswith("SCRAM-"))
        return tuple(mechanism for mechanism in found if only in (None, mechanism.name))


MECHANISMS: Final = (
    *("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1"),
    *("CRAM-MD5", "PLAIN", "LOGIN"),
)
"""The mechanisms for a login at a next hop, the strongest first."""


@attrs.frozen(kw_only=True)
class NextHop:
    """The server to which remote mail is relayed at once.

    Raises TypeError or ValueError for an invalid value, and ValueError for an invalid combination of fields.

    Fields:

    host
        The name or the IP address of the server.  Its certificate must be valid for it.
    port
        The port of the server, such as 25, 465 or 587.
    ssl_context
        For implicit TLS, or for STARTTLS where it is offered; it also holds the trusted CAs.  None: no TLS, and
        *tls_required* must be false.
    implicit_tls
        Start TLS at once, as on port 465.
    tls_required
        Send no mail without TLS, even if STARTTLS is not offered: an attacker can remove it.  If False and there is
        no *login*, mail is sent in clear text if STARTTLS is not offered, is rejected or fails.
    login
        The login of this server.  The credentials of its clients are never passed on.  With a login and an
        *ssl_context*, no mail is sent without TLS, even if *tls_required* is false.
    clear_text_login
        Without an *ssl_context*: also log in with PLAIN, LOGIN or CRAM-MD5, not only with SCRAM.  An eavesdropper
        can then learn the password.
    mechanism
        The only mechanism for the login, such as ``PLAIN``; one of MECHANISMS.  None: the strongest that the next
        hop offers; if it refuses that one, up to two others.
    strict_syntax
        Treat replies that break the grammar in a harmless way as errors, which the client sees as 451;
        docs/tolerance.md lists what is accepted otherwise.
    max_sessions
        The maximum number of concurrent sessions with the next hop.  20 is the default of Postfix
        (default_destination_concurrency_limit).  They are shared between networks, addresses and accounts: one
        account at one address may have a quarter of them.
    timeouts
        The seconds to wait for the server.

    For example:

        >>> login = server.Login(name="alice", password=b"wonderland")
        >>> hop = server.NextHop(host="relay.example", port=587, ssl_context=ssl.create_default_context(), login=login)
        >>> str(hop)
        'smtp://relay.example:587'
    """

    host: str = attrs.field(validator=field(check_text))
    port: int = attrs.field(validator=field(check_port, 1))

    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False, validator=field(check_client_context))

    implicit_tls: bool = attrs.field(default=False, validator=field(check_type, bool))

    tls_required: bool = attrs.field(default=True, validator=field(check_type, bool))

    login: Login | None = attrs.field(
        default=None, validator=field(check_type, Login, use="Login(name=..., password=...)", optional=True)
    )

    clear_text_login: bool = attrs.field(default=False, validator=field(check_type, bool))

    mechanism: str | None = attrs.field(default=None, validator=field(check_text, optional=True))

    strict_syntax: bool = attrs.field(default=False, validator=field(check_type, bool))

    max_sessions: int = attrs.field(default=20, validator=field(check_integer, 1))

    timeouts: Timeouts = attrs.field(factory=Timeouts, validator=field(check_type, Timeouts))

    def __attrs_post_init__(self) -> None:
        if self.ssl_context is None and (self.implicit_tls or self.tls_required):
            raise ValueError("implicit_tls and tls_required need an ssl_context")
        if self.clear_text_login and (self.ssl_context is not None or self.login is None):
            raise ValueError("clear_text_login needs a login and must be used without an ssl_context")
        if self.mechanism is not None:
            self._check_mechanism(self.mechanism)
        if self.login is not None:
            self._check_login(self.login)

    def _check_mechanism(self, mechanism: str) -> None:
        check_choice("mechanism", mechanism, MECHANISMS)
        if self.login is None:
            raise ValueError("mechanism needs a login; use login=Login(name=..., password=...)")
        unbound = mechanism.removesuffix("-PLUS")
        if self.ssl_context is None and unbound != mechanism:
            raise ValueError(f"{mechanism} needs an ssl_context: it binds the login to the TLS session; use {unbound}")
        if self.ssl_context is None and not self.clear_text_login and not mechanism.startswith("SCRAM-"):
            raise ValueError(f"without an ssl_context, {mechanism} needs clear_text_login=True; or use SCRAM-SHA-256")

    def _check_login(self, login: Login) -> None:
        """Raise ValueError if no mechanism that may be used can send *login*."""
        only = None if self.mechanism is None else self.mechanism.removesuffix("-PLUS")
        clear_text = self.ssl_context is not None or self.clear_text_login
        try:
            possible = login.mechanisms(None, clear_text=clear_text, only=only)
        except LocalProtocolError:
            possible = ()
        if not possible:
            which = self.mechanism or "SCRAM, the only mechanism that may be used without TLS,"
            raise ValueError(f"{which} cannot send this user name and password; use another mechanism or TLS")

    @property
    def needs_tls(self) -> bool:
        """Whether neither mail nor a login may be sent without TLS."""
        return self.tls_required or (self.login is not None and self.ssl_context is not None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.implicit_tls else 'smtp'}://{host}:{self.port}"
