"""Dot transparency both ways, and where content ends (RFC 5321 section 4.5.2, RFC 1939 section 3).

Only CRLF.CRLF ends content, over any cut of the input.  Knows no command and no limit.
"""

from __future__ import annotations

import re
from typing import Final

from ._lines import CRLF, LineBuffer, LineEnds

_END: Final = b"\r\n.\r\n"
_UNDECIDED: Final = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
_OPEN: Final = (b"\r", b"\n", b".")
_LINE_WITH_DOT: Final = re.compile(rb"\r\n\.")
_search_dot: Final = _LINE_WITH_DOT.search
_DOT_AFTER_LF: Final = re.compile(rb"\n\.")
_search_dot_after_lf: Final = _DOT_AFTER_LF.search
_stuff: Final = _DOT_AFTER_LF.sub
_STUFFED: Final = b"\n.."
_unstuff: Final = _LINE_WITH_DOT.sub


class Unstuffer:
    """Takes dot-stuffed content out of a LineBuffer up to its end, and judges its line ends."""

    __slots__ = ("_at_start", "_cr", "_line_ends", "_watch", "after_cr", "clean", "ended")

    def __init__(self) -> None:
        self._line_ends = LineEnds()
        self._watch = self._line_ends.watch
        self.begin()

    def begin(self) -> None:
        """Content begins, after other content or for the first time."""
        self.ended = False
        """The line with the lone dot was read; what the buffer still holds is not content."""
        self.clean = True
        """No bare CR, bare LF or NUL so far."""
        self.after_cr = self._cr = False
        """Whether a CR came right before the content that was taken last."""
        self._at_start = True
        self._line_ends.begin()

    def take(self, buffer: LineBuffer) -> bytes | None:
        """All content that is sure by now; None when more input is needed for some, empty when the end came at once.

        What might be the beginning of the end (up to four octets) stays in the buffer until it is decided.
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
    """Makes content ready for the wire: a dot before each line that begins with one, and the end.

    A dot behind a bare LF gets one as well: receivers that take LF for a line end must not find the end inside.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = CRLF

    def stuff(self, data: bytes) -> bytes:
        """The next chunk, stuffed; it may be cut anywhere, also inside a CRLF."""
        if not data:
            return data
        stuffed = data
        if _search_dot_after_lf(data) is not None:
            stuffed = _stuff(_STUFFED, data)
        if data[0] == 0x2E and self._tail.endswith(b"\n"):
            stuffed = b"." + stuffed
        self._tail = data[-2:] if len(data) > 1 else self._tail[-1:] + data
        return stuffed

    def end(self) -> bytes:
        """The lone dot, with the CRLF that the content should have ended in when it did not."""
        return b".\r\n" if self._tail == CRLF else b"\r\n.\r\n"


def stuff_whole(status: bytes, data: bytes) -> bytes:
    """A status line, and content that is there in one piece with its end: what a Stuffer makes of it, for less."""
    if data[-2:] != CRLF and data:
        data += CRLF
    if _search_dot_after_lf(data) is None and data[:1] != b".":
        return b"".join((status, data, b".\r\n"))
    # The line end of the status makes the start of the content like any other line's.
    return _stuff(_STUFFED, status + data) + b".\r\n"
