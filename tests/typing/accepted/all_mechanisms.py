"""An SMTP server with every mechanism: it also answers the questions of SCRAM, tokens and certificates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias, assert_never

from mailauth import ACCEPT, ExtensionQuestion, Notice, Payload, Tls, sasl, smtp
from mailauth_io import on_asyncio, on_trio

Connection: TypeAlias = (
    on_asyncio.AsyncServerConnection[smtp.ServerEvent] | on_trio.AsyncServerConnection[smtp.ServerEvent]
)


class Users(Protocol):
    async def check(self, identity: str, password: bytes) -> bool: ...
    async def secret(self, identity: str) -> bytes | None: ...
    async def scram_keys(self, identity: str, hash_name: str) -> sasl.ScramKeys | None: ...
    async def owner_of_token(self, token: bytes) -> str | None: ...
    async def owner_of_certificate(self, certificate: Mapping[str, object]) -> str | None: ...


async def session(connection: Connection, users: Users) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword(authentication_identity=who, password=password) as q:
                connection.answer(q, ACCEPT if await users.check(who, password) else sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret(authentication_identity=who) as q:
                connection.answer(q, await users.secret(who))
            case sasl.FetchScramKeys(authentication_identity=who, hash_name=hash_name) as q:
                connection.answer(q, await users.scram_keys(who, hash_name))
            case sasl.CheckToken(token=token) as q:
                connection.answer(q, await users.owner_of_token(token) or sasl.Refusal.BAD_CREDENTIALS)
            case sasl.CheckExternal(peer_certificate=certificate) as q:
                connection.answer(q, await users.owner_of_certificate(certificate) or sasl.Refusal.BAD_CREDENTIALS)
            case sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.NOT_AUTHORIZED)
            case smtp.Rcpt() as q:
                connection.answer(q, ACCEPT if connection.identity else smtp.Reply(550, "5.7.1", "log in first"))
            case smtp.Connected() | smtp.Mail() | smtp.Data() | smtp.StartTls() as q:
                connection.answer(q, ACCEPT)
            case smtp.MessageComplete() as q:
                connection.answer(q, ACCEPT)
            case ExtensionQuestion() as q:
                connection.decline(q)
            case Payload() | Notice():
                pass
            case _:
                assert_never(event)


SETTINGS = smtp.ServerSettings(
    mechanisms=sasl.ALL_MECHANISMS.only("SCRAM-SHA-256", "OAUTHBEARER", "EXTERNAL", "PLAIN"),
    scram_decoy=sasl.ScramDecoy(key=b"from a file that nobody else can read"),
)


async def serve(one: Callable[[Connection], Awaitable[None]]) -> int:
    async with (
        on_asyncio.serve_smtp(one, SETTINGS) as listener,
        on_trio.serve_smtp(one, SETTINGS) as other,
        on_trio.serve_smtp(one, smtp.ServerSettings()) as careful,
    ):
        return listener.port + other.port + careful.port


def build(entropy: bytes, tls: Tls | None) -> smtp.ServerConnection:
    return smtp.ServerConnection(SETTINGS, entropy=entropy, tls=tls)


async def serve_by_hand(one: Callable[[Connection], Awaitable[None]]) -> int:
    async with on_asyncio.serve(one, build) as listener:
        return listener.port
