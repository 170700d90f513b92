"""What each network fault does to the data of a connection, in one direction.

Each fault of a connection is one ``Stage``; the stages of one direction form a chain.  ``_link`` puts the chains
between the socket and the stream of the connection.
"""

from __future__ import annotations

import asyncio
import enum
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import attrs

Direction: TypeAlias = Literal["downstream", "upstream"]
ProtocolName: TypeAlias = Literal["SMTP", "POP3"]

DOWNSTREAM: Final = "downstream"
DIRECTIONS: Final = ("downstream", "upstream")
PROTOCOLS: Final = ("SMTP", "POP3")

_TRANSMISSIONS_PER_SECOND: Final = 10
"""``bandwidth()`` passes on the data of this fraction of a second at once, and at least one byte."""


class Signal(enum.Enum):
    """What follows the data in a chain of stages."""

    EOF = enum.auto()
    """The sender has closed its sending side."""
    CLOSE = enum.auto()
    """The connection is closed here, with a FIN."""
    RESET = enum.auto()
    """The connection is reset."""
    LOST = enum.auto()
    """The connection with the client is lost.  No stage stops this signal."""


Item: TypeAlias = bytes | Signal
Emit: TypeAlias = Callable[[Item], None]


@attrs.define(eq=False, kw_only=True)
class Fault:
    """A fault that a test has registered."""

    description: str
    direction: Direction
    protocol: ProtocolName | None
    connections_left: int | None
    """How many more connections get this fault; None: all."""
    build: Callable[[Fault, asyncio.AbstractEventLoop, Emit], Stage]
    affected: bool = False
    """Whether it has had an effect on a connection."""
    passed: int | None = None
    """If it cuts a connection after a number of bytes: the most that have passed on one without that."""


class Stage(ABC):
    """One fault of one connection in one direction.  It passes on what it accepts, in the same order, to *emit*."""

    def __init__(self, fault: Fault, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        self._fault = fault
        self._loop = loop
        self._emit = emit
        self.held = 0
        """Bytes that were accepted and not yet passed on."""

    @abstractmethod
    def accept(self, item: Item) -> None:
        """Take the next data or signal."""

    def start(self) -> None:  # noqa: B027  # most stages have nothing to do before the first byte
        """Begin: the connection is open, and no data was sent or received."""

    @property
    def idle(self) -> bool:
        """Whether everything that was accepted has been passed on."""
        return True

    def stop(self) -> None:  # noqa: B027  # a stage that holds nothing has nothing to discard
        """Discard what is held, and cancel the timer."""


class _Queue(Stage):
    """Passes data on in pieces, in order, each at its time, and at most one in each iteration of the loop."""

    def __init__(self, fault: Fault, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        super().__init__(fault, loop, emit)
        self._queue: deque[tuple[float, Item]] = deque()
        """The items with the times at which they arrived."""
        self._offset = 0
        """The number of bytes of the first item that were passed on."""
        self._size = 0
        """The size of the next piece."""
        self._passed_at = -math.inf
        """When the last piece was passed on."""
        self._handle: asyncio.Handle | None = None

    @abstractmethod
    def _plan(self, arrived: float, left: int) -> tuple[float, int]:
        """Return when the next piece is passed on, and its size.

        It is cut from the *left* bytes of an item that arrived at the time *arrived*; a signal has none.  Called once
        for each piece, after the piece before it was passed on.
        """

    def accept(self, item: Item) -> None:
        self._queue.append((self._loop.time(), item))
        self.held += _size(item)
        self._set_timer()

    @property
    def idle(self) -> bool:
        return not self._queue

    def stop(self) -> None:
        self._queue.clear()
        self._offset = self.held = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _set_timer(self) -> None:
        if self._queue and self._handle is None:
            arrived, item = self._queue[0]
            due, self._size = self._plan(arrived, _size(item) - self._offset)
            if due > self._loop.time():
                self._handle = self._loop.call_at(due, self._pass_on)
            else:
                self._handle = self._loop.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        self._handle = None
        self._passed_at = self._loop.time()
        _, item = self._queue[0]
        start, end = self._offset, self._offset + self._size
        if end < _size(item):
            self._offset = end
        else:
            self._offset = 0
            self._queue.popleft()
        self.held -= end - start
        self._emit(item[start:end] if isinstance(item, bytes) else item)
        self._set_timer()


class Latency(_Queue):
    """Each item is passed on some seconds later."""

    def __init__(self, seconds: float, fault: Fault, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        super().__init__(fault, loop, emit)
        self._seconds = seconds

    def _plan(self, arrived: float, left: int) -> tuple[float, int]:
        if left:
            self._fault.affected = True
        return arrived + self._seconds, left


class Bandwidth(_Queue):
    """Each byte takes the same time, and a piece is passed on when all of it has been transmitted."""

    def __init__(self, rate: float, fault: Fault, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        super().__init__(fault, loop, emit)
        self._rate = rate
        self._most = max(1, int(rate / _TRANSMISSIONS_PER_SECOND))
        self._sent_at = 0.0  # when the last piece was transmitted

    def _plan(self, arrived: float, left: int) -> tuple[float, int]:
        if left:
            self._fault.affected = True
        size = min(left, self._most)
        self._sent_at = max(self._sent_at, arrived) + size / self._rate
        return self._sent_at, size


class Slicer(_Queue):
    """Cuts after each *size* bytes, and waits *delay* seconds after each piece."""

    def __init__(self, size: int, delay: float, fault: Fault, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        super().__init__(fault, loop, emit)
        self._every = size
        self._delay = delay
        self._to_cut = size  # bytes up to the next cut

    def _plan(self, arrived: float, left: int) -> tuple[float, int]:
        if not left:
            return arrived, 0
        due = max(arrived, self._passed_at + self._delay)
        size = min(left, self._to_cut)
        if size < left or due > arrived:
            self._fault.affected = True
        self._to_cut = self._to_cut - size or self._every
        return due, size


class Cutoff(Stage):
    """Passes on *size* bytes and then *signal*, and discards everything after it."""

    def __init__(self, size: int, signal: Signal, fault: Fault, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        super().__init__(fault, loop, emit)
        self._left = size
        self._size = size
        self._signal = signal
        self._done = False

    def start(self) -> None:
        if self._left == 0:
            self._cut()

    def accept(self, item: Item) -> None:
        if item is Signal.LOST:
            self._done = True
            self._emit(item)
        elif self._done:
            return
        elif isinstance(item, Signal):
            self._done = item is not Signal.EOF
            self._emit(item)
        else:
            passed = item[: self._left]
            self._left -= len(passed)
            self._fault.passed = max(self._fault.passed or 0, self._size - self._left)
            self._emit(passed)
            if self._left == 0:
                self._cut()

    def _cut(self) -> None:
        if not self._done:
            self._done = True
            self._fault.affected = True
            self._emit(self._signal)


def _size(item: Item) -> int:
    return len(item) if isinstance(item, bytes) else 0
