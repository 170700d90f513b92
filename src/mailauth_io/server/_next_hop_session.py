"""One session with the next hop: the connection, TLS, the login, and commands with their replies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from anyio import fail_after

from mailauth import Command, RemoteProtocolError, Tls, sasl, smtp

from .._event_loop import current_adapter
from .._lookup import resolve
from .._workers import DNS
from ..adapters import AsyncClientConnection
from ..client import ClientError, ConnectionFailed, ServerRejected, SmtpClient
from ..limits import Limits
from ._next_hop_state import NextHopState
from ._relay_replies import LOOP, ConnectionLost, client_reply, is_server_fault, login_failure, reason
from .next_hop import Login


class _StartTlsFailed(Exception):
    """STARTTLS was offered, and the connection or the handshake failed."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class NextHopSession:
    """A session with the next hop, for one or more transactions.

    The methods raise one of FAILURES if it has failed; the caller must then abort it.
    """

    __slots__ = ("_client", "_clock", "_connection", "_hop", "_host_name", "_log", "_state", "used_at")

    def __init__(
        self, state: NextHopState, *, host_name: str, clock: Callable[[], float], log: Callable[..., None]
    ) -> None:
        """*host_name* is sent with EHLO, *clock* returns seconds, and *log* is called with a level and an event."""
        self._state = state
        self._hop = state.hop
        self._host_name = host_name
        self._clock = clock
        self._log = log
        self._client: SmtpClient | None = None
        self._connection: AsyncClientConnection[smtp.ClientEvent] | None = None  # that of the client
        self.used_at = 0.0
        """The time of the last reply, on *clock*."""

    async def connect(self) -> None:
        """Connect, start TLS and log in.

        If TLS is optional and STARTTLS fails, connect once more and stay in clear text (RFC 7435 section 3).  Neither
        mail nor a login has been sent by then.
        """
        hop = self._hop
        in_clear = not hop.needs_tls and self._state.tls_failure.is_recent(self._clock())
        try:
            await self._connect(in_clear=in_clear)
        except _StartTlsFailed as error:
            if hop.needs_tls:
                raise error.cause from error.cause.__cause__
            self.abort()
            self._state.tls_failure.record(self._clock())
            self._log(logging.WARNING, "next hop without TLS", reason=reason(error.cause))
            await self._connect(in_clear=True)

    async def _connect(self, *, in_clear: bool) -> None:
        hop = self._hop
        client, connection = await self._connect_to_any(in_clear=in_clear)
        if client.tls is None and hop.needs_tls:
            raise ConnectionLost("TLS is required and not available")
        if hop.login is not None:
            await self._log_in(client, connection, hop.login)

    async def _log_in(
        self, client: SmtpClient, connection: AsyncClientConnection[smtp.ClientEvent], login: Login
    ) -> None:
        """Log in with the strongest mechanism that the next hop offers.

        If it is refused, others are tried by the rules of ``sasl.mechanisms_after_refusal()``.
        """
        hop = self._hop
        history = self._state.login_history
        mechanisms = login.mechanisms(client.tls, clear_text=hop.clear_text_login, only=hop.mechanism)
        if not mechanisms:  # a -PLUS form was named, and Python knows no channel binding for this certificate
            raise ConnectionLost(f"{hop.mechanism} cannot be used on this connection")
        names = client.extensions.get("AUTH", "").upper().split()
        offered = history.sort(mechanism for mechanism in mechanisms if mechanism.name in names)
        retry = history.may_retry(self._clock())
        if not retry:
            offered = offered[:1]
        connection.authenticate(*(offered or mechanisms), retry_weaker=retry)
        event: smtp.ClientEvent | None = None
        try:
            event = await anext(connection, None)
        finally:
            if retry and _may_have_refused_all(event):
                history.record_failure(self._clock())
        if isinstance(event, sasl.Authenticated):
            worked = next(each for each in offered if each.name == event.mechanism and each.satisfied)
            refused = offered[: offered.index(worked)]
            history.record_success(worked, refused)
            if refused:
                skipped = ",".join(each.name for each in refused)
                self._log(logging.WARNING, "next hop refused a mechanism", refused=skipped, mechanism=worked.name)
        elif isinstance(event, smtp.AuthenticationRejected):
            raise login_failure(event)
        else:
            raise ConnectionLost("closed the connection during the login")

    async def _connect_to_any(self, *, in_clear: bool) -> tuple[SmtpClient, AsyncClientConnection[smtp.ClientEvent]]:
        """Begin a session at the first address of the next hop with which this succeeds.

        The addresses may belong to different servers, of which one is down for a while (RFC 5321 section 5.1).  Each
        but the last one has a limited time.  If it succeeds with none, raise the error that says most: that STARTTLS
        has failed, else a rejection, else the last error.
        """
        hop = self._hop
        failure: Exception = OSError(f"no address found for {hop.host}")
        addresses = await DNS.run(resolve, hop.host, hop.port, timeout=hop.timeouts.recipient)
        for number, address in enumerate(addresses, 1):
            try:
                with fail_after(None if number == len(addresses) else hop.timeouts.connect):
                    return await self._begin_session(address, in_clear=in_clear)
            except (OSError, ClientError, RemoteProtocolError, _StartTlsFailed) as error:
                self.abort()
                if _weight(error) >= _weight(failure):
                    failure = error
        raise failure

    async def _begin_session(
        self, address: str, *, in_clear: bool
    ) -> tuple[SmtpClient, AsyncClientConnection[smtp.ClientEvent]]:
        """Connect to *address*, receive the greeting, send EHLO and, unless *in_clear*, start TLS if it is offered."""
        hop = self._hop
        connection, machine = await self._open_connection(address)
        self._connection = connection
        self._client = client = SmtpClient(connection, machine, timeout=hop.timeouts.final_reply)
        greeting = await client.start(client_name=self._host_name)
        if self._state.token in greeting.text:
            raise ConnectionLost("it is this server, so that mail would loop", LOOP)
        if client.tls is None and hop.ssl_context is not None and "STARTTLS" in client.extensions and not in_clear:
            if await self._start_tls(client):
                await client.hello(self._host_name)
        return client, connection

    async def _open_connection(
        self, address: str
    ) -> tuple[AsyncClientConnection[smtp.ClientEvent], smtp.ClientConnection]:
        hop = self._hop
        machines: list[smtp.ClientConnection] = []

        def build(tls: Tls | None) -> smtp.ClientConnection:
            settings = smtp.ClientSettings(tls_required=hop.needs_tls, strict_syntax=hop.strict_syntax)
            machines.append(smtp.ClientConnection(settings, tls=tls))
            return machines[0]

        connection = await current_adapter().connect(
            build,
            address,
            hop.port,
            ssl_context=hop.ssl_context,
            implicit_tls=hop.implicit_tls,
            server_hostname=hop.host.removesuffix("."),  # certificates have no dot at the end
            limits=Limits(connect_timeout=hop.timeouts.connect),
        )
        return connection, machines[0]

    async def _start_tls(self, client: SmtpClient) -> bool:
        """Send STARTTLS; return whether TLS is active now.  Raises _StartTlsFailed if the connection is lost."""
        try:
            reply = await client.execute(smtp.StartTls())
        except ConnectionFailed as error:
            raise _StartTlsFailed(error) from error
        return self._checked(reply).positive

    async def ask(self, command: Command) -> smtp.Reply:
        reply = self._checked(await self._open_client.execute(command))
        self.used_at = self._clock()
        return reply

    async def check_silence(self) -> None:
        """Raise ConnectionLost if the next hop has said something since its last reply, or has closed the connection.

        A server that waits too long for a command says so: 421, 451 or even 221.  That is no reply to the next command.
        """
        if await self.has_spoken():
            raise ConnectionLost("closed the connection, or sent a reply to no command")

    async def has_spoken(self) -> bool:
        """Return whether the next hop has said something since its last reply, or has closed the connection."""
        connection = self._connection
        if connection is None:
            return False
        await connection.flush()
        return connection.input_waiting

    @property
    def _open_client(self) -> SmtpClient:
        if self._client is None:
            raise ConnectionLost("not connected")
        return self._client

    async def ask_about_mail(self, command: smtp.Mail | smtp.Rcpt | smtp.Data) -> smtp.Reply:
        await self.check_silence()
        return self.check_about_mail(await self.ask(command))

    def check_about_mail(self, reply: smtp.Reply) -> smtp.Reply:
        """Return *reply*, unless it is about this server instead of the mail."""
        if reply.code == 530:
            self._state.tls_failure.clear()  # it may require TLS: the next transaction tries STARTTLS again
        if is_server_fault(reply):
            raise ConnectionLost(f"refuses mail from this server: {reply}")
        return reply

    def _checked(self, reply: smtp.Reply) -> smtp.Reply:
        """Return *reply*, unless the next hop ends the session with it."""
        if reply.code == 421:
            raise ConnectionLost(f"closed the connection with {reply}", client_reply(reply, code=451))
        return reply

    async def write(self, data: bytes) -> None:
        """Send a part of a message."""
        await self._open_client.write(data)

    @property
    def extensions(self) -> Mapping[str, str]:
        """The extensions that the next hop offers."""
        return self._open_client.extensions

    def abort(self) -> None:
        """Close the connection at once."""
        client, self._client, self._connection = self._client, None, None
        if client is not None:
            client.abort()

    async def aclose(self) -> None:
        """Send QUIT, and close the connection."""
        try:
            with fail_after(self._hop.timeouts.quit):
                await self._open_client.aclose()
        finally:
            self.abort()


def _weight(error: Exception) -> tuple[bool, bool]:
    return isinstance(error, _StartTlsFailed), isinstance(error, ServerRejected)


def _may_have_refused_all(event: smtp.ClientEvent | None) -> bool:
    """Return whether *event*, the end of a login, was perhaps preceded by refusals.

    None is a lost connection: a next hop may close it after some refusals.
    """
    if isinstance(event, smtp.AuthenticationRejected):
        return event.reply.code >= 500 or bool(event.earlier)
    return not isinstance(event, sasl.Authenticated)
