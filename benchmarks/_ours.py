"""The adapters of mailauth with a small application.

The application awaits wherever a real one would query a database: senders, recipients, passwords, the queue and the
maildrop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

import anyio
import attrs

import _certificates
from _features import FEATURES
from _load import TRIO, UVLOOP
from _messages import MAILDROPS, PASSWORD
from mailauth import ACCEPT, Accept, MessageChunk, Question, pop3, sasl, smtp
from mailauth_io import _event_loop, adapters, limits
from mailauth_io.adapters import AsyncServerConnection

Announce = Callable[[int], None]
"""Called with the port once the server listens."""

SMTP_SETTINGS: Final = smtp.ServerSettings(
    host_name="mail.example.test", mechanisms_without_tls=frozenset({"PLAIN"}), max_transactions=1_000_000_000
)
POP3_SETTINGS: Final = pop3.ServerSettings(
    host_name="mail.example.test", mechanisms_without_tls=frozenset({"USER", "APOP"})
)
LIMITS: Final = limits.Limits(connections=20_000)
QUEUE_IDS: Final = itertools.count(0xABC123)
PIECE: Final = 65_536
"""Bytes of a message passed to the core in one piece."""


async def check_password(name: str, password: bytes) -> Accept | sasl.Refusal:
    return ACCEPT if name in MAILDROPS and compare_digest(password, PASSWORD) else sasl.Refusal.BAD_CREDENTIALS


# SMTP


async def check_sender(mail: smtp.Mail) -> Accept:
    return ACCEPT


async def check_recipient(rcpt: smtp.Rcpt) -> Accept:
    return ACCEPT


async def queue(content: list[bytes]) -> smtp.Reply:
    """Accept a message.  As with real servers, the reply contains a queue id, different for each message."""
    content.clear()
    return smtp.Reply(250, "2.0.0", f"queued as {next(QUEUE_IDS):X}")


async def smtp_session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
    content: list[bytes] = []
    async for event in connection:
        match event:
            case smtp.Rcpt() as question:
                connection.answer(question, await check_recipient(question))
            case smtp.Mail() as question:
                connection.answer(question, await check_sender(question))
            case MessageChunk():
                content.append(event.data)
            case smtp.Data() | smtp.Connected() | smtp.StartTls() as question:
                connection.answer(question, ACCEPT)
            case smtp.MessageComplete() as complete:
                connection.answer(complete, await queue(content))
            case smtp.MessageAborted():
                content.clear()
            case sasl.CheckPassword(authentication_identity=name, password=password) as check:
                connection.answer(check, await check_password(name, password))
            case Question() as question:
                connection.answer(question, question.unavailable)


# POP3


@attrs.frozen
class Maildrop:
    """The read-only maildrop of one user."""

    contents: tuple[bytes, ...]
    snapshot: pop3.Maildrop

    @classmethod
    def of(cls, contents: tuple[bytes, ...]) -> Maildrop:
        messages = tuple(
            pop3.Message(size=len(text), unique_id=f"{number:032x}") for number, text in enumerate(contents, 1)
        )
        return cls(contents, pop3.Maildrop(messages=messages))

    @property
    def messages(self) -> tuple[pop3.Message, ...]:
        return self.snapshot.messages

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        text = self.contents[number - 1]
        piece = text[offset : offset + PIECE]
        return pop3.Content(data=piece, last=offset + len(piece) == len(text))

    async def update(self, deleted: frozenset[int]) -> None:
        pass

    def close(self) -> None:
        pass


OPENED: Final = {name: Maildrop.of(contents) for name, contents in MAILDROPS.items()}


async def open_maildrop(name: str) -> Maildrop:
    """Each session makes its own list of messages at login."""
    return Maildrop(OPENED[name].contents, pop3.Maildrop(messages=OPENED[name].messages))


async def pop3_session(connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
    maildrop = OPENED["bob"]
    async for event in connection:
        match event:
            case pop3.Retrieve(number=number) as retrieve:
                connection.answer(retrieve, await maildrop.read(number))
            case pop3.RetrieveMore(number=number, offset=offset) as more:
                connection.answer(more, await maildrop.read(number, offset))
            case sasl.CheckPassword(authentication_identity=name, password=password) as check:
                connection.answer(check, await check_password(name, password))
            case sasl.FetchSecret(authentication_identity=name) as fetch:
                connection.answer(fetch, PASSWORD if name in MAILDROPS else None)
            case pop3.OpenMaildrop(identity=name) as opening:
                maildrop = await open_maildrop(name)
                connection.answer(opening, maildrop.snapshot)
            case pop3.Update(deleted=deleted) as update:
                await maildrop.update(deleted)
                connection.answer(update, ACCEPT)
            case pop3.Connected() as connected:
                connection.answer(connected, ACCEPT)
            case Question() as question:
                connection.answer(question, question.unavailable)


# The two adapters


def run_adapter(serves: str, name: str, announce: Announce) -> None:
    """Serve with the adapter *name*, or without the feature *name* of the one for asyncio, until stopped."""
    loop = {UVLOOP: "uvloop", TRIO: "trio"}.get(name, "asyncio")
    if name in FEATURES:
        FEATURES[name]()
    context = None if serves in ("smtp", "pop3") else _certificates.server_context()
    implicit = serves in ("smtps", "pop3s")
    options: adapters.ServeOptions = {
        "grace": 0, "limits": LIMITS, "ssl_context": context, "implicit_tls": implicit,
    }  # fmt: skip
    smtp_settings = attrs.evolve(SMTP_SETTINGS, starttls=serves == "starttls")

    async def serve() -> None:
        adapter = _event_loop.current_adapter()
        async with (
            adapter.serve_smtp(smtp_session, smtp_settings, **options)
            if not serves.startswith("pop3")
            else adapter.serve_pop3(pop3_session, POP3_SETTINGS, **options)
        ) as listener:
            announce(listener.port)
            await anyio.sleep_forever()

    _event_loop.run(loop, serve)
