"""Run one row with one kind of client on its own servers, and measure what is visible on the wire."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import attrs
from anyio import to_thread

from mailauth import pop3

from .. import server, stores
from ..adapters.tls.certificates import TemporaryCertificate
from .client_config import HOST, AuthenticationRejected, ClientConfig, ClientFailed, Clients, ServerNotProved
from .mailauth_clients import MailauthClients
from .messages import below_trace, make_message, submitted_authenticated
from .outcome import Columns, StepFailed
from .proxy import RecordingProxy
from .rows import ROWS, Row, TlsMode
from .standard_library import StandardLibrary
from .wire import Conversation, look_for, look_for_secret

LIFETIME: Final = 1800.0
OTHER_HOST: Final = "127.0.0.2"
DOMAIN: Final = "example.test"
LOCAL: Final = f"postmaster@{DOMAIN}"  # an alias of the account, so that RCPT does not show the account name
REMOTE_ADDRESS: Final = "friend@remote.test"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def move(self, seconds: float) -> None:
        """Advance the clock by *seconds*."""
        self._now += seconds


Running = Callable[[server.Config, server.Stores, Clock], AbstractAsyncContextManager[server.RunningServer]]


def _running(
    config: server.Config, recorded: server.Stores, clock: Clock
) -> AbstractAsyncContextManager[server.RunningServer]:
    return server.serve(config, recorded, clock=clock)


class ReadableOutbox(stores.Outbox, Protocol):
    """An outbox whose messages can be read."""

    @property
    def messages(self) -> tuple[stores.RelayedMessage, ...]:
        """The relayed messages, oldest first."""
        ...


@attrs.frozen(kw_only=True)
class Bench:
    """The parts that the rows run with.  A test can replace one with a broken part, and check that a row fails."""

    certificate: TemporaryCertificate
    """The certificate of the server."""
    another: TemporaryCertificate
    """A certificate from another CA."""
    running: Running = _running
    accounts: Callable[[Mapping[str, bytes]], stores.Accounts] = stores.MemoryAccounts
    grants: Callable[[float, Clock], stores.Grants] = lambda lifetime, clock: stores.MemoryGrants(
        lifetime=lifetime, clock=clock
    )
    outbox: Callable[[], ReadableOutbox] = stores.MemoryOutbox
    clients: tuple[Clients, ...] = (StandardLibrary(), MailauthClients())
    rows: tuple[Row, ...] = ROWS


async def measure(row: Row, clients: Clients, bench: Bench) -> Columns:
    """Run the steps of *row*, and return its columns.  Raises StepFailed at the first step that fails."""
    trial = _Trial(row, clients, bench)
    async with bench.running(trial.config, trial.stores, trial.clock) as running, trial.recorded(running):
        await trial.go()
    return trial.columns()


class _Trial:
    def __init__(self, row: Row, clients: Clients, bench: Bench) -> None:
        # Random and long, so that none of them occurs by chance in ciphertext or in a challenge.
        self._name = f"walter-{secrets.token_hex(6)}"
        self._password = f"open sesame {secrets.token_hex(6)}"
        self._passage = f"Meet me where the chestnut tree stood, {secrets.token_hex(6)}."
        self._row, self._clients, self._bench = row, clients, bench
        self._implicit = row.tls_mode is TlsMode.IMPLICIT
        self._messages: list[bytes] = []  # accepted for remote recipients
        self._record: list[Conversation] = []
        self._proved = False
        self.clock = Clock()
        self._outbox = bench.outbox()
        self._maildrops = stores.MemoryMaildrops()
        self.config = server.Config(
            hosts=(HOST,),
            smtp=None if self._implicit else 0,
            smtps=0 if self._implicit else None,
            pop3=None if self._implicit else 0,
            pop3s=0 if self._implicit else None,
            domains=(DOMAIN,),
            postmaster=self._name,
            ssl_context=bench.certificate.server,
            legacy=row.tls_mode is TlsMode.CLEAR,
        )
        self.stores = server.Stores(
            accounts=bench.accounts({self._name: self._password.encode()}),
            maildrops=self._maildrops,
            outbox=self._outbox,
            grants=bench.grants(LIFETIME, self.clock),
        )

    @asynccontextmanager
    async def recorded(self, running: server.RunningServer) -> AsyncGenerator[None]:
        """Route all clients through recording proxies.  The record is complete when the context ends."""
        ports = (running.smtps, running.pop3s) if self._implicit else (running.smtp, running.pop3)
        proxies = [RecordingProxy(HOST, port) for port in ports if port is not None]
        self._client_config = ClientConfig(
            smtp=proxies[0].port,
            pop3=proxies[1].port,
            tls_mode=self._row.tls_mode,
            login=self._row.login,
            name=self._name,
            password=self._password,
            trusted=self._bench.certificate.client(),
        )
        try:
            yield
        finally:
            for proxy in proxies:
                await to_thread.run_sync(proxy.close)  # it waits for the server, which runs in this thread
                self._record += proxy.record

    async def go(self) -> None:
        await self._deliver()
        await self._try_wrong_password()
        await self._relay("relaying before authentication", taken=False)
        if self._row.login.by_pop3:
            await self._log_in("POP3 login and retrieval")
            await self._relay("submission after the login", taken=True)
            await self._relay(f"submission from {OTHER_HOST}", taken=False, source=OTHER_HOST)
            self.clock.move(LIFETIME - 1)
            await self._relay("submission in the last second of the grant", taken=True)
            self.clock.move(1)
            await self._relay("submission with an expired grant", taken=False)
            await self._log_in("second POP3 login")
            await self._relay("submission after the second login", taken=True)
        else:
            await self._relay(f"submission with {self._row.login.value}", taken=True, authenticate=True)
            await self._relay("later submission without authentication", taken=False)
        self._proved = await self._stranger_gives_up()
        self._check_outbox()

    async def _relay(self, step: str, *, taken: bool, authenticate: bool = False, source: str = HOST) -> None:
        written = self._make_message(step)
        code = await self._submit(step, REMOTE_ADDRESS, written, authenticate=authenticate, source=source)
        if taken:
            self._messages.append(written)
            if code != 250:
                raise StepFailed(step, f"rejected with {code}")
        elif not 500 <= code <= 599:
            raise StepFailed(step, f"expected a 5xx reply, got {code}")

    async def _deliver(self) -> None:
        step = "mail for a local recipient without authentication"
        self._local_message = self._make_message(step)
        code = await self._submit(step, LOCAL, self._local_message)
        if code != 250:
            raise StepFailed(step, f"rejected with {code}")
        if below_trace(await self._newest()) != self._local_message:
            raise StepFailed(step, "the message in the maildrop is not the one that was submitted")

    async def _newest(self) -> bytes:
        """Return the newest message in the maildrop, read directly from the store."""
        opened = await self._maildrops.open(self._name)
        if isinstance(opened, pop3.Unavailable) or not opened.messages:
            return b""
        try:
            data = b""
            while True:
                piece = await opened.read(len(opened.messages), len(data))
                data += piece.data
                if piece.last:
                    return data
        finally:
            opened.close()

    async def _submit(
        self, step: str, recipient: str, written: bytes, *, authenticate: bool = False, source: str = HOST
    ) -> int:
        try:
            return await self._clients.submit(
                self._client_config, recipient=recipient, content=written, authenticate=authenticate, source=source
            )
        except ClientFailed as failed:
            raise StepFailed(step, str(failed)) from failed

    async def _try_wrong_password(self) -> None:
        step = "login with a wrong password"
        client_config = attrs.evolve(self._client_config, password=f"open poppy {secrets.token_hex(6)}")
        try:
            if self._row.login.by_pop3:
                await self._clients.collect(client_config)
            else:
                content = self._make_message(step)
                await self._clients.submit(client_config, recipient=REMOTE_ADDRESS, content=content, authenticate=True)
        except AuthenticationRejected:
            return
        except ClientFailed as failed:
            raise StepFailed(step, str(failed)) from failed
        raise StepFailed(step, "not rejected")

    async def _log_in(self, step: str) -> None:
        try:
            found = await self._clients.collect(self._client_config)
        except ClientFailed as failed:
            raise StepFailed(step, str(failed)) from failed
        if below_trace(found) != self._local_message:
            raise StepFailed(step, "the retrieved message is not the one that was delivered")

    async def _stranger_gives_up(self) -> bool:
        """Return whether clients that trust another CA abort: with SMTP, and with POP3 if the login uses it."""
        if self._row.tls_mode is TlsMode.CLEAR:
            return False
        client_config = attrs.evolve(self._client_config, trusted=self._bench.another.client())
        submission = self._clients.submit(
            client_config, recipient=LOCAL, content=self._local_message, authenticate=False
        )
        if not await _gives_up(submission):
            return False
        return await _gives_up(self._clients.collect(client_config)) if self._row.login.by_pop3 else True

    def _check_outbox(self) -> None:
        arrived = [message.data for message in self._outbox.messages]
        if len(arrived) != len(self._messages):
            raise StepFailed("the outbox", f"has {len(arrived)} messages, expected {len(self._messages)}")
        for data, written in zip(arrived, self._messages, strict=True):
            if below_trace(data) != written:
                raise StepFailed("the outbox", "a message is not the one that was submitted")

    def _make_message(self, step: str) -> bytes:
        return make_message(f"{step}, {secrets.token_hex(4)}", self._passage)

    def columns(self) -> Columns:
        """Return the columns, from the record and from the trace header of the first message in the outbox."""
        authenticated = submitted_authenticated(self._outbox.messages[0].data)
        return Columns(
            credentials_checked_by="SMTP server" if authenticated else "POP3 server",
            name_on_the_wire=look_for(self._name.encode(), self._record).value,
            password_on_the_wire=look_for_secret(self._password.encode(), self._record).value,
            message_on_the_wire=look_for(self._passage.encode(), self._record).value,
            server_proved_by="certificate" if self._proved else "nothing",
        )


async def _gives_up(client_config: Awaitable[object]) -> bool:
    try:
        await client_config
    except ServerNotProved:
        return True
    except ClientFailed as failed:
        raise StepFailed("a client that trusts another CA", f"failed for another reason: {failed}") from failed
    return False
