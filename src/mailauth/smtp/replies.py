"""Replies as values, with the encoder and the decoder for them (RFC 5321 section 4.2, RFC 2034)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs

from .._validators import matches, tuple_of, value_of
from ..errors import LocalProtocolError, Malformed
from ..events import Accept

MAX_REPLY_LINE: Final = 512  # with its CRLF (RFC 5321 section 4.5.3.1.5)

_STATUS: Final = r"[245]\.[0-9]{1,3}\.[0-9]{1,3}"
_ENHANCED: Final = re.compile(_STATUS)
_ENHANCED_OR_NONE: Final = re.compile(f"(?:{_STATUS})?")
_TEXT: Final = re.compile(r"[\t\n -~]*")
_STANDARD_CODES: Final[Mapping[int, int]] = {2: 250, 3: 354, 4: 451, 5: 554}  # RFC 5321 section 4.2.2
_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([\t -~\x80-\xff]*))?")


def _check_code(code: int) -> None:
    if not 200 <= code <= 599:
        raise Malformed("a reply code must be 200 to 599")


_VALIDATORS: Final = (
    value_of(int, _check_code),
    value_of(
        str, matches(_ENHANCED_OR_NONE, "must be a status code such as 5.7.1, or empty; pass the text as text=...")
    ),
    value_of(str, matches(_TEXT, "must be printable ASCII and tabs, with \\n between lines")),
)
"""Those of the fields of Reply: they say what is wrong, and accept subclasses of int and str."""


def _are_valid(code: object, enhanced_status_code: object, text: object) -> bool:
    """Return whether these are valid fields of a Reply, of exactly the types int and str."""
    return (
        type(code) is int
        and 200 <= code <= 599
        and type(enhanced_status_code) is str
        and _ENHANCED_OR_NONE.fullmatch(enhanced_status_code) is not None
        and type(text) is str
        and _TEXT.fullmatch(text) is not None
    )


def _is_in_grammar(code: int) -> bool:
    """Return whether the second digit of *code* is 0 to 5, as the grammar requires (RFC 5321 section 4.2)."""
    return code // 10 % 10 <= 5


def _cannot_be_sent(code: int) -> LocalProtocolError:
    return LocalProtocolError(
        f"code {code} can be received but not sent, since its second digit is not 0 to 5 (RFC 5321 section 4.2); use"
        " with_standard_code()"
    )


@attrs.frozen
class Reply:
    """A reply: code, enhanced status code, and text, whose lines are separated by ``\\n``.

    As an answer to a question, 2yz accepts, 4yz and 5yz reject, and 421 also ends the session.

    A client also receives codes outside the grammar, such as 571, whose first digit has the usual meaning (RFC 5321
    section 4.2.1).  Such a reply cannot be sent.

    Raises LocalProtocolError if the code is outside 200 to 599, the enhanced status code is malformed, or the text is
    not printable ASCII.

        >>> smtp.Reply(550, "5.1.1", "no such user").to_wire()
        b'550 5.1.1 no such user\\r\\n'
    """

    code: int
    enhanced_status_code: str = ""
    """For example ``5.7.1`` (RFC 3463); empty if absent."""
    text: str = ""

    def __attrs_post_init__(self) -> None:
        # A server builds one or more for each message: one check of all fields costs half of three validators.
        if not _are_valid(self.code, self.enhanced_status_code, self.text):
            fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(Reply)
            for field, validate in zip(fields, _VALIDATORS, strict=True):
                validate(self, field, getattr(self, field.name))

    @property
    def positive(self) -> bool:
        """True for 2yz: the command succeeded."""
        return self.code < 300

    def with_standard_code(self) -> Reply:
        """Return this reply as a server may send it: 571 becomes 554, and 498 becomes 451.

        The text and the enhanced status code stay.  A code of the grammar stays too (RFC 5321 section 4.2).

            >>> smtp.Reply(571, "5.7.1", "blocked").with_standard_code()
            Reply(code=554, enhanced_status_code='5.7.1', text='blocked')
        """
        if _is_in_grammar(self.code):
            return self
        return Reply(_STANDARD_CODES[self.code // 100], self.enhanced_status_code, self.text)

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.code, self.enhanced_status_code, self.text) if part)

    def to_wire(self, *, enhanced: bool = True) -> bytes:
        """Return the reply as lines of at most 512 bytes.

        Each line has the code, and the enhanced status code if *enhanced*.  An empty text becomes ``OK`` or
        ``refused``, because some clients hang on a line with only a code.

        Raises LocalProtocolError for a code whose second digit is not 0 to 5 (RFC 5321 section 4.2).
        """
        if not _is_in_grammar(self.code):
            raise _cannot_be_sent(self.code)
        status = f"{self.enhanced_status_code} " if enhanced and self.enhanced_status_code else ""
        text = self.text or ("OK" if self.code < 400 else "refused")
        room = MAX_REPLY_LINE - len(status) - 6  # the code, its separator and CRLF
        if len(text) <= room and "\n" not in text:
            return f"{self.code} {status}{text}\r\n".encode("ascii")
        lines = [line[start : start + room] for line in text.split("\n") for start in range(0, len(line) or 1, room)]
        last = lines.pop()
        head = "".join(f"{self.code}-{status}{line}\r\n" for line in lines)
        return f"{head}{self.code} {status}{last}\r\n".encode("ascii")


Verdict: TypeAlias = Accept | Reply
"""ACCEPT, or a Reply that accepts or rejects with the application's own text."""


