"""The mailauth servers: both adapters with a small application, and ``mailauth serve`` with stores that keep nothing.

The application awaits wherever a real one would query a database: senders, recipients, passwords, the queue and the
maildrop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path
from ssl import SSLContext
from typing import Final

import attrs
import trio

from _messages import MAILDROPS, PASSWORD
from mailauth import ACCEPT, Accept, MessageChunk, Question, pop3, sasl, smtp
from mailauth_io import limits, logs, on_asyncio, on_trio, server, stores
from mailauth_io.cli import main as cli
from mailauth_io.on_asyncio import AsyncServerConnection

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
SHARED: Final = Path("/dev/shm")
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
            case smtp.Data() | smtp.Connected() as question:
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


def run_adapter(protocol: str, loop: str, announce: Announce, context: SSLContext | None = None) -> None:
    """Serve with the adapter for *loop* until stopped; with *context*, connections begin with a TLS handshake."""
    adapter = on_asyncio if loop == "asyncio" else on_trio
    options = {"grace": 0, "limits": LIMITS, "ssl_context": context, "implicit_tls": context is not None}

    async def serve() -> None:
        async with (
            adapter.serve_smtp(smtp_session, SMTP_SETTINGS, **options)
            if protocol == "smtp"
            else adapter.serve_pop3(pop3_session, POP3_SETTINGS, **options)
        ) as listener:
            announce(listener.port)
            await (asyncio.Event().wait() if loop == "asyncio" else trio.sleep_forever())

    if loop == "asyncio":
        asyncio.run(serve())
    else:
        trio.run(serve)


# mailauth serve


class Nowhere:
    """Maildrops that can be read, and that accept every message without storing it."""

    async def open(self, name: str) -> Maildrop:
        return await open_maildrop(name)

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        return Discarded()


class Discarded:
    """A message that is discarded."""

    async def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass


class NoOutbox:
    """An outbox that discards every message."""

    async def stage(self, envelope: stores.Envelope, head: bytes, content: stores.MessageContent) -> stores.Staged:
        return Discarded()


NAMES: Final = (*MAILDROPS, *(f"member{number}" for number in range(20)))
"""The accounts of ``mailauth serve``."""


def run_ready(protocol: str, announce: Announce) -> None:
    """The sessions of ``mailauth serve`` on asyncio: policy, accounts, grants, delivery, and logging to a file."""

    async def serve() -> None:
        accounts = stores.MemoryAccounts(dict.fromkeys(NAMES, PASSWORD))
        kept = server.Stores(accounts=accounts, maildrops=Nowhere(), outbox=NoOutbox())
        async with server.serve(server.Config(smtp=0, pop3=0, legacy=True), kept) as running:
            port = running.smtp if protocol == "smtp" else running.pop3
            assert port is not None
            announce(port)
            await asyncio.Event().wait()

    with tempfile.TemporaryFile() as log:
        logs.start("text", "info", log.fileno())
        asyncio.run(serve())


def run_command(announce: Announce) -> None:
    """``mailauth serve`` with a Maildir, in /dev/shm if it exists, and logging to a file."""
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as name:
        folder = Path(name)
        announcing = os.dup(sys.stdout.fileno())
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())

        def await_ready_file() -> None:
            while not (folder / "ready").exists():
                time.sleep(0.01)
            os.dup2(announcing, sys.stdout.fileno())
            announce(json.loads((folder / "ready").read_text())["smtp"])

        threading.Thread(target=await_ready_file, daemon=True).start()
        users = [word for name in NAMES for word in ("--user", f"{name}:{PASSWORD.decode('ascii')}")]
        places = ["--maildir", str(folder / "maildrops"), "--outbox", str(folder / "outbox")]
        cli.main(["serve", "--legacy", "--smtp", "0", *users, *places, "--ready-file", str(folder / "ready")])
