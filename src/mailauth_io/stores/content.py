"""Message content in memory, and the memory budget that all messages share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from mailauth import pop3, smtp

from .._checks import check_integer, check_items, check_text, check_type, field
from .._line_ends import PIECE

TOTAL_BUDGET: Final = 256 * 1024 * 1024
"""Bytes that messages in progress and in-memory stores may use together; mail over that is rejected with 452 4.3.1."""

MAX_KEPT: Final = 2
"""The divisor of the budget for what in-memory stores keep: a maildrop that is never read must not stop all mail."""

OVERHEAD: Final = 512
"""Bytes charged for a message in addition to its content; without it, a flood of tiny messages would cost nothing."""

_MIN_CHUNK: Final = 4096  # smaller chunks are joined with their neighbors, since each object costs memory


class BudgetExceeded(Exception):
    """The message does not fit in the budget.  Nothing was reserved.

    For example:

        try:
            content.append(data)
        except stores.BudgetExceeded:
            refused = smtp.Reply(452, "4.3.1", "insufficient system storage")
    """


class DeliveryRejected(Exception):
    """Raised by ``Outbox.stage()`` to reject a message: *reply* is sent to the client, and no copy is stored.

    Any other exception is a failure of the store, and the client gets 451.  Raises TypeError or ValueError if *reply*
    is not a 4yz or 5yz reply.

        if envelope.reverse_path in blocked_senders:
            raise stores.DeliveryRejected(smtp.Reply(550, "5.7.1", "sender blocked"))
    """

    def __init__(self, reply: smtp.Reply) -> None:
        check_type("reply", reply, smtp.Reply)
        if reply.code < 400:
            raise ValueError(
                f"reply must be a 4yz or 5yz reply, not {reply.code}; to accept a message, return a Staged"
            )
        super().__init__(str(reply))
        self.reply = reply


class Budget:
    """The memory, in bytes, that all messages in progress and all in-memory stores share.

    For example:

        >>> budget = stores.Budget(1_000_000)
        >>> budget.take(400_000)
        >>> budget.free
        600000
    """

    def __init__(self, size: int = TOTAL_BUDGET) -> None:
        """Raises TypeError or ValueError for an invalid *size*."""
        check_integer("size", size, 0)
        self.size = size
        self.free = size
        """Bytes that are not reserved."""
        self.kept = 0
        """Bytes that in-memory stores keep, of those that are reserved."""
        self.max_kept = size // MAX_KEPT
        """The maximum of *kept*: half of the budget, so that the other half is left to messages in progress."""

    def take(self, size: int) -> None:
        """Reserve *size* bytes.  Raises BudgetExceeded, and reserves nothing, if fewer are free."""
        if size > self.free:
            raise BudgetExceeded
        self.free -= size

    def release(self, size: int) -> None:
        """Return *size* reserved bytes."""
        self.free += size


class MessageContent:
    """The content of one message, as chunks that are never joined.  Stores that share it use its memory only once.

    It is reference-counted: the creator holds one reference, ``keep()`` adds one, and ``release()`` drops one.

        >>> content = stores.MessageContent.of(b"Subject: test\\r\\n\\r\\nhello", stores.Budget())
        >>> content.chunks, content.size  # the last line has got its CRLF
        ([b'Subject: test\\r\\n\\r\\nhello', b'\\r\\n'], 24)
        >>> content.release()
    """

    __slots__ = ("_holders", "_kept", "_tail", "_taken", "budget", "chunks", "growth", "size")

    def __init__(self, budget: Budget) -> None:
        """Raises BudgetExceeded."""
        check_type("budget", budget, Budget)
        budget.take(OVERHEAD)
        self.budget = budget
        self.chunks: list[bytes] = []
        self.size = 0
        self.growth: int | None = None
        """The bytes that CRLF line ends would add; None until a store has counted them."""
        self._taken = OVERHEAD
        self._kept = 0  # what it adds to budget.kept
        self._tail = bytearray()
        self._holders = 1

    @classmethod
    def of(cls, data: bytes, budget: Budget) -> MessageContent:
        """Return sealed content for *data*, a whole message with CRLF line ends.  Raises BudgetExceeded."""
        check_type("data", data, bytes)
        content = cls(budget)
        try:
            content.append(data)
        except BudgetExceeded:
            content.release()
            raise
        content.seal()
        return content

    def append(self, data: bytes) -> None:
        """Append the next bytes of the message.  Raises BudgetExceeded; earlier data is kept then."""
        self.budget.take(len(data))
        self._taken += len(data)
        self.size += len(data)
        if len(data) >= _MIN_CHUNK:
            self._seal_tail()
            self.chunks.append(data)
        else:
            self._tail += data
            if len(self._tail) >= PIECE:
                self._seal_tail()

    def seal(self) -> None:
        """Mark the message as complete.  A last line without CRLF gets one, so that all stores count the same size."""
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

    def keep(self, extra: int = 0) -> None:
        """Add a reference, for a store that keeps the content in memory, and reserve *extra* bytes for its own data.

        Raises BudgetExceeded, and does nothing, if stores would keep more than ``budget.max_kept`` bytes.  The content
        counts once, however many stores and maildrops keep it.
        """
        budget = self.budget
        content = 0 if self._kept else self._taken
        if budget.kept + content + extra > budget.max_kept:
            raise BudgetExceeded
        budget.take(extra)
        budget.kept += content + extra
        self._kept += content
        self._holders += 1

    def release(self, extra: int = 0) -> None:
        """Drop a reference, and return the *extra* bytes that were reserved with it.

        The last one returns the memory to the budget.
        """
        self.budget.release(extra)
        self.budget.kept -= extra
        self._holders -= 1
        if self._holders == 0:
            self.budget.release(self._taken)
            self.budget.kept -= self._kept


@attrs.frozen(kw_only=True)
class Envelope:
    """The envelope of a relayed message (RFC 5321 section 2.3.1).

    For example:

        >>> envelope = stores.Envelope(queue_id="1", reverse_path="", recipients=("dinah@example.org",))
        >>> envelope.recipients
        ('dinah@example.org',)
    """

    queue_id: str = attrs.field(validator=field(check_text))
    reverse_path: str = attrs.field(validator=field(check_text, empty=True))
    """The address of ``MAIL FROM`` without angle brackets; empty for the null reverse-path."""
    recipients: tuple[str, ...] = attrs.field(validator=field(check_items, str, use="str(...)"))


class ContentReader:
    """Returns a message in pieces, and marks the last one."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        """*pieces* have CRLF line ends, and none is empty."""
        self.offset = 0
        self._pieces = pieces
        self._ahead = next(pieces, b"")

    def read(self) -> pop3.Content:
        """Return the next piece; an empty one after the last."""
        data = self._ahead
        self._ahead = next(self._pieces, b"")
        self.offset += len(data)
        return pop3.Content(data=data, last=not self._ahead)