def _check_verdict(verdict: object) -> None:
    if not isinstance(verdict, Accept | Reply):
        raise Malformed(f"each verdict must be ACCEPT or a Reply, not {type(verdict).__name__}")


@attrs.frozen
class PerRecipient:
    """LMTP only: one verdict for each accepted recipient, in their order (RFC 2033 section 4.2).

    For example:

        case smtp.MessageComplete(recipients=(_, _)) as question:
            full = smtp.Reply(452, "4.2.2", "mailbox full")
            connection.answer(question, smtp.PerRecipient((ACCEPT, full)))
    """

    verdicts: tuple[Verdict, ...] = attrs.field(validator=tuple_of(object, _check_verdict))


def sendable(reply: Reply) -> Reply:
    """Return *reply* in a form that is exactly one reply on the wire.

    Raises LocalProtocolError if it was changed to an invalid value after it was created.  Instances of subclasses are
    replaced by plain values, because their methods could return something else at each call.
    """
    code, status, text = reply.code, reply.enhanced_status_code, reply.text
    if type(reply) is not Reply or (type(code), type(status), type(text)) != (int, str, str):
        reply = Reply(_plain(code), _plain(status), _plain(text))
        code = reply.code
    elif not _are_valid(code, status, text):
        raise LocalProtocolError("a reply must be lines of printable ASCII with its code; do not change a built Reply")
    if not _is_in_grammar(code):
        raise _cannot_be_sent(code)
    return reply


def checked_answer(answer: object) -> Reply | None:
    """Return *answer* as a Reply, or None for ACCEPT.  Raises LocalProtocolError if it cannot answer a question."""
    if isinstance(answer, Accept):
        return None
    if not isinstance(answer, Reply):
        raise LocalProtocolError(f"the answer must be ACCEPT or a Reply, not {type(answer).__name__}")
    reply = sendable(answer)
    if 300 <= reply.code < 400:
        raise LocalProtocolError(f"{reply.code} cannot answer a question; use 2yz to accept, 4yz or 5yz to reject")
    if reply.enhanced_status_code and int(reply.enhanced_status_code[0]) != reply.code // 100:
        raise LocalProtocolError(
            f"enhanced status code {reply.enhanced_status_code} does not match code {reply.code};"
            " use the same first digit"
        )
    return reply


def _plain(value: Any) -> Any:
    """Return *value* as a plain str or int, even if its type is a subclass."""
    if isinstance(value, str):
        return str.__str__(value)
    return int.__int__(value) if isinstance(value, int) else value


def parse_line(line: bytes, *, strict: bool = False) -> tuple[int, bool, str]:
    """Parse one line of a reply without its CRLF: return (code, whether it is the last line, text).

    Raises Malformed if the line is invalid, or if *strict* and the code is not in the grammar.  A code without a space
    is accepted (RFC 5321 section 4.2); bytes above 127 become ``?``.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        raise Malformed("invalid reply line")
    digits, separator, text = found.groups()
    code = int(digits)
    if strict and not _is_in_grammar(code):
        raise Malformed("the second digit of a reply code must be 0 to 5")
    return code, separator != b"-", (text or b"").decode("ascii", "replace").replace("\ufffd", "?")


def join_lines(code: int, texts: list[str]) -> Reply:
    """Return the lines of one reply as a Reply.

    An enhanced status code is removed from the text if every line has the same one.
    """
    statuses = {text.partition(" ")[0] for text in texts}
    status = statuses.pop() if len(statuses) == 1 else ""
    if _ENHANCED.fullmatch(status) and int(status[0]) == code // 100:
        return Reply(code, status, "\n".join(text.partition(" ")[2] for text in texts))
    return Reply(code, "", "\n".join(texts))


def parse_extensions(reply: Reply, *, strict: bool = False) -> dict[str, str]:
    """Parse the reply to EHLO.  Return the parameters by keyword, such as ``{"SIZE": "100"}``.

    ``AUTH=``, which old servers send, is treated as AUTH.  A tab is a blank, unless *strict* is true.
    """
    extensions: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = (line if strict else line.replace("\t", " ")).strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):
            parameters = f"{keyword[5:]} {parameters}"
            keyword = "AUTH"
        extensions[keyword] = f"{extensions[keyword]} {parameters}" if keyword in extensions else parameters.strip()
    return extensions
