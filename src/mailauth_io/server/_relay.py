"""The transactions of one session of the server with the next hop.

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
    LocalProtocolError,
    smtp,
)

from .._line_ends import PIECE
from ..logs import Event
from ..stores import DeliveryRejected, Envelope, MessageContent
from ._log import log
from ._next_hop_session import NextHopSession
from ._next_hop_state import NextHopState
from ._relay_replies import (
    BUSY,
    FAILURES,
    NO_EIGHT_BITS,
    TAKEN_BACK,
    TOO_BIG,
    ConnectionLost,
    client_reply,
    failure_reply,
    reason,
    recipient_reply,
)
from ._session_limiter import Place, RelayClient


class RelayConnection:
    """A connection to the next hop, opened for the first remote recipient and reused for later transactions.

    It is an Outbox: ``stage()`` returns after the next hop has accepted the message.  It is also a context manager,
    which closes the connection at its end.
    """

    __slots__ = (
        "_client_seconds",
        "_clock",
        "_has_recipient",
        "_hop",
        "_host_name",
        "_mail",
        "_open",
        "_place",
        "_session",
        "_seven_bits",
        "_smtp",
        "_state",
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
        self._smtp: NextHopSession | None = None
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
                reply = await self._open_smtp.ask_about_mail(smtp.Rcpt(forward_path=path))
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
                reply = await self._open_smtp.ask_about_mail(smtp.Data())
            if reply.code == 354:
                for chunk in (head, *content.chunks):
                    for start in range(0, len(chunk), PIECE):
                        with fail_after(timeouts.block):
                            await self._open_smtp.write(chunk[start : start + PIECE])
                self._open = None
                early = await self._open_smtp.has_spoken()
                with fail_after(timeouts.final_reply):
                    reply = self._open_smtp.check_about_mail(await self._open_smtp.ask(smtp.MessageComplete()))
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
        if (
            self._smtp is not None
            and self._place is not None
            and (
                self._clock() - self._smtp.used_at > self._hop.timeouts.idle
                or self._place.client != client
                or self._state.sessions.is_wanted(self._place)  # a client that pipelines is never seen idle
            )
        ):
            await self.close()
        if self._smtp is not None:
            try:
                await self._open_smtp.check_silence()
                if self._open is None or (await self._open_smtp.ask(smtp.Rset())).positive:
                    return await self._send_mail(mail)
            except FAILURES:
                pass  # lost while idle or at the first command: the transaction can start on a new connection
            self._abort()
        await self.connect(client)
        return await self._send_mail(mail)

    async def _send_mail(self, mail: smtp.Mail) -> smtp.Reply | None:
        offered = self._open_smtp.extensions
        # Many clients declare every message as 8BITMIME.  Whether this one can be sent is known when it is complete.
        self._seven_bits = mail.body is smtp.Body.EIGHT_BIT_MIME and "8BITMIME" not in offered
        command = smtp.Mail(
            reverse_path=mail.reverse_path,
            size=mail.size if "SIZE" in offered else None,
            body=mail.body if "8BITMIME" in offered else None,
        )
        try:
            reply = await self._open_smtp.ask_about_mail(command)
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
                await self._open_smtp.check_silence()
                if (await self._open_smtp.ask(smtp.Rset())).positive:
                    self._open = None
        except FAILURES:
            self._abort()

    async def connect(self, client: RelayClient) -> None:
        """Wait for a place of *client* among the sessions with the next hop, and begin a session.

        Raises an exception that ``reason()`` describes; the caller must then abort the connection.
        """
        try:
            self._place = await self._state.sessions.acquire(client, self._make_room, self._hop.timeouts.session)
        except TimeoutError:
            raise ConnectionLost("too many sessions (max_sessions)", BUSY) from None
        self._smtp = NextHopSession(self._state, host_name=self._host_name, clock=self._clock, log=self._log)
        await self._smtp.connect()

    @property
    def _open_smtp(self) -> NextHopSession:
        if self._smtp is None:
            raise ConnectionLost("not connected")
        return self._smtp

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
        session, self._smtp, self._open = self._smtp, None, None
        if session is not None:
            session.abort()
        place, self._place = self._place, None
        if place is not None:
            self._state.sessions.release(place)

    async def close(self) -> None:
        """Send QUIT and close the connection, within the timeout for it."""
        session, place = self._smtp, self._place
        if session is None or place is None:
            self._abort()
            return
        self._smtp = self._open = self._place = None
        self._state.sessions.mark_busy(place)
        try:
            with contextlib.suppress(*FAILURES):
                await session.aclose()
        finally:
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


def _is_seven_bit(content: MessageContent) -> bool:
    return all(chunk.isascii() for chunk in content.chunks)
