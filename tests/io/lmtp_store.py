"""Mailboxes behind an LMTP server (RFC 2033), which replies for each recipient after the message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs

from mailauth import ACCEPT, MessageChunk, Question, smtp
from mailauth_io.adapters import AsyncServerConnection
from tests.io import loops

SETTINGS: Final = smtp.ServerSettings(host_name="store.test", lmtp=True, chunking=True, starttls=False)
MESSAGE: Final = b"Subject: tea\r\n\r\n.\r\n..two\r\nAt six.\r\n"
FULL: Final = smtp.Reply(452, "4.2.2", "mailbox full")
UNKNOWN: Final = smtp.Reply(550, "5.1.1", "no such mailbox")
ALICE, BOB, NOBODY = (smtp.Mailbox(name, "store.test") for name in ("alice", "bob", "nobody"))


@attrs.define
class Store:
    """Mailboxes: that of bob is full, which is known only when the message is complete."""

    mail: dict[str, list[bytes]] = attrs.field(factory=dict)

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        content = bytearray()
        async for event in connection:
            match event:
                case smtp.Rcpt(forward_path=path) as question:
                    connection.answer(question, UNKNOWN if path == NOBODY else ACCEPT)
                case MessageChunk(data=data):
                    content += data
                case smtp.MessageAborted():
                    content.clear()
                case smtp.MessageComplete(recipients=recipients) as question:
                    verdicts: list[smtp.Verdict] = []
                    for path in recipients:
                        if path == BOB:
                            verdicts.append(FULL)
                        else:
                            self.mail.setdefault(path.local_part, []).append(bytes(content))
                            verdicts.append(ACCEPT)
                    content.clear()
                    connection.answer(question, smtp.PerRecipient(tuple(verdicts)))
                case smtp.Connected() | smtp.Mail() | smtp.Data() as question:
                    connection.answer(question, ACCEPT)
                case Question() as question:
                    connection.decline(question)
                case _:
                    pass


@asynccontextmanager
async def serving(loop: loops.Loop) -> AsyncIterator[tuple[Store, int]]:
    store = Store()
    async with loop.adapter.serve_smtp(store.session, SETTINGS) as listener:
        yield store, listener.port
