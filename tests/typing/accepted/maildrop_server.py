"""A POP3 server in whole: the core computes STAT, LIST, UIDL and TOP; the application opens, reads and commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Protocol, TypeAlias, assert_never

from mailauth import ACCEPT, Notice, pop3, sasl
from mailauth_io import on_asyncio, on_trio

PIECE = 65_536

Connection: TypeAlias = on_asyncio.ServerConnection[pop3.ServerEvent] | on_trio.ServerConnection[pop3.ServerEvent]


class Users(Protocol):
    async def check(self, identity: str, password: bytes) -> bool: ...
    async def secret(self, identity: str) -> bytes | None: ...


class Store(Protocol):
    async def open(self, identity: str) -> Sequence[tuple[pop3.Message, BinaryIO]] | None: ...
    async def remove(self, numbers: frozenset[int]) -> bool: ...


async def session(connection: Connection, users: Users, store: Store) -> None:
    files: list[BinaryIO] = []
    async for event in connection:
        match event:
            case sasl.CheckPassword(authentication_identity=who, password=password) as q:
                connection.answer(q, ACCEPT if await users.check(who, password) else sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret(authentication_identity=who) as q:
                connection.answer(q, await users.secret(who))
            case sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.NOT_AUTHORIZED)
            case pop3.OpenMaildrop(identity=identity) as q:
                found = await store.open(identity)
                if found is None:
                    connection.answer(q, pop3.Unavailable.IN_USE)
                else:
                    files = [file for _, file in found]
                    connection.answer(q, pop3.Maildrop(messages=tuple(message for message, _ in found)))
            case pop3.Retrieve(number=number) as q:
                octets = files[number - 1].read(PIECE)
                connection.answer(q, pop3.Content(octets=octets, last=len(octets) < PIECE))
            case pop3.RetrieveMore(number=number, offset=offset) as q:
                files[number - 1].seek(offset)
                octets = files[number - 1].read(PIECE)
                connection.answer(q, pop3.Content(octets=octets, last=len(octets) < PIECE))
            case pop3.Update(deleted=deleted) as q:
                connection.answer(q, ACCEPT if await store.remove(deleted) else q.unavailable)
            case pop3.Connected() | pop3.Stls() as q:
                connection.answer(q, ACCEPT)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)
