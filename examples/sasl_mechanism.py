"""A SASL mechanism that is not part of mailauth, offered over SMTP and POP3: one-time tickets.

    python examples/sasl_mechanism.py

The only response of X-TICKET is a ticket, which the application redeems: it belongs to one identity, and is valid once.
The mechanism needs a server side, a client side and a question of its own; the protocols need no change.  When run, the
program logs in to both protocols with a valid and with a used ticket, and exits with 0 if only the first succeeds.

Who reads a ticket may be the first to use it, so the servers offer the mechanism only after STARTTLS or STLS.  The
temporary certificate needs the extra ``trial``.
"""

import asyncio
import re
import secrets
import ssl
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

from mailauth import ACCEPT, ClientMachine, ExtensionQuestion, LocalProtocolError, Malformed, Question, pop3, sasl, smtp
from mailauth_io.adapters.tls.certificates import temporary_certificate
from mailauth_io.on_asyncio import AsyncServerConnection, connect, serve_pop3, serve_smtp
from mailauth_io.server import FailedLogins

NAME = "X-TICKET"
TICKET = re.compile(rb"[A-Za-z0-9_-]{20,100}")


@dataclass(frozen=True)
class RedeemTicket(ExtensionQuestion[str | sasl.Refusal]):
    """Asks which identity a ticket belongs to.  The answer, that identity or a Refusal, uses the ticket up."""

    ticket: str
    tls: bool

    def __repr__(self) -> str:
        return f"RedeemTicket(tls={self.tls})"  # without the secret, which would be in logs

    @property
    def unavailable(self) -> sasl.Refusal:
        return sasl.Refusal.TEMPORARY


class TicketServer:
    """The server side of one login."""

    name: ClassVar[str] = NAME
    client_first: ClassVar[bool] = True

    def __init__(self, *, tls: bool) -> None:
        self.tls = tls
        self.authentication_identity: str | None = None

    def respond(self, response: bytes | None) -> sasl.Step:
        """Return the next step for a response of the client, which may be any bytes; None if it has sent none."""
        if response is None:
            return sasl.Challenge()
        if not TICKET.fullmatch(response):
            return sasl.Fault.MALFORMED
        return RedeemTicket(response.decode("ascii"), self.tls)

    def resolve(self, answer: object) -> sasl.Step:
        """Return the next step for the application's answer.  Raises LocalProtocolError if it cannot be one."""
        if isinstance(answer, sasl.Refusal):
            return answer
        if not isinstance(answer, str) or not answer:
            raise LocalProtocolError("answer RedeemTicket with an identity (a non-empty str) or a Refusal")
        self.authentication_identity = answer
        return sasl.Success(authentication_identity=answer)


class TicketClient:
    """The client side.  Raises LocalProtocolError for a ticket that no server accepts."""

    name: ClassVar[str] = NAME
    client_first: ClassVar[bool] = True

    def __init__(self, ticket: str) -> None:
        self._ticket = ticket.encode()
        self._sent = False
        if not TICKET.fullmatch(self._ticket):
            raise LocalProtocolError("ticket must be 20 to 100 of A-Z, a-z, 0-9, _ and -")

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the ticket.  Raises Malformed for a challenge: the client sends the only response."""
        if challenge is not None:
            raise Malformed(f"{NAME} allows no challenge")
        self._sent = True
        return self._ticket

    @property
    def satisfied(self) -> bool:
        """Whether a success reply can be trusted now."""
        return self._sent


MECHANISMS = sasl.Mechanisms(
    {NAME: lambda context: TicketServer(tls=context.tls), **sasl.DEFAULT_MECHANISMS.factories},
)


class TicketOffice:
    """Issues tickets and redeems each once; the application of both servers."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._failed = FailedLogins()

    def issue(self, identity: str) -> str:
        ticket = secrets.token_urlsafe(32)
        self._owners[ticket] = identity
        return ticket

    def redeem(self, ticket: str) -> str | sasl.Refusal:
        return self._owners.pop(ticket, sasl.Refusal.BAD_CREDENTIALS)

    async def delay(self, address: str) -> None:
        """Wait before the reply to a failed login, longer after each further one from *address*."""
        await asyncio.sleep(self._failed.delay(address, time.monotonic()))

    async def smtp_session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        async for event in connection:
            match event:
                case RedeemTicket(ticket=ticket) as question:
                    connection.answer(question, self.redeem(ticket))
                case sasl.AuthenticationFailed():
                    await self.delay(connection.peer.address)
                case smtp.Connected() | smtp.StartTls() as question:
                    connection.answer(question, ACCEPT)
                case Question() as question:
                    connection.decline(question)
                case _:
                    pass

    async def pop3_session(self, connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
        async for event in connection:
            match event:
                case RedeemTicket(ticket=ticket) as question:
                    connection.answer(question, self.redeem(ticket))
                case pop3.OpenMaildrop() as question:
                    connection.answer(question, pop3.Maildrop())
                case sasl.AuthenticationFailed():
                    await self.delay(connection.peer.address)
                case pop3.Connected() | pop3.Stls() as question:
                    connection.answer(question, ACCEPT)
                case Question() as question:
                    connection.decline(question)
                case _:
                    pass


async def log_in_to_smtp(port: int, context: ssl.SSLContext, ticket: str) -> bool:
    async with await connect(smtp.ClientConnection(), "localhost", port, ssl_context=context) as client:
        await anext(client)  # the greeting
        for command in (smtp.Hello(domain="localhost"), smtp.StartTls(), smtp.Hello(domain="localhost")):
            client.send(command)
            await anext(client)  # the reply; after that to STARTTLS, the handshake follows
        client.authenticate(TicketClient(ticket))
        return isinstance(await anext(client), sasl.Authenticated)


async def log_in_to_pop3(port: int, context: ssl.SSLContext, ticket: str) -> bool:
    machine: ClientMachine[pop3.ClientEvent] = pop3.ClientConnection()
    async with await connect(machine, "localhost", port, ssl_context=context) as client:
        await anext(client)  # the greeting
        for command in (pop3.Stls(), pop3.Capa()):
            client.send(command)
            await anext(client)
        client.authenticate(TicketClient(ticket))
        return isinstance(await anext(client), sasl.Authenticated)


async def main() -> int:
    office = TicketOffice()
    certificate = temporary_certificate()
    smtp_settings = smtp.ServerSettings(mechanisms=MECHANISMS, starttls=True)
    pop3_settings = pop3.ServerSettings(mechanisms=MECHANISMS, stls=True)
    failed = False
    async with (
        serve_smtp(office.smtp_session, smtp_settings, ssl_context=certificate.server) as smtp_listener,
        serve_pop3(office.pop3_session, pop3_settings, ssl_context=certificate.server) as pop3_listener,
    ):
        for protocol, log_in, port in (
            ("SMTP", log_in_to_smtp, smtp_listener.port),
            ("POP3", log_in_to_pop3, pop3_listener.port),
        ):
            ticket = office.issue("alice")
            first, second = [await log_in(port, certificate.client(), ticket) for _ in range(2)]
            print(f"{protocol}: a ticket {'is accepted' if first else 'is refused'}", end=", ")
            print(f"a used one {'is accepted' if second else 'is refused'}")
            failed |= second or not first
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
