"""What a server looks at while content goes by: the count of BDAT, line ends, and the length of lines where it matters.

Knows no command, and a reply only to hold it.
"""

from __future__ import annotations

import re
from typing import Final

from .._dots import Unstuffer
from .._lines import CRLF, LineBuffer, LineEnds
from .replies import Reply

_FAULT: Final = re.compile(rb"\r[^\n]|(?<!\r)\n|\0")


def find_bare(data: bytes, *, after_cr: bool) -> int | None:
    """Where in *data* it shows that content has a bare CR, bare LF or NUL; None where it does not.

    A bare CR shows in the octet that follows it, so that the answer is the same however content is cut.  *after_cr*: a
    CR came right before *data*.
    """
    found = _FAULT.search(b"\r" + data if after_cr else data)
    return None if found is None else found.end() - 1 - after_cr


class LineLengths:
    """Watches the lines of content, cut anywhere, for one that is too long."""

    __slots__ = ("_limit", "_open", "beyond", "within")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.begin()

    def begin(self) -> None:
        """Other content begins."""
        self.within = True
        """No line so far was too long."""
        self.beyond = 0
        """Where the first octet too many was, in what was watched last then."""
        self._open = 0  # octets of the line that has no end yet

    def watch(self, data: bytes) -> bool:
        """Whether no line up to the end of *data* has more octets than the limit, its CRLF counted."""
        if self.within:
            start, already = 0, self._open
            while already + len(data) - start > self._limit:
                end = data.rfind(b"\n", start, start + self._limit - already)
                if end < 0:
                    self.within = False
                    self.beyond = start + self._limit - already
                    return False
                start, already = end + 1, 0
            end = data.rfind(b"\n", start)
            self._open = already + len(data) - start if end < 0 else len(data) - end - 1
        return self.within


class LimitedUnstuffer(Unstuffer):
    """An Unstuffer that finds a line too long as unclean as a bare CR."""

    __slots__ = ("_lengths",)

    def __init__(self, lengths: LineLengths) -> None:
        self._lengths = lengths
        super().__init__()

    def begin(self) -> None:
        super().begin()
        self._lengths.begin()

    def take(self, buffer: LineBuffer) -> bytes | None:
        content = super().take(buffer)
        if content and not self._lengths.watch(content):
            self.clean = False
        return content


class Chunks:
    """The chunks of one message by BDAT, one after another; their line ends are judged as one text (RFC 3030)."""

    __slots__ = ("_lengths", "_line_ends", "after_cr", "clean", "last", "missing", "refusal", "replies", "size", "tail")

    def __init__(self, lengths: LineLengths | None) -> None:
        self._line_ends = LineEnds()
        self.clean = True
        """No bare CR, bare LF or NUL so far; a CR at the very end is judged by what follows it."""
        self._lengths = lengths
        if lengths is not None:
            lengths.begin()
        self.refusal: Reply | None = None
        """What is said behind a chunk whose octets are dropped as they come."""
        self.replies = 1
        """How often it is said."""
        self.size = self.missing = 0
        """Octets of the chunk, and those of it that have not come."""
        self.last = False
        self.tail = CRLF
        """The last two octets of the message so far, a line end when there are none."""
        self.after_cr = False
        """Whether a CR came right before what was taken last."""

    def begin(self, size: int, *, last: bool) -> None:
        """A chunk comes."""
        self.size = self.missing = size
        self.last = last

    def take(self, buffer: LineBuffer) -> bytes:
        """What has come of this chunk; nothing when none has."""
        buffer.gather()
        data = buffer.data[buffer.offset : buffer.offset + self.missing]
        buffer.offset += len(data)
        self.missing -= len(data)
        if data and self.refusal is None:
            self.after_cr = self.tail.endswith(b"\r")
            self.tail = (self.tail + data[-2:])[-2:]
            self.clean = self.clean and self._line_ends.watch(data)
            if self._lengths is not None:
                self._lengths.watch(data)
        return data

    @property
    def ends_clean(self) -> bool:
        """Whether the message, whose last chunk is whole, holds no bare CR, bare LF or NUL."""
        return self.clean and self._line_ends.watch(b"x")  # any octet but LF judges a CR at the end
