"""Maildrops in memory, lost when the process ends.

The recipients of a message share its content.  Its memory is returned to the budget when the last copy is deleted.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from typing import TypeAlias

import attrs

from mailauth import pop3

from .._checks import check_type
from .._line_ends import PIECE, with_crlf
from .content import OVERHEAD, Budget, ContentReader, MessageContent
from .names import mailbox_name
from .protocols import OpenedMaildrop, Staged


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


class _Copy:
    """One recipient's copy of a message: its own trace lines, and content that may be shared."""

    def __init__(self, unique_id: str, head: bytes, content: MessageContent) -> None:
        """Raises BudgetExceeded."""
        self._cost = len(head) + OVERHEAD
        content.budget.take(self._cost)
        content.keep()
        self._head = head
        self._content = content
        self._unique_id = unique_id
        self._message: pop3.Message | None = None
        self._clean = False

    @property
    def message(self) -> pop3.Message:
        """The message.  Its size is computed when a session first needs it, so that delivery is not delayed."""
        if self._message is None:
            size = sum(map(len, with_crlf((self._head, *self._content.chunks))))
            self._clean = size == len(self._head) + self._content.size  # each bare CR or LF adds one byte
            self._message = pop3.Message(size=size, unique_id=self._unique_id)
        return self._message

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
        self._content.budget.release(self._cost)
        self._content.release()


_Copies: TypeAlias = dict[_Copy, None]
"""The messages of a maildrop, oldest first.  In a list, each deletion would take time in proportion to its length."""


class MemoryMaildrops:
    """Every name has a maildrop, empty at first.  The memory is limited by the budget of the staged content.

    A test puts messages in with ``add()``, and reads ``messages()``; both may be called from any thread.

    For example:

        maildrops = stores.MemoryMaildrops()
        opened = await maildrops.open("alice")  # its messages are ()
        locked = await maildrops.open("alice")  # pop3.Unavailable.IN_USE
    """

    def __init__(self) -> None:
        self._copies: dict[str, _Copies] = {}
        self._open: set[str] = set()
        # Unique-ids must differ from those of an earlier process, which a client may still have stored.
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._added = Budget()

    def add(self, name: str, data: bytes) -> None:
        """Put the message *data* into the maildrop of *name*, the canonical name of an account (see ``mailbox_name``).

        The line ends may be LF.  A session that has the maildrop open does not see the message.  Raises TypeError or
        ValueError for a wrong argument, and BudgetExceeded if the messages that were added, and not deleted, would use
        more than 256 MiB.
        """
        _check_name(name)
        check_type("data", data, bytes)
        content = MessageContent.of(b"".join(with_crlf((data,))), self._added)
        try:
            copy = self._copy(b"", content)
        finally:
            content.release()
        self._copies.setdefault(name, {})[copy] = None

    def messages(self, name: str) -> tuple[StoredMessage, ...]:
        """Return the messages in the maildrop of *name*, oldest first.

        Raises TypeError or ValueError if *name* is not the canonical name of an account.
        """
        _check_name(name)
        return tuple(copy.stored for copy in tuple(self._copies.get(name, ())))

    def _copy(self, head: bytes, content: MessageContent) -> _Copy:
        return _Copy(f"{self._prefix}.{next(self._numbers)}", head, content)

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        """Keep a reference to *content* (see ``Maildrops.stage``).  Raises BudgetExceeded if the memory is used up."""
        copy = self._copy(head, content)
        return _Staged(self._copies.setdefault(name, {}), copy)

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        """Open and lock the maildrop of *name*, or return IN_USE if another session has it."""
        if name in self._open:
            return pop3.Unavailable.IN_USE
        self._open.add(name)
        return _Opened(self._open, name, self._copies.setdefault(name, {}))


def _check_name(name: str) -> None:
    """Check that *name* is canonical: under another name, the message would be in a maildrop that is never opened."""
    check_type("name", name, str)
    if mailbox_name(name, frozenset()) != name:
        raise ValueError("name must be the canonical name of an account, such as alice; use mailbox_name(...)")


class _Staged:
    def __init__(self, maildrop: _Copies, copy: _Copy) -> None:
        self._maildrop = maildrop
        self._copy = copy

    async def commit(self) -> None:
        self._maildrop[self._copy] = None

    def discard(self) -> None:
        self._maildrop.pop(self._copy, None)
        self._copy.release()


class _Opened:
    def __init__(self, in_use: set[str], name: str, maildrop: _Copies) -> None:
        self._closed = False
        self._in_use = in_use
        self._name = name
        self._maildrop = maildrop
        self._snapshot = tuple(maildrop)
        self._reader = ContentReader(iter(()))
        self.messages = tuple(copy.message for copy in maildrop)

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        if offset == 0:
            self._reader = ContentReader(self._snapshot[number - 1].pieces())
        return self._reader.read()

    async def update(self, deleted: frozenset[int]) -> None:
        for number in deleted:
            copy = self._snapshot[number - 1]
            if copy in self._maildrop:
                del self._maildrop[copy]
                copy.release()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._in_use.discard(self._name)
