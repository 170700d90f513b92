"""Message content between the network and a store, and the memory that all of it together may take.

Knows octets and who still needs them; knows no header, no protocol and no file.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from mailauth import pop3

TOTAL_BUDGET: Final = 256 * 1024 * 1024
"""Octets that messages in flight and in-memory stores may take together before mail is answered 452 4.3.1."""

PIECE: Final = 65536
"""Octets handed to a POP3 session at a time: as much as one ``Send`` carries."""

OVERHEAD: Final = 512
"""What a message costs besides its octets, counted too: else a flood of tiny messages would be free."""

_WORTH_KEEPING: Final = 4096  # a chunk below this is copied together with its neighbours; each object costs memory too


def with_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same lines, each ended by LF whatever ended it: CRLF, or a bare CR or LF; a last line without end gets one.

    Pieces may be cut anywhere; none that comes out is empty.
    """
    lines = io.IncrementalNewlineDecoder(None, translate=True)  # latin-1 text is octets, and far faster than a regex
    ended = True
    for piece in pieces:
        if text := lines.decode(piece.decode("latin-1")):
            ended = text.endswith("\n")
            yield text.encode("latin-1")
    if lines.decode("", final=True) or not ended:
        yield b"\n"


def with_crlf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """As ``with_lf``, but each line ends in CRLF: what POP3 sends, and what LIST counts (RFC 1939 section 11)."""
    for piece in with_lf(pieces):
        yield piece.replace(b"\n", b"\r\n")


class BudgetExceeded(Exception):
    """The memory that messages may take is spent; nothing was kept."""


class Budget:
    """Octets that may still be kept in memory, shared by every message in flight and every in-memory store."""

    def __init__(self, size: int = TOTAL_BUDGET) -> None:
        self.size = size
        self.free = size

    def take(self, size: int) -> None:
        """Raises Full when fewer than *size* bytes are free, and takes none then."""
        if size > self.free:
            raise BudgetExceeded
        self.free -= size

    def release(self, size: int) -> None:
        self.free += size


class MessageContent:
    """The octets of one message as chunks, never joined, counted once however many stores keep them.

    Whoever makes one holds it; each further holder calls ``keep()``, and every holder calls ``release()`` once.
    """

    __slots__ = ("_holders", "_tail", "_taken", "budget", "chunks", "size")

    def __init__(self, budget: Budget) -> None:
        """Raises Full."""
        budget.take(OVERHEAD)
        self.budget = budget
        self.chunks: list[bytes] = []
        self.size = 0
        self._taken = OVERHEAD
        self._tail = bytearray()
        self._holders = 1

    @classmethod
    def of(cls, data: bytes, budget: Budget) -> MessageContent:
        """A whole message with CRLF line ends, sealed.  Raises Full."""
        content = cls(budget)
        try:
            content.append(data)
        except BudgetExceeded:
            content.release()
            raise
        content.seal()
        return content

    def append(self, data: bytes) -> None:
        """The next octets of the message.  Raises Full; what came before is still held then."""
        self.budget.take(len(data))
        self._taken += len(data)
        self.size += len(data)
        if len(data) >= _WORTH_KEEPING:
            self._seal_tail()
            self.chunks.append(data)
        else:
            self._tail += data
            if len(self._tail) >= PIECE:
                self._seal_tail()

    def seal(self) -> None:
        """The message is whole.  A last line without CRLF gets one, so that every store counts the same octets."""
        self._seal_tail()
        if not self.chunks or self.chunks[-1].endswith(b"\r\n"):
            return
        if b"".join(chunk[-2:] for chunk in self.chunks[-2:])[-2:] != b"\r\n":
            self.chunks.append(b"\r\n")
            self.size += 2

    def _seal_tail(self) -> None:
        if self._tail:
            self.chunks.append(bytes(self._tail))
            self._tail = bytearray()

    def keep(self) -> None:
        """One more holder."""
        self._holders += 1

    def release(self) -> None:
        """One holder less; with the last one the memory is free for others."""
        self._holders -= 1
        if self._holders == 0:
            self.budget.release(self._taken)


@attrs.frozen(kw_only=True)
class Envelope:
    """What a relayed message needs besides its content to be sent on (RFC 5321 section 2.3.1)."""

    queue_id: str
    reverse_path: str
    """As in ``MAIL FROM``, without brackets; empty for the null reverse-path."""
    recipients: tuple[str, ...]


class ContentReader:
    """Hands one message out piece by piece, always knowing whether more follows."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        """*pieces* are octets with CRLF line ends, none of them empty."""
        self.offset = 0
        self._pieces = pieces
        self._ahead = next(pieces, b"")

    def read(self) -> pop3.Content:
        data = self._ahead
        self._ahead = next(self._pieces, b"")
        self.offset += len(data)
        return pop3.Content(data=data, last=not self._ahead)
