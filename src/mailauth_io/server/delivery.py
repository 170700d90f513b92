"""Delivery of a message to the stores of all its recipients, or to none of them."""

from __future__ import annotations

from types import NoneType

import attrs

from mailauth import smtp

from ..stores import BudgetExceeded, DeliveryRejected, Envelope, Maildrops, MessageContent, Outbox, Staged
from . import trace
from ._log import log_failure
from ._results import check_result, check_returned_interface

NO_ROOM = smtp.Reply(452, "4.3.1", "insufficient storage, try again later")
NOT_STORED = smtp.Reply(451, "4.3.0", "message not stored, try again later")
HEADER_TOO_LONG = smtp.Reply(552, "5.3.4", f"header section exceeds {trace.MAX_HEADER} bytes")
LOOP = smtp.Reply(554, "5.4.6", "mail loop detected")


@attrs.define(kw_only=True)  # frozen would take twice as long for each message
class Message:
    """A completely received message and its recipients."""

    queue_id: str
    reverse_path: smtp.Mailbox | None
    """None for the null reverse-path.  A maildrop gets it in the grammar of RFC 5321, the outbox as it was received."""
    maildrops: tuple[str, ...]
    """Canonical names of the local recipients, without duplicates."""
    relayed: tuple[str, ...]
    """Forward-paths of the remote recipients as received, without duplicates."""
    received: bytes
    """The ``Received:`` line of this server."""
    content: MessageContent
    """Sealed.  The caller of ``deliver()`` releases it afterwards."""


async def deliver(message: Message, maildrops: Maildrops, outbox: Outbox) -> smtp.Reply:
    """Stage *message* for every recipient, then make all copies visible; return the reply to the client.

    The outbox is staged last: if it relays at once, the local copies are on disk but not visible until the next hop has
    replied.  The reply is 250 with the queue id; 451 4.3.0 if a store failed; 452 4.3.1 if the memory is used up;
    554 5.4.6 for a mail loop; 552 5.3.4 for a header section that is too long; or the reply of the outbox.  Unless the
    reply is 250, no copy is left in a store.  Raises nothing, but can be cancelled.
    """
    try:
        if trace.strip_envelope(message.content) > trace.MAX_RECEIVED:
            return LOOP
    except trace.HeaderTooLong:
        return HEADER_TOO_LONG
    staged: list[tuple[str, Staged]] = []
    part = "maildrops"
    used: object = maildrops
    try:
        path = message.reverse_path
        head = trace.return_path("" if path is None else str(path)) + message.received
        for name in message.maildrops:
            copy = await maildrops.stage(name, head, message.content)
            check_returned_interface(maildrops, "stage", copy, Staged)
            staged.append((part, copy))
        if message.relayed:
            part, used = "outbox", outbox
            envelope = Envelope(
                queue_id=message.queue_id,
                reverse_path="" if path is None else path.spelling,
                recipients=message.relayed,
            )
            copy = await outbox.stage(envelope, message.received, message.content)
            check_returned_interface(outbox, "stage", copy, Staged)
            staged.append((part, copy))
        for store, copy in staged:
            part, used = store, copy
            committed = await copy.commit()  # type: ignore[func-returns-value]  # checked, since any object may be a store
            check_result(copy, "commit", committed, NoneType, "None")
    except BaseException as error:
        for _, copy in staged:
            copy.discard()
        if isinstance(error, BudgetExceeded):
            return NO_ROOM
        if isinstance(error, DeliveryRejected):
            return error.reply
        if not isinstance(error, Exception):
            raise
        log_failure(message.queue_id, part, error, used)
        return NOT_STORED
    return smtp.Reply(250, "2.0.0", f"queued as {message.queue_id}")
