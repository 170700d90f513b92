"""Mixed sessions with one server process, whose resources are the same after each round.

The server relays mail for far.test to a second server.  Each client has an account of its own, and chooses sessions at
random: mail with every kind of login and without one, collected mail, rejected and aborted sessions.  Meanwhile the
accounts change, and the certificate is loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trustme

from mailauth import sasl
from mailauth_io import client
from tests.serving import Served, served
from tests.soak import rude_clients
from tests.soak.clients import PASSWORD, TOKEN, Place, Target, Wire, check_stored
from tests.soak.figures import Line, Sample, descriptors, sample_at_rest, take_sample

CLIENTS: Final = 50
"""The clients that have sessions at the same time."""

ADDRESSES: Final = 20
"""The addresses of each client.  They are all used in the warm-up, so that tables by address are full after it."""

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

_LINES: Final = (1, 12, 60, 800)
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


@attrs.frozen(kw_only=True)
class Client:
    """One client.  A session is a method that returns when it has ended."""

    target: Target
    """The server, with a context that presents no certificate."""
    certified: ssl.SSLContext
    """A context that presents a certificate, for EXTERNAL."""
    number: int
    random: random.Random
    names: Sequence[str]
    """The accounts of all clients."""

    @property
    def name(self) -> str:
        return self.names[self.number]

    def address(self, network: int = 10) -> str:
        return f"127.{network}.{self.number}.{self.random.randint(1, ADDRESSES)}"

    def recipient(self) -> str:
        return f"{self.random.choice(self.names)}@example.test"

    def mechanism(self, *, tls: bool) -> sasl.ClientMechanism:
        """Return a mechanism that needs no certificate.  Tokens are sent only inside TLS."""
        name, password = self.name, PASSWORD.encode()
        mechanisms: list[Callable[[], sasl.ClientMechanism]] = [
            lambda: sasl.PlainClient(authentication_identity=name, password=password),
            lambda: sasl.LoginClient(authentication_identity=name, password=password),
            lambda: sasl.CramMd5Client(authentication_identity=name, password=password),
            lambda: sasl.ScramSha1Client(authentication_identity=name, password=password, entropy=self._entropy()),
            lambda: sasl.ScramSha256Client(authentication_identity=name, password=password, entropy=self._entropy()),
        ]
        if tls:
            mechanisms += [
                lambda: sasl.OauthBearerClient(authorization_identity=name, token=_token(name).encode()),
                lambda: sasl.Xoauth2Client(authorization_identity=name, token=_token(name).encode()),
            ]
        return self.random.choice(mechanisms)()

    def _entropy(self) -> bytes:
        return self.random.randbytes(32)

    async def authenticate(self, wire: Wire, port: str, mechanism: sasl.ClientMechanism) -> bytes:
        """Send AUTH and the responses, and return the last reply."""
        going_on, done = (b"334 ", b"235 ") if port.startswith("smtp") else (b"+ ", b"+OK")
        exchange = sasl.ClientExchange(mechanism)
        initial = exchange.begin()
        command = b"AUTH " + mechanism.name.encode()
        reply = await wire.ask(command if initial is None else command + b" " + initial, b"")
        while reply.startswith(going_on):
            reply = await wire.ask(exchange.respond(reply.removeprefix(going_on)), b"")
        assert exchange.satisfied or not reply.startswith(done)
        return reply

    async def log_in(self, wire: Wire, port: str, mechanism: sasl.ClientMechanism) -> None:
        reply = await self.authenticate(wire, port, mechanism)
        assert reply.startswith(b"235 "), (self.name, mechanism.name, reply)

    @contextlib.asynccontextmanager
    async def smtp(self, address: str, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Wire, str, bool]]:
        """Connect to SMTP in one of three ways, and say EHLO; with *tls*, not in clear text.

        Yields the connection, the name of the port, and whether it has TLS.
        """
        target = self.target if tls is None else attrs.evolve(self.target, tls=tls)
        way = self.random.choice(("clear", "starttls", "smtps") if tls is None else ("starttls", "smtps"))
        port = "smtps" if way == "smtps" else "smtp"
        async with target.wire(port, address) as wire:
            await wire.ask(b"EHLO client.test", b"250 ")
            if way == "starttls":
                await wire.ask(b"STARTTLS", b"220 ")
                await wire.start_tls(target.tls)
                await wire.ask(b"EHLO client.test", b"250 ")
            yield wire, port, way != "clear"

    async def send(self, wire: Wire, *recipients: str) -> None:
        """Run one mail transaction, by DATA or by BDAT, until the message is acknowledged."""
        ledger = self.target.ledger
        await wire.ask(f"MAIL FROM:<{self.name}@example.test>".encode(), b"250 ")
        for recipient in recipients:
            await wire.ask(f"RCPT TO:<{recipient}>".encode(), b"250 ")
        places = {Place.MAILDROP if name.endswith("@example.test") else Place.OUTBOX for name in recipients}
        lines = self.random.choice(_LINES)
        if self.random.random() < 0.7:
            await wire.ask(b"DATA", b"354 ")
            token, data = ledger.begin(*places, lines=lines)
            wire.say(data)
            await wire.ask(b".", b"250 ")
        else:
            token, data = ledger.begin(*places, lines=lines)
            half = len(data) // 2
            wire.say(b"BDAT %d\r\n" % half + data[:half])
            await wire.expect(b"250 ")
            wire.say(b"BDAT %d LAST\r\n" % (len(data) - half) + data[half:])
            await wire.expect(b"250 ")
        ledger.acknowledged.add(token)

    async def send_with_login(self) -> None:
        async with self.smtp(self.address()) as (wire, port, tls):
            await self.log_in(wire, port, self.mechanism(tls=tls))
            await self.send(wire, self.recipient())
            if self.random.random() < 0.3:
                await self.send(wire, self.recipient(), f"{self.name}@far.test")
            await wire.ask(b"QUIT", b"221 ")

    async def send_with_certificate(self) -> None:
        async with self.smtp(self.address(), tls=self.certified) as (wire, port, _):
            await self.log_in(wire, port, sasl.ExternalClient())
            await self.send(wire, self.recipient())
            await wire.ask(b"QUIT", b"221 ")

    async def send_without_login(self) -> None:
        """Deliver mail as another server does, from an address that has no grant."""
        async with self.smtp(self.address(11)) as (wire, _, _):
            for _ in range(self.random.randint(1, 3)):
                await self.send(wire, self.recipient())
            await wire.ask(b"QUIT", b"221 ")

    async def send_after_pop3(self) -> None:
        address = self.address()
        await self.collect(address=address)
        async with self.smtp(address) as (wire, _, _):
            await self.send(wire, f"{self.name}@far.test")
            await wire.ask(b"QUIT", b"221 ")

    @contextlib.asynccontextmanager
    async def pop3(self, address: str) -> AsyncIterator[Wire]:
        """Log in by POP3 in one of many ways.  The last session may still hold the maildrop: then try again."""
        while True:
            way = self.random.choice(("clear", "stls", "pop3s"))
            port = "pop3s" if way == "pop3s" else "pop3"
            async with self.target.wire(port, address) as wire:
                login = self.random.choice(("USER", "APOP", "AUTH"))
                if way == "stls":
                    await wire.ask(b"STLS", b"+OK")
                    await wire.start_tls(self.target.tls)
                if login == "USER":
                    await wire.ask(f"USER {self.name}".encode(), b"+OK")
                    reply = await wire.ask(f"PASS {PASSWORD}".encode(), b"")
                elif login == "APOP":
                    timestamp = wire.greeting[wire.greeting.index(b"<") : wire.greeting.index(b">") + 1]
                    digest = hashlib.md5(timestamp + PASSWORD.encode()).hexdigest()
                    reply = await wire.ask(f"APOP {self.name} {digest}".encode(), b"")
                else:
                    reply = await self.authenticate(wire, port, self.mechanism(tls=way != "clear"))
                if reply.startswith(b"-ERR [IN-USE]"):
                    await asyncio.sleep(0.05)
                    continue
                assert reply.startswith(b"+OK"), (self.name, way, login, reply)
                yield wire
                return

    async def collect(self, *, address: str | None = None) -> None:
        """Retrieve all messages and delete them."""
        async with self.pop3(address or self.address()) as wire:
            count = int((await wire.ask(b"STAT", b"+OK")).split()[1])
            if self.random.random() < 0.5:
                await wire.ask(b"UIDL", b"+OK")
                assert len((await wire.hear_text()).splitlines()) == count
            read = []
            for message in range(1, count + 1):
                await wire.ask(b"RETR %d" % message, b"+OK")
                read += TOKEN.findall(await wire.hear_text())
                await wire.ask(b"DELE %d" % message, b"+OK")
            await wire.ask(b"QUIT", b"+OK")
            assert len(read) == count
            self.target.ledger.collected.update(token.decode() for token in read)

    async def look(self) -> None:
        """Mark messages as deleted, and leave without QUIT or after RSET: nothing is deleted."""
        async with self.pop3(self.address()) as wire:
            count = int((await wire.ask(b"STAT", b"+OK")).split()[1])
            for message in range(1, count + 1):
                await wire.ask(b"TOP %d 3" % message, b"+OK")
                await wire.hear_text()
                await wire.ask(b"DELE %d" % message, b"+OK")
            if self.random.random() < 0.5:
                await wire.ask(b"RSET", b"+OK")
                await wire.ask(b"QUIT", b"+OK")

    async def use_the_library(self) -> None:
        """Send and collect with mailauth_io.client, which prefers SCRAM with channel binding."""
        login, tls, ports = (self.name, PASSWORD), self.target.tls, self.target.ports
        token, data = self.target.ledger.begin(Place.MAILDROP, lines=20)
        result = await client.submit(
            data.replace(b"\r\n..", b"\r\n."),  # the client doubles the dots
            f"{self.name}@example.test",
            [self.recipient()],
            host="127.0.0.1",
            port=ports["smtps"],
            login=login,
            ssl_context=tls,
        )
        assert result.complete
        self.target.ledger.acknowledged.add(token)
        while True:
            try:
                async with client.pop3_client(
                    host="127.0.0.1", port=ports["pop3s"], login=login, ssl_context=tls
                ) as maildrop:
                    for message in await maildrop.listing():
                        await maildrop.retrieve(message.number)
                return
            except client.AuthenticationFailed as error:
                if "[IN-USE]" not in str(error):  # the last session still holds the maildrop
                    raise
            await asyncio.sleep(0.05)

    async def be_rejected(self) -> None:
        async with self.smtp(self.address(12)) as (wire, _, _):
            await self.random.choice((self._guess, self._relay, self._break_rules, self._send_wrong_content))(wire)

    async def _guess(self, wire: Wire) -> None:
        """Log in with a wrong password until the server ends the session."""
        for _ in range(3):
            name = self.random.choice((self.name, "nobody"))
            mechanism = self.random.choice((
                sasl.PlainClient(authentication_identity=name, password=b"wrong"),
                sasl.CramMd5Client(authentication_identity=name, password=b"wrong"),
                sasl.ScramSha256Client(authentication_identity=name, password=b"wrong", entropy=bytes(32)),
            ))  # fmt: skip
            reply = await self.authenticate(wire, "smtp", mechanism)
            assert reply.startswith((b"535 ", b"421 ")), reply
            if reply.startswith(b"421 "):
                break
        await wire.to_the_end()

    async def _relay(self, wire: Wire) -> None:
        await wire.ask(b"MAIL FROM:<sender@far.test>", b"250 ")
        await wire.ask(b"RCPT TO:<someone@far.test>", b"550 ")
        await wire.ask(b"RCPT TO:<nobody@example.test>", b"550 ")
        await wire.ask(b"DATA", b"5")
        await wire.ask(b"QUIT", b"221 ")

    async def _break_rules(self, wire: Wire) -> None:
        while not (await wire.ask(self.random.choice((b"NONSENSE", b"MAIL", b"DATA", b"x" * 3000)), b"")).startswith(
            b"421"
        ):
            pass
        await wire.to_the_end()

    async def _send_wrong_content(self, wire: Wire) -> None:
        await wire.ask(b"MAIL FROM:<sender@far.test> SIZE=99999999999", b"552 ")
        await wire.ask(b"MAIL FROM:<sender@far.test>", b"250 ")
        await wire.ask(f"RCPT TO:<{self.recipient()}>".encode(), b"250 ")
        await wire.ask(b"DATA", b"354 ")
        await wire.ask(b"Subject: x\r\n\r\na bare\nline feed\r\n.", b"5")

    async def be_rude(self) -> None:
        """Disconnect at a random point."""
        leave = self.random.choice(tuple(rude_clients.Leave))
        phase = self.random.choice(rude_clients.phases(self.name))
        await rude_clients.run_rude_client(self.target, phase, leave, self.address())

    async def leave_while_reading(self) -> None:
        """Disconnect with a message on its way from the maildrop."""
        address = self.address(11)
        async with self.target.wire("smtp", address) as wire:
            await wire.ask(b"EHLO client.test", b"250 ")
            await self.send(wire, f"{self.name}@example.test")
        async with self.pop3(self.address()) as wire:
            wire.say(b"RETR 1\r\n" * self.random.randint(1, 40))
            if self.random.random() < 0.5:
                await wire.expect(b"+OK")
            if self.random.random() < 0.5:
                wire.reset()

    async def abort_handshake(self) -> None:
        leave = self.random.choice(tuple(rude_clients.Leave))
        port, opening = self.random.choice(("smtps", "pop3s")), self.random.choice(rude_clients.openings())
        await rude_clients.abort_handshake(self.target, port, opening, leave, self.address())

    def kinds(self) -> dict[Callable[[], Awaitable[None]], int]:
        """Return the kinds of sessions with their weights."""
        return {
            self.send_with_login: 20,
            self.send_with_certificate: 3,
            self.send_without_login: 16,
            self.send_after_pop3: 6,
            self.collect: 18,
            self.look: 4,
            self.use_the_library: 3,
            self.be_rejected: 10,
            self.be_rude: 12,
            self.leave_while_reading: 4,
            self.abort_handshake: 4,
        }


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


def _token(name: str) -> str:
    """Return the bearer token of an account."""
    return f"token-{name}"


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
            words += ["--client-name", f"email:{name}@example.test={name}", "--token", f"{name}:{_token(name)}"]
        module = ("tests.soak.instrumented", str(report))
        server = stack.enter_context(served(directory, "--loop", loop, *words, module=module))
        target = Target(ports=server.ports, tls=ssl.create_default_context(cafile=ca_file))
        reloader = Reloader(accounts=accounts, certificate=certificate, lines=lines, target=target, server=server)
        clients = [
            Client(
                target=target, certified=certified[number], number=number,
                random=random.Random(f"{seed} {number}"), names=names,
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


async def _round(clients: Sequence[Client], reloader: Reloader, had: Counter[str], sessions: int) -> None:
    """Have *sessions* sessions, and wait until all have ended on the side of the clients."""
    left = iter(range(sessions))

    async def work(each: Client) -> None:
        kinds, weights = zip(*each.kinds().items(), strict=True)
        for _ in left:
            kind = each.random.choices(kinds, weights)[0]
            had[kind.__name__] += 1
            async with asyncio.timeout(_DEADLINE):
                await kind()

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
