"""The clients of the mixed sessions (``mixed``): what each kind of session does.

for kind, weight in each.kinds().items():
    await kind()
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import attrs

from mailauth import sasl
from mailauth_io import client
from tests.soak import rude_clients
from tests.soak.clients import PASSWORD, TOKEN, Place, Target, Wire

ADDRESSES: Final = 2
"""The addresses of each client in each network.  Before the first round it has each kind of session from each of them:
a table with an entry for each address would otherwise grow for as long as some address is new to it."""

_LINES: Final = (1, 12, 60, 800)
_CLEAR: Final = ("clear",) * 4
"""Two sessions of three have no TLS: a handshake costs more than all the rest of a short session."""


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
    openings: Sequence[bytes]
    """What a client sends before it disconnects in a handshake."""
    addresses: Sequence[int] = range(1, ADDRESSES + 1)

    @property
    def name(self) -> str:
        return self.names[self.number]

    def address(self, network: int = 10) -> str:
        return f"127.{network}.{self.number}.{self.random.choice(self.addresses)}"

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
                lambda: sasl.OauthBearerClient(authorization_identity=name, token=token(name).encode()),
                lambda: sasl.Xoauth2Client(authorization_identity=name, token=token(name).encode()),
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
        encrypted = ("starttls", "smtps")
        way = self.random.choice((*_CLEAR, *encrypted) if tls is None else encrypted)
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
            way = self.random.choice((*_CLEAR, "stls", "pop3s"))
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

    async def guess(self) -> None:
        """Log in with a wrong password until the server ends the session."""
        async with self.smtp(self.address(12)) as (wire, _, _):
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

    async def be_rejected(self) -> None:
        async with self.smtp(self.address(12)) as (wire, _, _):
            await self.random.choice((self._relay, self._break_rules, self._send_wrong_content))(wire)

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
        port, opening = self.random.choice(("smtps", "pop3s")), self.random.choice(self.openings)
        await rude_clients.abort_handshake(self.target, port, opening, leave, self.address())

    def with_address(self, number: int) -> Client:
        """Return this client with one of its addresses only."""
        return attrs.evolve(self, addresses=(number,))

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
            self.be_rejected: 7,
            self.guess: 3,
            self.be_rude: 12,
            self.leave_while_reading: 4,
            self.abort_handshake: 4,
        }


def token(name: str) -> str:
    """Return the bearer token of an account."""
    return f"token-{name}"
