"""What the connections of one server, or of one client, have in common: frozen, checked when made, shared by all.

Each limit is a field, and its comment says where the number comes from.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final, Literal

import attrs

from .. import sasl
from .._errors import LocalProtocolError
from .._events import NeedData, Tls
from .replies import Reply

MAX_COMMAND_LINE: Final = 255
"""Octets of a command with its CRLF (RFC 2449 section 4); what a client keeps to, and a server takes at least."""

_HOST_NAME: Final = re.compile(r"[!-;=?-~]{1,255}")


def _own() -> dict[str, sasl.ServerFactory]:
    factories: dict[str, sasl.ServerFactory] = {"USER": lambda context: sasl.UserPassServer(tls=context.tls)}
    if sasl.MD5_AVAILABLE:
        factories["APOP"] = lambda context: sasl.ApopServer(timestamp=context.message_id, tls=context.tls)
    return factories


DEFAULT_MECHANISMS: Final = sasl.Mechanisms({**_own(), **sasl.DEFAULT_MECHANISMS.factories})
"""POP3's own two, USER and APOP, before those of ``sasl.DEFAULT_MECHANISMS``."""

ALL_MECHANISMS: Final = sasl.ExtendedMechanisms({**_own(), **sasl.ALL_MECHANISMS.factories})
"""POP3's own two, USER and APOP, before those of ``sasl.ALL_MECHANISMS``."""


def _optional_count(instance: object, attribute: object, number: int | None) -> None:
    if number is not None and number < 0:
        raise LocalProtocolError("a delay or an expiry is 0 or more")


def _optional_expiry(instance: object, attribute: object, expire: int | str | None) -> None:
    if isinstance(expire, str) and expire != "NEVER":
        raise LocalProtocolError("expire is a number of days or NEVER")
    _optional_count(instance, attribute, None if isinstance(expire, str) else expire)


_NOT_SASL: Final = frozenset({"USER", "APOP"})  # they have verbs of their own, and are no answer to AUTH


