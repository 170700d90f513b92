"""What the connections of one server, or of one client, have in common: frozen, checked when made, shared by all of
them.

Each limit is a field, and its comment says where the number comes from.
"""

from __future__ import annotations

import re
from functools import cached_property
from types import MappingProxyType
from typing import Final

import attrs

from .. import sasl
from .._errors import LocalProtocolError, Malformed
from .._events import NeedData, Tls
from ._command_lines import PARSERS
from ._grammar import check_domain
from ._parameters import PARAMETERS, Parameter
from .commands import Mail, Rcpt
from .replies import Reply

_VERBS_OF_EXTENSIONS: Final = MappingProxyType({"CHUNKING": "BDAT"})
_EHLO_LINE: Final = re.compile(r"[A-Z0-9][A-Z0-9-]*(?: [!-~]+)*")
_MAX_EHLO_LINE: Final = 506  # of the 512 octets of a reply line, without code and CRLF (RFC 5321 section 4.5.3.1.5)


@attrs.frozen(kw_only=True)
class ExtendedServerSettings:
    """The settings of a server whose application handles ``smtp.ExtendedServerEvent``.

    Raises LocalProtocolError or ValueError for what no server may be told.
    """

    host_name: str = "localhost"
    """How the server names itself in greeting, EHLO and challenges: a domain or an address literal."""

    mechanisms: sasl.ExtendedMechanisms = sasl.DEFAULT_MECHANISMS
    """The SASL mechanisms offered inside TLS, as far as the connection can carry them: see ``sasl.is_possible()``."""

    scram_decoy: sasl.ScramDecoy | None = None
    """What SCRAM shows of an identity without keys; needed where SCRAM is among the mechanisms."""

    mechanisms_without_tls: frozenset[str] = frozenset()
    """The names of those offered and accepted in clear text too; each shows passwords or digests to whoever listens.
    Names that *mechanisms* does not hold offer nothing."""

    authentication_required: bool = False
    """MAIL before a login is 530 5.7.0 (RFC 6409 section 4.3)."""

    tls_required: bool = False
    """In clear text all but EHLO, HELO, NOOP, RSET, HELP, STARTTLS, QUIT is 530 5.7.0 (RFC 3207 section 4)."""

    starttls: bool = False
    """Offer STARTTLS in clear text; the adapter must be able to do the handshake."""

    lmtp: bool = False
    """Speak LMTP (RFC 2033), never on port 25: LHLO instead of EHLO and HELO, and behind the content one reply for each
    accepted recipient, so that MessageComplete may be answered by ``smtp.PerRecipient``."""

    pipelining: bool = True
    eight_bit_mime: bool = True
    enhanced_status_codes: bool = True
    chunking: bool = False
    """BDAT beside DATA (RFC 3030); the application sees the same events."""
    binary_mime: bool = False
    """BODY=BINARYMIME by BDAT (RFC 3030 section 3): bare CR, LF and NUL then belong to the content.  Needs *chunking*,
    and an application that never hands such a message on by DATA."""

    smtputf8: bool = False
    """Mailboxes beyond ASCII, in transactions that begin with the parameter SMTPUTF8 (RFC 6531): an application that
    turns it on takes them everywhere it keeps, compares or passes on an address.  Needs *eight_bit_mime*."""

    dsn: bool = False
    """RET, ENVID, NOTIFY and ORCPT (RFC 3461): an application that turns it on sends the reports they ask for."""
    requiretls: bool = False
    """REQUIRETLS inside TLS (RFC 8689): an application that turns it on passes such a message on over TLS or not at
    all."""
    limits: bool = False
    """Say *max_transactions* and *max_recipients* in EHLO (RFC 9422)."""

    extra_parameters: frozenset[str] = frozenset()
    """Keywords, in capitals, of parameters of MAIL and RCPT that this library does not know and the application does:
    they are in ``parameters`` as written.  Any other is 555."""

    extra_extensions: tuple[str, ...] = attrs.field(default=(), validator=attrs.validators.instance_of(tuple))
    """Lines of the EHLO reply for extensions that the application brings: a keyword in capitals (some clients know no
    others) and its parameters, as ``MT-PRIORITY MIXER`` (RFC 5321 section 4.1.1.1).  What has a setting here is offered
    by that alone."""

    allow_space_after_colon: bool = False
    """Take ``MAIL FROM: <a@b>``, which RFC 5321 section 3.3 forbids and some devices say all the same; else 501."""

    allow_trailing_space: bool = False
    """Take a command with blanks or tabs before its CRLF, as RFC 5321 section 4.1.1 would have servers do; else 501 for
    a blank and 500 for a tab."""

    allow_bare_line_ends: bool = False
    """Hand on content with bare CR, bare LF or NUL as it came, not only where BINARYMIME says so: whoever passes it on
    then answers for what others take for its end."""

    max_message_size: int = attrs.field(default=26_214_400, validator=attrs.validators.ge(65_536))
    """Octets of one message, shown as SIZE; 64 KiB at least (RFC 5321 section 4.5.3.1.7)."""

    discard_limit: int = attrs.field(default=268_435_456, validator=attrs.validators.ge(0))
    """Octets beyond that, which are read and dropped so that 552 can be said at their end; then 421.  No RFC names a
    number."""

    max_text_line: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1_000))
    )
    """Octets of a line of content with CRLF: a longer one has the message refused.  None takes any, as real mail asks;
    1,000 is what must be taken (RFC 5321 section 4.5.3.1.6)."""

    max_command_line: int = attrs.field(default=2_048, validator=attrs.validators.ge(1_024))
    """Octets with CRLF: 512 (RFC 5321 section 4.5.3.1.4), 26 more for SIZE (RFC 1870), 17 for BODY (RFC 6152), 500 for
    AUTH (RFC 4954), some 600 for DSN (RFC 3461), 12 for REQUIRETLS (RFC 8689), 10 for SMTPUTF8 (RFC 6531), and room
    for clients that send a long initial response with AUTH all the same."""

    max_recipients: int = attrs.field(default=1_000, validator=attrs.validators.ge(100))
    """Recipients of one transaction, 452 beyond; 100 at least (RFC 5321 section 4.5.3.1.8)."""

    max_transactions: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))
    """Transactions of one session, 421 beyond; no RFC names a number."""

    max_errors: int = attrs.field(default=20, validator=attrs.validators.ge(3))
    """Commands refused for syntax or order, then 421; no RFC names a number, Postfix's hard limit is 20."""

    max_junk_commands: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))
    """Commands that lead nowhere (NOOP, RSET, VRFY, HELP, EHLO, HELO, a BDAT of less than 64 octets that is not the
    last, and those that the application refused or put off), beside two for each transaction, then 421.  No RFC names a
    number; Postfix begins to count such as do nothing as errors at 100."""

    max_failed_logins: int = attrs.field(default=3, validator=attrs.validators.ge(3))
    """Failed logins, then 421; not before three (RFC 4954 section 9).  One whose name or password cannot be prepared
    counts, as does one that is broken off after the application was asked."""

    timeout: float = attrs.field(default=300.0, validator=attrs.validators.gt(0))
    """Seconds for a command or a line of a login, from the reply before it on, and for content that does not come: five
    minutes at least, says RFC 5321 section 4.5.3.2.7, and three for a block of content (4.5.3.2.5)."""

    min_rate: float = attrs.field(default=500.0, validator=attrs.validators.gt(0))
    """Octets a second that content has to bring in the long run, the time between two chunks of BDAT included: see
    ``NeedData``.  No RFC names a number; Postfix has the same one."""

    login_timeout: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    """Seconds from the beginning of the connection to a login or to the first message that is taken, whatever is said
    in between; content in transit does not end by it.  Infinite: no such end.  No RFC names a number; it is twice
    *timeout*."""

    def __attrs_post_init__(self) -> None:
        try:
            check_domain(self.host_name)
        except Malformed as error:
            raise LocalProtocolError(f"host_name {self.host_name!r}: {error}") from None
        if self.lmtp and not (self.pipelining and self.enhanced_status_codes):
            raise LocalProtocolError("LMTP needs pipelining and enhanced status codes (RFC 2033 section 5)")
        if self.binary_mime and not self.chunking:
            raise LocalProtocolError("binary_mime needs chunking: only BDAT can carry it")
        if self.smtputf8 and not self.eight_bit_mime:
            raise LocalProtocolError("smtputf8 needs eight_bit_mime (RFC 6531 section 3.1)")
        sasl.check_offer(self.mechanisms, self.scram_decoy)
        self._check_extra_extensions()

    def context(self, nonce: str, tls: Tls | None) -> sasl.Context:
        """What a mechanism needs to begin."""
        return sasl.Context.of(
            tls, nonce=nonce, host_name=self.host_name, offered=self.offered(tls), scram_decoy=self.scram_decoy
        )

    def offered(self, tls: Tls | None) -> tuple[str, ...]:
        """The mechanisms on offer in that state, in their order."""
        offered = self._offered.get(kind := sasl.kind_of_connection(tls))
        if offered is None:
            names = [name for name in self.mechanisms.names if sasl.is_possible(name, tls)]
            if tls is None:
                names = [name for name in names if name in self.mechanisms_without_tls]
            offered = self._offered[kind] = tuple(names)
        return offered

    def _check_extra_extensions(self) -> None:
        taken = {keyword for keyword, _, _ in self._extension_rows(None)}
        for line in self.extra_extensions:
            keyword = line.partition(" ")[0]
            if not _EHLO_LINE.fullmatch(line) or len(line) > _MAX_EHLO_LINE:
                raise LocalProtocolError(f"extra_extensions: {line!r} is no KEYWORD with parameters")
            if keyword in taken:
                raise LocalProtocolError(f"extra_extensions: {keyword} is there already, or has a setting of its own")
            taken.add(keyword)

    def extensions(self, tls: Tls | None) -> dict[str, str]:
        """The extension keywords of the EHLO reply in that state, with their parameters."""
        return {keyword: parameters for keyword, parameters, on in self._extension_rows(tls) if on}

    def _extension_rows(self, tls: Tls | None) -> tuple[tuple[str, str, bool], ...]:
        """Every extension that this library knows: keyword, parameters, whether it is offered in that state."""
        offered = self.offered(tls)
        return (
            ("PIPELINING", "", self.pipelining),
            ("SIZE", str(self.max_message_size), True),
            ("8BITMIME", "", self.eight_bit_mime),
            ("ENHANCEDSTATUSCODES", "", self.enhanced_status_codes),
            ("CHUNKING", "", self.chunking),
            ("BINARYMIME", "", self.binary_mime),
            ("SMTPUTF8", "", self.smtputf8),
            ("DSN", "", self.dsn),
            ("REQUIRETLS", "", self.requiretls and tls is not None),
            ("LIMITS", f"MAILMAX={self.max_transactions} RCPTMAX={self.max_recipients}", self.limits),
            ("STARTTLS", "", self.starttls and tls is None),
            ("AUTH", " ".join(offered), bool(offered)),
        )

    def hello_reply(self, tls: Tls | None) -> bytes:
        """The whole reply to EHLO, as on the wire."""
        reply = self._hello_replies.get(kind := sasl.kind_of_connection(tls))
        if reply is None:
            lines = [f"{keyword} {parameters}".rstrip() for keyword, parameters in self.extensions(tls).items()]
            text = "\n".join([self.host_name, *lines, *self.extra_extensions])
            reply = self._hello_replies[kind] = Reply(250, "", text).to_wire()
        return reply

    # Both are made once for each kind of connection, for the clients that ask again and again.

    @cached_property
    def _offered(self) -> dict[tuple[bool, ...], tuple[str, ...]]:
        return {}

    @cached_property
    def _hello_replies(self) -> dict[tuple[bool, ...], bytes]:
        return {}

    @cached_property
    def waits(self) -> tuple[NeedData, NeedData, NeedData]:
        """For a command before a login or a message that was taken, for one after it, and for content.

        Content is judged by its rate alone: the first message of an MTA may be long, and no login comes before it.
        """
        first = NeedData(timeout=self.timeout, until=self.login_timeout)
        return first, NeedData(timeout=self.timeout), NeedData(timeout=self.timeout, min_rate=self.min_rate)

    @cached_property
    def verbs(self) -> frozenset[str]:
        """The verbs that this server has."""
        return frozenset(PARSERS) - {
            *(verb for keyword, verb in _VERBS_OF_EXTENSIONS.items() if keyword not in self.extensions(None)),
            *(("EHLO", "HELO") if self.lmtp else ("LHLO",)),
        }

    @cached_property
    def help_reply(self) -> Reply:
        """The reply to HELP: the verbs there are."""
        return Reply(214, "2.0.0", f"{' '.join(verb for verb in PARSERS if verb in self.verbs)}, see RFC 5321")

    def not_offered(self, command: Mail | Rcpt) -> str | None:
        """The keyword of a parameter that this server did not advertise, if the command has one (555)."""
        unknown = (keyword for keyword in command.parameters if keyword.upper() not in self.extra_parameters)
        return next(unknown, None) or next(
            (row.keyword for row in self._rows_not_offered[command.verb] if row.is_in(command)), None
        )

    @cached_property
    def _rows_not_offered(self) -> dict[str, list[Parameter]]:
        # AUTH must be understood once it is announced anywhere, in clear text too (RFC 4954 section 5).
        keywords = {*self.extensions(Tls(version="")), *(["AUTH"] if self.mechanisms.names else [])}
        return {verb: [row for row in rows if row.extension not in keywords] for verb, rows in PARAMETERS.items()}


