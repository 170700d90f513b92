"""Shared by the tests of stores and server: run code on each loop, and run a client in a thread against a server."""

from __future__ import annotations

import asyncio
import poplib
import smtplib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

import attrs
import pytest
import trio

from mailauth_io import server, stores
from mailauth_io._workers import CLEANUP
from mailauth_io.adapters import OnError
from mailauth_io.stores import MemoryOutbox
from tests.io import loops
from tests.io.tls import client_context, server_context

T = TypeVar("T")

strict_syntax = False
"""The setting of this name in ``meet()``; a fixture may set it."""

PASSWORD = "correct horse"
TIMEOUT = 20.0
"""Seconds after which a client that waits in vain fails its test.  A passing test never waits so long."""


class Run(Protocol):
    """Run a coroutine function on a loop and return its result."""

    def __call__(self, main: Callable[[], Awaitable[T]], /) -> T: ...


def run_on_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await main()

    coroutine: Coroutine[Any, Any, T] = whole()
    try:
        return asyncio.run(coroutine)
    finally:
        CLEANUP.finish(TIMEOUT)


def run_on_trio(main: Callable[[], Awaitable[T]]) -> T:
    try:
        return trio.run(main)
    finally:
        CLEANUP.finish(TIMEOUT)


on_both_loops = pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])


@attrs.define
class Clock:
    """A clock that stands still until a test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@attrs.define(kw_only=True)
class Served:
    """An embedded server, its stores, and clients for it."""

    ports: server.RunningServer
    stores: server.Stores
    outbox: MemoryOutbox
    clock: Clock

    def smtp(self, port: str = "smtp", source: str = "127.0.0.1") -> smtplib.SMTP:
        """Return a client of ``smtp``, ``smtps``, or ``smtp`` after STARTTLS (``starttls``), that has sent EHLO."""
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
        """Return a client of ``pop3``, ``pop3s``, or ``pop3`` after STLS (``stls``)."""
        if port == "pop3s":
            assert self.ports.pop3s is not None
            return poplib.POP3_SSL("127.0.0.1", self.ports.pop3s, timeout=TIMEOUT, context=client_context())
        assert self.ports.pop3 is not None
        client = poplib.POP3("127.0.0.1", self.ports.pop3, timeout=TIMEOUT)
        if port == "stls":
            client.stls(context=client_context())
        return client

    def log_in(self, port: str = "pop3s", name: str = "alice", password: str = PASSWORD) -> poplib.POP3:
        """Return a POP3 client that has logged in with USER and PASS.  Raises poplib.error_proto."""
        client = self.pop3(port)
        try:
            client.user(name)
            client.pass_(password)
        except poplib.error_proto:
            client.close()
            raise
        return client

    def mail_of(self, name: str, password: str = PASSWORD) -> list[bytes]:
        """Return the messages in a maildrop, read by POP3."""
        client = self.log_in(name=name, password=password)
        texts = [b"\r\n".join(client.retr(number + 1)[1]) + b"\r\n" for number in range(client.stat()[0])]
        client.quit()
        return texts

    def may_relay(self, port: str = "smtp", source: str = "127.0.0.1") -> bool:
        """Return whether a client without a login may send remote mail."""
        with self.smtp(port, source) as client:
            assert client.mail("someone@far.test")[0] == 250
            code, text = client.rcpt("bob@far.test")
            assert code in (250, 550), (code, text)
            return code == 250


def authenticate(smtp: smtplib.SMTP, mechanism: str, name: str = "alice") -> int:
    """Log in with *mechanism* only; return the reply code.  Raises SMTPAuthenticationError."""
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
    """A replacement for sleep that returns at once."""


def meet(
    run: Run,
    client: Callable[[Served], T],
    *,
    kept: server.Stores | None = None,
    config: server.Config | None = None,
    sleep: Callable[[float], Awaitable[None]] = at_once,
    interceptors: Iterable[server.Interceptor | server.InterceptorFunction] = (),
    on_error: OnError | None = None,
    **options: Any,
) -> T:
    """Run a server, call *client* in a thread, stop the server, and return the client's result."""
    outbox = stores.MemoryOutbox()
    if kept is None:
        kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox)
    settings: dict[str, Any] = {
        "smtp": 0, "smtps": 0, "pop3": 0, "pop3s": 0, "ssl_context": server_context(), "postmaster": "bob",
        "domains": ("example.test", "example.org"), "strict_syntax": strict_syntax, **options,
    }  # fmt: skip
    clock = Clock()

    async def main() -> T:
        async with server.serve(
            config or server.Config(**settings),
            kept,
            clock=clock,
            sleep=sleep,
            interceptors=interceptors,
            on_error=on_error,
        ) as ports:
            served = Served(ports=ports, stores=kept, outbox=outbox, clock=clock)
            return await loops.current().in_thread(client, served)

    return run(main)
