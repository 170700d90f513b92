"""Delivery: one message into the store of every recipient, or into none.

Knows stores and trace lines; refuses to know the connection, and decides nothing about who may send to whom.
"""

from __future__ import annotations

import attrs

from mailauth import smtp

from ..stores import BudgetExceeded, Envelope, Maildrops, MessageContent, Outbox, Staged
from . import trace
from ._log import log_failure

NO_ROOM = smtp.Reply(452, "4.3.1", "no room for this message now, try again later")
NOT_STORED = smtp.Reply(451, "4.3.0", "the message could not be stored, try again later")
HEADER_TOO_LONG = smtp.Reply(552, "5.3.4", f"the header section has more than {trace.MAX_HEADER} octets")
LOOP = smtp.Reply(554, "5.4.6", "too many Received lines: this message runs in circles")


class DeliveryRejected(Exception):
    """Raised by an outbox that will not take a message, with what our client shall hear."""

    def __init__(self, reply: smtp.Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@attrs.frozen(kw_only=True)
class Message:
    """A message that was taken in whole, and for whom."""

    queue_id: str
    reverse_path: str
    """Without brackets, empty for the null reverse-path."""
    maildrops: tuple[str, ...]
    """Canonical names of local recipients, none twice."""
    relayed: tuple[str, ...]
    """Forward-paths that go to the outbox, none twice."""
    received: bytes
    """Our ``Received:`` line."""
    content: MessageContent
    """Sealed; its holder releases it, whatever comes of the delivery."""


async def deliver(message: Message, maildrops: Maildrops, outbox: Outbox) -> smtp.Reply:
    """Stage *message* for every recipient, then make all copies visible.  Never raises but to be cancelled.

    The outbox comes last: where it hands the message on at once, local copies wait, safe and unseen, for its word.
    250 with the queue id; 451 4.3.0 or 452 4.3.1 when a store failed or memory is spent, and then nothing is left
    behind; 554 5.4.6 for a message that runs in circles, 552 5.3.4 for a header section that is too long; else what the
    outbox said.
    """
    try:
        if trace.strip_envelope(message.content) > trace.MAX_RECEIVED:
            return LOOP
    except trace.HeaderTooLong:
        return HEADER_TOO_LONG
    staged: list[tuple[str, Staged]] = []
    part = "maildrops"
    try:
        head = trace.return_path(message.reverse_path) + message.received
        for name in message.maildrops:
            staged.append((part, await maildrops.stage(name, head, message.content)))
        if message.relayed:
            part = "outbox"
            envelope = Envelope(
                queue_id=message.queue_id, reverse_path=message.reverse_path, recipients=message.relayed
            )
            staged.append((part, await outbox.stage(envelope, message.received, message.content)))
        for store, copy in staged:
            part = store
            await copy.commit()
    except BaseException as error:
        for _, copy in staged:
            copy.discard()
        if isinstance(error, BudgetExceeded):
            return NO_ROOM
        if isinstance(error, DeliveryRejected):
            return error.reply
        if not isinstance(error, Exception):
            raise
        log_failure(message.queue_id, part, error)
        return NOT_STORED
    return smtp.Reply(250, "2.0.0", f"queued as {message.queue_id}")
