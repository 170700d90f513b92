"""A relay: what the client says is said to the next hop, and the next hop's answer is ours.

It works because a verb is one class on both sides: what the server asks is the command that the client sends.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from mailauth import ACCEPT, Command, Notice, Question, smtp
from mailauth_io import on_asyncio, on_trio

Connection: TypeAlias = on_asyncio.ServerConnection[smtp.ServerEvent] | on_trio.ServerConnection[smtp.ServerEvent]
Client: TypeAlias = on_asyncio.Client[smtp.ClientEvent] | on_trio.Client[smtp.ClientEvent]


async def ask(next_hop: Client, command: Command) -> smtp.Verdict:
    next_hop.send(command)
    async for event in next_hop:
        match event:
            case smtp.Replied(reply=reply) if reply.code < 400:
                return reply if reply.code == 250 else ACCEPT
            case smtp.Replied(reply=smtp.Reply(code=421)):
                return smtp.Reply(451, "4.4.1", "next hop closed")
            case smtp.Replied(reply=reply):
                return reply
            case _:
                pass
    return smtp.Reply(451, "4.4.1", "next hop gone")


async def relay(connection: Connection, next_hop: Client) -> None:
    async for event in connection:
        match event:
            case smtp.Mail() | smtp.Rcpt() | smtp.Data() as q:
                connection.answer(q, await ask(next_hop, q))
            case smtp.MessageChunk() as chunk:
                next_hop.send(chunk)
                await next_hop.flush()
            case smtp.MessageComplete() as q:
                connection.answer(q, await ask(next_hop, q))
            case smtp.MessageAborted():
                next_hop.abort()
            case Question() as q:
                connection.answer(q, q.unavailable)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)
