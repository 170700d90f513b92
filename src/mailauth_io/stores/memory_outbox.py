"""The outbox in memory: relayed mail with its envelope, gone with the process.

Knows nothing of where the mail should go next; whoever embeds the server reads ``messages`` and clears it.
"""

from __future__ import annotations

import attrs

from .content import OVERHEAD, Envelope, MessageContent


@attrs.frozen(kw_only=True)
class RelayedMessage:
    """One message that waits to be sent on."""

    envelope: Envelope
    head: bytes
    """The trace lines that were put on top here."""
    content: MessageContent
    cost: int

    @property
    def data(self) -> bytes:
        """The whole message, joined for this call."""
        return b"".join((self.head, *self.content.chunks))

    def release(self) -> None:
        self.content.budget.release(self.cost)
        self.content.release()


class MemoryOutbox:
    """Bounded by the budget of the content that is staged: once that is spent, mail is refused until ``clear()``."""

    def __init__(self) -> None:
        self._messages: list[RelayedMessage] = []

    @property
    def messages(self) -> tuple[RelayedMessage, ...]:
        """What was relayed so far, oldest first."""
        return tuple(self._messages)

    def clear(self) -> None:
        """Forget all messages and give their memory back."""
        for message in self._messages:
            message.release()
        self._messages.clear()

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> _Staged:
        cost = OVERHEAD + len(head) + sum(map(len, envelope.recipients))
        content.budget.take(cost)
        content.keep()
        return _Staged(self._messages, RelayedMessage(envelope=envelope, head=head, content=content, cost=cost))


class _Staged:
    def __init__(self, messages: list[RelayedMessage], message: RelayedMessage) -> None:
        self._messages = messages
        self._message = message

    async def commit(self) -> None:
        self._messages.append(self._message)

    def discard(self) -> None:
        self._messages[:] = [message for message in self._messages if message is not self._message]
        self._message.release()
