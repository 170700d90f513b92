"""Submits a message as alice to the port that examples/server.py names: ``python examples/client.py PORT``."""

import sys

import trio

from mailauth import sasl, smtp
from mailauth_io.on_trio import connect

MESSAGE = b"From: alice@example.test\r\nSubject: a trial\r\n\r\nDown the rabbit-hole.\r\n"


async def main(port: int) -> None:
    async with await connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await anext(client)  # the greeting
        client.send(smtp.Hello(domain="localhost"))
        await anext(client)
        client.authenticate(sasl.PlainClient(authentication_identity="alice", password=b"wonderland"))
        print(await anext(client))
        client.send(smtp.Mail(reverse_path=smtp.Mailbox("alice", "example.test")))
        client.send(smtp.Rcpt(forward_path=smtp.Mailbox("dinah", "example.org")))
        client.send(smtp.Data())
        print(await anext(client), await anext(client), await anext(client), sep="\n")
        client.send(smtp.MessageChunk(octets=MESSAGE))
        client.send(smtp.MessageComplete())
        print(await anext(client))


trio.run(main, int(sys.argv[1]))
