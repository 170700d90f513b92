"""As many simultaneous connections as the server allows, and one more.

Half of them are encrypted.  All say EHLO and are then idle.  The next connection is rejected, and after that each of
the idle ones delivers a message, and each of these is stored once.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from mailauth_io.limits import Limits
from tests.serving import served
from tests.soak.clients import PASSWORD, Target, Unexpected, Wire, check_stored, send
from tests.soak.figures import private_memory

CONNECTIONS: Final = Limits().connections
SPARE: Final = 200
"""The descriptors that a process needs for other things than connections."""

MAX_BYTES: Final = 64 * 1024
"""The memory of an idle connection without TLS, as docs/limits.md has it.  With TLS it may be twice that."""

_ACCOUNTS: Final = tuple(f"user{number}" for number in range(100))


@attrs.frozen(kw_only=True)
class ConnectionsResult:
    loop: str
    connections: int
    clear: float
    """Bytes of private memory for each idle connection in clear text."""
    encrypted: float
    """The same for each connection with TLS."""
    rejected: bytes
    """The reply to one connection more."""
    delivered: int
    seconds: float

    def failures(self) -> list[str]:
        found = []
        if not self.rejected.startswith(b"421 "):
            found.append(f"one connection more: {self.rejected!r}")
        if self.delivered != self.connections:
            found.append(f"{self.delivered} of {self.connections} connections delivered a message")
        if self.clear > MAX_BYTES or self.encrypted > 2 * MAX_BYTES:
            found.append(f"bytes for a connection: {self.clear:.0f} in clear text, {self.encrypted:.0f} with TLS")
        return found


def enough_descriptors(connections: int) -> bool:
    """Raise the limit of descriptors of this process and its children; return whether it is high enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard == resource.RLIM_INFINITY or hard >= connections + SPARE


def run_connections(
    loop: str, directory: Path, tell: Callable[[str], None], connections: int = CONNECTIONS
) -> ConnectionsResult:
    """Open *connections* connections to a server on *loop* that allows just as many, and return the figures."""
    assert enough_descriptors(connections), f"raise the hard limit of descriptors to {connections + SPARE}"
    accounts, authority, config = (directory / name for name in ("accounts", "authority.pem", "mailauth.toml"))
    accounts.touch(0o600)
    accounts.write_text("".join(f"{name}:{{PLAIN}}{PASSWORD}\n" for name in _ACCOUNTS))
    config.write_text(
        f'[mail]\nmaildir = "maildrop"\n[accounts]\nfile = "accounts"\n[tls]\nca_out = "authority.pem"\n'
        f"[limits]\nconnections = {connections}\n"
    )
    began = time.monotonic()
    with served(directory, "--config", str(config), "--loop", loop) as server:
        target = Target(ports=server.ports, tls=ssl.create_default_context(cafile=authority))
        memory = [private_memory(server.process.pid)]

        async def open_many(stack: contextlib.AsyncExitStack, port: str, count: int) -> list[Wire]:
            async def connect(number: int) -> Wire:
                source = f"127.{20 if port == 'smtp' else 21}.0.{number % 100 + 1}"
                wire = await stack.enter_async_context(target.wire(port, source))
                await wire.ask(b"EHLO client.test", b"250 ")
                return wire

            opened = await asyncio.gather(*map(connect, range(count)))
            memory.append(private_memory(server.process.pid))
            tell(f"{loop:8} {count} connections to {port}: {(memory[-1] - memory[-2]) / count:.0f} bytes each")
            return opened

        async def main() -> tuple[bytes, int]:
            async with contextlib.AsyncExitStack() as stack:
                wires = await open_many(stack, "smtp", connections // 2)
                wires += await open_many(stack, "smtps", connections - connections // 2)
                rejected = b"accepted"
                try:
                    await stack.enter_async_context(target.wire("smtp", "127.22.0.1"))
                except Unexpected as told:
                    rejected = told.line

                async def deliver(wire: Wire, number: int) -> None:
                    await send(wire, target, f"{_ACCOUNTS[number % len(_ACCOUNTS)]}@example.test", lines=10)

                await asyncio.gather(*(deliver(wire, number) for number, wire in enumerate(wires)))
                return rejected, len(target.ledger.acknowledged)

        rejected, delivered = asyncio.run(main())
    check_stored(directory, target.ledger)
    return ConnectionsResult(
        loop=loop,
        connections=connections,
        clear=(memory[1] - memory[0]) / (connections // 2),
        encrypted=(memory[2] - memory[1]) / (connections - connections // 2),
        rejected=rejected,
        delivered=delivered,
        seconds=time.monotonic() - began,
    )
