"""Maildrops in memory, lost when the process ends.

The recipients of a message share its content.  Its memory is returned to the budget when the last copy is deleted.
One maildrop may hold a quarter of the budget, and all together half of it: the rest is left to messages that are being
received.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from typing import Final

import attrs
from anyio.lowlevel import checkpoint

from mailauth import pop3

from .._checks import check_type
from .._line_ends import PIECE, Growth, crlf_growth, with_crlf
from .content import OVERHEAD, Budget, BudgetExceeded, ContentReader, MessageContent
from .names import mailbox_name
from .protocols import OpenedMaildrop, Staged

SHARE: Final = 4
"""The divisor of the budget: one maildrop may hold a quarter of it, so that the mail of one user does not stop that of
the others."""

_CHUNKS_AT_ONCE: Final = 16
"""Chunks, of about 64 KiB, that are examined in one turn of the event loop."""


@attrs.frozen(kw_only=True)
class StoredMessage:
    """A message in a maildrop.

    For example:

        >>> maildrops = stores.MemoryMaildrops()
        >>> maildrops.add("alice", b"Subject: test\\n\\nhello\\n")
        >>> maildrops.messages("alice")[0].data
        b'Subject: test\\r\\n\\r\\nhello\\r\\n'
    """

    head: bytes
    """The trace lines that this server has added; empty for a message of ``MemoryMaildrops.add()``."""
    data: bytes
    """The whole message as POP3 sends it, with CRLF line ends: *head*, then the message as it was sent or added."""


class _Maildrop:
    """The messages of a maildrop."""

    def __init__(self) -> None:
        self.copies: dict[_Copy, None] = {}
        """Oldest first.  In a list, each deletion would take time in proportion to its length."""
        self.size = 0
        """The bytes of the messages that were staged, whether they are committed or not."""


class _Copy:
    """One recipient's copy of a message: its own trace lines, and content that may be shared."""

    def __init__(
        self, maildrop: _Maildrop, unique_id: str, head: bytes, content: MessageContent, *, limited: bool
    ) -> None:
        """The growth of *content* was counted, or is 0.

        Raises BudgetExceeded, with *limited* also if the maildrop is full.
        """
        self._maildrop = maildrop
        self._head = head
        self._content = content
        self._cost = len(head) + OVERHEAD
        first = content.chunks[0][:1] if content.chunks else b""
        growth = (content.growth or 0) + crlf_growth(head, first) - crlf_growth(first)
        self._clean = growth == 0
        size = len(head) + content.size
        self.message = pop3.Message(size=size + growth, unique_id=unique_id)
        self._held = size + OVERHEAD if limited else 0
        if limited and maildrop.size and maildrop.size + self._held > content.budget.size // SHARE:
            raise BudgetExceeded
        content.keep(self._cost)
        maildrop.size += self._held

    @property
    def stored(self) -> StoredMessage:
        """The whole message, joined in memory."""
        return StoredMessage(head=self._head, data=b"".join(with_crlf((self._head, *self._content.chunks))))

    def pieces(self) -> Iterator[bytes]:
        """Return the message in pieces of about PIECE bytes, with CRLF line ends."""
        return self._stored() if self._clean else with_crlf(self._stored())

    def _stored(self) -> Iterator[bytes]:
        """Yield the stored bytes: small chunks are joined, and chunks longer than PIECE are split."""
        held = self._head
        for chunk in self._content.chunks:
            if held and len(held) + len(chunk) > PIECE:
                yield held
                held = b""
            held += chunk
            if len(held) > PIECE:
                yield from (held[start : start + PIECE] for start in range(0, len(held), PIECE))
                held = b""
        if held:
            yield held

    def release(self) -> None:
        self._maildrop.size -= self._held
        self._content.release(self._cost)


async def _count_growth(content: MessageContent) -> None:
    """Count the growth of *content*, once for all its recipients, with turns of the event loop for others."""
    if content.growth is None:
        growth = Growth()
        for number, chunk in enumerate(content.chunks, 1):
            growth.count(chunk)
            if number % _CHUNKS_AT_ONCE == 0:
                await checkpoint()
        content.growth = growth.total


