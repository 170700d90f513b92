"""The SMTP commands, one class for each verb.  A client sends them; a server returns them as events.

Each class parses and serializes itself.  ``parse()`` takes the text after the verb and its space, and raises Malformed.
``to_wire()`` returns one line; it cannot produce CR or LF inside the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Final, Self, TypeAlias, TypeVar

import attrs

from .._patterns import LazyPattern, TextPattern
from .._unchecked import defaults_in_class, new, slot_setters
from .._validators import (
    INITIAL_RESPONSE,
    MECHANISM_NAME,
    between,
    check_initial_response,
    check_mechanism_name,
    matches,
    tuple_of,
    value_of,
)
from .._values import shared_methods
from ..errors import LocalProtocolError, Malformed
from ..events import Command, ExtensionNotice, Notice, Question
from ._grammar import Mailbox, check_domain, checked_mailbox, is_postmaster, is_text, parse_path, split_path
from .parameters import (
    MAIL_PARAMETERS,
    NO_PARAMETERS,
    RCPT_PARAMETERS,
    Body,
    Notify,
    OriginalRecipient,
    Ret,
    check_unknown,
    decode_parameters,
    encode_auth,
    encode_envid,
    encode_notify,
    encode_parameters,
    encode_size,
)
from .replies import PerRecipient, Reply, Verdict

C = TypeVar("C", bound=attrs.AttrsInstance)
P = TypeVar("P")

TRY_AGAIN: Final = Reply(451, "4.3.0", "temporary failure, try again later")

_SMTPUTF8: Final = LazyPattern(r" (?i:SMTPUTF8)\Z")
_CHUNK: Final = LazyPattern(r"([0-9]{1,20})( (?i:LAST))?")
HOST_NAME: Final = r"[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]++)*+\.?"
_HOST_NAME: Final = re.compile(HOST_NAME)
_ARGUMENT: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")

# No C0, DEL, C1, line separators or Bidi_Control characters.  Bytes that are not UTF-8 are surrogates.
_NON_ASCII: Final = r"\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\udc80-\udcff\ue000-\U0010ffff"
_VISIBLE: Final = f"!-~{_NON_ASCII}"
_CLIENT_NAME: Final = TextPattern(rf"[{_VISIBLE}](?:[ {_VISIBLE}]*[{_VISIBLE}])?", _NON_ASCII)
_MAX_CLIENT_NAME: Final = 255  # bytes (RFC 5321 section 4.5.3.1.2)


def _build(kind: Callable[..., P], **fields: object) -> P:
    """Return *kind* built from *fields*, for ``parse()``.  Raises Malformed if the value cannot be built."""
    try:
        return kind(**fields)
    except LocalProtocolError as error:
        raise Malformed(str(error)) from None


class VerdictQuestion(Question[Verdict]):
    """A question that is answered by ACCEPT or a Reply.

    For example:

        case smtp.VerdictQuestion() as question:
            connection.answer(question, smtp.Reply(450, "4.2.0", "try again in five minutes"))
    """

    __slots__ = ()

    @property
    def unavailable(self) -> Reply:
        return TRY_AGAIN


class NoArgumentCommand(Command):
    """A command without an argument.

    For example:

        class Turn(smtp.NoArgumentCommand, ExtensionNotice):
            verb = "TURN"

        client.send(Turn())  # TURN
    """

    __slots__ = ()

    verb: ClassVar[str]

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Return the command.  Raises Malformed if *argument* is not empty."""
        if argument:
            raise Malformed(f"{cls.verb} takes no argument")
        return cls()

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return f"{self.verb}\r\n".encode("ascii")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class TextCommand(Command):
    """A command with an optional text argument.

    For example:

        class Expn(smtp.TextCommand, ExtensionNotice):
            verb = "EXPN"

        client.send(Expn(argument="staff"))  # EXPN staff
    """

    verb: ClassVar[str]

    argument: str = attrs.field(
        default="",
        validator=value_of(str, matches(_ARGUMENT, "must be printable ASCII without a space at its beginning or end")),
    )

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Parse the text after the verb.

        Raises Malformed if it is not printable ASCII, or begins or ends with a space.
        """
        return _build(cls, argument=argument)

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return f"{self.verb} {self.argument}".rstrip(" ").encode("ascii") + b"\r\n"


def _is_host_name(text: str) -> bool:
    return len(text) <= 255 and _HOST_NAME.fullmatch(text) is not None


def _check_hello_domain(domain: str) -> None:
    if not _is_host_name(domain):
        try:
            check_domain(domain)
        except Malformed as error:
            raise Malformed(f"{error}; use a name such as client.example or a literal such as [192.0.2.1]") from None


def is_client_name(text: str) -> bool:
    """Return whether *text* is accepted as the name of a client, although it may not be a domain."""
    if not _CLIENT_NAME.fullmatch(text):
        return False
    return len(text) <= _MAX_CLIENT_NAME and len(text.encode("utf-8", "surrogateescape")) <= _MAX_CLIENT_NAME


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Hello(Command, Notice):
    """``EHLO``, ``HELO`` or ``LHLO``: the client identifies itself (RFC 5321 section 4.1.1.1).

    An open transaction is discarded.  Underscores are accepted although a domain may not contain them, because real
    host names do.  A client can send nothing else; a server reads almost any name, unless ``strict_syntax`` is set.

        client.send(smtp.Hello(domain="client.example"))  # EHLO client.example

        case smtp.Hello(domain=domain):
            print(f"the client calls itself {domain!a}")
    """

    verb: ClassVar[str] = "EHLO"

    domain: str = attrs.field(validator=value_of(str, _check_hello_domain))
    """A domain or an address literal; on a server, the name that the client has sent, which is not verified.

    If it is not *valid*, it has up to 255 bytes and contains no control characters, line separators or characters that
    change the direction of text.  Bytes that are not UTF-8 are as the error handler ``surrogateescape`` decodes them.
    Escape it before it is logged, printed or written to a header."""

    extended: bool = attrs.field(default=True, validator=value_of(bool))
    """False for HELO."""

    lmtp: bool = attrs.field(default=False, validator=value_of(bool))
    """True for LHLO, the EHLO of LMTP (RFC 2033 section 4.1)."""

    def __attrs_post_init__(self) -> None:
        if self.lmtp and not self.extended:
            raise LocalProtocolError("lmtp=True requires extended=True: LHLO has no form without extensions")

    @property
    def valid(self) -> bool:
        """Whether *domain* is a domain or an address literal.  On a client it always is."""
        try:
            _check_hello_domain(self.domain)
        except Malformed:
            return False
        return True

    @classmethod
    def parse(cls, argument: str, *, extended: bool = True, lmtp: bool = False) -> Self:
        """Parse the argument of EHLO, of HELO (*extended* is False) or of LHLO (*lmtp* is True).  Raises Malformed."""
        if cls is Hello and (extended or not lmtp) and _is_host_name(argument):
            hello = new(cls)
            _set_domain(hello, argument)
            _set_extended(hello, extended)
            _set_lmtp(hello, lmtp)
            return hello
        try:
            return cls(domain=argument, extended=extended, lmtp=lmtp)
        except LocalProtocolError:
            if not is_client_name(argument):
                raise Malformed("invalid domain or address literal") from None
        hello = cls(domain="unknown", extended=extended, lmtp=lmtp)
        object.__setattr__(hello, "domain", argument)  # the constructor accepts only what a client may send
        return hello

    def to_wire(self) -> bytes:
        """Return the line with its CRLF.  Raises LocalProtocolError if *domain* is not valid."""
        if not self.valid:
            raise LocalProtocolError("domain: a client sends a domain or an address literal only; build another Hello")
        return f"{'LHLO' if self.lmtp else 'EHLO' if self.extended else 'HELO'} {self.domain}\r\n".encode("ascii")


_set_domain, _set_extended, _set_lmtp = slot_setters(Hello, "domain", "extended", "lmtp")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class StartTls(NoArgumentCommand, VerdictQuestion):
    """``STARTTLS`` (RFC 3207).  ACCEPT (220) begins the handshake; use 454 if TLS is temporarily not available.

    For example:

        client.send(smtp.StartTls())  # STARTTLS

        case smtp.StartTls() as question:
            connection.answer(question, ACCEPT)  # 220, then the handshake
    """

    verb: ClassVar[str] = "STARTTLS"


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Auth(Command):
    """``AUTH`` (RFC 4954 section 4): begin a login.

    A client does not send it directly: use ``authenticate()``.  A server does not return it as an event; a login begins
    with AuthenticationStarted.

        >>> smtp.ServerSettings().parse_command(b"AUTH PLAIN AGFsaWNlAHNlY3JldA==").mechanism
        'PLAIN'
    """

    verb: ClassVar[str] = "AUTH"

    mechanism: str = attrs.field(validator=value_of(str, check_mechanism_name))
    initial_response: bytes | None = attrs.field(
        default=None, repr=False, validator=value_of(bytes, check_initial_response, optional=True)
    )
    """As on the wire, in base64 or ``=``; None if absent."""

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Parse a mechanism, and an initial response if there is one.  Raises Malformed."""
        mechanism, space, response = argument.partition(" ")
        if not mechanism or (space and not response) or not response.isascii():
            raise Malformed("syntax: AUTH mechanism [initial-response]")
        mechanism = mechanism.upper()
        initial_response = response.encode("ascii") if space else None
        valid = initial_response is None or INITIAL_RESPONSE.fullmatch(initial_response)
        if cls is not Auth or not valid or not MECHANISM_NAME.fullmatch(mechanism):
            return _build(cls, mechanism=mechanism, initial_response=initial_response)
        auth = new(cls)
        _set_mechanism(auth, mechanism)
        _set_initial_response(auth, initial_response)
        return auth

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        response = b"" if self.initial_response is None else b" " + self.initial_response
        return b"AUTH " + self.mechanism.encode("ascii") + response + b"\r\n"


