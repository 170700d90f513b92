"""The connection of one session to the next hop.

Each RCPT for a remote recipient is passed on to the next hop at once; the message is sent when it is complete.
docs/relay.md has the state diagram, and what happens when a connection is lost.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from anyio import current_time, fail_after

from mailauth import (
    ACCEPT,
    Command,
    LocalProtocolError,
    RemoteProtocolError,
    Tls,
    sasl,
    smtp,
)

from .._event_loop import current_adapter
from .._line_ends import PIECE
from .._lookup import resolve
from .._workers import DNS
from ..adapters import AsyncClientConnection
from ..client import ClientError, ConnectionFailed, ServerRejected, SmtpClient
from ..limits import Limits
from ..logs import Event
from ..stores import DeliveryRejected, Envelope, MessageContent
from ._log import log
from ._next_hop_state import NextHopState
from ._relay_replies import (
    BUSY,
    FAILURES,
    LOOP,
    NO_EIGHT_BITS,
    TAKEN_BACK,
    TOO_BIG,
    ConnectionLost,
    client_reply,
    failure_reply,
    is_server_fault,
    login_failure,
    reason,
    recipient_reply,
)
from ._session_limiter import Place, RelayClient
from .next_hop import Login


class _StartTlsFailed(Exception):
    """STARTTLS was offered, and the connection or the handshake failed."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class RelayConnection:
    """A connection to the next hop, opened for the first remote recipient and reused for later transactions.

    It is an Outbox: ``stage()`` returns after the next hop has accepted the message.  It is also a context manager,
    which closes the connection at its end.
    """

    __slots__ = (
        "_client",
        "_client_seconds",
        "_clock",
        "_connection",
        "_has_recipient",
        "_hop",
        "_host_name",
        "_mail",
        "_open",
        "_place",
        "_session",
        "_seven_bits",
        "_state",
        "_used",
        "refusal",
    )

    def __init__(self, state: NextHopState, *, host_name: str, session: str, clock: Callable[[], float]) -> None:
        """*host_name* is sent with EHLO, *session* is the connection id for the log, *clock* returns seconds."""
        self._state = state
        self._hop = state.hop
        self._place: Place | None = None  # that of the connection in state.sessions
        self._client_seconds = 0.0  # how long the server still waits for the client if others want the place
        self._host_name = host_name
        self._session = session
        self._clock = clock
        self._client: SmtpClient | None = None
        self._connection: AsyncClientConnection[smtp.ClientEvent] | None = None  # that of the client
        self._used = 0.0
        self._mail: smtp.Mail | None = None  # the transaction of the last recipient
        self._open: smtp.Mail | None = None  # the transaction open at the next hop: that one or an earlier one
        self._seven_bits = False  # that transaction was declared as 8BITMIME, which the next hop does not offer
        self._has_recipient = False  # that transaction has an accepted recipient
        self.refusal: smtp.Reply | None = None
        """The reply that rejects every remote recipient of that transaction, or None."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self._abort()

    async def recipient(self, mail: smtp.Mail, path: smtp.Mailbox, client: RelayClient) -> smtp.Verdict:
        """Ask the next hop to accept *path*, a recipient of *mail*; return its verdict, or 451 if it gives none.

        The first recipient starts the transaction at the next hop.  A transaction is identified by the *mail* object.
        The session with the next hop is counted for *client*.
        """
        if mail is not self._mail:
            self._mail = mail
            self.refusal = None
        if self.refusal is not None:
            return self.refusal
        if self._place is not None:
            self._state.sessions.mark_busy(self._place)
        try:
            with fail_after(self._hop.timeouts.recipient):
                if self._open is not mail:
                    self.refusal = await self._open_transaction(mail, client)
                    if self.refusal is not None:
                        self.end_transaction()
                        return self.refusal
                reply = await self._ask_about_mail(smtp.Rcpt(forward_path=path))
        except FAILURES as error:
            return self._fail_transaction(error)
        if reply.positive:
            self._has_recipient = True
            return ACCEPT
        return recipient_reply(reply, first=not self._has_recipient)

    def end_transaction(self) -> None:
        """Report that the client's transaction has ended, or needs the next hop no more.

        If another session waits, it may close this connection now.
        """
        if self._place is not None:
            self._state.sessions.mark_idle(self._place)

    def begin_client_wait(self) -> None:
        """Report that the server waits for the client now.

        A client has half of ``Timeouts.session`` for a transaction.  When they are used up, another session that waits
        may close this connection.
        """
        if self._place is not None and not self._place.idle:
            self._state.sessions.mark_waiting(self._place, current_time() + self._client_seconds)

    def end_client_wait(self, progress: float) -> None:
        """Report that the wait for the client has ended.  *progress* is added to the seconds that are left for it."""
        if self._place is not None and not self._place.idle:
            left = self._place.deadline - current_time() + progress
            self._client_seconds = min(max(left, 0.0), self._hop.timeouts.session / 2)
            self._state.sessions.mark_busy(self._place)

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> _RelayedMessage:
        """Send the message to the next hop; return when it has replied 250.

        Raises DeliveryRejected with the reply for the client otherwise.
        """
        timeouts = self._hop.timeouts
        if self.refusal is not None:
            raise DeliveryRejected(self.refusal)
        if self._seven_bits and not _is_seven_bit(content):
            await self._reset()
            raise DeliveryRejected(NO_EIGHT_BITS)
        try:
            with fail_after(timeouts.data):
                reply = await self._ask_about_mail(smtp.Data())
            if reply.code == 354:
                for chunk in (head, *content.chunks):
                    for start in range(0, len(chunk), PIECE):
                        with fail_after(timeouts.block):
                            await self._open_client.write(chunk[start : start + PIECE])
                self._open = None
                early = await self._has_spoken()
                with fail_after(timeouts.final_reply):
                    reply = self._check_about_mail(await self._ask_next_hop(smtp.MessageComplete()))
                if early:  # it may reject the message before its end, as Exim does, but cannot accept it
                    if reply.positive:
                        raise ConnectionLost(f"replied {reply.code} before the end of the message")
                    self._abort()
        except FAILURES as error:
            raise DeliveryRejected(self._fail_transaction(error)) from None
        if not reply.positive:
            raise DeliveryRejected(client_reply(reply))
        self._log(logging.INFO, "message relayed", repeatable=False, queue_id=envelope.queue_id, reply=reply)
        return _RelayedMessage()

    async def _open_transaction(self, mail: smtp.Mail, client: RelayClient) -> smtp.Reply | None:
        """Send MAIL over the existing connection or a new one; return the reply that rejects it, or None."""
        if self._place is not None and (
            self._clock() - self._used > self._hop.timeouts.idle
            or self._place.client != client
            or self._state.sessions.is_wanted(self._place)  # a client that pipelines is never seen idle
        ):
            await self.close()
        if self._client is not None:
            try:
                await self._check_silence()
                if self._open is None or (await self._ask_next_hop(smtp.Rset())).positive:
                    return await self._send_mail(mail)
            except FAILURES:
                pass  # lost while idle or at the first command: the transaction can start on a new connection
            self._abort()
        await self.connect(client)
        return await self._send_mail(mail)

    async def _send_mail(self, mail: smtp.Mail) -> smtp.Reply | None:
        offered = self._open_client.extensions
        # Many clients declare every message as 8BITMIME.  Whether this one can be sent is known when it is complete.
        self._seven_bits = mail.body is smtp.Body.EIGHT_BIT_MIME and "8BITMIME" not in offered
        command = smtp.Mail(
            reverse_path=mail.reverse_path,
            size=mail.size if "SIZE" in offered else None,
            body=mail.body if "8BITMIME" in offered else None,
        )
        try:
            reply = await self._ask_about_mail(command)
        except LocalProtocolError:
            if command.size is None:
                raise
            return TOO_BIG
        if not reply.positive:
            return client_reply(reply)
        self._open = mail
        self._has_recipient = False
        self._client_seconds = self._hop.timeouts.session / 2
        return None

    async def _reset(self) -> None:
        """Abandon the transaction at the next hop.  If that fails, drop the connection."""
        try:
            with fail_after(self._hop.timeouts.recipient):
                await self._check_silence()
                if (await self._ask_next_hop(smtp.Rset())).positive:
                    self._open = None
        except FAILURES:
            self._abort()

    async def connect(self, client: RelayClient) -> None:
        """Wait for a place of *client* among the sessions with the next hop, connect, start TLS and log in.

        Raises an exception that ``reason()`` describes; the caller must then abort the connection.  If TLS is optional
        and STARTTLS fails, connect once more and stay in clear text (RFC 7435 section 3).  Neither mail nor a login
        has been sent by then.
        """
        hop = self._hop
        try:
            self._place = await self._state.sessions.acquire(client, self._make_room, hop.timeouts.session)
        except TimeoutError:
            raise ConnectionLost("too many sessions (max_sessions)", BUSY) from None
        in_clear = not hop.needs_tls and self._state.tls_failure.is_recent(self._clock())
        try:
            await self._connect(in_clear=in_clear)
        except _StartTlsFailed as error:
            if hop.needs_tls:
                raise error.cause from error.cause.__cause__
            self._disconnect()
            self._state.tls_failure.record(self._clock())
            self._log(logging.WARNING, "next hop without TLS", reason=reason(error.cause))
            await self._connect(in_clear=True)

    async def _connect(self, *, in_clear: bool) -> None:
        hop = self._hop
        self._open = None
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
                self._disconnect()
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

    async def _ask_next_hop(self, command: Command) -> smtp.Reply:
        reply = self._checked(await self._open_client.execute(command))
        self._used = self._clock()
        return reply

    async def _check_silence(self) -> None:
        """Raise ConnectionLost if the next hop has said something since its last reply, or has closed the connection.

        A server that waits too long for a command says so: 421, 451 or even 221.  That is no reply to the next command.
        """
        if await self._has_spoken():
            raise ConnectionLost("closed the connection, or sent a reply to no command")

    async def _has_spoken(self) -> bool:
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

    async def _ask_about_mail(self, command: smtp.Mail | smtp.Rcpt | smtp.Data) -> smtp.Reply:
        await self._check_silence()
        return self._check_about_mail(await self._ask_next_hop(command))

    def _check_about_mail(self, reply: smtp.Reply) -> smtp.Reply:
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

    def _fail_transaction(self, error: Exception) -> smtp.Reply:
        """Log the failure, drop the connection and return the reply that rejects the rest of the transaction.

        The next transaction opens a new connection.
        """
        self._abort()
        self._log(logging.ERROR, "next hop failed", reason=reason(error))
        self.refusal = failure_reply(error)
        return self.refusal

    def _log(self, level: int, event: str, *, repeatable: bool = True, **fields: object) -> None:
        fields = {"connection": self._session, "next_hop": str(self._hop), **fields}
        log(level, Event(event, fields), repeatable=repeatable)

    def _abort(self) -> None:
        """Close the connection at once, and release its place."""
        self._disconnect()
        place, self._place = self._place, None
        if place is not None:
            self._state.sessions.release(place)

    def _disconnect(self) -> None:
        """Close the connection at once, and keep its place for another connection."""
        client, self._client, self._connection, self._open = self._client, None, None, None
        if client is not None:
            client.abort()

    async def close(self) -> None:
        """Send QUIT and close the connection, within the timeout for it."""
        client, place = self._client, self._place
        if client is None or place is None:
            self._abort()
            return
        self._client = self._connection = self._open = self._place = None
        self._state.sessions.mark_busy(place)
        try:
            with contextlib.suppress(*FAILURES):
                with fail_after(self._hop.timeouts.quit):
                    await client.aclose()
        finally:
            client.abort()
            self._state.sessions.release(place)

    async def _make_room(self) -> None:
        """Close the connection.  Another task, which wants its place, calls it: this one waits for its client.

        An open transaction fails, unless the next hop has accepted no recipient of it yet: then the next recipient
        starts it again.
        """
        if self._place is not None and not self._place.idle and self._has_recipient:
            self.refusal = TAKEN_BACK
            self._log(logging.INFO, "session with next hop taken back")
        await self.close()


class _RelayedMessage:
    """A message that the next hop has accepted."""

    async def commit(self) -> None:
        """Do nothing: the next hop has the message already."""

    def discard(self) -> None:
        """Do nothing: the message cannot be taken back."""


async def check_next_hop(state: NextHopState, host_name: str) -> str | None:
    """Connect to the next hop and log in once.  Return None on success, else the reason of the failure as text.

    *host_name* is the domain or address literal sent with EHLO.
    """
    try:
        with fail_after(state.hop.timeouts.check):
            async with RelayConnection(state, host_name=host_name, session="-", clock=time.monotonic) as relaying:
                await relaying.connect(RelayClient(""))
    except FAILURES as error:
        return reason(error)
    return None


def _weight(error: Exception) -> tuple[bool, bool]:
    return isinstance(error, _StartTlsFailed), isinstance(error, ServerRejected)


def _may_have_refused_all(event: smtp.ClientEvent | None) -> bool:
    """Return whether *event*, the end of a login, was perhaps preceded by refusals.

    None is a lost connection: a next hop may close it after some refusals.
    """
    if isinstance(event, smtp.AuthenticationRejected):
        return event.reply.code >= 500 or bool(event.earlier)
    return not isinstance(event, sasl.Authenticated)


def _is_seven_bit(content: MessageContent) -> bool:
    return all(chunk.isascii() for chunk in content.chunks)
