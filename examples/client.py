"""Submit a message as alice to the port that examples/server.py prints: ``python examples/client.py PORT``."""

import sys

import trio

from mailauth import Command, ProtocolError, sasl, smtp
from mailauth_io.on_trio import AsyncClientConnection, connect

ALICE, DINAH = smtp.Mailbox("alice", "example.test"), smtp.Mailbox("dinah", "example.org")
MESSAGE = b"From: alice@example.test\r\nSubject: test\r\n\r\nDown the rabbit-hole.\r\n"


async def succeed(client: AsyncClientConnection[smtp.ClientEvent], *commands: Command, events: int = 1) -> None:
    for command in commands:
        client.send(command)
    for _ in range(events):
        event = await anext(client, None)
        if event is None or not (isinstance(event, sasl.Authenticated) or event.reply.code < 400):
            sys.exit(f"not delivered: {event}")
        print(event)


async def main(port: int) -> None:
    async with await connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await succeed(client)  # the greeting
        await succeed(client, smtp.Hello(domain="localhost"))
        client.authenticate(sasl.PlainClient(authentication_identity="alice", password=b"wonderland"))
        await succeed(client)
        await succeed(client, smtp.Mail(reverse_path=ALICE), smtp.Rcpt(forward_path=DINAH), smtp.Data(), events=3)
        await succeed(client, smtp.MessageChunk(data=MESSAGE), smtp.MessageComplete())


try:
    trio.run(main, int(sys.argv[1]))
except (IndexError, ValueError, OSError, ProtocolError, KeyboardInterrupt) as error:
    sys.exit(f"not delivered: {error!r}" if sys.argv[1:] else __doc__)
