"""A relay that forwards each message to another server while the client waits, and returns the replies of that server.

    python examples/relay.py --port 2525 mail.example.org 25

Nothing is stored or queued: a recipient or a message is accepted only after the next hop has accepted it.  The relay
listens on 127.0.0.1, for programs on this machine, and requires no login.
"""

import argparse
import asyncio
import email.utils
import ssl
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import assert_never

from mailauth import (
    ACCEPT,
    Command,
    LocalProtocolError,
    MessageChunk,
    Notice,
    ProtocolError,
    Question,
    RemoteProtocolError,
    smtp,
)
from mailauth_io.on_asyncio import AsyncClientConnection, AsyncServerConnection, connect, serve_smtp

HELLO = smtp.Hello(domain="localhost")
SETTINGS = smtp.ServerSettings(eight_bit_mime=False)  # the next hop may not offer it

ABOUT_THE_RELAY = {421, 503, 521, 523, 524, 525, 530, 534, 535, 538}
"""Reply codes that reject the relay, for example because it must log in.  The message must not bounce for them."""


class Lost(Exception):
    """The next hop cannot accept this message now; the text is the reason."""


class NextHop:
    """The connection to the next hop, a new one for each message.

    ``begin()`` and ``ask()`` return its reply.  They raise Lost, OSError or ProtocolError if they get none.
    """

    def __init__(self, args: argparse.Namespace, context: ssl.SSLContext | None) -> None:
        self.args = args
        self.context = context
        self.client: AsyncClientConnection[smtp.ClientEvent] | None = None

    async def connect(self) -> None:
        await self.leave()
        settings = smtp.ClientSettings(tls_required=self.args.tls != "none")
        self.client = await connect(
            lambda tls: smtp.ClientConnection(settings, tls=tls),
            self.args.next_hop,
            self.args.next_port,
            ssl_context=self.context,
            implicit_tls=self.args.tls == "implicit",
        )
        steps: list[Command | None] = [None, HELLO]
        if self.args.tls == "starttls":
            steps += [smtp.StartTls(), HELLO]
        for command in steps:
            reply = await self.ask(command)
            if not reply.positive:
                raise Lost(str(reply))  # this rejects the relay, not the message

    async def begin(self, sender: smtp.Mailbox | None) -> smtp.Reply:
        await self.connect()
        return await self.ask(smtp.Mail(reverse_path=sender))

    async def ask(self, command: Command | None) -> smtp.Reply:
        """Send *command* and return the reply; with None, only read the greeting."""
        if self.client is None:
            raise Lost("the connection was lost")
        if command is not None:
            self.client.send(command)
        event = await anext(self.client, None)
        if not isinstance(event, smtp.ReplyReceived):
            raise Lost("the connection ended")
        if event.reply.code in ABOUT_THE_RELAY:
            raise Lost(str(event.reply))
        return event.reply

    async def send(self, data: bytes) -> None:
        """Forward message content.  If this fails, the next ``ask()`` raises Lost."""
        if self.client is not None:
            try:
                self.client.send(MessageChunk(data=data))
                await self.client.flush()
            except (OSError, ProtocolError):
                self.abort()

    async def leave(self) -> None:
        """Send QUIT and close."""
        client, self.client = self.client, None
        if client is not None:
            await client.aclose()

    def abort(self) -> None:
        """Close at once, so that the next hop discards an unfinished message."""
        client, self.client = self.client, None
        if client is not None:
            client.abort()


class Relay:
    def __init__(self, args: argparse.Namespace, context: ssl.SSLContext | None) -> None:
        self.args = args
        self.context = context

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        hop = NextHop(self.args, self.context)
        try:
            async for event in connection:
                match event:
                    case smtp.Mail(reverse_path=sender) as question:
                        connection.answer(question, await verdict(hop, hop.begin(sender)))
                    case smtp.Rcpt(forward_path=recipient) as question:
                        connection.answer(question, await verdict(hop, hop.ask(smtp.Rcpt(forward_path=recipient))))
                    case smtp.Data() as question:
                        answer = await verdict(hop, hop.ask(smtp.Data()))
                        connection.answer(question, answer)
                        if answer is ACCEPT:
                            await hop.send(received_line(connection.peer.address))
                    case MessageChunk(data=data):
                        await hop.send(data)
                    case smtp.MessageComplete() as question:
                        connection.answer(question, await verdict(hop, hop.ask(smtp.MessageComplete())))
                    case smtp.MessageAborted():
                        hop.abort()
                    case smtp.Connected() as question:
                        connection.answer(question, ACCEPT)
                    case Question() as question:  # logins and TLS, which the settings do not offer
                        connection.decline(question)
                    case Notice():
                        pass
                    case _:
                        assert_never(event)
            await hop.leave()
        finally:
            hop.abort()


async def verdict(hop: NextHop, step: Awaitable[smtp.Reply]) -> smtp.Verdict:
    """Return the answer for the client: the reply of the next hop, or a temporary failure."""
    try:
        reply = await step
    except (Lost, OSError, ProtocolError, UnicodeError) as error:
        hop.abort()
        print(f"The next hop failed: {str(error) or type(error).__name__}", file=sys.stderr)
        return smtp.Reply(451, "4.4.1", f"next hop: {explain(error)}")
    return ACCEPT if reply.code == 354 else reply


def explain(error: Exception) -> str:
    """Return the description of a failure for the client."""
    match error:
        case Lost() | LocalProtocolError():  # such as a next hop without STARTTLS
            return str(error)
        case RemoteProtocolError():
            return "protocol error"
        case ssl.SSLError():
            return "TLS failed"
        case _:
            return "cannot be reached"


def received_line(address: str) -> bytes:
    """Return the trace field that every relay must add (RFC 5321 section 4.4)."""
    literal = f"IPv6:{address}" if ":" in address else address
    return f"Received: from [{literal}] by localhost with ESMTP; {email.utils.formatdate(localtime=True)}\r\n".encode()


def client_context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"{ca}: {error}") from None  # the error itself does not contain the file name


async def run(args: argparse.Namespace) -> None:
    context = None if args.tls == "none" else client_context(args.ca)
    async with serve_smtp(Relay(args, context).session, SETTINGS, port=args.port) as listener:
        print(f"listening on {listener.address}, port {listener.port}", flush=True)
        await asyncio.Event().wait()


def port(text: str) -> int:
    if not 0 <= int(text) < 65_536:
        raise ValueError
    return int(text)


def next_port(text: str) -> int:
    if port(text) == 0:
        raise ValueError
    return port(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept mail by SMTP and forward it to another server at once.")
    parser.add_argument("next_hop", help="name of the server to forward to")
    parser.add_argument("next_port", type=next_port, help="usually 25, or 465 with --tls implicit")
    parser.add_argument("--port", type=port, default=0, help="port to listen on (default: a free port)")
    parser.add_argument(
        "--tls",
        choices=["implicit", "starttls", "none"],
        default="starttls",
        help="TLS to the next hop: by STARTTLS (default), from the start, or none (only for tests)",
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA file (default: that of the system)")
    args = parser.parse_args(arguments)
    try:
        asyncio.run(run(args))
    except OSError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
