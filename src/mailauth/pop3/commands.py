"""POP3's commands, one class per verb for both sides: a client sends it, a server is asked or told it.

Each is its own codec, octets to values and back; knows no state and decides nothing.  ``parse`` takes what follows the
verb and raises Malformed, ``to_wire`` cannot emit CR or LF inside a line.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Self, TypeAlias

import attrs

from .._errors import LocalProtocolError, Malformed
from .._events import Accept, Command, Notice
from .._validators import check_initial_response, check_mechanism_name, matches, value_of
from ._grammar import check_count, check_number, parse_count, parse_number
from .replies import Content, FallibleQuestion

_ARGUMENT: Final = re.compile(rb"[^\r\n\0]+")


class NoArgumentCommand(Command):
    """A verb without arguments; blanks behind it are overlooked."""

    __slots__ = ()

    verb: ClassVar[str]

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        if argument.strip(b" "):
            raise Malformed(f"{cls.verb} takes no argument")
        return cls()

    def to_wire(self) -> bytes:
        return f"{self.verb}\r\n".encode("ascii")


@attrs.frozen(kw_only=True)
class Capa(NoArgumentCommand, Notice):
    """``CAPA``: what can this server do, in this state (RFC 2449 section 5)?"""

    verb: ClassVar[str] = "CAPA"


@attrs.frozen(kw_only=True)
class Stls(NoArgumentCommand, FallibleQuestion[Accept]):
    """``STLS`` (RFC 2595 section 4).  ACCEPT begins the handshake."""

    verb: ClassVar[str] = "STLS"


@attrs.frozen(kw_only=True)
class Utf8(NoArgumentCommand, Notice):
    """``UTF8``: messages whose header holds UTF-8 may be sent as they are (RFC 6856 section 2.1)."""

    verb: ClassVar[str] = "UTF8"


@attrs.frozen(kw_only=True)
class Stat(NoArgumentCommand, Notice):
    """``STAT``: how many messages, how many octets (RFC 1939 section 5)?  Deleted messages do not count."""

    verb: ClassVar[str] = "STAT"


@attrs.frozen(kw_only=True)
class Noop(NoArgumentCommand, Notice):
    """``NOOP``: nothing but an answer."""

    verb: ClassVar[str] = "NOOP"


@attrs.frozen(kw_only=True)
class Rset(NoArgumentCommand, Notice):
    """``RSET``: no message is marked as deleted any more."""

    verb: ClassVar[str] = "RSET"


@attrs.frozen(kw_only=True)
class Quit(NoArgumentCommand, Notice):
    """``QUIT``: the client ends the session; out of TRANSACTION it commits the deletions (RFC 1939 section 6)."""

    verb: ClassVar[str] = "QUIT"


@attrs.frozen(kw_only=True)
class OptionalNumber(Command):
    """A verb about one message, or about all of them."""

    verb: ClassVar[str]

    number: int | None = attrs.field(default=None, validator=value_of(int, check_number, optional=True))
    """None: all messages that are not deleted, in a multi-line answer."""

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        argument = argument.strip(b" ")
        return cls(number=parse_number(argument) if argument else None)

    def to_wire(self) -> bytes:
        return (f"{self.verb}\r\n" if self.number is None else f"{self.verb} {self.number}\r\n").encode("ascii")


@attrs.frozen(kw_only=True)
class List(OptionalNumber, Notice):
    """``LIST``: message numbers and sizes in octets (RFC 1939 section 5)."""

    verb: ClassVar[str] = "LIST"


@attrs.frozen(kw_only=True)
class Uidl(OptionalNumber, Notice):
    """``UIDL``: message numbers and unique-ids (RFC 1939 section 7)."""

    verb: ClassVar[str] = "UIDL"


@attrs.frozen(kw_only=True)
class Dele(Command, Notice):
    """``DELE``: mark a message as deleted; it goes at QUIT (RFC 1939 section 5)."""

    verb: ClassVar[str] = "DELE"

    number: int = attrs.field(validator=value_of(int, check_number))

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        return cls(number=parse_number(argument.strip(b" ")))

    def to_wire(self) -> bytes:
        return f"DELE {self.number}\r\n".encode("ascii")


@attrs.frozen(kw_only=True)
class Retrieve(Command, FallibleQuestion[Content]):
    """``RETR``, and ``TOP`` when *lines* is a number (RFC 1939 sections 5 and 7): the text of a message.

    Answer with the message from its start, for TOP as well: the core cuts it, and asks no further once it has enough.
    Unavailable becomes -ERR with its response code.  A server that offers UTF8 refuses by itself, with ``[UTF8]``, when
    the header in the first Content is UTF-8 beyond ASCII and the client has not said UTF8 (RFC 6856 section 2.1).
    """

    number: int = attrs.field(validator=value_of(int, check_number))
    lines: int | None = attrs.field(default=None, validator=value_of(int, check_count, optional=True))
    """TOP: how many lines of the body to send behind the header; None is RETR, the whole message."""

    @property
    def verb(self) -> str:
        return "RETR" if self.lines is None else "TOP"

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        return cls(number=parse_number(argument.strip(b" ")))

    @classmethod
    def parse_top(cls, argument: bytes) -> Self:
        """What follows ``TOP``: a message number and a number of lines."""
        number, _, lines = argument.strip(b" ").partition(b" ")
        return cls(number=parse_number(number), lines=parse_count(lines))

    def to_wire(self) -> bytes:
        lines = "" if self.lines is None else f" {self.lines}"
        return f"{self.verb} {self.number}{lines}\r\n".encode("ascii")


_new: Final = object.__new__
_set_number: Final = vars(Retrieve)["number"].__set__
_set_lines: Final = vars(Retrieve)["lines"].__set__
_set_optional_number: Final = vars(OptionalNumber)["number"].__set__


def checked_retrieve(number: int) -> Retrieve:
    """RETR of a number that a grammar has just matched: checking it again would be half its price."""
    command = _new(Retrieve)
    _set_number(command, number)
    _set_lines(command, None)
    return command


def checked_list(number: int) -> List:
    """LIST of a number that a grammar has just matched."""
    command = _new(List)
    _set_optional_number(command, number)
    return command


# The commands of a login: not sent by hand, see ``authenticate()``, and not shown to an application.


@attrs.frozen(kw_only=True)
class ArgumentCommand(Command):
    """A verb whose argument is the mechanism's affair: any octets but CR, LF and NUL, blanks included."""

    verb: ClassVar[str]

    argument: bytes = attrs.field(
        repr=False, validator=value_of(bytes, matches(_ARGUMENT, "1 or more octets without CR, LF and NUL"))
    )

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        if not _ARGUMENT.fullmatch(argument):
            raise Malformed(f"{cls.verb} takes an argument without CR, LF and NUL")
        command = _new(cls)
        _set_argument(command, argument)
        return command

    def to_wire(self) -> bytes:
        return self.verb.encode("ascii") + b" " + self.argument + b"\r\n"


