"""A client that submits one message: TLS when it is offered, login, a pipelined transaction, content in chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias, assert_never

from mailauth import sasl, smtp
from mailauth_io import on_asyncio, on_trio

Client: TypeAlias = on_asyncio.Client[smtp.ClientEvent] | on_trio.Client[smtp.ClientEvent]


async def reply(client: Client) -> smtp.Reply:
    async for event in client:
        match event:
            case smtp.Replied(reply=reply):
                return reply
            case sasl.Authenticated() | smtp.AuthenticationFailed():
                raise RuntimeError("no login is under way")
            case unreachable:
                assert_never(unreachable)
    raise ConnectionError("closed")


async def log_in(client: Client, mechanisms: Sequence[sasl.ClientMechanism]) -> None:
    client.authenticate(*mechanisms)
    async for event in client:
        match event:
            case sasl.Authenticated():
                return
            case smtp.AuthenticationFailed() as failed:
                raise PermissionError(failed)
            case smtp.Replied():
                raise RuntimeError("a login is under way")
            case unreachable:
                assert_never(unreachable)


async def submit(
    client: Client,
    mechanisms: Sequence[sasl.ClientMechanism],
    sender: smtp.Mailbox,
    recipients: Sequence[smtp.Mailbox],
    content: AsyncIterator[bytes],
) -> dict[smtp.Mailbox, smtp.Reply]:
    await reply(client)
    client.send(smtp.Hello(domain="client.example.test"))
    await reply(client)
    client.send(smtp.StartTls())
    if (await reply(client)).code == 220:  # inside TLS from here on
        client.send(smtp.Hello(domain="client.example.test"))
        await reply(client)
    await log_in(client, mechanisms)
    client.send(smtp.Mail(reverse_path=sender))
    for recipient in recipients:
        client.send(smtp.Rcpt(forward_path=recipient))
    client.send(smtp.Data())
    refused: dict[smtp.Mailbox, smtp.Reply] = {}
    go = False
    async for event in client:
        match event:
            case smtp.Replied(command=smtp.Rcpt(forward_path=recipient), reply=said) if said.code >= 400:
                refused[recipient] = said
            case smtp.Replied(command=smtp.Data(), reply=said):
                go = said.code == 354
                break
            case smtp.Replied(command=None, reply=said):
                raise ConnectionError(said)  # 421, unasked
            case _:
                pass
    if go:
        async for chunk in content:
            client.send(smtp.MessageChunk(octets=chunk))
            await client.flush()
        client.send(smtp.MessageComplete())
        await reply(client)
    client.send(smtp.Quit())
    await reply(client)
    return refused


async def submit_from_asyncio(port: int, password: bytes) -> None:
    async with await on_asyncio.connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await log_in(client, [sasl.PlainClient(authentication_identity="alice", password=password)])


async def submit_from_trio(port: int, password: bytes) -> None:
    async with await on_trio.connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await log_in(client, [sasl.PlainClient(authentication_identity="alice", password=password)])
