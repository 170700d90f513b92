"""The outbox in memory: relayed mail with its envelopes, lost when the process ends.

The program that embeds the server reads ``messages``, and calls ``clear()``.
"""

from __future__ import annotations

import attrs

from .content import OVERHEAD, Envelope, MessageContent
from .protocols import Staged


@attrs.frozen(kw_only=True)
class RelayedMessage:
    """One message that waits to be sent.

    For example:

        for message in outbox.messages:
            print(message.envelope.recipients, len(message.data))
    """

    envelope: Envelope
    head: bytes
    """The trace lines that this server has added: *data* is *head*, then the message as the client sent it.

    Of what was sent, only a ``Return-Path:`` is removed, and a last line without CRLF gets one."""
    content: MessageContent
    """The message as the client sent it, in chunks."""
    cost: int
    """Bytes charged to the budget in addition to *content*."""

    @property
    def data(self) -> bytes:
        """The whole message, joined on each access."""
        return b"".join((self.head, *self.content.chunks))

    def release(self) -> None:
        """Return the memory of the message to the budget.  Call it once: ``MemoryOutbox.clear()`` does."""
        self.content.release(self.cost)


class MemoryOutbox:
    """The messages in memory.

    When half of the budget of the staged content is used up, by this and by in-memory maildrops, remote mail is refused
    until ``clear()``.

    For example:

        >>> outbox = stores.MemoryOutbox()
        >>> outbox.messages
        ()
    """

    def __init__(self) -> None:
        self._messages: dict[
            _Staged, None
        ] = {}  # oldest first; in a list, a discard() would take time for each of them

    @property
    def messages(self) -> tuple[RelayedMessage, ...]:
        """The relayed messages, oldest first."""
        return tuple(staged.message for staged in tuple(self._messages))

    def clear(self) -> None:
        """Remove all messages and release their memory."""
        for staged in self._messages:
            staged.message.release()
        self._messages.clear()

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> Staged:
        """Keep a reference to *content* (see ``Outbox.stage``).  Raises BudgetExceeded if the memory is used up."""
        cost = OVERHEAD + len(head) + sum(map(len, envelope.recipients))
        content.keep(cost)
        return _Staged(self._messages, RelayedMessage(envelope=envelope, head=head, content=content, cost=cost))


class _Staged:
    def __init__(self, messages: dict[_Staged, None], message: RelayedMessage) -> None:
        self._messages = messages
        self.message = message

    async def commit(self) -> None:
        self._messages[self] = None

    def discard(self) -> None:
        self._messages.pop(self, None)
        self.message.release()