_set_mechanism, _set_initial_response = slot_setters(Auth, "mechanism", "initial_response")


def from_parsed(kind: type[C], **fields: object) -> C:
    """Return a *kind* from fields that the parser has already validated, without validating them again.

    *kind* must be prepared by ``defaults_in_class()``.  It has no slots: creating one then takes a third less time.
    """
    command = new(kind)
    command.__dict__.update(fields)
    return command


def _check_reverse_path(mailbox: Mailbox) -> None:
    if not mailbox.domain:
        raise Malformed("a reverse-path must have a domain; only a recipient may be the bare Postmaster")


def _spelling(path: object) -> object:
    return path.spelling if isinstance(path, Mailbox) else path  # changed after validation: check_line() will see it


def _check_host(host: str) -> None:
    check_domain(host, non_ascii=True)


_SOURCE_ROUTE: Final = tuple_of(str, _check_host)


@defaults_in_class
@shared_methods
@attrs.frozen(kw_only=True, slots=False, eq=False, repr=False)  # see from_parsed()
class Mail(Command, VerdictQuestion):
    """``MAIL FROM``: begin a transaction, which opens only on a positive answer (RFC 5321 section 3.3).

    For example:

        alice = smtp.Mailbox("alice", "example.org")
        client.send(smtp.Mail(reverse_path=alice, size=1200))  # MAIL FROM:<alice@example.org> SIZE=1200

        case smtp.Mail(reverse_path=mailbox) as question:
            connection.answer(question, ACCEPT)
    """

    verb: ClassVar[str] = "MAIL"

    reverse_path: Mailbox | None = attrs.field(validator=value_of(Mailbox, _check_reverse_path, optional=True))
    """The address for bounces; None is the null reverse-path ``<>``."""

    source_route: tuple[str, ...] = attrs.field(default=(), validator=_SOURCE_ROUTE)
    """The hosts of a source route, which is read and ignored (RFC 5321 appendix C); never sent."""

    size: int | None = attrs.field(default=None, validator=value_of(int, encode_size, optional=True))
    """The message size in bytes that the client declares (RFC 1870); None if it does not."""

    body: Body | None = attrs.field(default=None, validator=value_of(Body, optional=True))
    """The content type that the client declares (RFC 6152, RFC 3030); None if it does not."""

    auth: str | None = attrs.field(default=None, validator=value_of(str, encode_auth, optional=True))
    """The original submitter of the message, as a mailbox or ``<>`` (RFC 4954 section 5): a claim, not a proof."""

    ret: Ret | None = attrs.field(default=None, validator=value_of(Ret, optional=True))
    """How much of the message a failure report should return (RFC 3461 section 4.3)."""

    envelope_id: str | None = attrs.field(default=None, validator=value_of(str, encode_envid, optional=True))
    """ENVID, decoded: the identifier of this transaction in reports (RFC 3461 section 4.4)."""

    require_tls: bool = attrs.field(default=False, validator=value_of(bool))
    """The message may only be sent over authenticated TLS, on every further hop (RFC 8689)."""

    smtputf8: bool = attrs.field(default=False, validator=value_of(bool))
    """Mailboxes in the transaction and headers in the message may be non-ASCII (RFC 6531).  A client must set it
    itself: only the client knows the headers and the recipients that follow."""

    parameters: Mapping[str, str | None] = attrs.field(
        default=NO_PARAMETERS, hash=False, validator=value_of(Mapping, partial(check_unknown, MAIL_PARAMETERS))
    )
    """Parameters of extensions that this library does not implement: keyword in upper case to value, as written.  A
    server replies 555 to those that its settings do not name."""

    def __attrs_post_init__(self) -> None:
        self._check_smtputf8()

    def _check_smtputf8(self) -> None:
        texts = (str(self.reverse_path or ""), *(value or "" for value in self.parameters.values()))
        if not (self.smtputf8 or all(text.isascii() for text in texts)):
            raise LocalProtocolError(
                "a non-ASCII reverse_path or parameter requires smtputf8=True, and a server with SMTPUTF8"
            )

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Parse ``FROM:<path>`` and its parameters (RFC 5321 section 4.1.1.2).  Raises Malformed.

        A non-ASCII path or parameter without SMTPUTF8 is returned too: the server rejects it by 550, and it cannot be
        sent.
        """
        if argument[:5].upper() != "FROM:":
            raise Malformed("syntax: MAIL FROM:<address>")
        path, rest = split_path(argument[5:])
        reverse_path, route = (None, ()) if path == "<>" else parse_path(path)
        return from_parsed(
            cls, reverse_path=reverse_path, source_route=route, **decode_parameters(rest, MAIL_PARAMETERS)
        )

    def to_wire(self) -> bytes:
        """Return the line with its CRLF, in UTF-8 (RFC 6531).  The source route is not sent.

        Raises LocalProtocolError for a value from ``parse()`` that is non-ASCII, but does not have *smtputf8*.
        """
        self._check_smtputf8()
        path = "" if self.reverse_path is None else _spelling(self.reverse_path)
        return f"MAIL FROM:<{path}>{encode_parameters(self, MAIL_PARAMETERS, self.parameters)}\r\n".encode()


@defaults_in_class
@shared_methods
@attrs.frozen(kw_only=True, slots=False, eq=False, repr=False)  # see from_parsed()
class Rcpt(Command, VerdictQuestion):
    """``RCPT TO``: add a recipient, which counts only if the answer is positive (RFC 5321 section 3.3).

    For example:

        dinah = smtp.Mailbox.parse("dinah@example.org")
        client.send(smtp.Rcpt(forward_path=dinah))  # RCPT TO:<dinah@example.org>

        case smtp.Rcpt(forward_path=mailbox) as question:
            connection.answer(question, ACCEPT if mailbox in known else smtp.Reply(550, "5.1.1", "no such user"))
    """

    verb: ClassVar[str] = "RCPT"

    forward_path: Mailbox = attrs.field(validator=value_of(Mailbox))
    """The recipient.  The bare ``<Postmaster>`` is ``Mailbox("Postmaster", "")`` (RFC 5321 section 4.5.1)."""

    source_route: tuple[str, ...] = attrs.field(default=(), validator=_SOURCE_ROUTE)
    """As in Mail."""

    notify: frozenset[Notify] | None = attrs.field(
        default=None, validator=value_of(frozenset, encode_notify, optional=True)
    )
    """The reports that the sender requests; None leaves it to the server (RFC 3461 section 4.1)."""

    original_recipient: OriginalRecipient | None = attrs.field(
        default=None, validator=value_of(OriginalRecipient, optional=True)
    )
    """ORCPT: the recipient as the sender first specified it (RFC 3461 section 4.2)."""

    parameters: Mapping[str, str | None] = attrs.field(
        default=NO_PARAMETERS, hash=False, validator=value_of(Mapping, partial(check_unknown, RCPT_PARAMETERS))
    )
    """As in Mail."""

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Parse ``TO:<path>`` and its parameters (RFC 5321 section 4.1.1.3).  Raises Malformed."""
        if argument[:3].upper() != "TO:":
            raise Malformed("syntax: RCPT TO:<address>")
        path, rest = split_path(argument[3:])
        if is_postmaster(path[1:-1]):
            postmaster = checked_mailbox(path[1:-1], "")
            return from_parsed(cls, forward_path=postmaster, **decode_parameters(rest, RCPT_PARAMETERS))
        forward_path, route = parse_path(path)
        return from_parsed(
            cls, forward_path=forward_path, source_route=route, **decode_parameters(rest, RCPT_PARAMETERS)
        )

    def to_wire(self) -> bytes:
        """Return the line with its CRLF, in UTF-8 (RFC 6531).  The source route is not sent."""
        path = _spelling(self.forward_path)
        return f"RCPT TO:<{path}>{encode_parameters(self, RCPT_PARAMETERS, self.parameters)}\r\n".encode()


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Data(NoArgumentCommand, VerdictQuestion):
    """``DATA``, or the first ``BDAT``: asks whether the client may send the content.

    After a positive answer the content follows, until MessageComplete or MessageAborted.  ACCEPT replies 354 to DATA.
    A BDAT is answered after the bytes of its chunk, which the client sends in any case: by 250, or by the negative
    Reply.

        client.send(smtp.Data())  # DATA

        case smtp.Data() as question:
            file = tempfile.TemporaryFile()
            connection.answer(question, ACCEPT)  # 354
    """

    verb: ClassVar[str] = "DATA"


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Bdat(Command):
    """``BDAT``: *size* bytes of content follow the line (RFC 3030 section 2).

    A server does not return it as an event.  It returns Data for the first chunk of a message, and MessageComplete
    after the last.

        >>> smtp.Bdat(size=86, last=True).to_wire()
        b'BDAT 86 LAST\\r\\n'
    """

    verb: ClassVar[str] = "BDAT"

    size: int = attrs.field(validator=value_of(int, between(0, 10**20 - 1)))
    last: bool = attrs.field(default=False, validator=value_of(bool))

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Parse ``size`` or ``size LAST`` (RFC 3030 section 2).  Raises Malformed."""
        found = _CHUNK.fullmatch(argument)
        if found is None:
            raise Malformed("syntax: BDAT size [LAST]")
        return cls(size=int(found[1]), last=found[2] is not None)

    def to_wire(self) -> bytes:
        """Return the line with its CRLF.  The *size* bytes of the chunk follow it."""
        return f"BDAT {self.size:d}{' LAST' if self.last else ''}\r\n".encode("ascii")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageComplete(Command, Question[Verdict | PerRecipient]):
    """The content is complete: asks whether the message was stored.

    A client sends it to end the content, with the final dot or the last BDAT.

        client.send(smtp.MessageComplete())

        case smtp.MessageComplete(recipients=recipients) as question:
            await save(recipients, file)
            connection.answer(question, ACCEPT)  # 250
    """

    verb: ClassVar[str] = "."

    recipients: tuple[Mailbox, ...] = attrs.field(default=(), validator=tuple_of(Mailbox))
    """The accepted recipients, in their order; a client leaves it empty."""

    @property
    def unavailable(self) -> Reply:
        return TRY_AGAIN


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Rset(NoArgumentCommand, Notice):
    """``RSET``: discard the open transaction, if there is one (RFC 5321 section 4.1.1.5).

    For example:

        client.send(smtp.Rset())  # RSET

        case smtp.Rset():
            print("the client starts again")
    """

    verb: ClassVar[str] = "RSET"


class Noop(TextCommand, Notice):
    """``NOOP``: do nothing; the argument is ignored (RFC 5321 section 4.1.1.9).

    For example:

        client.send(smtp.Noop(argument="keep alive"))  # NOOP keep alive
        await anext(client)  # a ReplyReceived with the code 250
    """

    __slots__ = ()

    verb: ClassVar[str] = "NOOP"


def _check_vrfy_argument(argument: str) -> None:
    if not argument.strip() or not is_text(argument) or argument != argument.strip(" "):
        raise Malformed("VRFY requires a name without control characters, and without a space at its beginning or end")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Vrfy(Command, Notice):
    """``VRFY``: answered by 252, which does not reveal which mailboxes exist (RFC 5321 sections 3.5.3 and 7.3).

    For example:

        client.send(smtp.Vrfy(argument="dinah"))  # VRFY dinah

        case smtp.Vrfy(argument=name):
            print(f"{connection.peer.address} asks for {name!a}")
    """

    verb: ClassVar[str] = "VRFY"

    argument: str = attrs.field(validator=value_of(str, _check_vrfy_argument))
    """A name or a mailbox, as written.  It may be non-ASCII if the server offers SMTPUTF8 (RFC 6531 section
    3.7.4.2)."""

    smtputf8: bool = attrs.field(default=False, validator=value_of(bool))
    """The client accepts a reply in UTF-8.  A server of this library always replies in ASCII."""

    def __attrs_post_init__(self) -> None:
        if not self.smtputf8 and _SMTPUTF8.compiled.search(self.argument):
            raise LocalProtocolError("argument must not end with SMTPUTF8; use smtputf8=True")

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Parse the name, and ``SMTPUTF8`` after it (RFC 6531 section 3.7.4.2).  Raises Malformed."""
        name = _SMTPUTF8.compiled.sub("", argument)
        return _build(cls, argument=name, smtputf8=name != argument)

    def to_wire(self) -> bytes:
        """Return the line with its CRLF, in UTF-8."""
        return f"VRFY {self.argument}{' SMTPUTF8' if self.smtputf8 else ''}\r\n".encode()


