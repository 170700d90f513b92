"""The clients of the load test, on asyncio.  They work on raw bytes, so that they can stop at any point.

They record what was acknowledged; the test compares it with the stored messages.  Each message has a token in its
subject.  It is acknowledged by 250, and collected by the +OK to QUIT after RETR and DELE.
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
from pathlib import Path
from typing import Final

import attrs

PASSWORD: Final = "open sesame"
TOKEN: Final = re.compile(rb"^Subject: (soak-[0-9]+)\r?$", re.MULTILINE)

_AT_ONCE: Final = 90  # concurrent connection attempts, fewer than the backlog of a listener
_LINES: Final = (1, 40, 900, 4_000)  # lines of a message: one chunk, or many chunks


class Unexpected(Exception):
    """The server sent an unexpected reply."""

    def __init__(self, line: bytes, beginning: bytes) -> None:
        super().__init__(f"{line!r} instead of {beginning!r}")
        self.line = line


class Place(enum.Enum):
    """The destination of a message for a recipient."""

    MAILDROP = "maildrop"
    OUTBOX = "outbox"


@attrs.define
class Ledger:
    """What all clients together have sent, and the results."""

    sent: dict[str, frozenset[Place]] = attrs.field(factory=dict)
    """The token of each message that was begun, and the destinations of its copies."""
    acknowledged: set[str] = attrs.field(factory=set)
    collected: Counter[str] = attrs.field(factory=Counter)

    def begin(self, *places: Place, lines: int | None = None) -> tuple[str, bytes]:
        """Return a new message with *lines* lines: its token and its bytes, without the final dot."""
        number = len(self.sent)
        token = f"soak-{number}"
        self.sent[token] = frozenset(places)
        lines = _LINES[number % len(_LINES)] if lines is None else lines
        return token, f"Subject: {token}\r\n\r\n".encode() + b"..a line\r\n" * lines


def check_stored(directory: Path, ledger: Ledger) -> None:
    """Check that each acknowledged message is stored once for each recipient, and each other one at most once.

    *directory* has a directory for each Place, with Maildirs at any depth.
    """
    found = {place: Counter[str]() for place in Place}
    for place in Place:
        for path in (directory / place.value).rglob("*"):
            if path.parent.name == "new":
                found[place].update(token.decode() for token in TOKEN.findall(path.read_bytes()))
            assert path.parent.name != "tmp", f"{path} was not removed"
    found[Place.MAILDROP] += ledger.collected
    for token, places in ledger.sent.items():
        copies = {found[place].pop(token, 0) for place in places}
        assert copies == {1} or (copies == {0} and token not in ledger.acknowledged), (token, places, copies)
    assert not any(found.values())


class Wire:
    """One connection to the server.  Unexpected data raises Unexpected, OSError or EOFError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.greeting = b""
        """The greeting of the server, once it was read."""

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    async def hear(self) -> bytes:
        """Return a line without its line end."""
        return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def hear_text(self) -> bytes:
        """Return the lines of a multi-line response as received, without the final dot."""
        lines = []
        while (line := await self.hear()) != b".":
            lines.append(line)
        return b"\r\n".join(lines)

    async def expect(self, beginning: bytes) -> bytes:
        """Read a reply of one or more lines that begins with *beginning*; return its last line."""
        while True:
            line = await self.hear()
            if line[:3].isdigit() and line[3:4] == b"-":
                continue
            if not line.startswith(beginning):
                raise Unexpected(line, beginning)
            return line

    async def ask(self, command: bytes, beginning: bytes) -> bytes:
        """Send a line and read the reply."""
        self.say(command + b"\r\n")
        return await self.expect(beginning)

    async def to_the_end(self) -> None:
        """Read until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self._writer.start_tls(context, server_hostname="127.0.0.1")

    @property
    def can_half_close(self) -> bool:
        """False with TLS, which asyncio cannot half-close."""
        return self._writer.can_write_eof()

    def half_close(self) -> None:
        self._writer.write_eof()

    def reset(self) -> None:
        """Close the connection with a RST."""
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.transport.abort()


@attrs.frozen(kw_only=True)
class Target:
    """The server from the view of its clients."""

    ports: dict[str, int | None]
    tls: ssl.SSLContext
    ledger: Ledger = attrs.field(factory=Ledger)
    _making: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(_AT_ONCE))

    @contextlib.asynccontextmanager
    async def wire(self, port: str, source: str, *, raw: bool = False) -> AsyncIterator[Wire]:
        """Connect from the address *source* and read the greeting, with TLS if *port* requires it.

        With *raw*, there is no handshake, and no greeting is read.
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
                    connection.greeting = await connection.expect(greeting(port))
            except BaseException:
                connection.close()
                raise
        try:
            yield connection
        finally:
            connection.close()


USERS: Final = tuple(f"user{number}" for number in range(200))
"""The accounts of regular clients.  Each has one session at a time."""


def greeting(port: str) -> bytes:
    return b"220 " if port.startswith("smtp") else b"+OK"


def plain(name: str) -> bytes:
    """Return the response of PLAIN."""
    return base64.b64encode(f"\0{name}\0{PASSWORD}".encode())


async def send(wire: Wire, target: Target, recipient: str, *, lines: int | None = None) -> None:
    """Run one mail transaction until the message is acknowledged."""
    await wire.ask(b"MAIL FROM:<sender@far.test>", b"250 ")
    await wire.ask(f"RCPT TO:<{recipient}>".encode(), b"250 ")
    await wire.ask(b"DATA", b"354 ")
    place = Place.MAILDROP if recipient.endswith("@example.test") else Place.OUTBOX
    token, data = target.ledger.begin(place, lines=lines)
    wire.say(data)
    await wire.ask(b".", b"250 ")
    target.ledger.acknowledged.add(token)


async def submit(target: Target, number: int, source: str) -> None:
    """Send one message to a local and one to a remote recipient; *number* selects the login method."""
    name, method = USERS[number], number % 4
    async with target.wire("smtps" if method == 3 else "smtp", source) as wire:
        await wire.ask(b"EHLO client.test", b"250 ")
        if method == 2:
            await wire.ask(b"STARTTLS", b"220 ")
            await wire.start_tls(target.tls)
            await wire.ask(b"EHLO client.test", b"250 ")
        if method != 1:  # POP before SMTP: collect() has logged in before
            await wire.ask(b"AUTH PLAIN " + plain(name), b"235 ")
        await send(wire, target, f"{USERS[number - 1]}@example.test")
        await send(wire, target, f"{name}@far.test")
        await wire.ask(b"QUIT", b"221 ")


async def collect(target: Target, number: int, source: str) -> None:
    """Log in by POP3, retrieve all messages, delete them, and check that the deletion is confirmed."""
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
    """Run an active session: collect, send, and collect again, each on a new connection."""
    await collect(target, number, source)
    await submit(target, number, source)
    await collect(target, number, source)
