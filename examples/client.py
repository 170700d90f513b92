"""Submits a message as alice to the port that examples/server.py names: ``python examples/client.py PORT``."""

import sys

import trio

from mailauth import sasl, smtp
from mailauth_io.on_trio import Client, connect

MESSAGE = b"From: alice@example.test\r\nSubject: a trial\r\n\r\nDown the rabbit-hole.\r\n"


async def succeed(client: Client[smtp.ClientEvent], events: int = 1) -> None:
    for _ in range(events):
        event = await anext(client, None)
        if event is None or not (isinstance(event, sasl.Authenticated) or event.reply.code < 400):
            sys.exit(f"not delivered: {event}")
        print(event)


async def main(port: int) -> None:
    async with await connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await succeed(client)  # the greeting
        client.send(smtp.Hello(domain="localhost"))
        await succeed(client)
        client.authenticate(sasl.PlainClient(authentication_identity="alice", password=b"wonderland"))
        await succeed(client)
        client.send(smtp.Mail(reverse_path=smtp.Mailbox("alice", "example.test")))
        client.send(smtp.Rcpt(forward_path=smtp.Mailbox("dinah", "example.org")))
        client.send(smtp.Data())
        await succeed(client, events=3)
        client.send(smtp.MessageChunk(octets=MESSAGE))
        client.send(smtp.MessageComplete())
        await succeed(client)


trio.run(main, int(sys.argv[1]))
