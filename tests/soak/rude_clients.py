"""Clients of the load test that disconnect in every phase of a session and of a handshake.

Their messages are recorded as begun: each may be stored or not.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import ssl
from collections.abc import Iterator
from typing import Final

import attrs

from tests.soak.clients import PASSWORD, Place, Target, Wire, plain, send


class Leave(enum.Enum):
    """How a client disconnects."""

    CLOSE = "close"
    RESET = "reset"
    HALF_CLOSE = "half-close"


@attrs.frozen
class Phase:
    """The point where a client disconnects: after *asked*, each command with its reply, and the bytes *last*."""

    port: str
    asked: tuple[tuple[bytes, bytes], ...] = ()
    last: bytes = b""
    message: bool = False
    """A message is sent between the two; *last* may be its end."""


def phases(name: str) -> tuple[Phase, ...]:
    """Return the phases of a client that may log in as *name*, which is also a recipient of its message."""
    mail_from, rcpt_to, user = (f"{verb}{name}".encode() for verb in ("MAIL FROM:<", "RCPT TO:<", "USER "))
    mail_from, rcpt_to = mail_from + b"@example.test>", rcpt_to + b"@example.test>"
    login = ((b"EHLO client.test", b"250 "), (b"AUTH PLAIN " + plain(name), b"235 "))
    mail = (*login, (mail_from, b"250 "))
    rcpt = (*mail, (rcpt_to, b"250 "), (b"RCPT TO:<someone@far.test>", b"250 "))
    data = (*rcpt, (b"DATA", b"354 "))
    return (
        Phase("smtp"),
        Phase("smtp", (), b"EHLO cli"),
        Phase("smtp", login[:1], b"STARTTLS\r\n"),
        Phase("smtp", (login[0], (b"STARTTLS", b"220 ")), b"\x16\x03\x01\x02"),
        Phase("smtp", (login[0], (b"AUTH PLAIN", b"334 "))),
        Phase("smtp", (login[0], (b"AUTH CRAM-MD5", b"334 ")), plain(name)[:4]),
        Phase("smtp", login[:1], b"AUTH PLAIN " + plain(name) + b"\r\n"),
        Phase("smtp", mail),
        Phase("smtp", rcpt, b"DATA\r\n"),
        Phase("smtp", data),
        Phase("smtp", data, message=True),
        Phase("smtp", data, b".\r", message=True),
        Phase("smtp", data, b".\r\n", message=True),
        Phase("smtp", data, b".\r\n" + mail_from + b"\r\nRCP", message=True),
        Phase("smtps", data, message=True),
        Phase("smtps", data, b".\r\n", message=True),
        Phase("pop3"),
        Phase("pop3", ((user, b"+OK"),)),
        Phase("pop3", ((b"AUTH PLAIN", b"+ "),), b"AH"),
        Phase("pop3", ((user, b"+OK"),), f"PASS {PASSWORD}\r\n".encode()),
        Phase("pop3", ((b"STLS", b"+OK"),), b"\x16\x03\x01"),
    )


READERS: Final = tuple(f"reader{number}" for number in range(15))
"""Accounts with messages that remain, because their clients never send QUIT.  No account is used twice at a time."""


def reading(name: str) -> tuple[Phase, ...]:
    """Return the phases of a POP3 client that has logged in as *name*."""
    login = ((f"USER {name}".encode(), b"+OK"), (f"PASS {PASSWORD}".encode(), b"+OK"))
    return (
        Phase("pop3", login),
        Phase("pop3", login, b"RETR 1\r\n"),
        Phase("pop3", login, b"RETR 1\r\n" * 30),  # far more than the socket buffers hold
        Phase("pop3", (*login, (b"DELE 1", b"+OK"))),
        Phase("pop3s", login, b"RETR 1\r\n" * 30),
    )


async def prepare(target: Target, source: str) -> None:
    """Send a message to each of READERS."""
    async with target.wire("smtp", source) as wire:
        await wire.ask(b"EHLO client.test", b"250 ")
        for name in READERS:
            await send(wire, target, f"{name}@example.test", lines=30_000)


async def run_rude_client(target: Target, phase: Phase, leave: Leave, source: str) -> None:
    """Run a session up to *phase*, and disconnect."""
    async with target.wire(phase.port, source) as wire:
        for command, beginning in phase.asked:
            await wire.ask(command, beginning)
        if phase.message:
            wire.say(target.ledger.begin(Place.MAILDROP, Place.OUTBOX)[1])
        wire.say(phase.last)
        await _leave(wire, leave)


async def _leave(wire: Wire, leave: Leave) -> None:
    if leave is Leave.RESET:
        wire.reset()
    elif leave is Leave.HALF_CLOSE and wire.can_half_close:
        wire.half_close()
        await wire.to_the_end()
    else:
        wire.close()


async def be_rude_everywhere(target: Target, sources: Iterator[str]) -> None:
    """Disconnect in every phase and in every way, all at the same time."""
    everywhere = [(phase, leave) for phase in phases("rude") for leave in Leave]
    ways = itertools.product(range(len(reading(""))), Leave)
    everywhere += [(reading(name)[number], leave) for name, (number, leave) in zip(READERS, ways, strict=True)]
    async with asyncio.TaskGroup() as group:
        for phase, leave in everywhere:
            group.create_task(run_rude_client(target, phase, leave, next(sources)))


def _client_hello() -> bytes:
    """Return the ClientHello of a TLS client."""
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("the handshake ended without a peer")


def openings() -> tuple[bytes, ...]:
    """Return what clients send to a TLS port before they disconnect: nothing, other bytes, half a ClientHello, and a
    complete one without the next message."""
    hello = _client_hello()
    return b"", b"EHLO client.test\r\n", hello[: len(hello) // 2], hello, b"\x16\x03\x03\xff\xff"


async def abort_handshake(target: Target, port: str, opening: bytes, leave: Leave, source: str) -> None:
    """Send *opening* to a TLS port, and disconnect."""
    async with target.wire(port, source, raw=True) as wire:
        wire.say(opening)
        await _leave(wire, leave)


async def abort_handshakes(target: Target, sources: Iterator[str]) -> None:
    """Abort handshakes in every way, all at the same time."""
    async with asyncio.TaskGroup() as group:
        for port, opening, leave in itertools.product(("smtps", "pop3s"), openings(), Leave):
            for _ in range(3):
                group.create_task(abort_handshake(target, port, opening, leave, next(sources)))
