"""A client that collects its mail by POP3 and leaves nothing behind."""

from __future__ import annotations

from typing import TypeAlias

from mailauth import pop3, sasl
from mailauth_io import on_asyncio, on_trio

Client: TypeAlias = on_asyncio.Client[pop3.ClientEvent] | on_trio.Client[pop3.ClientEvent]


async def collect(client: Client, identity: str, password: bytes) -> list[bytes]:
    messages: list[bytes] = []
    content = bytearray()
    async for event in client:
        match event:
            case pop3.Replied(command=None):  # the greeting
                client.send(pop3.Capa())
            case pop3.Replied(command=pop3.Capa()):
                client.authenticate(
                    sasl.ApopClient(authentication_identity=identity, secret=password),
                    sasl.UserPassClient(authentication_identity=identity, password=password),
                )
            case sasl.Authenticated():
                client.send(pop3.Stat())
            case pop3.AuthenticationFailed() as failed:
                raise PermissionError(failed)
            case pop3.Replied(command=pop3.Stat(), reply=reply):
                for number in range(1, int(reply.text.split()[0]) + 1):
                    client.send(pop3.Retrieve(number=number))
                    client.send(pop3.Dele(number=number))
                client.send(pop3.Quit())
            case pop3.MessageChunk(octets=octets):
                content += octets
            case pop3.Replied(command=pop3.Retrieve()):
                messages.append(bytes(content))
                content.clear()
            case pop3.Replied():
                pass
    return messages