class Help(TextCommand, Notice):
    """``HELP``: answered with the list of verbs.

    For example:

        client.send(smtp.Help())  # HELP

        case smtp.ReplyReceived(command=smtp.Help(), reply=reply):
            print(reply.text)
    """

    __slots__ = ()

    verb: ClassVar[str] = "HELP"


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Quit(NoArgumentCommand, Notice):
    """``QUIT``: the client ends the session.

    For example:

        client.send(smtp.Quit())  # QUIT

        case smtp.Quit():
            print(f"{connection.peer.address} has left")
    """

    verb: ClassVar[str] = "QUIT"


_VERB: Final = re.compile(r"[A-Z][A-Z0-9_-]*")
_MAX_LINE: Final = 512  # bytes with CRLF (RFC 5321 section 4.5.3.1.4)


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class GenericCommand(Command, ExtensionNotice):
    """A command of a client whose verb has no class here, such as EXPN or ETRN.

    The server must answer it with one reply, and it must change nothing that the client keeps track of: it may be sent
    where NOOP may be.  For a verb with an effect, such as XCLIENT, add a row to ``ClientSettings(verbs=...)``.

    Raises LocalProtocolError if the line would be longer than 512 bytes.

        client.send(smtp.GenericCommand(verb="EXPN", argument="staff"))  # EXPN staff

        case smtp.ReplyReceived(command=smtp.GenericCommand(verb="EXPN"), reply=reply):
            print(reply.text)
    """

    verb: str = attrs.field(validator=value_of(str, matches(_VERB, "must be a verb in capitals, such as EXPN")))
    argument: str = attrs.field(
        default="", validator=value_of(str, matches(_ARGUMENT, "must be printable ASCII without a trailing space"))
    )

    def __attrs_post_init__(self) -> None:
        if len(self.verb) + len(self.argument) > _MAX_LINE - 3:  # a space and CRLF
            raise LocalProtocolError(f"argument: a command line must be at most {_MAX_LINE} bytes long with its CRLF")

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return f"{self.verb} {self.argument}".rstrip(" ").encode("ascii") + b"\r\n"


LineCommand: TypeAlias = Hello | StartTls | Auth | Mail | Rcpt | Data | Bdat | Rset | Noop | Vrfy | Help | Quit
"""The commands that consist of one line."""