_set_argument: Final = vars(ArgumentCommand)["argument"].__set__


class User(ArgumentCommand):
    """``USER``: a name (RFC 1939 section 7)."""

    __slots__ = ()
    verb: ClassVar[str] = "USER"


class Pass(ArgumentCommand):
    """``PASS``: everything behind the one blank is the password, further blanks too (RFC 1939 section 7)."""

    __slots__ = ()
    verb: ClassVar[str] = "PASS"


class Apop(ArgumentCommand):
    """``APOP``: a name and a digest over the greeting's timestamp (RFC 1939 section 7)."""

    __slots__ = ()
    verb: ClassVar[str] = "APOP"


@attrs.frozen(kw_only=True)
class Auth(Command):
    """``AUTH`` (RFC 5034 section 4); without a mechanism it asks which ones there are, as old clients do."""

    verb: ClassVar[str] = "AUTH"

    mechanism: str | None = attrs.field(validator=value_of(str, check_mechanism_name, optional=True))
    initial_response: bytes | None = attrs.field(
        default=None, repr=False, validator=value_of(bytes, check_initial_response, optional=True)
    )
    """As on the wire, in base64 or ``=``; None when there is none."""

    def __attrs_post_init__(self) -> None:
        if self.mechanism is None and self.initial_response is not None:
            raise LocalProtocolError("initial_response needs a mechanism")

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        if not argument.strip(b" "):
            return cls(mechanism=None)
        name, blank, response = argument.partition(b" ")
        try:
            return cls(mechanism=name.decode("latin-1").upper(), initial_response=response if blank else None)
        except LocalProtocolError:
            raise Malformed("AUTH takes a mechanism and at most one initial response") from None

    def to_wire(self) -> bytes:
        words = (b"AUTH", (self.mechanism or "").encode("ascii"), self.initial_response)
        return b" ".join(word for word in words if word) + b"\r\n"


LineCommand: TypeAlias = (
    Capa | Stls | Utf8 | Stat | List | Uidl | Retrieve | Dele | Rset | Noop | Quit | User | Pass | Apop | Auth
)
"""The commands that are a line each: all of them."""

SENDABLE: Final = (Capa, Stls, Utf8, Stat, List, Uidl, Retrieve, Dele, Rset, Noop, Quit)
"""What a client may hand to ``send()``."""
