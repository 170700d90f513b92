"""The maildrop of a session: the messages at login, the deletion marks, and the encoder for the text of a message.

Messages are numbered 1 to n in their order and keep their numbers (RFC 1939 section 5).
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
    """The size and the unique-id of a message, for LIST and UIDL.  Raises LocalProtocolError for an invalid value."""

    size: int = attrs.field(validator=value_of(int, between(0, 10**20 - 1)))
    """The size in bytes that RETR sends, with CRLF line ends and before dot-stuffing (RFC 1939 section 11)."""

    unique_id: str = attrs.field(validator=value_of(str, check_unique_id))
    """1 to 70 characters 0x21 to 0x7E, never reused for another message of this maildrop (RFC 1939 section 7)."""


@attrs.frozen(kw_only=True)
class Maildrop:
    """The messages of a maildrop at login.  Raises LocalProtocolError if two have the same unique-id."""

    messages: tuple[Message, ...] = attrs.field(default=(), validator=tuple_of(Message))
    size: int = attrs.field(init=False)
    """The total size of all messages in bytes."""

    def __attrs_post_init__(self) -> None:
        if len({message.unique_id for message in self.messages}) != len(self.messages):
            raise LocalProtocolError("two messages have the same unique_id; pass a different one for each message")
        object.__setattr__(self, "size", sum(message.size for message in self.messages))


_LINES_AT_ONCE: Final = 256
"""Messages listed in one piece of a LIST or UIDL response, which is about 20 KiB at most."""


class MaildropSession:
    """A maildrop and the messages marked as deleted.

    Raises LocalProtocolError for a unique-id that contains CR, LF or NUL.  Message checks this too, but not for a
    subclass or a field that was changed later.
    """

    __slots__ = ("_messages", "_size", "deleted", "last", "size")

    def __init__(self, maildrop: Maildrop) -> None:
        unique_ids = "".join([message.unique_id for message in maildrop.messages])
        if "\r" in unique_ids or "\n" in unique_ids or "\0" in unique_ids:
            raise LocalProtocolError("a unique-id in the maildrop contains CR, LF or NUL; use characters 0x21 to 0x7E")
        self._messages = maildrop.messages
        self.last = len(maildrop.messages)
        """The highest message number."""
        self._size = self.size = maildrop.size
        self.deleted: set[int] = set()

    # ``size`` is the total size of the messages that are not marked.

    @property
    def count(self) -> int:
        """The number of messages that are not marked."""
        return self.last - len(self.deleted)

    def missing(self, number: int) -> Reply | None:
        """Return the -ERR if message *number* does not exist or is marked as deleted; None otherwise (section 5)."""
        if number > self.last:
            return Reply(False, "", f"no such message, only {self.last} messages in maildrop")
        return Reply(False, "", f"message {number} already deleted") if number in self.deleted else None

    def delete(self, number: int) -> None:
        self.deleted.add(number)
        self.size -= self._messages[number - 1].size

    def reset(self) -> None:
        self.deleted.clear()
        self.size = self._size

    # The lines of STAT, LIST and UIDL with their CRLF, by the names of RFC 1939 section 5.

    def drop_listing(self) -> bytes:
        return b"%d %d\r\n" % (self.last - len(self.deleted), self.size)

    def scan_listing(self, number: int) -> bytes:
        return b"%d %d\r\n" % (number, self._messages[number - 1].size)

    def unique_id_listing(self, number: int) -> bytes:
        return f"{number} {self._messages[number - 1].unique_id}\r\n".encode("ascii")

    def listing(self, line: Callable[[int], bytes]) -> Iterator[bytes]:
        """Yield *line* of each message that is not marked, then the final dot, in pieces of bounded size."""
        for start in range(1, self.last + 1, _LINES_AT_ONCE):
            numbers = range(start, min(start + _LINES_AT_ONCE, self.last + 1))
            yield b"".join([line(number) for number in numbers if number not in self.deleted])
        yield b".\r\n"


def needs_utf8(data: bytes) -> bool:
    """Return whether the header at the start of *data* contains non-ASCII UTF-8 (RFC 6856 section 2.1).

    A header in another encoding does not count: such a message does not require UTF8.  The header may continue after
    *data*.
    """
    if data.isascii() or data.startswith(CRLF):
        return False
    blank = data.find(b"\r\n\r\n")
    header = data if blank < 0 else data[:blank]
    try:
        codecs.utf_8_decode(header, "strict", blank >= 0)  # a character may continue in the next piece
    except UnicodeDecodeError:
        return False
    return not header.isascii()


class OutgoingMessage:
    """Encodes the text of a message: dot-stuffs it, truncates it for TOP, and adds the final dot."""

    __slots__ = ("_cut", "_stuffer", "ended", "number", "offset")

    def __init__(self, number: int, lines: int | None) -> None:
        self.number = number
        self.offset = 0
        """The number of bytes passed to ``take()`` so far."""
        self.ended = False
        """Whether the final dot was added, so that no more data is needed."""
        self._stuffer = Stuffer()
        self._cut = None if lines is None else TopLimiter(lines)

    def take(self, data: bytes, *, last: bool) -> bytes:
        """Return *data*, the next piece, as sent on the wire."""
        self.offset += len(data)
        if self._cut is not None:
            data = self._cut.take(data)
            last = last or self._cut.done
        stuffed = self._stuffer.stuff(data)
        self.ended = last
        return stuffed + self._stuffer.end() if last else stuffed


class TopLimiter:
    """Truncates a message for TOP: the header, the blank line and *lines* lines of the body (RFC 1939 section 7).

    The message may be split anywhere; no byte is scanned twice.
    """

    __slots__ = ("_in_body", "_lines", "_tail", "done")

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._in_body = False
        self._tail = CRLF  # makes the header of a message that begins with a blank line empty
        self.done = False
        """Whether the last requested line was returned, so that the rest of the message is not needed."""

    def take(self, data: bytes) -> bytes:
        """Return the part of *data* that belongs to the response."""
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
        """Return the offset after the last requested line; None if it does not end in *data*."""
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
