"""Dot-stuffing, dot-unstuffing and the end of content (RFC 5321 section 4.5.2, RFC 1939 section 3).

Only CRLF.CRLF ends content, however the input is split.
"""

from __future__ import annotations

import re
from typing import Final

from ._lines import CRLF, LineBuffer, LineEnds

_END: Final = b"\r\n.\r\n"
# Data that ends like this may continue with the rest of _END.  The longest is first.
_UNDECIDED: Final = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
_OPEN: Final = (b"\r", b"\n", b".")  # the last bytes of _UNDECIDED, for a fast check
_LINE_WITH_DOT: Final = re.compile(rb"\r\n\.")
_search_dot: Final = _LINE_WITH_DOT.search
_DOT_AFTER_LF: Final = re.compile(rb"\n\.")
_search_dot_after_lf: Final = _DOT_AFTER_LF.search
_stuff: Final = _DOT_AFTER_LF.sub
_STUFFED: Final = b"\n.."
_unstuff: Final = _LINE_WITH_DOT.sub


class Unstuffer:
    """Takes dot-stuffed content out of a LineBuffer up to its end, and checks its line ends."""

    __slots__ = ("_at_start", "_cr", "_line_ends", "_watch", "after_cr", "clean", "ended")

    def __init__(self) -> None:
        self._line_ends = LineEnds()
        self._watch = self._line_ends.watch
        self.begin()

    def begin(self) -> None:
        """Reset the state for new content."""
        self.ended = False
        """Whether the final dot was read.  The bytes that are still in the buffer follow the content."""
        self.clean = True
        """Whether no bare CR, bare LF or NUL was found so far."""
        self.after_cr = self._cr = False
        """Whether the byte before the piece that ``take()`` returned last was a CR."""
        self._at_start = True
        self._line_ends.begin()

    def take(self, buffer: LineBuffer) -> bytes | None:
        """Return the content received so far, without dot-stuffing; None if more input is needed.

        Return ``b""`` if the end was reached without further content.  Up to four bytes that may be the start of
        CRLF.CRLF stay in the buffer until the next bytes arrive.
        """
        if self.ended:
            return b""
        if buffer.later:
            buffer.gather()
        data = buffer.data
        start = buffer.offset
        if self._at_start:
            if data[start : start + 1] == b".":
                if data.startswith(b".\r\n", start):
                    buffer.offset += 3
                    self.ended = True
                    return b""
                if len(data) - start < 3 and b".\r\n".startswith(data[start:]):
                    return None
                start += 1
            elif start == len(data):
                return None
            self._at_start = False
        found = _search_dot(data, start)
        stuffed = len(data) if found is None else found.start()
        end = -1 if found is None else data.find(_END, stuffed)
        cr = False
        if end >= 0:
            self.ended = True
            buffer.offset = end + 5
            end += 2  # the CRLF before the dot belongs to the content
        else:
            end = len(data)
            if data.endswith(_OPEN):
                for undecided in _UNDECIDED:
                    if data.endswith(undecided, start):
                        end -= len(undecided)
                        cr = data.endswith(b"\r", start, end)
                        break
            buffer.offset = end
            if start == end:
                return None
        content = data[start:end]
        if stuffed < end - 2:
            content = _unstuff(CRLF, content)
        if self.clean and content:
            self.after_cr = self._cr
            self._cr = cr
            self.clean = self._watch(content)
        return content


class Stuffer:
    """Dot-stuffs content: adds a dot before each line that begins with one, and the final dot at the end.

    A dot after a bare LF is stuffed too.  Otherwise a receiver that accepts LF as a line end could find the end of the
    content too early.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = CRLF

    def stuff(self, data: bytes) -> bytes:
        """Return the next chunk, dot-stuffed.  Chunks may be split anywhere, even inside a CRLF."""
        if not data:
            return data
        stuffed = data
        # Most large messages are base64, which has no dot: a search for one byte costs a fiftieth of the other.
        if b"." in data and _search_dot_after_lf(data) is not None:
            stuffed = _stuff(_STUFFED, data)
        if data[0] == 0x2E and self._tail.endswith(b"\n"):
            stuffed = b"." + stuffed
        self._tail = data[-2:] if len(data) > 1 else self._tail[-1:] + data
        return stuffed

    def end(self) -> bytes:
        """Return the final dot, after a CRLF if the content did not end in one."""
        return b".\r\n" if self._tail == CRLF else b"\r\n.\r\n"


def stuff_whole(status: bytes, data: bytes) -> bytes:
    """Return *status*, followed by *data* in dot-stuffed form and the final dot.

    *data* is the complete content, and *status* is a status line with its CRLF.  The result is the same as with a
    Stuffer, but the call is faster.
    """
    if data[-2:] != CRLF and data:
        data += CRLF
    if _search_dot_after_lf(data) is None and data[:1] != b".":
        return b"".join((status, data, b".\r\n"))
    # The CRLF of the status line lets the pattern match a dot at the start of the content.
    return _stuff(_STUFFED, status + data) + b".\r\n"
