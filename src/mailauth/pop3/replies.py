"""Replies: what a server says, as a value, and the one encoder and decoder; and what an application answers with.

Codec only: knows no verb and no state (RFC 1939 section 3, RFC 2449 sections 3 and 8, RFC 6856 section 5).
"""

from __future__ import annotations

import enum
import re
from typing import Final, Generic, TypeVar

import attrs

from .._errors import LocalProtocolError, Malformed
from .._events import Question
from .._validators import matches, tuple_of, value_of, wrong_type

A = TypeVar("A")

MAX_REPLY_LINE: Final = 512  # with its CRLF (RFC 1939 section 3; RFC 2449 section 4 leaves it so)

_TEXT: Final = re.compile(r"[\t -~]*")
_CODE: Final = re.compile(r"[!-.0-\\^-~]+(?:/[!-.0-\\^-~]+)*")
_CODE_OR_NONE: Final = re.compile(f"(?:{_CODE.pattern})?")
_CODED: Final = re.compile(rf"\[({_CODE.pattern})\] ?(.*)")
_STATUS: Final = re.compile(rb"(\+OK|-ERR)(?: (.*))?", re.DOTALL)
_NOT_TEXT: Final = re.compile(r"[^\t -~]")


class Unavailable(enum.Enum):
    """No, with the response code that tells the client why: an application's answer to a question."""

    IN_USE = "IN-USE"
    """Another session holds the maildrop (RFC 2449 section 8.1.2)."""
    TEMPORARY = "SYS/TEMP"
    """It may work when tried again (RFC 3206 section 4)."""
    PERMANENT = "SYS/PERM"
    """It will not work before somebody mends it (RFC 3206 section 4)."""
    LOGIN_DELAY = "LOGIN-DELAY"
    """The last login was too short a while ago (RFC 2449 section 8.1.1): for OpenMaildrop."""
    UTF8 = "UTF8"
    """The text can be had after UTF8 alone (RFC 6856 section 5): for Retrieve, where the core cannot see it."""


class FallibleQuestion(Question[A | Unavailable], Generic[A]):
    """A question that is answered by an *A* or an Unavailable: every one of POP3's own."""

    __slots__ = ()

    @property
    def unavailable(self) -> Unavailable:
        return Unavailable.TEMPORARY


@attrs.frozen(kw_only=True)
class Content:
    """A piece of a message, or all of it: an application's answer to Retrieve and RetrieveMore."""

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} octets>")
    """With CRLF line ends, dots not stuffed; pieces may be cut anywhere.

    A bare LF goes out as it is, and a dot behind it gets another one: a client that takes LF for a line end (poplib
    does) must not find the end of the answer inside it.
    """

    last: bool = True
    """False: there is more, so ask RetrieveMore once these octets are written."""

    def __attrs_post_init__(self) -> None:
        # A third of what two validators cost: one is built for each message that is sent.
        if not isinstance(self.data, bytes):
            raise wrong_type("data", bytes, self.data)
        if not isinstance(self.last, bool):
            raise wrong_type("last", bool, self.last)


_check_text: Final = matches(_TEXT, "printable ASCII and tabs only")


@attrs.frozen
class Reply:
    """``+OK`` or ``-ERR`` with its response code and text, and the lines that follow when the answer has several.

    Raises LocalProtocolError for a response code that is none, and for text or lines that are not printable ASCII.
    """

    positive: bool = attrs.field(validator=value_of(bool))
    response_code: str = attrs.field(
        default="", validator=value_of(str, matches(_CODE_OR_NONE, "a code such as SYS/TEMP, or nothing"))
    )
    """``IN-USE``, ``AUTH``, ``SYS/TEMP`` and the like, without brackets (RFC 2449 section 8); empty for none."""
    text: str = attrs.field(default="", validator=value_of(str, _check_text))
    lines: tuple[str, ...] | None = attrs.field(default=None, validator=tuple_of(str, _check_text, optional=True))
    """The lines of a multi-line answer, unstuffed; None when the answer is the status line alone."""

    def __attrs_post_init__(self) -> None:
        if not self.response_code and _CODED.fullmatch(self.text):
            raise LocalProtocolError("text may not begin like a response code: use response_code")

    def __str__(self) -> str:
        code = f"[{self.response_code}]" if self.response_code else ""
        return " ".join(part for part in ("+OK" if self.positive else "-ERR", code, self.text) if part)

    def to_wire(self) -> bytes:
        """The reply as on the wire: lines stuffed and cut to 512 octets with CRLF, the lone dot behind several."""
        room = MAX_REPLY_LINE - 2
        out = [str(self)[:room]]
        if self.lines is not None:
            out += [f".{line}"[:room] if line.startswith(".") else line[:room] for line in self.lines]
            out.append(".")
        return "".join(f"{line}\r\n" for line in out).encode("ascii")


def parse_status(line: bytes) -> Reply:
    """A status line without its CRLF; octets that no reply may hold become ``?``.  Raises Malformed."""
    found = _STATUS.fullmatch(line)
    if found is None:
        raise Malformed("a reply begins with +OK or -ERR")
    status, data = found.groups()
    text = printable(data or b"")
    code = ""
    if (coded := _CODED.fullmatch(text)) is not None:
        code, text = coded.groups()
    return Reply(status == b"+OK", code, text)


def printable(data: bytes) -> str:
    """*data* as text that a Reply may hold."""
    return _NOT_TEXT.sub("?", data.decode("latin-1"))
