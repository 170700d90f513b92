"""Receive message content: by DATA, up to the final dot, or by BDAT, in chunks of a known size.

A receiver reads from the input and returns one step at a time.  It writes no reply and changes no state of a session.
"""

from __future__ import annotations

import enum
import re
from typing import Final, Protocol, TypeAlias

import attrs

from .._dots import Unstuffer
from .._lines import CRLF, LineBuffer, LineEnds
from .events import ContentFault

_BARE: Final = re.compile(rb"\r[^\n]|(?<!\r)\n|\0")
_MIN_DISCARD: Final = 4_096
"""The least that a discarded chunk counts for, in bytes: otherwise small ones could be sent without end."""


class Progress(enum.Enum):
    """A step of a receiver that is neither content nor a fault."""

    END = "the content, or the chunk, is complete"
    OVERFLOW = "more content was discarded than discard_limit allows"


END: Final = Progress.END
OVERFLOW: Final = Progress.OVERFLOW

Step: TypeAlias = bytes | ContentFault | Progress | None
"""The next piece of content, the first fault in it, the end, or None: more input is needed."""


@attrs.frozen(kw_only=True)
class ContentLimits:
    """The limits of one message.

    For example:

        >>> text, binary = smtp.ServerSettings(max_message_size=100_000).content_limits
        >>> text.size, text.binary, binary.binary
        (100000, False, True)
    """

    size: int
    """Maximum size in bytes."""
    discard: int
    """Maximum number of bytes over *size* that are read and discarded."""
    line: int | None
    """Maximum length of a line in bytes, with its CRLF; None: no limit."""
    binary: bool
    """A bare CR, a bare LF and a NUL are allowed: BINARYMIME, or ``allow_bare_line_ends``."""


class Receiver(Protocol):
    """Receives the content of one message."""

    @property
    def size(self) -> int:
        """The bytes received so far, including those after a fault."""
        ...

    @property
    def fault(self) -> ContentFault | None:
        """The first fault, once ``receive()`` has returned it.  What follows it is discarded."""
        ...

    def receive(self, buffer: LineBuffer) -> Step:
        """Return the next step.  Each byte of the content is returned once, before the first fault."""
        ...


class ContentReceiver:
    """The content of DATA, with its dots unstuffed (RFC 5321 section 4.5.2)."""

    __slots__ = ("_lengths", "_limits", "_pending", "_unstuffer", "fault", "size")

    def __init__(self, limits: ContentLimits) -> None:
        self._unstuffer = Unstuffer()
        self.begin(limits)

    def begin(self, limits: ContentLimits) -> None:
        """Begin the content of another message."""
        self._limits = limits
        self.size = 0
        self.fault: ContentFault | None = None
        self._pending: ContentFault | None = None  # returned after the content before it
        self._lengths = None if limits.line is None else LineLengths(limits.line)
        self._unstuffer.begin()

    def receive(self, buffer: LineBuffer) -> Step:
        """Return the next step (see Receiver)."""
        unstuffer = self._unstuffer
        limits = self._limits
        if self._pending is not None:
            self.fault, self._pending = self._pending, None
            return self.fault
        while self.size <= limits.size + limits.discard:
            if unstuffer.ended:
                return END
            content = unstuffer.take(buffer)
            if content is None:
                return None
            if not content:
                continue  # the end
            self.size += len(content)
            if self.fault is not None:
                continue
            if self._lengths is not None:
                self._lengths.watch(content)
            elif unstuffer.clean and self.size <= limits.size:
                return content
            clean, after_cr = unstuffer.clean or limits.binary, unstuffer.after_cr
            kept, first = _find_fault(content, self.size, limits, self._lengths, clean=clean, after_cr=after_cr)
            if first is None:
                return content
            if kept:
                self._pending = first
                return content[:kept]
            self.fault = first
            return first
        return OVERFLOW


