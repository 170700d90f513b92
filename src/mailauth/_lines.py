"""CRLF framing: whole lines out of octets that arrive in any pieces, each under a cap; and the judge of line ends.

Only CRLF ends a line (RFC 5321 section 2.3.8, RFC 1939 section 3).  Knows no command.  Keeps at most one unfinished
line of the cap's length besides what was just received, and looks at no octet twice.
"""

from __future__ import annotations

import io
import re
from typing import Final

from ._errors import LocalProtocolError

CRLF: Final = b"\r\n"

MAX_UNREAD: Final = 65_536
"""Octets that may wait to be used when more come in; an adapter reads no more at once."""

_CLEAN: Final = (None, "\r\n")
_LINE: Final = re.compile(rb"[^\r\n\0]*\r\n")


def check_line(line: object) -> bytes:
    """*line*, which is about to be written.

    Raises LocalProtocolError unless it ends in CRLF and holds no other CR, LF or NUL.  Values are checked when they
    are built; this holds for subclasses too, and for fields that were changed afterwards.
    """
    if not isinstance(line, bytes) or _LINE.fullmatch(line) is None:
        raise LocalProtocolError("a line that is sent must be bytes that end in CRLF, with no other CR, LF or NUL")
    return line


class LineTooLong(Exception):
    """A line passed its cap: it was dropped as it came, and is said once, at its end, where its answer belongs."""


class LineBuffer:
    """Received octets that nobody has used yet: ``data[offset:]``.

    A hot path may match at *offset* and move it on, unless *dropping* says that this is the inside of a line too long.
    """

    __slots__ = ("_later_size", "_searched", "data", "dropping", "ended", "later", "offset")

    def __init__(self) -> None:
        self.data = b""
        self.offset = 0
        self.ended = False
        """The peer has closed its side: nothing more will come."""
        self.dropping = False
        self.later: list[bytes] = []
        """What came behind *data*; ``gather()`` joins it."""
        self._later_size = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self.data) - self.offset + self._later_size

    @property
    def used_up(self) -> bool:
        """Every octet received so far was used."""
        return self.offset == len(self.data) and not self.later

    def feed(self, data: bytes) -> None:
        """Take what was received; ``b""`` is the end of the stream.

        Raises LocalProtocolError for octets behind the end, and when 64 KiB wait to be used already.
        """
        if not data:
            self.ended = True
        elif self.ended:
            raise LocalProtocolError("the stream has ended already")
        elif self.offset == len(self.data) and not self.later:
            self.data = data
            self.offset = self._searched = 0
        elif len(self) > MAX_UNREAD:
            raise LocalProtocolError("pull the events that are due before handing in more octets")
        else:
            self._forget_used()
            self.later.append(data)
            self._later_size += len(data)

    def gather(self) -> bool:
        """Make ``data[offset:]`` all there is; False when it was already.

        Pieces are joined once, when they are needed, not at every arrival.
        """
        if self.later:
            self._forget_used()
            self.data = b"".join((self.data, *self.later))
            self._later_size = 0
            self.later.clear()
            return True
        return False

    def _forget_used(self) -> None:
        """Keep nothing of a piece that is used up to *offset* but the rest: a few octets would keep it all alive."""
        if self.offset:
            self._searched = max(self._searched - self.offset, 0)
            self.data = self.data[self.offset :]
            self.offset = 0

    def clear(self) -> int:
        """Forget every octet, and say how many they were."""
        dropped = len(self)
        self.data = b""
        self.offset = self._searched = self._later_size = 0
        self.dropping = False
        self.later.clear()
        return dropped

    def take_line(self, limit: int) -> bytes | None:
        """The next line without its CRLF; None while it is not whole.

        Raises LineTooLong once for a line of more than *limit* octets, its CRLF counted.
        """
        self.gather()
        start = self.offset
        end = self.data.find(CRLF, max(self._searched, start))
        if end < 0:
            if len(self.data) - start > limit:
                self.dropping = True
            if self.dropping:
                self.data = b"\r" if self.data.endswith(b"\r") else b""
                self.offset = start = 0
            self._searched = max(len(self.data) - 1, start)  # the last octet may be the CR of a CRLF
            return None
        self.offset = end + 2
        if self.dropping or self.offset - start > limit:
            self.dropping = False
            raise LineTooLong
        return self.data[start:end]


class LineEnds:
    """Watches content go by, in any pieces, for bare CR, bare LF and NUL: what a smuggled message is made of.

    The standard library's newline decoder does the looking, at several times the speed of a regular expression.
    """

    __slots__ = ("_decode", "_decoder", "_nul")

    def __init__(self) -> None:
        self._decoder = io.IncrementalNewlineDecoder(None, translate=False)
        self._decode = self._decoder.decode
        self._nul = False

    def watch(self, data: bytes) -> bool:
        """Whether everything up to the end of *data* is clean; a CR at the very end is judged by what follows it."""
        self._decode(data.decode("latin-1"))
        if 0 in data:
            self._nul = True
        return self._decoder.newlines in _CLEAN and not self._nul

    def begin(self) -> None:
        """Forget what was seen: other content begins."""
        self._decoder.reset()
        self._nul = False
