"""Mechanisms that ask for more than passwords, on a server whose application does not handle these questions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mailauth import ACCEPT, pop3, sasl, smtp
from mailauth_io import on_asyncio, on_trio

smtp.ServerSettings(mechanisms=sasl.ALL_MECHANISMS)  # error: [arg-type]
pop3.ServerSettings(mechanisms=pop3.ALL_MECHANISMS)  # error: [arg-type]
smtp.ExtendedServerSettings(mechanisms=sasl.ALL_MECHANISMS)
pop3.ExtendedServerSettings(mechanisms=pop3.DEFAULT_MECHANISMS)
sasl.ExtendedMechanisms({"XOAUTH2": lambda context: sasl.Xoauth2Server(tls=context.tls)})
sasl.Mechanisms({"PLAIN": lambda context: sasl.PlainServer(tls=context.tls)})


def scram(context: sasl.Context) -> sasl.ScramSha256Server:
    return sasl.ScramSha256Server(nonce=context.nonce, tls=context.tls, decoy=sasl.ScramDecoy(key=bytes(16)))


sasl.Mechanisms({"SCRAM-SHA-256": scram})  # error: [dict-item]


def connect(settings: smtp.ExtendedServerSettings, entropy: bytes) -> smtp.ServerConnection:
    smtp.ExtendedServerConnection(settings, entropy=entropy)
    return smtp.ServerConnection(settings, entropy=entropy)  # error: [arg-type]


def answer(
    machine: smtp.ExtendedServerConnection, keys: sasl.FetchScramKeys, token: sasl.CheckToken, owner: sasl.CheckExternal
) -> None:
    machine.answer(keys, b"secret")  # error: [misc]
    machine.answer(keys, None)
    machine.answer(token, ACCEPT)  # error: [misc]
    machine.answer(token, "alice")
    machine.answer(owner, None)  # error: [misc]
    machine.answer(owner, sasl.Refusal.BAD_CREDENTIALS)


async def serve(
    session: Callable[[on_asyncio.ServerConnection[smtp.ServerEvent]], Awaitable[None]],
    maildrop: Callable[[on_trio.ServerConnection[pop3.ServerEvent]], Awaitable[None]],
) -> None:
    async with on_asyncio.serve_smtp(session, smtp.ExtendedServerSettings()):  # error: [arg-type]
        pass
    async with on_trio.serve_pop3(maildrop, pop3.ExtendedServerSettings()):  # error: [arg-type]
        pass
    async with on_trio.serve_pop3(maildrop, pop3.ServerSettings()):
        pass
