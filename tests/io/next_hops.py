"""A scripted next hop built on the library, and a server that relays to it, on the same loop."""

from __future__ import annotations

import enum
import re
import smtplib
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from mailauth import ACCEPT, Accept, MessageChunk, Question, sasl, smtp
from mailauth_io import server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.server._next_hop_state import NextHopState
from mailauth_io.server.state import ServerState
from tests.io import loops
from tests.io.server_support import PASSWORD, Clock, Run, Served, accounts
from tests.io.tls import client_context, server_context

T = TypeVar("T")

LOCAL, FAR = "alice@example.test", "dinah@far.test"
CONTENT: Final = b"Subject: x\r\n\r\nbody\r\n.\r\n..dots\r\nend\r\n"
CLOSE: Final = smtp.Reply(421, "4.3.2", "going down")
IN_CLEAR: Final[dict[str, Any]] = {"tls_required": False}
BY_STARTTLS: Final[dict[str, Any]] = {"ssl_context": client_context()}
INSIDE_TLS: Final[dict[str, Any]] = {"ssl_context": client_context(), "implicit_tls": True}
OFFERS_STARTTLS: Final = smtp.ServerSettings(
    host_name="far.test", starttls=True, mechanisms=sasl.DEFAULT_MECHANISMS.only("PLAIN")
)


class Fault(enum.Enum):
    """Ways to fail instead of answering."""

    DIE = enum.auto()
    """Drop the connection without a reply."""
    FALL_SILENT = enum.auto()
    """Keep the connection open, but stop reading and writing."""
    WAIT = enum.auto()
    """Accept only after the test has set ``Double.released``."""
    TAKE_AND_DIE = enum.auto()
    """Accept the message, and drop the connection before the reply."""


Deed: TypeAlias = Accept | smtp.Reply | Fault


@attrs.frozen
class Taken:
    """A complete message that the double has accepted."""

    mail: smtp.Mail
    recipients: tuple[str, ...]
    data: bytes


@attrs.define(kw_only=True)
class Double:
    """A next hop that accepts everything, except for *deeds*: what to do at the next events of a type, in order."""

    deeds: dict[type[object], list[Deed]] = attrs.field(factory=dict)
    settings: smtp.ServerSettings = OFFERS_STARTTLS
    at_the_end: Callable[[], object] = lambda: None
    """Called when a message is complete, before the reply."""

    released: bool = False
    heard: list[str] = attrs.field(factory=list)
    """The names of the events received, in order, without content."""
    mails: list[smtp.Mail] = attrs.field(factory=list)
    logins: list[tuple[str, bytes]] = attrs.field(factory=list)
    in_clear: list[str] = attrs.field(factory=list)
    """The names of the events received without TLS."""
    taken: list[Taken] = attrs.field(factory=list)

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        content = bytearray()
        async for event in connection:
            name = type(event).__name__
            if not isinstance(event, MessageChunk):
                self.heard.append(name)
                if connection.tls is None:
                    self.in_clear.append(name)
            if isinstance(event, smtp.MessageComplete):
                self.at_the_end()
            left = self.deeds.get(type(event))
            deed = left.pop(0) if left else ACCEPT
            if isinstance(event, smtp.MessageComplete) and deed in (ACCEPT, Fault.TAKE_AND_DIE):
                recipients = tuple(path.spelling for path in event.recipients)
                self.taken.append(Taken(self.mails[-1], recipients, bytes(content)))
            if deed is Fault.FALL_SILENT:
                await loops.current().sleep_forever()
            if deed is Fault.WAIT:
                while not self.released:
                    await loops.current().sleep(0.001)
                deed = ACCEPT
            if isinstance(deed, Fault):
                return connection.abort()
            match event:
                case MessageChunk(data=data):
                    content += data
                case sasl.CheckPassword(authentication_identity=who, password=password) as question:
                    self.logins.append((who, password))
                    connection.answer(question, ACCEPT if deed is ACCEPT else sasl.Refusal.BAD_CREDENTIALS)
                case smtp.MessageComplete() as question:
                    content.clear()
                    connection.answer(question, deed)
                case smtp.Mail() as question:
                    self.mails.append(question)
                    connection.answer(question, deed)
                case smtp.Connected() | smtp.Rcpt() | smtp.Data() | smtp.StartTls() as question:
                    connection.answer(question, deed)
                case Question() as question:
                    connection.answer(question, question.unavailable)
                case _:
                    if deed is not ACCEPT:
                        connection.shut_down()

    @property
    def connections(self) -> int:
        return self.heard.count("Connected")


def state_of(running: server.RunningServer) -> NextHopState:
    """Return what *running* knows about its next hop."""
    method: Any = running.check_next_hop
    state = method.__self__
    assert isinstance(state, ServerState)
    assert state.next_hop is not None
    return state.next_hop


async def relay_to(
    port: int,
    client: Callable[[Served], T],
    *,
    maildrops: stores.Maildrops | None = None,
    local_delivery: bool = True,
    **hop: Any,
) -> T:
    """Run a server that relays to *port* with the NextHop fields *hop*; call *client* in a thread."""
    clock = Clock()
    kept = server.Stores(
        accounts=accounts(),
        maildrops=maildrops or stores.MemoryMaildrops(),
        outbox=server.NextHop(**{"host": "127.0.0.1", "port": port, **hop}),
    )
    config = server.Config(
        smtp=0, smtps=0, pop3=0, pop3s=0, ssl_context=server_context(), legacy=True, local_delivery=local_delivery
    )
    async with server.serve(config, kept, clock=clock) as ports:
        served = Served(ports=ports, stores=kept, outbox=stores.MemoryOutbox(), clock=clock)
        return await loops.current().in_thread(client, served)


def relaying(run: Run, double: Double, client: Callable[[Served], T], **options: Any) -> T:
    """Call ``relay_to`` with the port of *double*, which runs on the same loop."""

    async def main() -> T:
        adapter = loops.current().adapter
        async with adapter.serve_smtp(
            double.session, double.settings, ssl_context=server_context(),
            implicit_tls=options.get("implicit_tls", False), grace=0.1,
        ) as listener:  # fmt: skip
            return await relay_to(listener.port, client, **options)

    return run(main)


def logged_in(served: Served, port: str = "smtp") -> smtplib.SMTP:
    """Return a client that has logged in."""
    smtp = served.smtp(port)
    smtp.login("alice", PASSWORD)
    return smtp


def said(reply: tuple[int, bytes]) -> str:
    """Return a reply as one string."""
    return f"{reply[0]} {reply[1].decode()}"


def send(client: smtplib.SMTP, *recipients: str, options: tuple[str, ...] = (), content: bytes = CONTENT) -> list[str]:
    """Run a transaction; return the reply to each RCPT, and the reply to the content or to a rejected DATA."""
    assert client.mail("alice@example.test", list(options))[0] == 250
    replies = [said(client.rcpt(recipient)) for recipient in recipients]
    reply = client.docmd("DATA")
    if reply[0] == 354:
        client.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
        reply = client.getreply()
    return [*replies, said(reply)]
