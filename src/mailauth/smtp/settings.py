"""The settings of a server or of a client: frozen, validated when built, and shared by all its connections.

Each limit is a field, and its description gives the source of the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import attrs

from .. import sasl
from .._lines import check_command_line
from .._patterns import LazyPattern
from .._validators import frozenset_of, integer, positive, tuple_of, value_of
from .._values import shared_methods
from ..errors import LocalProtocolError, Malformed
from ..events import Command, NeedData, Tls
from ..sasl.offer import checked_context
from . import _standard_replies
from ._command_lines import parse_argument, split_line
from ._grammar import check_domain
from .commands import GenericCommand, Mail, MessageComplete, Rcpt
from .content import ContentLimits
from .parameters import PARAMETERS, Parameter
from .replies import Reply
from .verbs import COMPLETED, GENERIC, ROWS, VERBS, Verb

_KEYWORD: Final = LazyPattern(r"[A-Z0-9][A-Z0-9-]*")
_EHLO_LINE: Final = LazyPattern(r"[A-Z0-9][A-Z0-9-]*(?: [!-~]+)*")
_MAX_EHLO_LINE: Final = 506  # 512 bytes of a reply line less code and CRLF (RFC 5321 section 4.5.3.1.5)


def _check_ehlo_line(field: str, line: str) -> None:
    if not _EHLO_LINE.fullmatch(line) or len(line) > _MAX_EHLO_LINE:
        raise LocalProtocolError(f"{field}: {line!r} is invalid; use KEYWORD or KEYWORD PARAMETERS")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ServerSettings:
    """The settings of a server.

    Raises LocalProtocolError if a setting is invalid.

    Fields:

    host_name
        The name of the server in the greeting, the EHLO reply and challenges: a domain or an address literal.
    mechanisms
        The SASL mechanisms offered inside TLS, if the connection supports them: see ``sasl.is_possible()``.
    scram_decoy
        What SCRAM sends for an identity without keys; required if SCRAM is among the mechanisms.
    mechanisms_without_tls
        The names of mechanisms that are also offered and accepted in clear text.  Each exposes passwords or digests
        to eavesdroppers.  Each must be in *mechanisms*; USER and APOP are ignored.
    authentication_required
        Reply 530 5.7.0 to MAIL before a login (RFC 6409 section 4.3).
    tls_required
        In clear text, reply 530 5.7.0 to all but EHLO, HELO, NOOP, RSET, HELP, STARTTLS and QUIT (RFC 3207 section
        4).
    starttls
        Offer STARTTLS in clear text; the adapter must be able to do the handshake.
    lmtp
        Use LMTP (RFC 2033), never on port 25.  LHLO replaces EHLO and HELO.  The end of content gets one reply for
        each accepted recipient, so that MessageComplete may be answered by ``smtp.PerRecipient``.
    pipelining
        Offer PIPELINING (RFC 2920).
    eight_bit_mime
        Offer 8BITMIME (RFC 6152).
    enhanced_status_codes
        Offer ENHANCEDSTATUSCODES, and send the codes (RFC 2034).
    chunking
        Offer BDAT in addition to DATA (RFC 3030); the application gets the same events.
    binary_mime
        Offer BODY=BINARYMIME, for BDAT only (RFC 3030 section 3): bare CR, LF and NUL are then valid
        content.  Requires *chunking*, and an application that never relays such a message by DATA.
    smtputf8
        Offer SMTPUTF8: transactions with this parameter may contain non-ASCII mailboxes (RFC 6531).  The
        application must handle these wherever it stores, compares or relays an address.  Requires *eight_bit_mime*.
    dsn
        Offer RET, ENVID, NOTIFY and ORCPT (RFC 3461).  The application must send the reports that they request.
    requiretls
        Offer REQUIRETLS inside TLS (RFC 8689).  The application must relay such a message over TLS or not at all.
    limits
        Announce *max_transactions* and *max_recipients* in the EHLO reply (RFC 9422).
    extra_parameters
        Upper-case keywords of parameters of MAIL and RCPT that the application supports and this library does
        not.  They are in ``parameters``, as written.  Any other unknown parameter gets 555.
    extra_extensions
        Lines of the EHLO reply for extensions that the application provides: a keyword in upper case (some clients
        recognize no other) and its parameters, such as ``MT-PRIORITY MIXER`` (RFC 5321 section 4.1.1.1).  An
        extension with its own setting must not be listed here.
    strict_syntax
        Reject commands that break the grammar of RFC 5321, even where their meaning is clear; docs/tolerance.md
        lists what is accepted otherwise.
    allow_bare_line_ends
        Pass on content with bare CR, bare LF or NUL unchanged, even without BINARYMIME.  An application that relays
        it must make sure that no other server can read an end of message in it (SMTP smuggling).
    max_message_size
        Maximum bytes of one message, announced as SIZE; at least 64 KiB (RFC 5321 section 4.5.3.1.7).
    discard_limit
        Bytes over *max_message_size* that are read and discarded, so that 552 can be sent at the end of the
        content; more get 421.  No RFC gives a number.
    max_text_line
        Maximum bytes of a line of content, with CRLF; a message with a longer line is refused.  None, the default,
        accepts any length, because real mail has longer lines.  A server must accept 1,000 (RFC 5321 section
        4.5.3.1.6).
    max_command_line
        Maximum bytes of a command line, with CRLF: 512 (RFC 5321 section 4.5.3.1.4), 26 more for SIZE (RFC 1870),
        17 for BODY (RFC 6152), 500 for AUTH (RFC 4954), about 600 for DSN (RFC 3461), 12 for REQUIRETLS (RFC 8689),
        10 for SMTPUTF8 (RFC 6531), and room for clients that send a long initial response with AUTH in spite of the
        limit.
    max_recipients
        Maximum recipients of one transaction; further ones get 452.  At least 100 (RFC 5321 section 4.5.3.1.8).
    max_transactions
        Maximum transactions of one session; the next one gets 421.  No RFC gives a number.
    max_errors
        Number of errors (commands refused for syntax or order) after which the session ends with 421.  No RFC gives
        a number; the hard limit of Postfix is 20.
    max_junk_commands
        Maximum junk commands of one session, in addition to two for each transaction; more get 421.  Junk commands
        are NOOP, RSET, VRFY, HELP, EHLO, HELO, added verbs that do no more than these, a BDAT of less than 64 bytes
        that is not the last, and commands that the application rejects permanently or temporarily.  No RFC gives a
        number; Postfix counts junk commands over 100 as errors.
    max_failed_logins
        Number of failed logins after which the session ends with 421; at least three (RFC 4954 section 9).  A login
        also counts if its name or password cannot be prepared (SASLprep), or if the client cancels it after the
        application was asked.
    timeout
        Seconds that the server waits for a command or a line of a login, counted from the previous reply, and for
        content when none arrives.  RFC 5321 requires at least five minutes for a command (section 4.5.3.2.7) and
        three for a block of content (section 4.5.3.2.5).
    min_rate
        Minimum rate of content in bytes per second over its whole transfer, including the time between two BDAT
        chunks:  see ``NeedData``.  No RFC gives a number; Postfix has the same one.
    login_timeout
        Seconds from the start of the connection to a login or to the first accepted message, whatever the client
        sends meanwhile.  A content transfer is not interrupted.  Infinity disables the limit.  No RFC gives a
        number; it is twice *timeout*.
    verbs
        Rows of verbs that the application adds, or that replace the rows of the same name (see ``verbs.Verb``).

    For example:

        settings = smtp.ServerSettings(host_name="mx.example", authentication_required=True, starttls=True)
        async with on_asyncio.serve_smtp(session, settings, port=587, ssl_context=context) as listener:
            await stopped.wait()
    """

    host_name: str = attrs.field(default="localhost", validator=value_of(str))

    mechanisms: sasl.Mechanisms = attrs.field(default=sasl.DEFAULT_MECHANISMS, validator=value_of(sasl.Mechanisms))

    scram_decoy: sasl.ScramDecoy | None = attrs.field(default=None, validator=value_of(sasl.ScramDecoy, optional=True))

    mechanisms_without_tls: frozenset[str] = attrs.field(default=frozenset[str](), validator=frozenset_of(str))

    authentication_required: bool = attrs.field(default=False, validator=value_of(bool))

    tls_required: bool = attrs.field(default=False, validator=value_of(bool))

    starttls: bool = attrs.field(default=False, validator=value_of(bool))

    lmtp: bool = attrs.field(default=False, validator=value_of(bool))

    pipelining: bool = attrs.field(default=True, validator=value_of(bool))
    eight_bit_mime: bool = attrs.field(default=True, validator=value_of(bool))
    enhanced_status_codes: bool = attrs.field(default=True, validator=value_of(bool))
    chunking: bool = attrs.field(default=False, validator=value_of(bool))
    binary_mime: bool = attrs.field(default=False, validator=value_of(bool))

    smtputf8: bool = attrs.field(default=False, validator=value_of(bool))

    dsn: bool = attrs.field(default=False, validator=value_of(bool))
    requiretls: bool = attrs.field(default=False, validator=value_of(bool))
    limits: bool = attrs.field(default=False, validator=value_of(bool))

    extra_parameters: frozenset[str] = attrs.field(default=frozenset[str](), validator=frozenset_of(str))

    extra_extensions: tuple[str, ...] = attrs.field(default=(), validator=tuple_of(str))

    strict_syntax: bool = attrs.field(default=False, validator=value_of(bool))

    allow_bare_line_ends: bool = attrs.field(default=False, validator=value_of(bool))

    max_message_size: int = attrs.field(default=26_214_400, validator=integer(65_536))

    discard_limit: int = attrs.field(default=268_435_456, validator=integer(0))

    max_text_line: int | None = attrs.field(default=None, validator=integer(1_000, optional=True))

    max_command_line: int = attrs.field(default=2_048, validator=integer(1_024))

    max_recipients: int = attrs.field(default=1_000, validator=integer(100))

    max_transactions: int = attrs.field(default=1_000, validator=integer(1))

    max_errors: int = attrs.field(default=20, validator=integer(3))

    max_junk_commands: int = attrs.field(default=1_000, validator=integer(1))

    max_failed_logins: int = attrs.field(default=3, validator=integer(3))

    timeout: float = attrs.field(default=300.0, validator=positive())

    min_rate: float = attrs.field(default=500.0, validator=positive())

    login_timeout: float = attrs.field(default=600.0, validator=positive(infinite=True))

    verbs: tuple[Verb[Any], ...] = attrs.field(default=(), validator=tuple_of(Verb))

    def __attrs_post_init__(self) -> None:
        try:
            check_domain(self.host_name)
        except Malformed as error:
            raise LocalProtocolError(
                f"host_name {self.host_name!r}: {error}; use a name such as mail.example or a literal [192.0.2.1]"
            ) from None
        if self.lmtp and not (self.pipelining and self.enhanced_status_codes):
            raise LocalProtocolError("lmtp requires pipelining and enhanced_status_codes (RFC 2033 section 5)")
        if self.binary_mime and not self.chunking:
            raise LocalProtocolError("binary_mime requires chunking: only BDAT can carry it")
        if self.smtputf8 and not self.eight_bit_mime:
            raise LocalProtocolError("smtputf8 requires eight_bit_mime (RFC 6531 section 3.1)")
        sasl.check_offer(self.mechanisms, self.scram_decoy, self.mechanisms_without_tls)
        for keyword in self.extra_parameters:
            if not _KEYWORD.fullmatch(keyword):
                raise LocalProtocolError(f"extra_parameters: {keyword!r} is invalid; use a keyword in upper case")
        self._check_extra_extensions()

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
        """Return the mechanisms offered on a connection with *tls*, in the order of *mechanisms*; None means no TLS."""
        offered = self._offered.get(kind := sasl.tls_capabilities(tls))
        if offered is None:
            names = [name for name in self.mechanisms.names if sasl.is_possible(name, tls)]
            if tls is None:
                names = [name for name in names if name in self.mechanisms_without_tls]
            offered = self._offered[kind] = tuple(names)
        return offered

    def _check_extra_extensions(self) -> None:
        taken = {"AUTH", "CHUNKING", "STARTTLS", *(keyword for keyword, _, _ in self._extension_rows(None))}
        taken |= {row.keyword for row in self.verbs if row.keyword is not None}
        for row in self.verbs:
            if isinstance(row.extension, str):
                _check_ehlo_line(f"verbs: the extension of {row.name}", row.extension)
        for line in self.extra_extensions:
            _check_ehlo_line("extra_extensions", line)
            keyword = line.partition(" ")[0]
            if keyword in taken:
                raise LocalProtocolError(f"extra_extensions: {keyword} is listed twice, or has its own setting")
            taken.add(keyword)

    def extensions(self, tls: Tls | None) -> dict[str, str]:
        """Return the extensions of the EHLO reply on a connection with *tls*: keyword to parameters."""
        lines = [f"{keyword} {parameters}" for keyword, parameters, on in self._extension_rows(tls) if on]
        for row in self.table.values():
            line = row.extension(self, tls) if callable(row.extension) else row.extension
            if line:
                lines.append(line)
        return {keyword: parameters for keyword, _, parameters in (line.partition(" ") for line in lines)}

    def _extension_rows(self, tls: Tls | None) -> tuple[tuple[str, str, bool], ...]:
        """Return every extension that is not a verb: keyword, parameters, whether it is offered."""
        return (
            ("PIPELINING", "", self.pipelining),
            ("SIZE", str(self.max_message_size), True),
            ("8BITMIME", "", self.eight_bit_mime),
            ("ENHANCEDSTATUSCODES", "", self.enhanced_status_codes),
            ("BINARYMIME", "", self.binary_mime),
            ("SMTPUTF8", "", self.smtputf8),
            ("DSN", "", self.dsn),
            ("REQUIRETLS", "", self.requiretls and tls is not None),
            ("LIMITS", f"MAILMAX={self.max_transactions} RCPTMAX={self.max_recipients}", self.limits),
        )

    def hello_reply(self, tls: Tls | None) -> bytes:
        """Return the whole reply to EHLO, as on the wire."""
        reply = self._hello_replies.get(kind := sasl.tls_capabilities(tls))
        if reply is None:
            lines = [f"{keyword} {parameters}".rstrip() for keyword, parameters in self.extensions(tls).items()]
            text = "\n".join([self.host_name, *lines, *self.extra_extensions])
            reply = self._hello_replies[kind] = Reply(250, "", text).to_wire()
        return reply

    # Caches, indexed by the TLS capabilities of a connection.

    @cached_property
    def _offered(self) -> dict[tuple[bool, ...], tuple[str, ...]]:
        return {}

    @cached_property
    def _hello_replies(self) -> dict[tuple[bool, ...], bytes]:
        return {}

    @cached_property
    def timeouts(self) -> tuple[NeedData, NeedData, NeedData]:
        """Three waits: for a command before a login or an accepted message, for a later command, and for content.

        *login_timeout* does not apply to content: an MTA does not log in, and its first message may be long.
        """
        first = NeedData(timeout=self.timeout, until=self.login_timeout)
        return first, NeedData(timeout=self.timeout), NeedData(timeout=self.timeout, min_rate=self.min_rate)

    @cached_property
    def table(self) -> Mapping[str, Verb[Any]]:
        """The rows of the verbs that this server supports, by name."""
        rows = {row.name: row for row in (*VERBS, *self.verbs)}
        return {name: row for name, row in rows.items() if row.enabled is None or row.enabled(self)}

    @cached_property
    def common_rows(self) -> Mapping[str, Verb[Any]]:
        """Those rows that are this library's own: their commands may be parsed by a faster way."""
        return {name: row for name, row in self.table.items() if row is ROWS.get(name)}

    @cached_property
    def accepted(self) -> Mapping[str, bytes]:
        """The replies to ACCEPT that do not depend on the connection, by verb, as on the wire.

        They are those of *common_rows*, the one to MessageComplete, and the greeting, whose verb is empty here.
        """
        enhanced = self.enhanced_status_codes
        replies = {name: row.accepted for name, row in self.common_rows.items() if isinstance(row.accepted, Reply)}
        replies[MessageComplete.verb] = COMPLETED
        greeting = Reply(220, "", f"{self.host_name} {'LMTP' if self.lmtp else 'ESMTP'}")
        return {"": greeting.to_wire(), **{name: reply.to_wire(enhanced=enhanced) for name, reply in replies.items()}}

    @cached_property
    def content_limits(self) -> tuple[ContentLimits, ContentLimits]:
        """The limits of a message, first of one that is text, then of one with BODY=BINARYMIME."""
        text = ContentLimits(
            size=self.max_message_size,
            discard=self.discard_limit,
            line=self.max_text_line,
            binary=self.allow_bare_line_ends,
        )
        return text, attrs.evolve(text, binary=True)

    def parse_command(self, line: bytes) -> Command:
        """Return the command in *line*, parsed as a server with these settings parses it.

        *line* is without its CRLF.  The state of a session is not considered, nor whether a login succeeds: a server
        may still reject the command as out of order, not offered or too large.

        Raises Malformed if a server rejects the line for its syntax, by 500 or 501 (RFC 5321 section 4.2.4), or does
        not have the verb (502, or 421 for a request of HTTP).  Raises LocalProtocolError if *line* is not bytes, or
        contains a CRLF.

            >>> smtp.ServerSettings().parse_command(b"rcpt to: <dinah@example.org>").forward_path.local_part
            'dinah'
        """
        if len(check_command_line(line)) + 2 > self.max_command_line:
            raise Malformed(_standard_replies.LINE_TOO_LONG.text)
        strict = self.strict_syntax
        verb, argument = split_line(line, smtputf8=self.smtputf8, strict=strict)
        row = self.table.get(verb)
        if row is None:
            raise Malformed(_standard_replies.UNKNOWN_COMMAND.text)
        return parse_argument(row, argument, line, strict=strict)

    def help_reply(self, tls: Tls | None) -> Reply:
        """Return the reply to HELP: the verbs, without those that the EHLO reply does not offer with *tls*."""
        names = [name for name, row in self.table.items() if not callable(row.extension) or row.extension(self, tls)]
        return Reply(214, "2.0.0", f"{' '.join(names)}, see RFC 5321")

    def not_offered(self, command: Mail | Rcpt) -> str | None:
        """Return the keyword of a parameter that this server does not support (rejected with 555), or None."""
        unknown = (keyword for keyword in command.parameters if keyword.upper() not in self.extra_parameters)
        return next(unknown, None) or next(
            (row.keyword for row in self._rows_not_offered[command.verb] if row.is_in(command)), None
        )

    @cached_property
    def _rows_not_offered(self) -> dict[str, list[Parameter]]:
        # AUTH must be accepted if it is announced at all, also in clear text (RFC 4954 section 5).
        keywords = {*self.extensions(Tls(version="")), *(["AUTH"] if self.mechanisms.names else [])}
        return {verb: [row for row in rows if row.extension not in keywords] for verb, rows in PARAMETERS.items()}


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ClientSettings:
    """The settings of an SMTP client.

    Fields:

    tls_required
        Raise an error for AUTH and MAIL in clear text, so that a stripped STARTTLS is detected (RFC 3207 section
        6).
    lf_to_crlf
        Send a bare LF in message content as CRLF, instead of refusing it (RFC 5321 section 2.3.8).  A bare CR and a
        NUL are still refused.
    strict_syntax
        Raise an error for replies that break the grammar of RFC 5321, even where their meaning is clear, and for a
        server that closes the connection instead of replying to QUIT; docs/tolerance.md lists what is accepted
        otherwise.
    max_reply_line
        Maximum bytes of one line of a reply: 512 (RFC 5321 section 4.5.3.1.5) and a margin.  During a login it is
        12,288, the maximum length of a challenge (RFC 4954 section 4).
    max_reply_lines
        Maximum lines of one reply.  No RFC gives a number; the longest EHLO replies have about thirty.
    max_reply
        Maximum bytes of one reply without its line ends.  No RFC gives a number.  The EHLO reply is kept in memory
        while the next one is received.
    max_unanswered
        Maximum commands sent and not answered yet: a transaction of 1,000 recipients, and a margin.
    max_unwritten
        Maximum bytes queued by ``send()`` and not written yet; the adapter's ``flush()`` writes them.
    verbs
        Rows of verbs that ``send()`` accepts too, or that replace the rows of the same name: the same rows as for a
        server (see ``Verb``).  The class of each command needs a method ``to_wire()``.

    For example:

        settings = smtp.ClientSettings(tls_required=True)
        client = smtp.ClientConnection(settings)  # send() refuses MAIL in clear text
    """

    tls_required: bool = attrs.field(default=False, validator=value_of(bool))

    lf_to_crlf: bool = attrs.field(default=False, validator=value_of(bool))

    strict_syntax: bool = attrs.field(default=False, validator=value_of(bool))

    max_reply_line: int = attrs.field(default=4_096, validator=integer(512))

    max_reply_lines: int = attrs.field(default=100, validator=integer(1))

    max_reply: int = attrs.field(default=16_384, validator=integer(512))

    max_unanswered: int = attrs.field(default=2_000, validator=integer(1))

    max_unwritten: int = attrs.field(default=1_048_576, validator=integer(65_536))

    verbs: tuple[Verb[Any], ...] = attrs.field(default=(), validator=tuple_of(Verb))

    def __attrs_post_init__(self) -> None:
        for row in self.verbs:
            if not callable(getattr(row.kind, "to_wire", None)):
                raise LocalProtocolError(
                    f"verbs: {row.kind.__name__} has no to_wire(); define it, to return the {row.name} line with CRLF"
                )

    @cached_property
    def rows(self) -> Mapping[type[Command], Verb[Any]]:
        """The rows by the class of their commands.  EHLO stands for HELO and LHLO, which are Hello too."""
        rows = {row.name: row for row in (*VERBS, *self.verbs)}
        return {GenericCommand: GENERIC, **{row.kind: row for row in reversed(rows.values())}}

    @cached_property
    def verb_names(self) -> frozenset[str]:
        """The names of all rows: GenericCommand sends none of them."""
        return frozenset(row.name for row in (*VERBS, *self.verbs))

    def row(self, command: Command) -> Verb[Any] | None:
        """Return the row of *command*, which may be of a subclass of its kind; None if there is none."""
        rows = self.rows
        found = rows.get(type(command))
        return found or next((rows[kind] for kind in type(command).__mro__ if kind in rows), None)
