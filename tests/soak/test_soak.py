"""A server process under load, on each loop: acknowledged messages are stored once, and all resources are released.

These tests do not measure.  A test that waits for the server polls, and fails after a timeout.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from tests.serving import LOOPS, Served, served
from tests.soak.clients import (
    PASSWORD,
    USERS,
    Ledger,
    Place,
    Target,
    Unexpected,
    Wire,
    check_stored,
    collect,
    send,
    work,
)
from tests.soak.figures import GIVE_BACK
from tests.soak.rude_clients import READERS, abort_handshakes, be_rude_everywhere, prepare

pytestmark = [pytest.mark.soak, pytest.mark.parametrize("loop", LOOPS)]

IDLE = 2_000
DESCRIPTORS = IDLE + 1_000
"""The descriptors that this process needs; the server needs no more."""

TIMEOUT = 100.0
"""Seconds for all clients of one test, so that a server that hangs fails the test."""

ROUNDS = 4
"""The maximum.  The first round is a warm-up, and one more without growth is enough.  A leak grows in each round."""

SLACK = 6 * 1024 * 1024
"""Bytes of memory that one more round may cost: less than 2.5 KB for each of its 2,700 connections."""


@attrs.frozen
class Held:
    """The resources that a process holds."""

    descriptors: int
    memory: int
    """Bytes of resident memory."""

    @classmethod
    def by(cls, server: Served) -> Held:
        process = Path(f"/proc/{server.process.pid}")
        pages = int((process / "statm").read_text().split()[1])
        return cls(len(os.listdir(process / "fd")), pages * resource.getpagesize())


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Raise the limit of descriptors to the maximum for a while; a server started meanwhile inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"{IDLE} idle clients need {DESCRIPTORS} file descriptors, and the hard limit here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def meet(loop: str, directory: Path, clients: Callable[[Served, Target], Awaitable[None]]) -> Ledger:
    """Start a server with Maildirs below *directory*, run *clients*, and check that SIGTERM ends it with status 0."""
    accounts, authority = directory / "accounts", directory / "authority.pem"
    accounts.write_text("".join(f"{name}:{{PLAIN}}{PASSWORD}\n" for name in (*USERS, *READERS, "rude")))
    accounts.chmod(0o600)
    words = ["--legacy", "--accounts", str(accounts), "--ca-out", str(authority)]
    for place in Place:
        words += [f"--{'maildir' if place is Place.MAILDROP else 'outbox'}", str(directory / place.value)]
    with many_descriptors(), served(directory, "--loop", loop, *words) as server:
        target = Target(ports=server.ports, tls=ssl.create_default_context(cafile=authority))

        async def main() -> None:
            async with asyncio.timeout(TIMEOUT):
                await clients(server, target)

        asyncio.run(main())
    return target.ledger


def sources(network: int) -> Iterator[str]:
    """Yield local source addresses, because the server limits the connections of each address."""
    return (f"127.{network}.{number >> 8}.{number & 255}" for number in itertools.count(1))


async def idlers(target: Target, stack: AsyncExitStack) -> list[tuple[str, Wire]]:
    """Connect clients that read the greeting and send nothing."""
    ports = itertools.islice(itertools.cycle(("smtps", "pop3s", *("smtp", "pop3") * 10)), IDLE)
    addresses = itertools.cycle(itertools.islice(sources(1), 50))

    async def come(port: str, address: str) -> tuple[str, Wire]:
        return port, await stack.enter_async_context(target.wire(port, address))

    return await asyncio.gather(*map(come, ports, addresses))


async def still_there(port: str, wire: Wire) -> None:
    if port.startswith("smtp"):
        await wire.ask(b"NOOP", b"250 ")
    else:
        await wire.ask(b"CAPA", b"+OK")
        await wire.hear_text()


async def load(target: Target) -> None:
    """Run one round: idle clients, and at the same time regular clients, aborted sessions and aborted handshakes."""
    async with AsyncExitStack() as stack:
        idle = await idlers(target, stack)
        async with asyncio.TaskGroup() as group:
            for number, source in zip(range(len(USERS)), sources(2), strict=False):
                group.create_task(work(target, number, source))
            group.create_task(be_rude_everywhere(target, sources(3)))
            group.create_task(abort_handshakes(target, sources(4)))
        async with asyncio.TaskGroup() as group:
            for port, wire in idle:
                group.create_task(still_there(port, wire))
        for _, wire in idle[::2]:
            wire.reset()
        for _, wire in idle[1::4]:
            wire.say(b"QUIT\r\n")


async def settled(server: Served, before: Held) -> Held:
    """Return the resources of the server once it has as many descriptors as *before*; after a leak, it never has."""
    while (now := Held.by(server)).descriptors != before.descriptors:
        await asyncio.sleep(0.05)
    return now


def test_acknowledged_messages_are_stored_once_and_resources_are_released(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321 section 6.1.  A message whose client disconnected before the 250 is stored completely or not at all."""
    for name, value in GIVE_BACK.items():
        monkeypatch.setenv(name, value)
    grown: list[int] = []

    async def clients(server: Served, target: Target) -> None:
        at_rest = Held.by(server)
        await prepare(target, "127.0.0.2")
        for _ in range(ROUNDS):
            before = await settled(server, at_rest)
            await load(target)
            grown.append((await settled(server, at_rest)).memory - before.memory)
            if len(grown) > 1 and grown[-1] <= SLACK:
                break
        async with asyncio.TaskGroup() as group:
            for number, source in zip(range(len(USERS)), sources(2), strict=False):
                group.create_task(collect(target, number, source))

    ledger = meet(loop, tmp_path, clients)
    assert grown[-1] <= SLACK, f"memory grows in each round, in bytes: {grown}"
    assert len(ledger.acknowledged) >= 2 * len(grown) * len(USERS)
    check_stored(tmp_path, ledger)


def test_sigterm_under_load_loses_no_acknowledged_message_and_exits_0(loop: str, tmp_path: Path) -> None:
    """A client in a transaction gets 250 or 421 (RFC 5321 section 3.8), or the end of the connection."""

    async def clients(server: Served, target: Target) -> None:
        async def deliver(number: int, source: str) -> None:
            async with target.wire("smtp", source) as wire:
                await wire.ask(b"EHLO client.test", b"250 ")
                while True:
                    await send(wire, target, f"{USERS[number]}@example.test")
                    if len(target.ledger.acknowledged) == 300:
                        server.process.send_signal(signal.SIGTERM)

        async def deliver_to_the_end(number: int, source: str) -> None:
            try:
                await deliver(number, source)
            except Unexpected as told:
                if not told.line.startswith(b"421 "):
                    raise
            except (EOFError, ConnectionError):
                pass

        async with asyncio.TaskGroup() as group:
            for number, source in zip(range(100), sources(5), strict=False):
                group.create_task(deliver_to_the_end(number, source))

    ledger = meet(loop, tmp_path, clients)
    assert len(ledger.acknowledged) >= 300
    check_stored(tmp_path, ledger)
