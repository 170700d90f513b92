"""What the tests of stores and server share: running on either loop, and meeting an embedded pair from a thread."""

from __future__ import annotations

import asyncio
import poplib
import smtplib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import attrs
import pytest
import trio

from mailauth_io import _loops, server, stores
from mailauth_io.stores import MemoryOutbox
from tests.io.tls import client_context, server_context

T = TypeVar("T")

PASSWORD = "correct horse"
TIMEOUT = 20.0
"""Seconds after which a client that waits for nothing fails its test; none of them ever waits so long."""


class Run(Protocol):
    """Run a coroutine function to its end on one loop and give its result."""

    def __call__(self, main: Callable[[], Awaitable[T]], /) -> T: ...


def run_on_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await main()

    coroutine: Coroutine[Any, Any, T] = whole()
    return asyncio.run(coroutine)


def run_on_trio(main: Callable[[], Awaitable[T]]) -> T:
    return trio.run(main)


on_both_loops = pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])


@attrs.define
class Clock:
    """Time that stands still until it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@attrs.define(kw_only=True)
class Served:
    """An embedded pair, what is behind it, and clients to meet it."""

    ports: server.RunningServer
    stores: server.Stores
    outbox: MemoryOutbox
    clock: Clock

    def smtp(self, port: str = "smtp", source: str = "127.0.0.1") -> smtplib.SMTP:
        """A client of ``smtp``, of ``smtps``, or of ``smtp`` after STARTTLS (``starttls``), that has said EHLO."""
        address = (source, 0)
        if port == "smtps":
            assert self.ports.smtps is not None
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                "127.0.0.1",
                self.ports.smtps,
                "client.test",
                timeout=TIMEOUT,
                context=client_context(),
                source_address=address,
            )
        else:
            assert self.ports.smtp is not None
            client = smtplib.SMTP("127.0.0.1", self.ports.smtp, "client.test", timeout=TIMEOUT, source_address=address)
        client.ehlo()
        if port == "starttls":
            client.starttls(context=client_context())
            client.ehlo()
        return client

    def pop3(self, port: str = "pop3") -> poplib.POP3:
        """A client of ``pop3``, of ``pop3s``, or of ``pop3`` after STLS (``stls``)."""
        if port == "pop3s":
            assert self.ports.pop3s is not None
            return poplib.POP3_SSL("127.0.0.1", self.ports.pop3s, timeout=TIMEOUT, context=client_context())
        assert self.ports.pop3 is not None
        client = poplib.POP3("127.0.0.1", self.ports.pop3, timeout=TIMEOUT)
        if port == "stls":
            client.stls(context=client_context())
        return client

    def log_in(self, port: str = "pop3s", name: str = "alice", password: str = PASSWORD) -> poplib.POP3:
        """A POP3 client that has logged in by USER and PASS.  Raises poplib.error_proto."""
        client = self.pop3(port)
        try:
            client.user(name)
            client.pass_(password)
        except poplib.error_proto:
            client.close()
            raise
        return client

    def mail_of(self, name: str, password: str = PASSWORD) -> list[bytes]:
        """The messages in a maildrop, read by POP3."""
        client = self.log_in(name=name, password=password)
        texts = [b"\r\n".join(client.retr(number + 1)[1]) + b"\r\n" for number in range(client.stat()[0])]
        client.quit()
        return texts

    def may_relay(self, port: str = "smtp", source: str = "127.0.0.1") -> bool:
        """Whether a client that says nothing of itself may send elsewhere."""
        with self.smtp(port, source) as client:
            assert client.mail("someone@far.test")[0] == 250
            code, text = client.rcpt("bob@far.test")
            assert code in (250, 550), (code, text)
            return code == 250


def authenticate(smtp: smtplib.SMTP, mechanism: str, name: str = "alice") -> int:
    """Log in by that one mechanism; the code of the reply.  Raises SMTPAuthenticationError."""
    smtp.user, smtp.password = name, PASSWORD
    match mechanism:
        case "PLAIN":
            return smtp.auth(mechanism, smtp.auth_plain)[0]
        case "LOGIN":
            return smtp.auth(mechanism, smtp.auth_login)[0]
        case _:
            return smtp.auth(mechanism, smtp.auth_cram_md5)[0]


def accounts() -> stores.MemoryAccounts:
    return stores.MemoryAccounts({"alice": PASSWORD.encode(), "bob": b"other", "carol": b"third"})


async def at_once(seconds: float) -> None:
    """In the place of a sleep: no test waits for real."""


def meet(
    run: Run,
    client: Callable[[Served], T],
    *,
    kept: server.Stores | None = None,
    config: server.Config | None = None,
    sleep: Callable[[float], Awaitable[None]] = at_once,
    **options: Any,
) -> T:
    """Start a pair on the loop, let *client* meet it from a thread, and end the pair."""
    outbox = stores.MemoryOutbox()
    if kept is None:
        kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox)
    settings: dict[str, Any] = {
        "smtp": 0, "smtps": 0, "pop3": 0, "pop3s": 0, "ssl_context": server_context(), "postmaster": "bob",
        "domains": ("example.test", "example.org"), **options,
    }  # fmt: skip
    clock = Clock()

    async def main() -> T:
        async with server.serve(config or server.Config(**settings), kept, clock=clock, sleep=sleep) as ports:
            served = Served(ports=ports, stores=kept, outbox=outbox, clock=clock)
            return await _loops.current().in_thread(client, served)

    return run(main)
