"""The clients of the load test, on asyncio: each speaks its protocol octet by octet, so that it can stop anywhere.

Knows what a client was told; whether it is true is the test's affair.  A message has a token in its subject: it is
acknowledged by 250, and collected by the +OK to the QUIT behind RETR and DELE.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import attrs

PASSWORD: Final = "open sesame"
TOKEN: Final = re.compile(rb"^Subject: (soak-[0-9]+)\r?$", re.MULTILINE)

_AT_ONCE: Final = 90  # connections that are being made: fewer than a listener queues
_LINES: Final = (1, 40, 900, 4_000)  # of a message: in one chunk, and in many


class Unexpected(Exception):
    """A reply that is not the one that was asked for."""

    def __init__(self, line: bytes, beginning: bytes) -> None:
        super().__init__(f"{line!r} instead of {beginning!r}")
        self.line = line


class Place(enum.Enum):
    """Where a message for a recipient goes."""

    MAILDROP = "maildrop"
    OUTBOX = "outbox"


@attrs.define
class Ledger:
    """What all clients together have sent, and what they were told of it."""

    sent: dict[str, frozenset[Place]] = attrs.field(factory=dict)
    """The token of each message that was begun, and where its copies should be."""
    acknowledged: set[str] = attrs.field(factory=set)
    collected: Counter[str] = attrs.field(factory=Counter)

    def begin(self, *places: Place, lines: int | None = None) -> tuple[str, bytes]:
        """A new message of so many lines: its token and its octets, without the final dot."""
        number = len(self.sent)
        token = f"soak-{number}"
        self.sent[token] = frozenset(places)
        lines = _LINES[number % len(_LINES)] if lines is None else lines
        return token, f"Subject: {token}\r\n\r\n".encode() + b"..a line\r\n" * lines


class Wire:
    """One connection to the server.  Whatever is not expected raises Unexpected, OSError or EOFError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    async def hear(self) -> bytes:
        """A line, without its end."""
        return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def hear_text(self) -> bytes:
        """The lines of a multi-line response as they are on the wire, without the final dot."""
        lines = []
        while (line := await self.hear()) != b".":
            lines.append(line)
        return b"\r\n".join(lines)

    async def expect(self, beginning: bytes) -> bytes:
        """A reply, of one line or more, that begins so; its last line."""
        while True:
            line = await self.hear()
            if line[:3].isdigit() and line[3:4] == b"-":
                continue
            if not line.startswith(beginning):
                raise Unexpected(line, beginning)
            return line

    async def ask(self, command: bytes, beginning: bytes) -> bytes:
        """Say a line and hear the reply to it."""
        self.say(command + b"\r\n")
        return await self.expect(beginning)

    async def to_the_end(self) -> None:
        """Hear whatever comes until the server has closed."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self._writer.start_tls(context, server_hostname="127.0.0.1")

    @property
    def can_half_close(self) -> bool:
        """Not inside TLS: asyncio cannot."""
        return self._writer.can_write_eof()

    def half_close(self) -> None:
        self._writer.write_eof()

    def reset(self) -> None:
        """Leave nothing behind, and let the server know by RST alone."""
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.transport.abort()


@attrs.frozen(kw_only=True)
class Target:
    """The server as its clients know it."""

    ports: dict[str, int | None]
    tls: ssl.SSLContext
    ledger: Ledger = attrs.field(factory=Ledger)
    _making: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(_AT_ONCE))

    @contextlib.asynccontextmanager
    async def wire(self, port: str, source: str, *, raw: bool = False) -> AsyncIterator[Wire]:
        """A connection from the address *source* that has heard the greeting, inside TLS where *port* asks for it.

        *raw* is one without a handshake and without a greeting.
        """
        tls = self.tls if port.endswith("s") and not raw else None
        async with self._making:
            connection = Wire(
                *await asyncio.open_connection(
                    "127.0.0.1", self.ports[port], local_addr=(source, 0), ssl=tls, limit=1 << 20
                )
            )
            try:
                if not raw:
                    await connection.expect(greeting(port))
            except BaseException:
                connection.close()
                raise
        try:
            yield connection
        finally:
            connection.close()


USERS: Final = tuple(f"user{number}" for number in range(200))
"""Accounts of those who behave: each of them has one session at a time."""


def greeting(port: str) -> bytes:
    return b"220 " if port.startswith("smtp") else b"+OK"


def plain(name: str) -> bytes:
    """The response of PLAIN."""
    return base64.b64encode(f"\0{name}\0{PASSWORD}".encode())


async def send(wire: Wire, target: Target, recipient: str, *, lines: int | None = None) -> None:
    """One mail transaction, to its acknowledgement."""
    await wire.ask(b"MAIL FROM:<sender@far.test>", b"250 ")
    await wire.ask(f"RCPT TO:<{recipient}>".encode(), b"250 ")
    await wire.ask(b"DATA", b"354 ")
    place = Place.MAILDROP if recipient.endswith("@example.test") else Place.OUTBOX
    token, data = target.ledger.begin(place, lines=lines)
    wire.say(data)
    await wire.ask(b".", b"250 ")
    target.ledger.acknowledged.add(token)


async def submit(target: Target, number: int, source: str) -> None:
    """One message for a neighbour and one for elsewhere, by the method that falls to *number*."""
    name, method = USERS[number], number % 4
    async with target.wire("smtps" if method == 3 else "smtp", source) as wire:
        await wire.ask(b"EHLO client.test", b"250 ")
        if method == 2:
            await wire.ask(b"STARTTLS", b"220 ")
            await wire.start_tls(target.tls)
            await wire.ask(b"EHLO client.test", b"250 ")
        if method != 1:  # POP before SMTP: collect() was here
            await wire.ask(b"AUTH PLAIN " + plain(name), b"235 ")
        await send(wire, target, f"{USERS[number - 1]}@example.test")
        await send(wire, target, f"{name}@far.test")
        await wire.ask(b"QUIT", b"221 ")


async def collect(target: Target, number: int, source: str) -> None:
    """Log in by POP3, read all there is, delete it, and be told that it is gone."""
    name, method = USERS[number], number % 4
    async with target.wire("pop3s" if method == 3 else "pop3", source) as wire:
        if method == 2:
            await wire.ask(b"STLS", b"+OK")
            await wire.start_tls(target.tls)
        await wire.ask(f"USER {name}".encode(), b"+OK")
        await wire.ask(f"PASS {PASSWORD}".encode(), b"+OK")
        count = int((await wire.ask(b"STAT", b"+OK")).split()[1])
        read = []
        for message in range(1, count + 1):
            await wire.ask(b"RETR %d" % message, b"+OK")
            read += TOKEN.findall(await wire.hear_text())
            await wire.ask(b"DELE %d" % message, b"+OK")
        await wire.ask(b"QUIT", b"+OK")
        target.ledger.collected.update(token.decode() for token in read)


async def work(target: Target, number: int, source: str) -> None:
    """An active session: it collects, sends, and collects again, each on a connection of its own."""
    await collect(target, number, source)
    await submit(target, number, source)
    await collect(target, number, source)
