"""The maildrop as a session sees it: the snapshot taken at login, the marks on it, and the text of a message going out.

Knows no state, no lock and no store.  Messages are numbered 1 to n in their order and keep their numbers (RFC 1939
section 5).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from .._dots import Stuffer
from .._errors import LocalProtocolError
from .._lines import CRLF
from .._validators import between, tuple_of, value_of
from ._grammar import check_unique_id
from .replies import Reply


@attrs.frozen(kw_only=True)
class Message:
    """What LIST and UIDL tell of a message.  Raises LocalProtocolError for what no reply can carry."""

    size: int = attrs.field(validator=value_of(int, between(0, 10**20 - 1)))
    """Octets with CRLF line ends, dots not stuffed: exactly what RETR will send (RFC 1939 section 11)."""

    unique_id: str = attrs.field(validator=value_of(str, check_unique_id))
    """1 to 70 characters 0x21 to 0x7E, never given to another message of this maildrop (RFC 1939 section 7)."""


@attrs.frozen(kw_only=True)
class Maildrop:
    """The messages of a maildrop at the moment of the login.  Raises LocalProtocolError when two share a unique-id."""

    messages: tuple[Message, ...] = attrs.field(default=(), validator=tuple_of(Message))
    size: int = attrs.field(init=False)
    """Octets of all messages."""

    def __attrs_post_init__(self) -> None:
        if len({message.unique_id for message in self.messages}) != len(self.messages):
            raise LocalProtocolError("messages: two of them share a unique-id")
        object.__setattr__(self, "size", sum(message.size for message in self.messages))


_LINES_AT_ONCE: Final = 256
"""Lines of a LIST or UIDL in one piece: some 20 KiB at most."""


class MaildropSession:
    """A maildrop with the marks that DELE sets and RSET takes away.

    Raises LocalProtocolError for a unique-id that would end a line: messages are checked when they are built; this
    holds for subclasses too, and for fields that were changed afterwards.
    """

    __slots__ = ("_messages", "_size", "deleted", "last", "size")

    def __init__(self, maildrop: Maildrop) -> None:
        unique_ids = "".join([message.unique_id for message in maildrop.messages])
        if "\r" in unique_ids or "\n" in unique_ids or "\0" in unique_ids:
            raise LocalProtocolError("the maildrop holds a unique-id with CR, LF or NUL in it")
        self._messages = maildrop.messages
        self.last = len(maildrop.messages)
        """The highest message number."""
        self._size = self.size = maildrop.size
        self.deleted: set[int] = set()

    # ``size`` is the octets of the messages that are not marked.

    @property
    def count(self) -> int:
        """Messages that are not marked."""
        return self.last - len(self.deleted)

    def missing(self, number: int) -> Reply | None:
        """The refusal when there is no message of that number, or not any more; None when it is there (section 5)."""
        if number > self.last:
            return Reply(False, "", f"no such message, only {self.last} messages in maildrop")
        return Reply(False, "", f"message {number} already deleted") if number in self.deleted else None

    def delete(self, number: int) -> None:
        self.deleted.add(number)
        self.size -= self._messages[number - 1].size

    def reset(self) -> None:
        self.deleted.clear()
        self.size = self._size

    # The words of RFC 1939 section 5 for what STAT, LIST and UIDL tell; a line with its CRLF.

    def drop_listing(self) -> bytes:
        return b"%d %d\r\n" % (self.last - len(self.deleted), self.size)

    def scan_listing(self, number: int) -> bytes:
        return b"%d %d\r\n" % (number, self._messages[number - 1].size)

    def unique_id_listing(self, number: int) -> bytes:
        return f"{number} {self._messages[number - 1].unique_id}\r\n".encode("ascii")

    def listing(self, line: Callable[[int], bytes]) -> Iterator[bytes]:
        """The *line* of each message that is not marked, then the lone dot, made as they are taken."""
        for start in range(1, self.last + 1, _LINES_AT_ONCE):
            numbers = range(start, min(start + _LINES_AT_ONCE, self.last + 1))
            yield b"".join([line(number) for number in numbers if number not in self.deleted])
        yield b".\r\n"


def needs_utf8(data: bytes) -> bool:
    """Whether the header at the start of *data*, as far as it goes, is UTF-8 beyond ASCII (RFC 6856 section 2.1).

    Octets of another encoding make no international header: such a message was never one for UTF8 mode alone.
    """
    if data.isascii() or data.startswith(CRLF):
        return False
    blank = data.find(b"\r\n\r\n")
    header = data if blank < 0 else data[:blank]
    try:
        codecs.utf_8_decode(header, "strict", blank >= 0)  # a character may go on in the next piece
    except UnicodeDecodeError:
        return False
    return not header.isascii()


class OutgoingMessage:
    """The text of a message on its way out, piece by piece: stuffed, for TOP cut, and ended with the lone dot."""

    __slots__ = ("_cut", "_stuffer", "ended", "number", "offset")

    def __init__(self, number: int, lines: int | None) -> None:
        self.number = number
        self.offset = 0
        """Octets that were handed in."""
        self.ended = False
        """The lone dot is behind the last octets; no more are wanted."""
        self._stuffer = Stuffer()
        self._cut = None if lines is None else TopLimiter(lines)

    def take(self, data: bytes, *, last: bool) -> bytes:
        """The next piece as on the wire."""
        self.offset += len(data)
        if self._cut is not None:
            data = self._cut.take(data)
            last = last or self._cut.done
        stuffed = self._stuffer.stuff(data)
        self.ended = last
        return stuffed + self._stuffer.end() if last else stuffed


class TopLimiter:
    """TOP: the header, the blank line, and the first *lines* lines of the body (RFC 1939 section 7).

    Takes the message in pieces, cut anywhere, and looks at no octet twice.
    """

    __slots__ = ("_in_body", "_lines", "_tail", "done")

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._in_body = False
        self._tail = CRLF  # a message that begins with the blank line has no header
        self.done = False
        """All that was asked for went by: the rest of the message is not wanted."""

    def take(self, data: bytes) -> bytes:
        """As much of *data* as belongs to the answer."""
        start = 0
        if not self._in_body:
            joined = self._tail + data
            blank = joined.find(b"\r\n\r\n")
            if blank < 0:
                self._tail = joined[-3:]
                return data
            self._in_body = True
            start = blank + 4 - len(self._tail)
            self._tail = b""
        end = self._end_of_lines(data, start)
        if end is None:
            self._tail = data[-1:] or self._tail
            return data
        self.done = True
        return data[:end]

    def _end_of_lines(self, data: bytes, start: int) -> int | None:
        """Where the last line that is wanted ends; None when it is not in *data*."""
        if self._lines == 0:
            return start
        if start == 0 and self._tail == b"\r" and data.startswith(b"\n"):
            start = 1
            self._lines -= 1
        ends = data.count(CRLF, start)
        if ends < self._lines:
            self._lines -= ends
            return None
        for _ in range(self._lines):
            start = data.find(CRLF, start) + 2
        return start
