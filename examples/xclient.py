"""An SMTP server with the verb XCLIENT, which is not part of mailauth: a trusted proxy sends the address of its client.

    python examples/xclient.py --trust 127.0.0.1

The proxy sends ``XCLIENT ADDR=192.0.2.1 NAME=client.example``.  The server takes this from trusted addresses only, then
greets again, as a new session of that client (Postfix XCLIENT_README).  It listens on 127.0.0.1, accepts every message,
and prints which client it is from.

What a verb needs: a class for its command, a row that says when it is allowed and what it does, and a case in the
session.  A client sends the same command with the same row: ``smtp.ClientSettings(verbs=(XCLIENT,))``.
"""

import argparse
import asyncio
import contextlib
import enum
import ipaddress
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, assert_never

from mailauth import ACCEPT, Command, ExtensionQuestion, Malformed, MessageChunk, Notice, sasl, smtp
from mailauth_io.on_asyncio import AsyncServerConnection, Peer, serve_smtp

NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN")
DENIED = smtp.Reply(550, "5.7.0", "XCLIENT is for trusted proxies only")
UNKNOWN = "0.0.0.0"  # the address of a client whose address the proxy does not know: no rule trusts it


class Unavailable(enum.Enum):
    """The proxy does not know a value."""

    PERMANENTLY = "[UNAVAILABLE]"
    TEMPORARILY = "[TEMPUNAVAIL]"


Value = str | Unavailable


def parse_value(name: str, text: str) -> Value:
    """Return the value of an attribute in a normal form.  Raises Malformed if it is invalid."""
    if text.upper() in [each.value for each in Unavailable]:
        return Unavailable(text.upper())
    valid = text != ""
    if name == "ADDR":
        version_6 = text[:5].upper() == "IPV6:"
        try:
            return str(ipaddress.IPv6Address(text[5:]) if version_6 else ipaddress.IPv4Address(text))
        except ValueError:
            valid = False
    elif name == "PORT":
        valid = text.isdecimal() and len(text) <= 5 and int(text) < 65_536
    elif name == "PROTO":
        text = text.upper()
        valid = text in ("SMTP", "ESMTP")
    if not valid:
        raise Malformed(f"invalid {name}")
    return text


@dataclass(frozen=True)
class XClient(Command, ExtensionQuestion[smtp.Verdict]):
    """``XCLIENT``: asks whether to continue as the session of the client with these attributes."""

    attributes: Mapping[str, Value] = field(hash=False)
    """By name; values are decoded and checked, and an IPv6 address has no prefix."""

    @property
    def unavailable(self) -> smtp.Reply:
        return smtp.Reply(421, "4.3.0", "temporary failure, try again later")

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Build the command from the text after the verb.  Raises Malformed."""
        attributes: dict[str, Value] = {}
        for word in argument.split(" "):
            name, equals, value = word.partition("=")
            name = name.upper()
            if not equals or name not in NAMES or name in attributes:
                raise Malformed(f"syntax: XCLIENT attribute=value ..., with each of {' '.join(NAMES)} at most once")
            attributes[name] = parse_value(name, smtp.decode_xtext(value))
        return cls(attributes)

    def to_wire(self) -> bytes:
        """Return the line, for a client.  Raises Malformed for a value that is not printable ASCII."""
        words = ["XCLIENT"]
        for name, value in self.attributes.items():
            if isinstance(value, Unavailable):
                value = value.value
            elif name == "ADDR" and ":" in value:
                value = f"IPV6:{value}"
            words.append(f"{name}={smtp.encode_xtext(value)}")
        return f"{' '.join(words)}\r\n".encode("ascii")


def greeting(view: smtp.View) -> smtp.Reply:
    return smtp.Reply(220, "", f"{view.settings.host_name} ESMTP")


XCLIENT = smtp.Verb(
    "XCLIENT",
    kind=XClient,
    parse=XClient.parse,
    states={smtp.State.CONNECTED: smtp.State.CONNECTED, smtp.State.READY: smtp.State.CONNECTED},
    accepted=greeting,
    code_fixed=True,
    effect=smtp.Effect.RESTART_SESSION,
    extension=f"XCLIENT {' '.join(NAMES)}",
)


@dataclass(frozen=True)
class ProxiedServer:
    trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

    def trusts(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in self.trusted)

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        proxy = connection.peer  # who sends XCLIENT, also a second time; connection.peer will be the client
        client: dict[str, Value] = {}
        size = 0
        async for event in connection:
            match event:
                case XClient(attributes=attributes) as question if self.trusts(proxy.address):
                    client.update(attributes)
                    connection.replace_peer(peer_of(client, proxy))
                    connection.answer(question, ACCEPT)
                case XClient() as question:
                    connection.answer(question, DENIED)
                case smtp.Connected() | smtp.Mail() | smtp.Rcpt() as question:
                    connection.answer(question, ACCEPT)
                case smtp.Data() as question:
                    size = 0
                    connection.answer(question, ACCEPT)
                case MessageChunk(data=data):
                    size += len(data)
                case smtp.MessageComplete() as question:
                    told = [f"{name}={value}" for name, value in client.items() if isinstance(value, str)]
                    print(f"{size} bytes from {connection.peer.address}", *told, flush=True)
                    connection.answer(question, ACCEPT)
                case smtp.StartTls() | ExtensionQuestion() as question:  # not offered here
                    connection.decline(question)
                case (
                    sasl.CheckPassword()
                    | sasl.FetchSecret()
                    | sasl.Authorize()
                    | sasl.NonPasswordQuestion() as question
                ):
                    connection.decline(question)
                case smtp.MessageAborted() | Notice():
                    pass
                case _:
                    assert_never(event)


def peer_of(client: Mapping[str, Value], proxy: Peer) -> Peer:
    """Return the address and port of the client, as far as the proxy has told them."""
    if "ADDR" not in client:
        return proxy
    address, port = client["ADDR"], client.get("PORT")
    return Peer(address if isinstance(address, str) else UNKNOWN, int(port) if isinstance(port, str) else 0)


async def run(server: ProxiedServer, port: int) -> None:
    async with serve_smtp(server.session, smtp.ServerSettings(verbs=(XCLIENT,)), port=port) as listener:
        print(f"listening on {listener.address}, port {listener.port}", flush=True)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept mail, and print which client of a trusted proxy it is from.")
    parser.add_argument(
        "--trust", type=ipaddress.ip_network, action="append", default=[], help="network of trusted proxies"
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    args = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(ProxiedServer(args.trust), args.port))
    except OSError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