class ChunkReceiver:
    """The chunks of one message by BDAT (RFC 3030).

    It is used for the whole message, so that the size, a line end split between two chunks, and the first fault are
    known in the next chunk.
    """

    __slots__ = (
        "_lengths", "_limits", "_line_ends", "_pending", "_tail", "chunk_size", "discarded", "discarding", "fault",
        "last", "missing", "size",
    )  # fmt: skip

    def __init__(self, limits: ContentLimits) -> None:
        self._limits = limits
        self.size = 0
        self.fault: ContentFault | None = None
        self.discarding = False
        """The message was refused: its chunks are discarded, since a client cannot take back what it has sent."""
        self.discarded = 0
        """The bytes that discarded chunks of this message count for."""
        self.chunk_size = self.missing = 0
        """The size of the current chunk, and the bytes of it not received yet."""
        self.last = False
        """The current chunk is the last of its message."""
        self._pending: ContentFault | None = None
        self._lengths = None if limits.line is None else LineLengths(limits.line)
        self._line_ends = LineEnds()
        self._tail = CRLF  # the last two bytes of the message so far

    def begin(self, size: int, *, last: bool) -> None:
        """Begin a chunk of *size* bytes."""
        self.chunk_size = self.missing = size
        self.last = last

    def may_discard(self, size: int) -> bool:
        """Return whether a further chunk of *size* bytes may be discarded."""
        return self.discarded + size - self._limits.size <= self._limits.discard

    def discard(self) -> None:
        """Discard the rest of the current chunk, and the following chunks of the message."""
        self.discarding = True
        self.discarded = 0 if self.last else self.discarded + max(self.chunk_size, _MIN_DISCARD)

    def receive(self, buffer: LineBuffer) -> Step:
        """Return the next step (see Receiver); END after each chunk."""
        if self._pending is not None:
            fault, self._pending = self._pending, None
            return self._fail(fault)
        while self.missing:
            buffer.gather()
            data = buffer.data[buffer.offset : buffer.offset + self.missing]
            if not data:
                return None
            buffer.offset += len(data)
            self.missing -= len(data)
            if self.discarding:
                continue
            self.size += len(data)
            after_cr = self._tail.endswith(b"\r")
            self._tail = (self._tail + data[-2:])[-2:]
            clean = self._line_ends.watch(data) or self._limits.binary
            if self._lengths is not None:
                self._lengths.watch(data)
            kept, first = _find_fault(data, self.size, self._limits, self._lengths, clean=clean, after_cr=after_cr)
            if first is None:
                return data
            if kept:
                self._pending = first
                return data[:kept]
            return self._fail(first)
        if self.last and not self.discarding and not self._limits.binary:
            if self._tail != CRLF:
                self._tail = CRLF
                return CRLF  # content by DATA always ends in a line end
            if not self._line_ends.watch(b"x"):  # a CR at the end is bare, whatever follows
                return self._fail(ContentFault.BARE_LINE_END)
        return END

    def _fail(self, fault: ContentFault) -> ContentFault:
        self.fault = fault
        self.discarding = True
        return fault


class LineLengths:
    """Finds the first line that is longer than a limit, in content received in pieces."""

    __slots__ = ("_limit", "_open", "excess", "within")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.within = True
        """No line so far is too long."""
        self.excess = 0
        """The position, in the piece that ``watch()`` was called with, of the first byte over the limit."""
        self._open = 0  # bytes of the incomplete line

    def watch(self, data: bytes) -> bool:
        """Return whether no line up to the end of *data* is longer than the limit, with its CRLF."""
        if self.within:
            start, already = 0, self._open
            while already + len(data) - start > self._limit:
                end = data.rfind(b"\n", start, start + self._limit - already)
                if end < 0:
                    self.within = False
                    self.excess = start + self._limit - already
                    return False
                start, already = end + 1, 0
            end = data.rfind(b"\n", start)
            self._open = already + len(data) - start if end < 0 else len(data) - end - 1
        return self.within


def find_bare(data: bytes, *, after_cr: bool) -> int | None:
    """Return the position in *data* at which content is known to hold a bare CR, a bare LF or a NUL, or None.

    A bare CR is known at the byte after it, so the result does not depend on how the content is split.  *after_cr*:
    the byte before *data* is a CR.
    """
    found = _BARE.search(b"\r" + data if after_cr else data)
    return None if found is None else found.end() - 1 - after_cr


def _find_fault(
    data: bytes, size: int, limits: ContentLimits, lengths: LineLengths | None, *, clean: bool, after_cr: bool
) -> tuple[int, ContentFault | None]:
    """Return how many bytes of *data* are before the first fault, and that fault.

    *size* is the size of the message with *data*.  *clean*: *data* holds no bare CR, bare LF or NUL, or they are
    allowed.
    """
    found: list[tuple[int, ContentFault | None]] = [(len(data), None)]
    if size > limits.size:
        found.append((len(data) - (size - limits.size), ContentFault.TOO_LARGE))
    if lengths is not None and not lengths.within:
        found.append((lengths.excess, ContentFault.LONG_LINE))
    if not clean:
        bare = find_bare(data, after_cr=after_cr)
        if bare is not None:
            found.append((bare, ContentFault.BARE_LINE_END))
    return min(found, key=lambda each: each[0])
