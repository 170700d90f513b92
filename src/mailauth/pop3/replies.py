"""Replies with their encoder and decoder, and the answers to questions.

See RFC 1939 section 3, RFC 2449 sections 3 and 8, RFC 6856 section 5.
"""

from __future__ import annotations

import enum
import re
from typing import Final, Generic, TypeVar

import attrs

from .._unchecked import slot_setters
from .._validators import matches, tuple_of, value_of, wrong_type
from ..errors import LocalProtocolError, Malformed
from ..events import Question

A = TypeVar("A")

MAX_REPLY_LINE: Final = 512  # bytes, with CRLF (RFC 1939 section 3; RFC 2449 section 4 does not change it)

_TEXT: Final = re.compile(r"[\t -~]*")
_CODE: Final = re.compile(r"[!-.0-\\^-~]+(?:/[!-.0-\\^-~]+)*")
_CODE_OR_NONE: Final = re.compile(f"(?:{_CODE.pattern})?")
_CODED: Final = re.compile(rf"\[({_CODE.pattern})\] ?(.*)")
_STATUS: Final = re.compile(rb"(\+OK|-ERR)(?: (.*))?", re.DOTALL)
_NOT_TEXT: Final = re.compile(r"[^\t -~]")
_ESCAPED: Final = re.compile(r"[^\t -~]|\\(?=x[0-9a-f]{2})")


class Unavailable(enum.Enum):
    """A negative answer to a question; the value is the response code sent with -ERR.

    For example:

        case pop3.OpenMaildrop(identity=name) as question if name in locked:
            connection.answer(question, pop3.Unavailable.IN_USE)  # -ERR [IN-USE]
    """

    IN_USE = "IN-USE"
    """Another session has locked the maildrop (RFC 2449 section 8.1.2)."""
    TEMPORARY = "SYS/TEMP"
    """A temporary failure: the client may try again (RFC 3206 section 4)."""
    PERMANENT = "SYS/PERM"
    """A failure that remains until an administrator corrects it (RFC 3206 section 4)."""
    LOGIN_DELAY = "LOGIN-DELAY"
    """Too little time has passed since the last login (RFC 2449 section 8.1.1).  For OpenMaildrop."""
    UTF8 = "UTF8"
    """The message requires UTF8 mode (RFC 6856 section 5).  For Retrieve, if the header does not show it."""


class FallibleQuestion(Question[A | Unavailable], Generic[A]):
    """A question that is answered with an *A* or an Unavailable, like all questions of POP3.

    For example:

        case pop3.FallibleQuestion() as question:
            connection.answer(question, pop3.Unavailable.PERMANENT)  # -ERR [SYS/PERM]
    """

    __slots__ = ()

    @property
    def unavailable(self) -> Unavailable:
        return Unavailable.TEMPORARY


@attrs.frozen(kw_only=True, init=False)
class Content:
    """A piece of a message, or all of it: the answer to Retrieve and RetrieveMore.

    *data* is the text with CRLF line ends and before dot-stuffing, of any size.  Pieces may be split anywhere, even
    between CR and LF.  A bare CR or LF, which two clients could read differently, is refused when the connection gets
    the answer: ``answer()`` raises LocalProtocolError.  Convert text from a file: ``data.replace(b"\\n", b"\\r\\n")``.

    *last* is true if the message ends with this piece, and false if more follows.

    For example:

        case pop3.Retrieve(number=number) as question:
            connection.answer(question, pop3.Content(data=contents[number - 1]))
    """

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes>")
    """The text with CRLF line ends and before dot-stuffing.  Pieces may be split anywhere."""

    last: bool = True
    """False if more follows: RetrieveMore is asked after this piece is written."""

    def __init__(self, *, data: bytes, last: bool = True) -> None:
        # An instance is created for each message that is sent.  The __init__ of attrs would take twice as long, and
        # with validators five times.
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("data", bytes, data)
        if last is not True and last is not False:  # pyright: ignore[reportUnnecessaryComparison]
            raise wrong_type("last", bool, last)
        _set_data(self, data)
        _set_last(self, last)


_set_data, _set_last = slot_setters(Content, "data", "last")


_check_text: Final = matches(_TEXT, "printable ASCII and tabs only")


@attrs.frozen
class Reply:
    """``+OK`` or ``-ERR`` with its response code and text, and the lines of a multi-line response.

    Raises LocalProtocolError for an invalid response code, and for text or lines that are not printable ASCII.

        >>> pop3.Reply(False, "IN-USE", "maildrop is locked").to_wire()
        b'-ERR [IN-USE] maildrop is locked\\r\\n'
        >>> pop3.Reply(True, text="two lines", lines=("one", "two")).to_wire()
        b'+OK two lines\\r\\none\\r\\ntwo\\r\\n.\\r\\n'
    """

    positive: bool = attrs.field(validator=value_of(bool))
    response_code: str = attrs.field(
        default="", validator=value_of(str, matches(_CODE_OR_NONE, "a code such as SYS/TEMP, or nothing"))
    )
    """The response code without brackets, such as ``IN-USE`` or ``SYS/TEMP`` (RFC 2449 section 8); empty for none."""
    text: str = attrs.field(default="", validator=value_of(str, _check_text))
    lines: tuple[str, ...] | None = attrs.field(default=None, validator=tuple_of(str, _check_text, optional=True))
    """The lines of a multi-line response, without dot-stuffing; None for a single-line response.

    In a received line, a byte that is not printable ASCII is written as ``\\xNN``, so that different lines differ."""

    def __attrs_post_init__(self) -> None:
        if not self.response_code and _CODED.fullmatch(self.text):
            raise LocalProtocolError("text must not begin with a response code; use response_code")

    def __str__(self) -> str:
        code = f"[{self.response_code}]" if self.response_code else ""
        return " ".join(part for part in ("+OK" if self.positive else "-ERR", code, self.text) if part)

    def to_wire(self) -> bytes:
        """Return the reply as sent: lines dot-stuffed and cut to 512 bytes with CRLF, the final dot if multi-line."""
        room = MAX_REPLY_LINE - 2
        out = [str(self)[:room]]
        if self.lines is not None:
            out += [f".{line}"[:room] if line.startswith(".") else line[:room] for line in self.lines]
            out.append(".")
        return "".join(f"{line}\r\n" for line in out).encode("ascii")


def parse_status(line: bytes) -> Reply:
    """Parse a status line without its CRLF.  Bytes that are not allowed become ``?``.  Raises Malformed."""
    found = _STATUS.fullmatch(line)
    if found is None:
        raise Malformed("a reply must begin with +OK or -ERR")
    status, data = found.groups()
    text = _NOT_TEXT.sub("?", (data or b"").decode("latin-1"))
    code = ""
    if (coded := _CODED.fullmatch(text)) is not None:
        code, text = coded.groups()
    return Reply(status == b"+OK", code, text)


def parse_line(data: bytes) -> str:
    r"""Return a line of a multi-line response, without its CRLF and dot-stuffing, as text.

    Different lines stay different, since a line may contain a unique-id.  A byte that a Reply may not contain is
    written as ``\xNN``, in lower case, and a backslash that looks like the start of one as ``\x5c``.
    """
    return _ESCAPED.sub(lambda found: f"\\x{ord(found[0]):02x}", data.decode("latin-1"))
