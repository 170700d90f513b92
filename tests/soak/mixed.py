"""Mixed sessions with one server process, whose resources are the same after each round.

The server relays mail for far.test to a second server.  Each client has an account of its own, and chooses sessions at
random: mail with every kind of login and without one, collected mail, rejected and aborted sessions.  Meanwhile the
accounts change, and the certificate is loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trustme

from mailauth import sasl
from tests.serving import Served, served
from tests.soak import rude_clients
from tests.soak.clients import PASSWORD, Place, Target, check_stored
from tests.soak.figures import Line, Sample, descriptors, sample_at_rest, take_sample
from tests.soak.mixed_clients import Client, token

CLIENTS: Final = 50
"""The clients that have sessions at the same time."""

ROUNDS: Final = 100
"""The samples.  A sample is taken when no client is connected."""

CHANGES: Final = 3
"""The changes of the accounts in each round."""

WARM_UP: Final = 0.2
"""The fraction of the sessions whose samples are not used: caches, pools and the heap reach their size."""

FEWEST: Final = 20_000
"""The sessions from which on the lines are judged.  With fewer, the heap has not reached its size after the warm-up."""

MAX_BYTES: Final = 100.0
"""The bytes of private memory that a session may leave behind, by the fitted line.

An entry of a table, such as a dict from an address to a time, takes 150 bytes and more, and a connection takes
thousands.  The heap changes in steps of 256 KiB and more, so the line has a standard error of some bytes."""

MAX_BLOCKS: Final = 0.05
"""The memory blocks that a session may leave behind.  Free memory does not count as blocks, so this also shows what
only a few kinds of sessions leave behind: one block after one session in twenty."""

MAX_THREADS: Final = 1 + 40 + 8 + 16
"""The threads of a process: the main one, those for files, for a shared store, and for hashing, DNS and the log."""

_DEADLINE: Final = 300.0
"""Seconds for one session, so that a server that hangs fails the test."""


@attrs.frozen(kw_only=True)
class MixedResult:
    """The figures of all sessions with one server."""

    loop: str
    sessions: Counter[str]
    """The number of sessions by kind."""
    samples: tuple[Sample, ...]
    seconds: float
    acknowledged: int
    """The messages that were acknowledged; each is stored once."""

    def steady(self) -> tuple[Sample, ...]:
        """Return the samples after the warm-up."""
        start = WARM_UP * self.samples[-1].sessions
        return tuple(sample for sample in self.samples if sample.sessions >= start)

    def line(self, figure: str) -> Line:
        return Line.fit([(sample.sessions, getattr(sample, figure)) for sample in self.steady()])

    def failures(self) -> list[str]:
        """Return what grows, as text."""
        steady, found = self.steady(), []
        for figure, most in (("memory", MAX_BYTES), ("blocks", MAX_BLOCKS)):
            if self.sessions.total() >= FEWEST and self.line(figure).rises(most):
                found.append(f"{figure}: {self.line(figure)} for each session")
        if max(sample.threads for sample in steady) > MAX_THREADS:
            found.append(f"the number of threads: {[sample.threads for sample in steady]}")
        return found


@attrs.define(kw_only=True)
class Reloader:
    """Changes the password of one account, again and again.  Its session must then end."""

    accounts: Path
    certificate: Path
    lines: str
    """The other accounts."""
    target: Target
    server: Served
    changes: int = 0

    def write(self) -> bytes:
        """Write the accounts file with a new password, and return the password."""
        password = f"password {self.changes}"
        fresh = self.accounts.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text(f"{self.lines}changing:{{PLAIN}}{password}\n")
        os.replace(fresh, self.accounts)
        return password.encode()

    async def change(self) -> None:
        """Log in, change the password, send SIGHUP: the server must end the session, and accept the new password."""
        async with self.target.wire("smtp", "127.13.0.1") as wire:
            await wire.ask(b"EHLO client.test", b"250 ")
            password = f"password {self.changes}".encode()
            await wire.ask(b"AUTH PLAIN " + sasl.encode_base64(b"\0changing\0" + password), b"235 ")
            self.changes += 1
            password = self.write()
            os.utime(self.certificate)
            self.server.process.send_signal(signal.SIGHUP)
            await wire.to_the_end()
        async with self.target.wire("pop3", "127.13.0.1") as wire:
            await wire.ask(b"USER changing", b"+OK")
            await wire.ask(b"PASS " + password, b"+OK")
            await wire.ask(b"QUIT", b"+OK")


def _accounts(names: Sequence[str]) -> str:
    return "".join(f"{name}:{{PLAIN}}{PASSWORD}\n" for name in names)


def run_mixed(loop: str, directory: Path, sessions: int, seed: int, tell: Callable[[str], None]) -> MixedResult:
    """Have *sessions* mixed sessions with a server on *loop*, check the mail, and return the figures.

    *directory* is empty, and *tell* is called with a line of text after each round.
    """
    names = [f"user{number}" for number in range(CLIENTS)]
    authority = trustme.CA()
    ca_file, certificate, key = (directory / f"{name}.pem" for name in ("authority", "certificate", "key"))
    authority.cert_pem.write_to_path(ca_file)
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.cert_chain_pems[0].write_to_path(certificate)
    key.touch(0o600)
    issued.private_key_pem.write_to_path(key)
    certified = []
    for name in names:
        context = ssl.create_default_context(cafile=ca_file)
        authority.issue_cert(f"{name}@example.test").configure_cert(context)
        certified.append(context)

    (directory / "hop").mkdir()
    hop_accounts, accounts = directory / "hop" / "accounts", directory / "accounts"
    hop_accounts.touch(0o600)
    hop_accounts.write_text(_accounts([*names, "someone"]))
    report = directory / "report.json"
    with contextlib.ExitStack() as stack:
        hop = stack.enter_context(
            served(
                directory / "hop",
                *("--loop", loop, "--domain", "far.test", "--accounts", str(hop_accounts), "--smtp", "0"),
                *("--cert", str(certificate), "--key", str(key), "--maildir", str(directory / Place.OUTBOX.value)),
            )
        )
        lines = _accounts(names)
        accounts.touch(0o600)
        accounts.write_text(f"{lines}changing:{{PLAIN}}password 0\n")
        words = ["--legacy", "--accounts", str(accounts), "--maildir", str(directory / Place.MAILDROP.value)]
        words += [
            "--cert",
            str(certificate),
            "--key",
            str(key),
            "--client-ca",
            str(ca_file),
            "--relay-ca",
            str(ca_file),
        ]
        words += ["--relay-to", f"smtp://127.0.0.1:{hop.port('smtp')}"]
        for name in names:
            words += ["--client-name", f"email:{name}@example.test={name}", "--token", f"{name}:{token(name)}"]
        module = ("tests.soak.instrumented", str(report))
        server = stack.enter_context(served(directory, "--loop", loop, *words, module=module))
        target = Target(ports=server.ports, tls=ssl.create_default_context(cafile=ca_file))
        reloader = Reloader(accounts=accounts, certificate=certificate, lines=lines, target=target, server=server)
        openings = rude_clients.openings()
        clients = [
            Client(
                target=target, certified=certified[number], number=number,
                random=random.Random(f"{seed} {number}"), names=names, openings=openings,
            )
            for number in range(CLIENTS)
        ]  # fmt: skip
        began = time.monotonic()
        had: Counter[str] = Counter()
        samples: list[Sample] = []

        async def main() -> None:
            before = -1
            while before != (before := descriptors(server.process.pid)):  # the next hop was asked at the start
                await asyncio.sleep(1)
            rest = await take_sample(server, report, 0)
            if sessions >= FEWEST:
                await _fill_tables(clients, had)
            while had.total() < sessions:
                await _round(clients, reloader, had, min(max(CLIENTS, sessions // ROUNDS), sessions - had.total()))
                samples.append(await sample_at_rest(server, report, had.total(), rest, _DEADLINE))
                tell(_progress(loop, samples[-1], time.monotonic() - began))
            for each in clients:
                await each.collect()

        asyncio.run(main())
        seconds = time.monotonic() - began
    check_stored(directory, target.ledger)
    return MixedResult(
        loop=loop, sessions=had, samples=tuple(samples), seconds=seconds, acknowledged=len(target.ledger.acknowledged)
    )


async def _fill_tables(clients: Sequence[Client], had: Counter[str]) -> None:
    """Have each kind of session from each address of each client.  At any time, the clients have different kinds."""

    async def work(each: Client) -> None:
        for number in each.addresses:
            kinds = list(each.with_address(number).kinds())
            first = each.number % len(kinds)
            for kind in kinds[first:] + kinds[:first]:
                await _session(kind, had)

    async with asyncio.TaskGroup() as group:
        for each in clients:
            group.create_task(work(each))


async def _session(kind: Callable[[], Awaitable[None]], had: Counter[str]) -> None:
    had[kind.__name__] += 1
    async with asyncio.timeout(_DEADLINE):
        await kind()


async def _round(clients: Sequence[Client], reloader: Reloader, had: Counter[str], sessions: int) -> None:
    """Have *sessions* sessions, and wait until all have ended on the side of the clients."""
    left = iter(range(sessions))

    async def work(each: Client) -> None:
        kinds, weights = zip(*each.kinds().items(), strict=True)
        for _ in left:
            await _session(each.random.choices(kinds, weights)[0], had)

    async def reload() -> None:
        for _ in range(CHANGES):
            async with asyncio.timeout(_DEADLINE):
                await reloader.change()

    async with asyncio.TaskGroup() as group:
        group.create_task(reload())
        for each in clients:
            group.create_task(work(each))


def _progress(loop: str, sample: Sample, seconds: float) -> str:
    return (
        f"{loop:8} {sample.sessions:7} sessions, {sample.sessions / seconds:4.0f}/s  {sample.memory / 2**20:6.1f} MiB  "
        f"{sample.blocks} blocks, {sample.garbage} garbage, {sample.descriptors} descriptors, "
        f"{sample.threads} threads, {sample.tasks} tasks"
    )