@attrs.frozen(kw_only=True)
class ServerSettings(ExtendedServerSettings):
    """How an SMTP server behaves whose application is asked about passwords alone (``smtp.ServerEvent``).

    Raises LocalProtocolError or ValueError for what no server may be told.
    """

    mechanisms: sasl.Mechanisms = attrs.field(
        default=sasl.DEFAULT_MECHANISMS, validator=attrs.validators.instance_of(sasl.Mechanisms)
    )
    """The SASL mechanisms offered inside TLS."""


@attrs.frozen(kw_only=True)
class ClientSettings:
    """How an SMTP client behaves."""

    tls_required: bool = False
    """Outside TLS neither AUTH nor MAIL can be sent, so a stripped STARTTLS is an error (RFC 3207 section 6)."""

    lf_to_crlf: bool = False
    """Take a bare LF in message content for a line end and send CRLF, instead of refusing it (RFC 5321 section 2.3.8).
    A bare CR and a NUL are refused all the same."""

    max_reply_line: int = attrs.field(default=4_096, validator=attrs.validators.ge(512))
    """Octets of one line of a reply: 512 by RFC 5321 section 4.5.3.1.5, and room.  In a login it is 12,288, as the
    lines of challenges may have (RFC 4954 section 4)."""

    max_reply_lines: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    """Lines of one reply; no RFC names a number, and the longest EHLO replies have some thirty."""

    max_reply: int = attrs.field(default=16_384, validator=attrs.validators.ge(512))
    """Octets of one reply without its line ends; no RFC names a number.  That to EHLO is kept, and the next one comes
    beside it."""

    max_unanswered: int = attrs.field(default=2_000, validator=attrs.validators.ge(1))
    """Commands sent and not answered yet: a transaction of 1,000 recipients, and room."""

    max_unwritten: int = attrs.field(default=1_048_576, validator=attrs.validators.ge(65_536))
    """Octets queued by ``send()`` and not written yet; the adapter's ``flush()`` writes them."""