@attrs.frozen(kw_only=True)
class ExtendedServerSettings:
    """How a POP3 server behaves whose application is asked whatever a mechanism may ask (``pop3.ExtendedServerEvent``).

    Raises LocalProtocolError or ValueError for what no server may be told.
    """

    host_name: str = "localhost"
    """How the server names itself in greeting and challenges."""

    mechanisms: sasl.ExtendedMechanisms = DEFAULT_MECHANISMS
    """The ways to log in inside TLS; ``USER`` (USER and PASS) and ``APOP`` are names like the others.  Offered as far
    as the connection can carry them: see ``sasl.is_possible()``."""

    scram_decoy: sasl.ScramDecoy | None = None
    """What SCRAM shows of an identity without keys; needed where SCRAM is among the mechanisms."""

    mechanisms_without_tls: frozenset[str] = frozenset()
    """The names of those offered and accepted in clear text too; each shows passwords or digests to whoever listens.
    Names that *mechanisms* does not hold offer nothing."""

    stls: bool = False
    """Offer STLS in clear text; the adapter must be able to do the handshake."""

    utf8: bool = True
    """Offer UTF8, and UTF-8 in the arguments of USER, PASS and APOP (RFC 6856).  Names and passwords are then prepared
    by ``sasl.saslprep()`` before they are compared, and a message whose header is UTF-8 beyond ASCII is refused
    with ``[UTF8]`` to a client that did not say UTF8.  False: neither; messages go out as they are."""

    login_delay: int | None = attrs.field(default=None, validator=_optional_count)
    """Seconds between two logins, for CAPA's LOGIN-DELAY (RFC 2449 section 6.5).  Set it only where the application
    enforces it, by ``pop3.Unavailable.LOGIN_DELAY``: there is no clock in here."""

    expire: int | Literal["NEVER"] | None = attrs.field(default=None, validator=_optional_expiry)
    """Days that a message is kept at least, or NEVER an end to it, for CAPA's EXPIRE (RFC 2449 section 6.7).  Set it
    only where the store keeps to it.  The same for all identities, as *login_delay* is: no ``USER`` behind it."""

    implementation: str = "mailauth"
    """What CAPA tells of the make (RFC 2449 section 6.9); empty: nothing."""

    max_command_line: int = attrs.field(default=MAX_COMMAND_LINE, validator=attrs.validators.ge(MAX_COMMAND_LINE))
    """Octets of a command with CRLF (RFC 2449 section 4); lines of an AUTH exchange may have 12,288."""

    max_errors: int = attrs.field(default=20, validator=attrs.validators.ge(3))
    """Commands refused for syntax or order, before the login for anything; then the end.  A login counts as one of them
    if it is cancelled or badly encoded before the application was asked, if another USER replaces it, or if it ends in
    a temporary failure.  No RFC names a number."""

    max_failed_logins: int = attrs.field(default=3, validator=attrs.validators.ge(3))
    """Failed logins, the last of which ends the session; not before three (RFC 4954 section 9 says so for SMTP).  One
    whose name or password cannot be prepared counts, as does one that is broken off after the application was asked."""

    timeout: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    """Seconds for a command or a line of a login, from the reply before it on; then the session ends, and no deletion
    is committed.  An autologout timer has ten minutes at least (RFC 1939 section 3)."""

    login_timeout: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    """Seconds from the beginning of the connection to a login, whatever is said in between.  Infinite: no such end.  No
    RFC names a number; it is that of *timeout*."""

    def __attrs_post_init__(self) -> None:
        timestamp = self.context("0" * 32, None).message_id
        if not _HOST_NAME.fullmatch(self.host_name) or not sasl.is_message_id(timestamp):
            raise LocalProtocolError(f"host_name {self.host_name!r} is no name, or too long for a timestamp")
        if not self.implementation.isascii() or not f"x{self.implementation}".isprintable():
            raise LocalProtocolError("implementation may hold printable ASCII only")
        sasl.check_offer(self.mechanisms, self.scram_decoy)

    @cached_property
    def waits(self) -> tuple[NeedData, NeedData]:
        """For a command before the login, and for one after it."""
        return NeedData(timeout=self.timeout, until=self.login_timeout), NeedData(timeout=self.timeout)

    def offers(self, mechanism: str, tls: Tls | None) -> bool:
        """Whether that way to log in is open in that state."""
        if mechanism not in self.mechanisms or not sasl.is_possible(mechanism, tls):
            return False
        return tls is not None or mechanism in self.mechanisms_without_tls

    def context(self, nonce: str, tls: Tls | None) -> sasl.Context:
        """What a mechanism needs to begin."""
        return sasl.Context.of(
            tls, nonce=nonce, host_name=self.host_name, offered=self.offered(tls), scram_decoy=self.scram_decoy
        )

    def offered(self, tls: Tls | None) -> tuple[str, ...]:
        """The SASL mechanisms on offer in that state, in their order."""
        offered = self._offered.get(kind := sasl.kind_of_connection(tls))
        if offered is None:
            names = [name for name in self.mechanisms.names if name not in _NOT_SASL and self.offers(name, tls)]
            offered = self._offered[kind] = tuple(names)
        return offered

    def capa_reply(self, tls: Tls | None, *, logged_in: bool) -> bytes:
        """The whole answer to CAPA in that state, as on the wire."""
        reply = self._capa_replies.get(kind := (logged_in, *sasl.kind_of_connection(tls)))
        if reply is None:
            lines = self.capabilities(tls, logged_in=logged_in)
            reply = self._capa_replies[kind] = Reply(True, "", "capability list follows", lines).to_wire()
        return reply

    # Both are made once for each kind of connection: a client may ask for them as often as it likes before a login.

    @cached_property
    def _offered(self) -> dict[tuple[bool, ...], tuple[str, ...]]:
        return {}

    @cached_property
    def _capa_replies(self) -> dict[tuple[bool, ...], bytes]:
        return {}

    def capabilities(self, tls: Tls | None, *, logged_in: bool) -> tuple[str, ...]:
        """The lines of the CAPA answer in that state (RFC 2449 section 6, RFC 3206, 2595 and 6856)."""
        named = self.offers("USER", tls) or self.offers("APOP", tls)
        offered = self.offered(tls)
        rows = (
            ("TOP", True),
            ("UIDL", True),
            ("RESP-CODES", True),
            ("AUTH-RESP-CODE", True),
            ("PIPELINING", True),
            ("USER", self.offers("USER", tls)),
            (f"SASL {' '.join(offered)}", bool(offered)),
            ("STLS", self.stls and tls is None and not logged_in),  # announced in AUTHORIZATION alone
            ("UTF8 USER" if named else "UTF8", self.utf8),
            (f"LOGIN-DELAY {self.login_delay}", self.login_delay is not None),
            (f"EXPIRE {self.expire}", self.expire is not None),
            (f"IMPLEMENTATION {self.implementation}", bool(self.implementation)),
        )
        return tuple(line for line, on in rows if on)


@attrs.frozen(kw_only=True)
class ServerSettings(ExtendedServerSettings):
    """How a POP3 server behaves whose application is asked about passwords alone (``pop3.ServerEvent``).

    Raises LocalProtocolError or ValueError for what no server may be told.
    """

    mechanisms: sasl.Mechanisms = attrs.field(
        default=DEFAULT_MECHANISMS, validator=attrs.validators.instance_of(sasl.Mechanisms)
    )
    """The ways to log in inside TLS; ``USER`` (USER and PASS) and ``APOP`` are names like the others."""


@attrs.frozen(kw_only=True)
class ClientSettings:
    """How a POP3 client behaves."""

    tls_required: bool = False
    """Outside TLS no login can begin: a stripped STLS ends in an error, not in clear text (RFC 2595 section 2.1)."""

    max_reply_line: int = attrs.field(default=2_048, validator=attrs.validators.ge(512))
    """Octets of one line of an answer, with CRLF: 512 by RFC 1939 section 3; the standard library takes 2,048."""

    max_response: int = attrs.field(default=8_388_608, validator=attrs.validators.ge(65_536))
    """Octets of a multi-line answer to CAPA, LIST or UIDL: a hundred thousand unique-ids of 70 characters."""

    max_unanswered: int = attrs.field(default=200, validator=attrs.validators.ge(1))
    """Commands sent and not answered yet: so few that their lines never fill a TCP window (RFC 2449 section 6.6)."""
