"""What a server checks while content passes: the byte count of BDAT, line ends, and line lengths if limited."""

from __future__ import annotations

import re
from typing import Final

from .._dots import Unstuffer
from .._lines import CRLF, LineBuffer, LineEnds
from .replies import Reply

_FAULT: Final = re.compile(rb"\r[^\n]|(?<!\r)\n|\0")


def find_bare(data: bytes, *, after_cr: bool) -> int | None:
    """Return the position in *data* where a bare CR, bare LF or NUL is detected, or None.

    A bare CR is detected at the byte after it, so that the result does not depend on how the content is split.
    *after_cr*: a CR came immediately before *data*.
    """
    found = _FAULT.search(b"\r" + data if after_cr else data)
    return None if found is None else found.end() - 1 - after_cr


class LineLengths:
    """Watches the lines of content, in pieces of any size, for one that is too long."""

    __slots__ = ("_limit", "_open", "beyond", "within")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.begin()

    def begin(self) -> None:
        """Start with new content."""
        self.within = True
        """No line so far was too long."""
        self.beyond = 0
        """The position of the first byte over the limit, in the data of the call that found it."""
        self._open = 0  # bytes of the incomplete last line

    def watch(self, data: bytes) -> bool:
        """Return whether every line up to the end of *data* is within the limit, CRLF included."""
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
    """An Unstuffer for which a line over the limit is a fault, like a bare CR."""

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
    """The BDAT chunks of one message, one after the other.  Their line ends are checked as one text (RFC 3030)."""

    __slots__ = ("_lengths", "_line_ends", "after_cr", "clean", "last", "missing", "refusal", "replies", "size", "tail")

    def __init__(self, lengths: LineLengths | None) -> None:
        self._line_ends = LineEnds()
        self.clean = True
        """No bare CR, bare LF or NUL so far; a CR at the very end is decided by the next byte."""
        self._lengths = lengths
        if lengths is not None:
            lengths.begin()
        self.refusal: Reply | None = None
        """The reply to be sent after a chunk whose bytes are discarded; None if they are not."""
        self.replies = 1
        """How often *refusal* is sent."""
        self.size = self.missing = 0
        """The bytes of the chunk, and those of them that have not been received."""
        self.last = False
        self.tail = CRLF
        """The last two bytes of the message so far; CRLF at its start."""
        self.after_cr = False
        """Whether a CR came immediately before the data that was taken last."""

    def begin(self, size: int, *, last: bool) -> None:
        """Start a chunk of *size* bytes."""
        self.size = self.missing = size
        self.last = last

    def take(self, buffer: LineBuffer) -> bytes:
        """Return the bytes of this chunk that have been received, possibly empty."""
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
        """Whether the message, whose last chunk is complete, contains no bare CR, bare LF or NUL."""
        return self.clean and self._line_ends.watch(b"x")  # any byte except LF makes a CR at the end a bare CR
