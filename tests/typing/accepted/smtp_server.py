"""An SMTP server in whole: every question has an arm, and forgetting one would be an error at ``assert_never``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, assert_never

from mailauth import ACCEPT, Notice, sasl, smtp
from mailauth.grants import Lookup
from mailauth.policy import RelayPolicy
from mailauth_io import on_asyncio, on_trio

Connection: TypeAlias = on_asyncio.ServerConnection[smtp.ServerEvent] | on_trio.ServerConnection[smtp.ServerEvent]


class Spool(Protocol):
    def begin(self) -> None: ...
    def write(self, octets: bytes) -> None: ...
    def discard(self) -> None: ...
    async def commit(self) -> bool: ...


class Users(Protocol):
    async def check(self, identity: str, password: bytes) -> bool: ...
    async def secret(self, identity: str) -> bytes | None: ...


class Grants(Protocol):
    async def find(self, address: str, *, now: float) -> Lookup: ...


async def session(
    connection: Connection, users: Users, spool: Spool, grants: Grants, policy: RelayPolicy, clock: Callable[[], float]
) -> None:
    peer = connection.peer.address
    async for event in connection:
        match event:
            case sasl.CheckPassword(authentication_identity=who, password=password) as q:
                connection.answer(q, ACCEPT if await users.check(who, password) else sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret(authentication_identity=who) as q:
                connection.answer(q, await users.secret(who))
            case sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.NOT_AUTHORIZED)
            case smtp.Rcpt(forward_path=path) as q:
                grant = await grants.find(peer, now=clock())
                connection.answer(q, policy.decide(path, identity=connection.identity, grant=grant).verdict)
            case smtp.Data() as q:
                spool.begin()
                connection.answer(q, ACCEPT)
            case smtp.MessageChunk(octets=octets):
                spool.write(octets)
            case smtp.MessageAborted():
                spool.discard()
            case smtp.MessageComplete() as q:
                connection.answer(q, ACCEPT if await spool.commit() else smtp.Reply(451, "4.3.0", "try again"))
            case smtp.Connected() | smtp.Mail() | smtp.StartTls() as q:
                connection.answer(q, ACCEPT)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)


async def serve_on_asyncio(one: Callable[[Connection], Awaitable[None]], settings: smtp.ServerSettings) -> int:
    async with on_asyncio.serve_smtp(one, settings, host="127.0.0.1", port=0) as listener:
        return listener.port


async def serve_on_trio(one: Callable[[Connection], Awaitable[None]], settings: smtp.ServerSettings) -> int:
    async with on_trio.serve_smtp(one, settings, host="127.0.0.1", port=0) as listener:
        return listener.port
