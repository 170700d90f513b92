"""Line framing: splits received data into lines of bounded length, and checks line ends.

Only CRLF ends a line (RFC 5321 section 2.3.8, RFC 1939 section 3).  Besides the data received last, at most one
incomplete line of the maximum length is kept.  No byte is scanned twice.
"""

from __future__ import annotations

import io
import re
from typing import Final

from ._validators import wrong_type
from .errors import LocalProtocolError

CRLF: Final = b"\r\n"

MAX_UNREAD: Final = 65_536
"""The maximum number of unread bytes when more data is received, and the size of one read of an adapter."""

_CLEAN: Final = (None, "\r\n")  # the line ends that IncrementalNewlineDecoder reports for valid content
_LINE: Final = re.compile(rb"[^\r\n\0]*\r\n")


def check_line(line: object) -> bytes:
    """Check *line* before it is written, and return it.

    Raises LocalProtocolError unless it ends in CRLF and contains no other CR, LF or NUL.  Values are validated when
    they are built; this second check also covers subclasses, and fields that were changed later.
    """
    if not isinstance(line, bytes) or _LINE.fullmatch(line) is None:
        raise LocalProtocolError("a line that is sent must be bytes that end in CRLF, with no other CR, LF or NUL")
    return line


def check_command_line(line: object) -> bytes:
    """Return *line*, a received line without its CRLF.  Raises LocalProtocolError unless it is bytes without CRLF."""
    if not isinstance(line, bytes):
        raise wrong_type("line", bytes, line)
    if CRLF in line:
        raise LocalProtocolError("line must be one line without its CRLF; split the data at CRLF, and pass each line")
    return line


class LineTooLong(Exception):
    """A line was longer than the limit.  Its bytes were discarded on arrival.

    It is raised once, at the end of the line, so that the error reply is sent in the order of the commands.
    """


class LineBuffer:
    """Received bytes that are not read yet: ``data[offset:]``, then ``later``.

    A fast path may match at ``offset`` and advance it, unless ``dropping`` is set.
    """

    __slots__ = ("_later_size", "_searched", "data", "dropping", "ended", "later", "offset")

    def __init__(self) -> None:
        self.data = b""
        self.offset = 0
        self.ended = False
        """Whether the end of the stream was received."""
        self.dropping = False
        """Whether ``data`` continues a line that is too long, which is being discarded."""
        self.later: list[bytes] = []
        """The data received after ``data``; ``gather()`` joins it."""
        self._later_size = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self.data) - self.offset + self._later_size

    @property
    def used_up(self) -> bool:
        """Whether every byte received so far was read."""
        return self.offset == len(self.data) and not self.later

    def feed(self, data: bytes) -> None:
        """Add received bytes; ``b""`` is the end of the stream.

        Raises LocalProtocolError for data after the end of the stream, and if more than 64 KiB are unread already.
        """
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("data", bytes, data)
        if not data:
            self.ended = True
        elif self.ended:
            raise LocalProtocolError('the stream has ended: no data may follow b""')
        elif self.offset == len(self.data) and not self.later:
            self.data = data
            self.offset = self._searched = 0
        elif len(self) > MAX_UNREAD:
            raise LocalProtocolError("more than 64 KiB are unread: pull events before passing more data")
        else:
            self._forget_used()
            self.later.append(data)
            self._later_size += len(data)

    def gather(self) -> bool:
        """Join ``later`` to ``data``.  Return False if there was nothing to join.

        Pieces are joined once, when they are needed, and not as each arrives.
        """
        if self.later:
            self._forget_used()
            self.data = b"".join((self.data, *self.later))
            self._later_size = 0
            self.later.clear()
            return True
        return False

    def _forget_used(self) -> None:
        """Discard the part of ``data`` that was read: otherwise a few unread bytes would keep all of it in memory."""
        if self.offset:
            self._searched = max(self._searched - self.offset, 0)
            self.data = self.data[self.offset :]
            self.offset = 0

    def clear(self) -> int:
        """Discard all unread bytes and return their number."""
        dropped = len(self)
        self.data = b""
        self.offset = self._searched = self._later_size = 0
        self.dropping = False
        self.later.clear()
        return dropped

    def take_line(self, limit: int) -> bytes | None:
        """Return the next line without its CRLF, or None while it is incomplete.

        Raises LineTooLong, once, for a line of more than *limit* bytes with its CRLF.
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
            self._searched = max(len(self.data) - 1, start)  # the last byte may be the CR of a CRLF
            return None
        self.offset = end + 2
        if self.dropping or self.offset - start > limit:
            self.dropping = False
            raise LineTooLong
        return self.data[start:end]


class LineEnds:
    """Checks content for bare CR, bare LF and NUL, which SMTP smuggling depends on.

    The content may be split anywhere.  The newline decoder of the ``io`` module is several times faster than a regular
    expression.
    """

    __slots__ = ("_decode", "_decoder", "_nul")

    def __init__(self) -> None:
        self._decoder = io.IncrementalNewlineDecoder(None, translate=False)
        self._decode = self._decoder.decode
        self._nul = False

    def watch(self, data: bytes) -> bool:
        """Check *data*; return whether all content so far is valid.  A CR at its end is checked with the next piece."""
        self._decode(data.decode("latin-1"))
        if 0 in data:
            self._nul = True
        return self._decoder.newlines in _CLEAN and not self._nul

    def only_crlf(self, data: bytes, last: bool) -> bool:
        """Check *data* as ``watch()`` does, but allow NUL.  With *last*, a CR at the end is a bare CR."""
        self._decode(data.decode("latin-1"), last)
        return self._decoder.newlines in _CLEAN

    def whole_has_only_crlf(self, data: bytes) -> bool:
        """Check *data*, the whole content: ``begin()`` and ``only_crlf()`` in one call."""
        self._decoder.reset()
        self._decode(data.decode("latin-1"), True)
        return self._decoder.newlines in _CLEAN

    def begin(self, *, after_cr: bool = False) -> None:
        """Reset the state for new content, which follows a CR if *after_cr* is true."""
        self._decoder.reset()
        self._nul = False
        if after_cr:
            self._decode("\r")
