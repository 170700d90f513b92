"""The POP3 commands, one class for each verb.  A client sends them; a server returns them as events.

Each class parses and serializes itself.  ``parse`` takes the bytes after the verb and its space, and raises Malformed.
``to_wire`` cannot produce CR or LF inside a line.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Self, TypeAlias

import attrs

from .._unchecked import new, slot_setters
from .._validators import check_initial_response, check_mechanism_name, matches, value_of
from ..errors import LocalProtocolError, Malformed
from ..events import Accept, Command, ExtensionNotice, Notice
from ._grammar import check_count, check_number, parse_count, parse_number
from .replies import Content, FallibleQuestion

_ARGUMENT: Final = re.compile(rb"[^\r\n\0]+")
_VERB: Final = re.compile(r"[A-Z][A-Z0-9_-]*")
_TEXT: Final = re.compile(r"(?:[ -~]*[!-~])?")
_MAX_LINE: Final = 255  # bytes with CRLF (RFC 2449 section 4)


class NoArgumentCommand(Command):
    """A command without arguments.

    For example:

        class Last(pop3.NoArgumentCommand, ExtensionNotice):
            verb = "LAST"  # RFC 1460

        client.send(Last())  # LAST
    """

    __slots__ = ()

    verb: ClassVar[str]

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        """Return the command.  Raises Malformed if *argument* is not empty."""
        if argument:
            raise Malformed(f"{cls.verb} takes no argument")
        return cls()

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return f"{self.verb}\r\n".encode("ascii")


@attrs.frozen(kw_only=True)
class Capa(NoArgumentCommand, Notice):
    """``CAPA``: list the capabilities of the server in the current state (RFC 2449 section 5).

    For example:

        client.send(pop3.Capa())  # CAPA

        case pop3.ReplyReceived(command=pop3.Capa()):
            print(client.capabilities)
    """

    verb: ClassVar[str] = "CAPA"


@attrs.frozen(kw_only=True)
class Stls(NoArgumentCommand, FallibleQuestion[Accept]):
    """``STLS``: start TLS (RFC 2595 section 4).  ACCEPT begins the handshake.

    For example:

        client.send(pop3.Stls())  # STLS

        case pop3.Stls() as question:
            connection.answer(question, ACCEPT)  # +OK, then the handshake
    """

    verb: ClassVar[str] = "STLS"


@attrs.frozen(kw_only=True)
class Utf8(NoArgumentCommand, Notice):
    """``UTF8``: the client accepts messages whose header contains UTF-8 (RFC 6856 section 2.1).

    For example:

        if "UTF8" in client.capabilities:
            client.send(pop3.Utf8())  # UTF8
    """

    verb: ClassVar[str] = "UTF8"


@attrs.frozen(kw_only=True)
class Stat(NoArgumentCommand, Notice):
    """``STAT``: the number of messages and their total size in bytes, without deleted ones (RFC 1939 section 5).

    For example:

        client.send(pop3.Stat())  # STAT

        case pop3.ReplyReceived(command=pop3.Stat(), reply=reply) if reply.positive:
            count, size = map(int, reply.text.split()[:2])
    """

    verb: ClassVar[str] = "STAT"


@attrs.frozen(kw_only=True)
class Noop(NoArgumentCommand, Notice):
    """``NOOP``: no operation (RFC 1939 section 5).

    For example:

        client.send(pop3.Noop())  # NOOP
        await anext(client)  # a ReplyReceived with +OK
    """

    verb: ClassVar[str] = "NOOP"


@attrs.frozen(kw_only=True)
class Rset(NoArgumentCommand, Notice):
    """``RSET``: unmark all messages marked as deleted (RFC 1939 section 5).

    For example:

        client.send(pop3.Rset())  # RSET

        case pop3.Rset():
            print(f"{connection.identity} keeps all messages")
    """

    verb: ClassVar[str] = "RSET"


@attrs.frozen(kw_only=True)
class Quit(NoArgumentCommand, Notice):
    """``QUIT``: end the session; in TRANSACTION it also commits the deletions (RFC 1939 section 6).

    For example:

        client.send(pop3.Quit())  # QUIT

        case pop3.Quit(deleting=False):
            print(f"{connection.identity} deletes nothing")
    """

    verb: ClassVar[str] = "QUIT"

    deleting: bool = attrs.field(default=False, validator=value_of(bool))
    """In an event of a server: messages are marked as deleted, so the question Update follows.  It is never sent."""


@attrs.frozen(kw_only=True)
class OptionalNumber(Command):
    """A command about one message or about all messages.

    For example:

        class Xsize(pop3.OptionalNumber, ExtensionNotice):
            verb = "XSIZE"

        client.send(Xsize(number=3))  # XSIZE 3
    """

    verb: ClassVar[str]

    number: int | None = attrs.field(default=None, validator=value_of(int, check_number, optional=True))
    """The message number; None for all messages that are not deleted, in a multi-line response."""

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        """Parse a message number, or nothing for all messages.  Raises Malformed."""
        return cls(number=parse_number(argument) if argument else None)

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return (f"{self.verb}\r\n" if self.number is None else f"{self.verb} {self.number}\r\n").encode("ascii")


@attrs.frozen(kw_only=True)
class List(OptionalNumber, Notice):
    """``LIST``: message numbers and sizes in bytes (RFC 1939 section 5).

    For example:

        client.send(pop3.List())  # LIST
        client.send(pop3.List(number=2))  # LIST 2
    """

    verb: ClassVar[str] = "LIST"


@attrs.frozen(kw_only=True)
class Uidl(OptionalNumber, Notice):
    """``UIDL``: message numbers and unique-ids (RFC 1939 section 7).

    For example:

        client.send(pop3.Uidl())  # UIDL

        case pop3.ReplyReceived(command=pop3.Uidl(), reply=pop3.Reply(lines=tuple(lines))):
            unique_ids = dict(line.split(" ") for line in lines)
    """

    verb: ClassVar[str] = "UIDL"


@attrs.frozen(kw_only=True)
class Dele(Command, Notice):
    """``DELE``: mark a message as deleted; QUIT removes it (RFC 1939 section 5).

    For example:

        client.send(pop3.Dele(number=1))  # DELE 1

        case pop3.Dele(number=number):
            print(f"message {number} will be deleted at QUIT")
    """

    verb: ClassVar[str] = "DELE"

    number: int = attrs.field(validator=value_of(int, check_number))

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        """Parse a message number.  Raises Malformed."""
        return cls(number=parse_number(argument))

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return f"DELE {self.number}\r\n".encode("ascii")


@attrs.frozen(kw_only=True)
class Retrieve(Command, FallibleQuestion[Content]):
    """``RETR``, or ``TOP`` if *lines* is a number: the text of a message (RFC 1939 sections 5 and 7).

    Answer with the message from its start, also for TOP: the core truncates it, and asks RetrieveMore only while it
    needs more.  Unavailable becomes -ERR with its response code.  The message is sent as it is.  A header in UTF-8 is
    refused to a client that has not sent UTF8 only with ``ServerSettings.refuse_utf8_headers``.

        client.send(pop3.Retrieve(number=1))  # RETR 1
        client.send(pop3.Retrieve(number=2, lines=10))  # TOP 2 10

        case pop3.Retrieve(number=number) as question:
            connection.answer(question, await maildrop.read(number))
    """

    number: int = attrs.field(validator=value_of(int, check_number))
    lines: int | None = attrs.field(default=None, validator=value_of(int, check_count, optional=True))
    """For TOP, the number of lines of the body to send after the header; None for RETR."""

    @property
    def verb(self) -> str:
        """``RETR``, or ``TOP`` if *lines* is a number."""
        return "RETR" if self.lines is None else "TOP"

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        """Parse the argument of ``RETR``, a message number.  Raises Malformed."""
        return cls(number=parse_number(argument))

    @classmethod
    def parse_top(cls, argument: bytes) -> Self:
        """Parse the argument of ``TOP``: a message number and a number of lines.  Raises Malformed."""
        number, _, lines = argument.partition(b" ")
        return cls(number=parse_number(number), lines=parse_count(lines))

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        lines = "" if self.lines is None else f" {self.lines}"
        return f"{self.verb} {self.number}{lines}\r\n".encode("ascii")


_set_number, _set_lines = slot_setters(Retrieve, "number", "lines")
(_set_optional_number,) = slot_setters(List, "number")


(_set_deleted_number,) = slot_setters(Dele, "number")


def checked_retrieve(number: int, lines: int | None) -> Retrieve:
    """Return RETR or TOP with fields that the parser has validated.  Validating them again would double the cost."""
    command = new(Retrieve)
    _set_number(command, number)
    _set_lines(command, lines)
    return command


def checked_dele(number: int) -> Dele:
    """Return DELE of *number*, which was validated by the parser."""
    command = new(Dele)
    _set_deleted_number(command, number)
    return command


def checked_list(number: int) -> List:
    """Return LIST of *number*, which was validated by the parser."""
    command = new(List)
    _set_optional_number(command, number)
    return command


# The login commands.  ``authenticate()`` sends them.  A server does not return them as events.


@attrs.frozen(kw_only=True)
class ArgumentCommand(Command):
    """A command whose argument the mechanism interprets: any bytes except CR, LF and NUL.

    A client does not send it directly: use ``authenticate()``.  A server does not return it as an event.

        match settings.parse_command(line):
            case pop3.ArgumentCommand(verb=verb):
                print(f"{verb}, with an argument that may be a secret")
    """

    verb: ClassVar[str]

    argument: bytes = attrs.field(
        repr=False, validator=value_of(bytes, matches(_ARGUMENT, "1 or more bytes without CR, LF and NUL"))
    )

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        """Return the command.  Raises Malformed if *argument* is empty, or contains CR, LF or NUL."""
        if not _ARGUMENT.fullmatch(argument):
            raise Malformed(f"{cls.verb} requires an argument, without CR, LF or NUL")
        command = new(cls)
        _set_argument(command, argument)
        return command

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return self.verb.encode("ascii") + b" " + self.argument + b"\r\n"


(_set_argument,) = slot_setters(ArgumentCommand, "argument")


class User(ArgumentCommand):
    """``USER``: a user name (RFC 1939 section 7).

    For example:

        >>> pop3.ServerSettings().parse_command(b"USER alice").argument
        b'alice'
    """

    __slots__ = ()
    verb: ClassVar[str] = "USER"


class Pass(ArgumentCommand):
    """``PASS``: all bytes after the first space are the password, including spaces (RFC 1939 section 7).

    For example:

        >>> pop3.ServerSettings().parse_command(b"PASS correct  horse ").argument
        b'correct  horse '
    """

    __slots__ = ()
    verb: ClassVar[str] = "PASS"


class Apop(ArgumentCommand):
    """``APOP``: a user name and a digest over the timestamp of the greeting (RFC 1939 section 7).

    For example:

        >>> pop3.ServerSettings().parse_command(b"APOP alice c4c9334bac560ecc979e58001b3e22fb").argument
        b'alice c4c9334bac560ecc979e58001b3e22fb'
    """

    __slots__ = ()
    verb: ClassVar[str] = "APOP"


@attrs.frozen(kw_only=True)
class Auth(Command, Notice):
    """``AUTH`` (RFC 5034 section 4): a login, or without a mechanism, as old clients send it, a request for their list.

    A server returns it as an event only without a mechanism; the list is already sent.  A login begins with
    AuthenticationStarted.  A client does not send it directly: use ``authenticate()``.

        case pop3.Auth():
            print(f"{connection.peer.address} asks for the mechanisms")
    """

    verb: ClassVar[str] = "AUTH"

    mechanism: str | None = attrs.field(validator=value_of(str, check_mechanism_name, optional=True))
    """Its name; None requests the list."""
    initial_response: bytes | None = attrs.field(
        default=None, repr=False, validator=value_of(bytes, check_initial_response, optional=True)
    )
    """As on the wire, in base64 or ``=``; None for no initial response."""

    def __attrs_post_init__(self) -> None:
        if self.mechanism is None and self.initial_response is not None:
            raise LocalProtocolError("initial_response requires a mechanism; pass mechanism too")

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        """Parse a mechanism and an initial response, or nothing.  Raises Malformed."""
        if not argument:
            return cls(mechanism=None)
        name, blank, response = argument.partition(b" ")
        try:
            return cls(mechanism=name.decode("latin-1").upper(), initial_response=response if blank else None)
        except LocalProtocolError:
            raise Malformed("AUTH takes a mechanism and at most one initial response") from None

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        words = (b"AUTH", (self.mechanism or "").encode("ascii"), self.initial_response)
        return b" ".join(word for word in words if word) + b"\r\n"


@attrs.frozen(kw_only=True)
class GenericCommand(Command, ExtensionNotice):
    """A command of a client whose verb has no class here, such as LANG (RFC 6856) or XTND.

    The server must answer it with one response, and it must change nothing that the client keeps track of.  For a verb
    with an effect, add a row to ``ClientSettings(verbs=...)``.

    Raises LocalProtocolError if the line would be longer than 255 bytes.

        client.send(pop3.GenericCommand(verb="LANG", argument="fr"))  # LANG fr

        case pop3.ReplyReceived(command=pop3.GenericCommand(verb="LANG"), reply=reply):
            print(reply.text)
    """

    verb: str = attrs.field(validator=value_of(str, matches(_VERB, "must be a verb in capitals, such as LANG")))
    argument: str = attrs.field(
        default="", validator=value_of(str, matches(_TEXT, "must be printable ASCII without a trailing space"))
    )
    multi_line: bool = attrs.field(default=False, validator=value_of(bool))
    """Whether lines and a final dot follow a positive response, as after ``LANG`` without an argument.

    If it is False and they do, or the other way round, the client cannot tell where the response ends."""

    def __attrs_post_init__(self) -> None:
        if len(self.verb) + len(self.argument) > _MAX_LINE - 3:  # a space and CRLF
            raise LocalProtocolError(f"argument: a command line must be at most {_MAX_LINE} bytes long with its CRLF")

    def to_wire(self) -> bytes:
        """Return the line with its CRLF."""
        return f"{self.verb} {self.argument}".rstrip(" ").encode("ascii") + b"\r\n"


LineCommand: TypeAlias = (
    Capa | Stls | Utf8 | Stat | List | Uidl | Retrieve | Dele | Rset | Noop | Quit | User | Pass | Apop | Auth
)
"""All commands; each is one line."""
