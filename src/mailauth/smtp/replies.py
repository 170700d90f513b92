"""Replies: what a server says, as a value, and the one encoder and decoder for it (RFC 5321 section 4.2, RFC 2034).

Codec only: knows no verb and no state.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import attrs

from .._errors import LocalProtocolError, Malformed
from .._events import Accept
from .._validators import matches, tuple_of, value_of

MAX_REPLY_LINE: Final = 512  # with its CRLF (RFC 5321 section 4.5.3.1.5)

_STATUS: Final = r"[245]\.[0-9]{1,3}\.[0-9]{1,3}"
_ENHANCED: Final = re.compile(_STATUS)
_ENHANCED_OR_NONE: Final = re.compile(f"(?:{_STATUS})?")
_TEXT: Final = re.compile(r"[\t\n -~]*")
_ON_THE_WIRE: Final = re.compile(rb"(?:[2-5][0-5][0-9]-[\t -~]*\r\n)*[2-5][0-5][0-9] [\t -~]*\r\n")
_LINE: Final = re.compile(rb"([2-5][0-5][0-9])(?:([ -])([\t -~\x80-\xff]*))?")


def _check_code(code: int) -> None:
    if not (200 <= code <= 599 and code // 10 % 10 <= 5):
        raise Malformed("a reply code is 200 to 559, with 0 to 5 in its middle (RFC 5321 section 4.2.1)")


@attrs.frozen
class Reply:
    """A reply: code, enhanced status code, text (``\\n`` separates its lines).

    As an answer to a question any 2yz is yes, 4yz and 5yz are no, and 421 also ends the session.
    Raises LocalProtocolError for a code outside 200 to 559, an enhanced status code that is none, or text that is not
    printable ASCII.
    """

    code: int = attrs.field(validator=value_of(int, _check_code))
    enhanced_status_code: str = attrs.field(
        default="", validator=value_of(str, matches(_ENHANCED_OR_NONE, "a status such as 5.7.1, or nothing"))
    )
    """``5.7.1`` (RFC 3463); empty when there is none to give."""
    text: str = attrs.field(
        default="", validator=value_of(str, matches(_TEXT, "printable ASCII and tabs only, with \\n between lines"))
    )

    @property
    def positive(self) -> bool:
        """True for 2yz: done as asked."""
        return self.code < 300

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.code, self.enhanced_status_code, self.text) if part)

    def to_wire(self, *, enhanced: bool = True) -> bytes:
        """The reply as lines of at most 512 octets, each with the code, and with the enhanced one unless told
        otherwise.

        Never bare: an empty text becomes ``OK`` or ``refused``, since some clients hang on a code alone.
        """
        status = f"{self.enhanced_status_code} " if enhanced and self.enhanced_status_code else ""
        room = MAX_REPLY_LINE - len(status) - 6  # the code, its separator and CRLF
        lines = [
            line[start : start + room]
            for line in (self.text or ("OK" if self.code < 400 else "refused")).split("\n")
            for start in range(0, len(line) or 1, room)
        ]
        last = lines.pop()
        head = "".join(f"{self.code}-{status}{line}\r\n" for line in lines)
        return f"{head}{self.code} {status}{last}\r\n".encode("ascii")


Verdict: TypeAlias = Accept | Reply
"""ACCEPT, or a Reply that says yes or no in the application's own words."""


def _check_verdict(verdict: object) -> None:
    if not isinstance(verdict, Accept | Reply):
        raise Malformed(f"each is ACCEPT or a Reply, not {type(verdict).__name__}")


@attrs.frozen
class PerRecipient:
    """LMTP alone: one verdict for each accepted recipient, in their order (RFC 2033 section 4.2)."""

    verdicts: tuple[Verdict, ...] = attrs.field(validator=tuple_of(object, _check_verdict))


def sendable(reply: Reply) -> Reply:
    """*reply*, which is about to be sent, as one reply on the wire.

    Raises LocalProtocolError for one that was changed after it was built.  Of a subclass, and of texts that are one of
    str, only what they hold is taken: their own ways to write themselves could differ from one time to the next.
    """
    if type(reply) is not Reply or (type(reply.code), type(reply.enhanced_status_code), type(reply.text)) != _PARTS:
        return Reply(_plain(reply.code), _plain(reply.enhanced_status_code), _plain(reply.text))
    if _ON_THE_WIRE.fullmatch(reply.to_wire()) is None:
        raise LocalProtocolError("a reply that is sent must be lines of printable ASCII, each with its code")
    return reply


_PARTS: Final = (int, str, str)


def _plain(value: Any) -> Any:
    """*value* without what a subclass of str or int adds to it."""
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else value


def parse_line(line: bytes) -> tuple[int, bool, str]:
    """One line of a reply without its CRLF: (code, whether it is the last, text).  Raises Malformed.

    A bare code without a blank is taken, as RFC 5321 section 4.2 asks; octets above 127 become ``?``.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        raise Malformed("not a reply line")
    code, separator, text = found.groups()
    return int(code), separator != b"-", (text or b"").decode("ascii", "replace").replace("\ufffd", "?")


def join_lines(code: int, texts: list[str]) -> Reply:
    """The lines of one reply as a Reply; an enhanced status code is taken off when every line carries the same one."""
    statuses = {text.partition(" ")[0] for text in texts}
    status = statuses.pop() if len(statuses) == 1 else ""
    if _ENHANCED.fullmatch(status) and int(status[0]) == code // 100:
        return Reply(code, status, "\n".join(text.partition(" ")[2] for text in texts))
    return Reply(code, "", "\n".join(texts))


def parse_extensions(reply: Reply) -> dict[str, str]:
    """The reply to EHLO, ``250-SIZE 100`` and its like: keyword to parameters.

    ``AUTH=`` of old servers counts as AUTH.
    """
    extensions: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):
            parameters = f"{keyword[5:]} {parameters}"
            keyword = "AUTH"
        extensions[keyword] = f"{extensions[keyword]} {parameters}" if keyword in extensions else parameters.strip()
    return extensions