class MemoryMaildrops:
    """Every name has a maildrop, empty at first.  The memory is limited by the budget of the staged content.

    One maildrop may hold a quarter of the budget, or one message if that is larger.  All maildrops and a MemoryOutbox
    together may hold half of it.

    A test puts messages in with ``add()``, and reads ``messages()``; both may be called from any thread.

    For example:

        maildrops = stores.MemoryMaildrops()
        opened = await maildrops.open("alice")  # its messages are ()
        locked = await maildrops.open("alice")  # pop3.Unavailable.IN_USE
    """

    def __init__(self) -> None:
        self._maildrops: dict[str, _Maildrop] = {}
        self._open: set[str] = set()
        # Unique-ids must differ from those of an earlier process, which a client may still have stored.
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._added = Budget()
        self._added.max_kept = self._added.size  # no message is received in it

    def add(self, name: str, data: bytes) -> None:
        """Put the message *data* into the maildrop of *name*, the canonical name of an account (see ``mailbox_name``).

        The line ends may be LF.  A session that has the maildrop open does not see the message.  Raises TypeError or
        ValueError for a wrong argument, and BudgetExceeded if the messages that were added, and not deleted, would use
        more than 256 MiB.
        """
        _check_name(name)
        check_type("data", data, bytes)
        content = MessageContent.of(b"".join(with_crlf((data,))), self._added)
        maildrop = self._maildrop(name)
        try:
            copy = self._copy(maildrop, b"", content, limited=False)
        finally:
            content.release()
        maildrop.copies[copy] = None

    def messages(self, name: str) -> tuple[StoredMessage, ...]:
        """Return the messages in the maildrop of *name*, oldest first.

        Raises TypeError or ValueError if *name* is not the canonical name of an account.
        """
        _check_name(name)
        maildrop = self._maildrops.get(name)
        return () if maildrop is None else tuple(copy.stored for copy in tuple(maildrop.copies))

    def _maildrop(self, name: str) -> _Maildrop:
        return self._maildrops.setdefault(name, _Maildrop())

    def _copy(self, maildrop: _Maildrop, head: bytes, content: MessageContent, *, limited: bool) -> _Copy:
        return _Copy(maildrop, f"{self._prefix}.{next(self._numbers)}", head, content, limited=limited)

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        """Keep a reference to *content* (see ``Maildrops.stage``).

        Raises BudgetExceeded if this maildrop is full, or all maildrops together.
        """
        await _count_growth(content)
        maildrop = self._maildrop(name)
        return _Staged(maildrop, self._copy(maildrop, head, content, limited=True))

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        """Open and lock the maildrop of *name*, or return IN_USE if another session has it."""
        if name in self._open:
            return pop3.Unavailable.IN_USE
        self._open.add(name)
        return _Opened(self._open, name, self._maildrop(name))


def _check_name(name: str) -> None:
    """Check that *name* is canonical: under another name, the message would be in a maildrop that is never opened."""
    check_type("name", name, str)
    if mailbox_name(name, frozenset()) != name:
        raise ValueError("name must be the canonical name of an account, such as alice; use mailbox_name(...)")


class _Staged:
    def __init__(self, maildrop: _Maildrop, copy: _Copy) -> None:
        self._maildrop = maildrop
        self._copy = copy

    async def commit(self) -> None:
        self._maildrop.copies[self._copy] = None

    def discard(self) -> None:
        self._maildrop.copies.pop(self._copy, None)
        self._copy.release()


class _Opened:
    def __init__(self, in_use: set[str], name: str, maildrop: _Maildrop) -> None:
        self._closed = False
        self._in_use = in_use
        self._name = name
        self._maildrop = maildrop
        self._snapshot = tuple(maildrop.copies)
        self._reader = ContentReader(iter(()))
        self.messages = tuple(copy.message for copy in maildrop.copies)

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        if offset == 0:
            self._reader = ContentReader(self._snapshot[number - 1].pieces())
        return self._reader.read()

    async def update(self, deleted: frozenset[int]) -> None:
        for number in deleted:
            copy = self._snapshot[number - 1]
            if copy in self._maildrop.copies:
                del self._maildrop.copies[copy]
                copy.release()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._in_use.discard(self._name)
