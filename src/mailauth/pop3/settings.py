"""The settings of a POP3 server or client, shared by all its connections.  They are immutable and validated.

Each limit is a field, documented with the source of its default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, Literal

import attrs

from .. import sasl
from .._lines import check_command_line
from .._validators import check_integer, frozenset_of, integer, positive, tuple_of, value_of
from ..errors import LocalProtocolError, Malformed
from ..events import Command, NeedData, Tls
from ..sasl.offer import checked_context
from . import _standard_replies
from ._command_lines import login_line_limit, parse_argument, split_line
from .replies import Reply
from .states import State
from .verbs import Verb, by_name

MAX_COMMAND_LINE: Final = 255
"""Maximum bytes of a command with CRLF that a client may send and a server must accept (RFC 2449 section 4)."""

_HOST_NAME: Final = re.compile(r"[!-;=?-~]{1,255}")


def create_user_pass(context: sasl.Context) -> sasl.ServerMechanism:
    """The factory of USER."""
    return sasl.UserPassServer(tls=context.tls)


def _own() -> dict[str, sasl.ServerFactory]:
    factories: dict[str, sasl.ServerFactory] = {"USER": create_user_pass}
    if sasl.MD5_AVAILABLE:
        factories["APOP"] = lambda context: sasl.ApopServer(timestamp=context.message_id, tls=context.tls)
    return factories


DEFAULT_MECHANISMS: Final = sasl.Mechanisms({**_own(), **sasl.DEFAULT_MECHANISMS.factories})
"""USER and APOP, which are specific to POP3, followed by ``sasl.DEFAULT_MECHANISMS``."""

ALL_MECHANISMS: Final = sasl.Mechanisms({**_own(), **sasl.ALL_MECHANISMS.factories})
"""USER and APOP, which are specific to POP3, followed by ``sasl.ALL_MECHANISMS``."""


def _check_expire(instance: object, attribute: object, expire: int | str | None) -> None:
    if isinstance(expire, str) and expire != "NEVER":
        raise LocalProtocolError(f"expire must be a number of days or 'NEVER', not {expire!r}")
    if expire is not None and expire != "NEVER":
        check_integer("expire", expire, 0)


_NOT_SASL: Final = frozenset({"USER", "APOP"})  # these have verbs of their own and are not mechanisms of AUTH


@attrs.frozen(kw_only=True)
class ServerSettings:
    """The settings of a server.

    Raises LocalProtocolError for an invalid value.

    Fields:

    host_name
        The name of the server in the greeting and in challenges.
    mechanisms
        The mechanisms offered with TLS, including ``USER`` (USER and PASS) and ``APOP``.  Only those that the
        connection supports are offered: see ``sasl.is_possible()``.
    scram_decoy
        What SCRAM sends for an identity without keys.  Required if SCRAM is among the mechanisms.
    mechanisms_without_tls
        The names of the mechanisms offered without TLS too.  Each exposes passwords or digests to
        eavesdroppers.  Each must be in *mechanisms*, USER and APOP excepted.
    stls
        Offer STLS.  The adapter must support the TLS handshake.
    utf8
        Offer UTF8, and accept UTF-8 in the arguments of USER, PASS and APOP (RFC 6856).  Names and passwords are
        prepared by ``sasl.saslprep()`` before they are compared.  If False, none of this applies.
    refuse_utf8_headers
        Reply ``-ERR [UTF8]`` to RETR and TOP of a message whose header contains non-ASCII UTF-8, unless the client
        has sent UTF8 (RFC 6856 section 2.1).  Many clients cannot retrieve such a message then, and some stop at
        it.  By default, every message is sent as it is.  *strict_syntax* includes this.  It has no effect if *utf8*
        is False.
    login_delay
        Seconds between two logins, listed by CAPA as LOGIN-DELAY (RFC 2449 section 6.5).  Set it only if the
        application enforces it with ``pop3.Unavailable.LOGIN_DELAY``, because the core has no clock.
    expire
        The minimum number of days for which a message is kept, or ``"NEVER"`` if it never expires; listed by CAPA
        as EXPIRE (RFC 2449 section 6.7).  Set it only if the store enforces it.  Like *login_delay*, it is the same
        for all users: CAPA does not add ``USER`` to it.
    implementation
        The text of IMPLEMENTATION in CAPA (RFC 2449 section 6.9); empty to omit it.
    strict_syntax
        Reject commands that break the grammar of RFC 1939, even where their meaning is clear, and imply
        *refuse_utf8_headers*; docs/tolerance.md lists what is accepted otherwise.
    max_command_line
        Maximum bytes of a command with CRLF (RFC 2449 section 4).  A line of an AUTH exchange may have
        12,288.  Unless *strict_syntax* is set, AUTH and PASS may have as many: clients send a token with AUTH in
        one line.
    max_errors
        The number of errors after which the session ends.  An error is a command rejected for its syntax or due to
        the state; before the login, any rejected command.  A login counts as an error if it is cancelled or badly
        encoded before the application was asked, if another USER replaces it, or if it ends in a temporary
        failure.  No RFC gives a number.
    max_failed_logins
        The number of failed logins after which the session ends, at least 3 (RFC 4954 section 9 for SMTP).  A login
        also counts if its name or password cannot be prepared, or if the client aborts it after the application was
        asked.
    timeout
        Seconds to wait for a command or a line of a login, counted from the last reply.  Then the session ends, and
        no deletion is committed.  RFC 1939 section 3 requires at least ten minutes.
    login_timeout
        Seconds from the start of the connection to a successful login; infinite for no limit.  No RFC gives a
        number; the default is that of *timeout*.
    verbs
        Rows of verbs that the application adds, or that replace the rows of the same name (see ``pop3.Verb``).

    For example:

        >>> settings = pop3.ServerSettings(host_name="mail.example", stls=True, expire="NEVER")
        >>> "EXPIRE NEVER" in settings.capabilities(None, logged_in=True)
        True
    """

    host_name: str = attrs.field(default="localhost", validator=value_of(str))

    mechanisms: sasl.Mechanisms = attrs.field(default=DEFAULT_MECHANISMS, validator=value_of(sasl.Mechanisms))

    scram_decoy: sasl.ScramDecoy | None = attrs.field(default=None, validator=value_of(sasl.ScramDecoy, optional=True))

    mechanisms_without_tls: frozenset[str] = attrs.field(default=frozenset[str](), validator=frozenset_of(str))

    stls: bool = attrs.field(default=False, validator=value_of(bool))

    utf8: bool = attrs.field(default=True, validator=value_of(bool))

    refuse_utf8_headers: bool = attrs.field(default=False, validator=value_of(bool))

    login_delay: int | None = attrs.field(default=None, validator=integer(0, optional=True))

    expire: int | Literal["NEVER"] | None = attrs.field(default=None, validator=_check_expire)

    implementation: str = attrs.field(default="mailauth", validator=value_of(str))

    strict_syntax: bool = attrs.field(default=False, validator=value_of(bool))

    max_command_line: int = attrs.field(default=MAX_COMMAND_LINE, validator=integer(MAX_COMMAND_LINE))

    max_errors: int = attrs.field(default=20, validator=integer(3))

    max_failed_logins: int = attrs.field(default=3, validator=integer(3))

    timeout: float = attrs.field(default=600.0, validator=positive())

    login_timeout: float = attrs.field(default=600.0, validator=positive(infinite=True))

    verbs: tuple[Verb[Any], ...] = attrs.field(default=(), validator=tuple_of(Verb))

    def __attrs_post_init__(self) -> None:
        timestamp = self.context("0" * 32, None).message_id
        if not _HOST_NAME.fullmatch(self.host_name) or not sasl.is_message_id(timestamp):
            raise LocalProtocolError(
                f"invalid host_name {self.host_name!r}; use a domain name of at most 255 characters"
            )
        if not self.implementation.isascii() or not f"x{self.implementation}".isprintable():
            raise LocalProtocolError(f"implementation must be printable ASCII, not {self.implementation!r}")
        sasl.check_offer(self.mechanisms, self.scram_decoy, self.mechanisms_without_tls)
        Reply(True, "", "", self.capabilities(None, logged_in=False))  # raises for an invalid line

    @cached_property
    def timeouts(self) -> tuple[NeedData, NeedData]:
        """The waits for a command before the login and after it."""
        return NeedData(timeout=self.timeout, until=self.login_timeout), NeedData(timeout=self.timeout)

    def greeting(self, timestamp: str | None) -> bytes:
        """Return the greeting, as sent.  *timestamp* is the nonce in its last word; None if APOP is not offered."""
        before, after = self._around_timestamp
        return b"+OK POP3 server ready\r\n" if timestamp is None else before + timestamp.encode("ascii") + after

    @cached_property
    def _around_timestamp(self) -> tuple[bytes, bytes]:
        nonce = "0" * 32
        before, _, after = self.context(nonce, None).message_id.partition(nonce.encode("ascii"))
        return b"+OK POP3 server ready " + before, after + b"\r\n"

    @property
    def refuses_utf8_headers(self) -> bool:
        """Whether a message with a UTF-8 header is refused to a client that has not sent UTF8."""
        return self.utf8 and (self.refuse_utf8_headers or self.strict_syntax)

    def offers(self, mechanism: str, tls: Tls | None) -> bool:
        """Return whether *mechanism* is offered on a connection with *tls*; None means no TLS."""
        if mechanism not in self.mechanisms or not sasl.is_possible(mechanism, tls):
            return False
        return tls is not None or mechanism in self.mechanisms_without_tls

    def context(self, nonce: str, tls: Tls | None) -> sasl.Context:
        """Return the context from which a mechanism is created."""
        return checked_context(
            tls,
            nonce=nonce,
            host_name=self.host_name,
            offered=self.offered(tls),
            scram_decoy=self.scram_decoy,
            strict_syntax=self.strict_syntax,
        )

    def offered(self, tls: Tls | None) -> tuple[str, ...]:
        """Return the SASL mechanisms offered on a connection with *tls*, in the order of *mechanisms*."""
        offered = self._offered.get(kind := sasl.tls_capabilities(tls))
        if offered is None:
            names = [name for name in self.mechanisms.names if name not in _NOT_SASL and self.offers(name, tls)]
            offered = self._offered[kind] = tuple(names)
        return offered

    def capa_reply(self, tls: Tls | None, *, logged_in: bool) -> bytes:
        """Return the complete response to CAPA, as sent."""
        reply = self._capa_replies.get(kind := (logged_in, *sasl.tls_capabilities(tls)))
        if reply is None:
            lines = self.capabilities(tls, logged_in=logged_in)
            reply = self._capa_replies[kind] = Reply(True, "", "capability list follows", lines).to_wire()
        return reply

    # Computed once for each kind of connection, because a client may request them repeatedly before a login.

    @cached_property
    def _offered(self) -> dict[tuple[bool, ...], tuple[str, ...]]:
        return {}

    @cached_property
    def _capa_replies(self) -> dict[tuple[bool, ...], bytes]:
        return {}

    def capabilities(self, tls: Tls | None, *, logged_in: bool) -> tuple[str, ...]:
        """Return the lines of the response to CAPA (RFC 2449 section 6, RFC 2595, 3206, 5034 and 6856)."""
        about_messages: list[str] = []
        about_login: list[str] = []
        for row in self.table.values():
            line = row.capability(self, tls, logged_in) if callable(row.capability) else row.capability
            if line:
                (about_messages if State.TRANSACTION in row.states else about_login).append(line)
        rows = (
            (f"LOGIN-DELAY {self.login_delay}", self.login_delay is not None),
            (f"EXPIRE {self.expire}", self.expire is not None),
            (f"IMPLEMENTATION {self.implementation}", bool(self.implementation)),
        )
        always = ("RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")
        return (*about_messages, *always, *about_login, *(line for line, on in rows if on))

    def parse_command(self, line: bytes) -> Command:
        """Return the command in *line*, parsed as a server with these settings parses it.

        *line* is without its CRLF.  The state of a session is not considered, nor whether a login succeeds: a server
        may still reject the command as out of order or not offered, or because the message does not exist.  AUTH and
        PASS may be as long as before the login.

        Raises Malformed if a server rejects the line for its syntax or its length, or does not have the verb (RFC 1939
        section 3).  Raises LocalProtocolError if *line* is not bytes, or contains a CRLF.

            >>> pop3.ServerSettings().parse_command(b"top 2  10")
            Retrieve(number=2, lines=10)
        """
        strict = self.strict_syntax
        if len(check_command_line(line)) + 2 > login_line_limit(line, self.max_command_line, strict=strict):
            raise Malformed(_standard_replies.LINE_TOO_LONG.text)
        verb, argument = split_line(line, strict=strict)
        row = self.table.get(verb)
        if row is None:
            raise Malformed(_standard_replies.UNKNOWN_COMMAND.text)
        return parse_argument(row, argument, strict=strict)

    @cached_property
    def table(self) -> Mapping[str, Verb[Any]]:
        """The rows of all verbs by name."""
        return by_name(self.verbs)

    @cached_property
    def accepted(self) -> Mapping[str, bytes]:
        """The positive replies that do not depend on the connection, by verb, as on the wire."""
        return {name: row.accepted.to_wire() for name, row in self.table.items() if isinstance(row.accepted, Reply)}


@attrs.frozen(kw_only=True)
class ClientSettings:
    """The settings of a POP3 client.

    Fields:

    tls_required
        Refuse to log in without TLS, so that an attacker who removes STLS from CAPA causes an error instead of a
        login in clear text (RFC 2595 section 2.1).
    strict_syntax
        Raise an error for responses that break the grammar of RFC 1939, even where their meaning is clear, and for
        a server that closes the connection instead of replying to QUIT; docs/tolerance.md lists what is accepted
        otherwise.
    max_reply_line
        Maximum bytes of a response line with CRLF.  RFC 1939 section 3 allows 512; poplib accepts 2,048.
    max_response
        Maximum bytes of a multi-line response to CAPA, LIST or UIDL: enough for 100,000 unique-ids of 70
        characters.
    max_unanswered
        Maximum number of unanswered commands, low enough that they do not fill a TCP window (RFC 2449 section 6.6).
    verbs
        Rows of verbs that ``send()`` accepts in addition, or that replace the rows of the same name.  The class of
        each command has the name of its row as ``verb``, and a method ``to_wire()``.

    For example:

        settings = pop3.ClientSettings(tls_required=True, max_response=1_048_576)
        client = pop3.ClientConnection(settings)  # authenticate() refuses a login in clear text
    """

    tls_required: bool = attrs.field(default=False, validator=value_of(bool))

    strict_syntax: bool = attrs.field(default=False, validator=value_of(bool))

    max_reply_line: int = attrs.field(default=2_048, validator=integer(512))

    max_response: int = attrs.field(default=8_388_608, validator=integer(65_536))

    max_unanswered: int = attrs.field(default=200, validator=integer(1))

    verbs: tuple[Verb[Any], ...] = attrs.field(default=(), validator=tuple_of(Verb))

    def __attrs_post_init__(self) -> None:
        for row in self.verbs:
            kind = row.kind
            verb = getattr(kind, "verb", None)
            if not (verb == row.name or isinstance(verb, property)):
                raise LocalProtocolError(
                    f"verbs: {kind.__name__} must have the name of its row; define verb: ClassVar[str] = {row.name!r}"
                )
            if not callable(getattr(kind, "to_wire", None)):
                raise LocalProtocolError(
                    f"verbs: {kind.__name__} has no to_wire(); define it, to return the {row.name} line with CRLF"
                )

    @cached_property
    def table(self) -> Mapping[str, Verb[Any]]:
        """The rows of all verbs by name."""
        return by_name(self.verbs)
