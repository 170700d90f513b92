"""Multi-line output in pieces: the lines of LIST and UIDL, and the text of a message.

A sender returns bytes, up to the final dot.  It writes no reply and changes no state of a session.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final, Protocol

from .._dots import Stuffer
from .._lines import CRLF, LineEnds
from ..errors import LocalProtocolError
from .maildrop import MaildropView

_LINES_AT_ONCE: Final = 256
"""Messages listed in one piece of a LIST or UIDL response, which is about 20 KiB at most."""


BARE_LINE_END: Final = "data contains a bare CR or a bare LF; end each line with CRLF"
"""The text of the error for content that must not be sent."""


class Lines(Protocol):
    """The lines of a multi-line response.

    For example:

        while not lines.ended:
            sock.sendall(lines.next_piece())
    """

    @property
    def ended(self) -> bool:
        """Whether the final dot was returned."""
        ...

    def next_piece(self) -> bytes:
        """Return the next complete lines, dot-stuffed and with their CRLF; at the end, the final dot."""
        ...


class ListingSender:
    """One line for each message that is not marked as deleted."""

    __slots__ = ("_line", "_maildrop", "_next", "ended")

    def __init__(self, maildrop: MaildropView, line: Callable[[int], bytes]) -> None:
        self._maildrop = maildrop
        self._line = line
        self._next = 1
        self.ended = False

    def next_piece(self) -> bytes:
        """Return the lines of the next messages, in pieces of bounded size, and after the last one the final dot."""
        maildrop, line = self._maildrop, self._line
        number, last = maildrop.first_from(self._next), maildrop.last
        lines: list[bytes] = []
        if not maildrop.deleted:
            self._next = min(number + _LINES_AT_ONCE, last + 1)
            lines += [line(each) for each in range(number, self._next)]
        else:
            while number <= last and len(lines) < _LINES_AT_ONCE:
                lines.append(line(number))
                number = maildrop.first_from(number + 1)
            self._next = number
        if self._next > last:
            lines.append(b".\r\n")
            self.ended = True
        return b"".join(lines)


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


class MessageSender:
    """The text of a message, dot-stuffed and truncated for TOP, with the final dot."""

    __slots__ = ("_after_cr", "_cut", "_line_ends", "_stuffer", "ended", "number", "offset")

    def __init__(self, number: int, lines: int | None) -> None:
        self.number = number
        self.offset = 0
        """The number of bytes passed to ``take()`` so far."""
        self.ended = False
        """Whether the final dot was added, so that no more data is needed."""
        self._line_ends = LineEnds()
        self._after_cr = False
        self._stuffer = Stuffer()
        self._cut = None if lines is None else TopLimiter(lines)

    def check(self, data: bytes, *, last: bool) -> None:
        """Check the line ends of *data*, the next piece.

        Raises LocalProtocolError for a bare CR or LF.  Nothing changes then, and another piece can be checked.
        """
        if not self._line_ends.only_crlf(data, last):
            self._line_ends.begin(after_cr=self._after_cr)
            raise LocalProtocolError(BARE_LINE_END)
        if data:
            self._after_cr = data.endswith(b"\r")

    def take(self, data: bytes, *, last: bool) -> bytes:
        """Return *data*, the next piece, as sent on the wire.  It must have passed ``check()``."""
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
