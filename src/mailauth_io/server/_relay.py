"""One session's way to the next hop: recipients are asked for there as they come, the message follows when it is whole.

Knows what a reply of the next hop, or its absence, means for our client; refuses to know who may relay and where local
copies stay.  docs/relay.md draws the states, and says what happens when the connection dies.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from mailauth import ACCEPT, Command, LocalProtocolError, MessageChunk, RemoteProtocolError, Tls, sasl, smtp

from .. import _loops
from .._adapter import Client
from ..logs import Event
from ..stores import Envelope, MessageContent
from ..stores.content import PIECE
from ._log import LOGGER
from .delivery import DeliveryRejected
from .next_hop import NextHop

UNREACHABLE: Final = smtp.Reply(451, "4.4.1", "the next hop cannot take mail now, try again later")
NO_EIGHT_BITS: Final = smtp.Reply(554, "5.6.3", "the next hop does not take 8BITMIME, and nothing is converted here")
TOO_BIG: Final = smtp.Reply(554, "5.3.4", "the next hop does not take messages of this size")

MAX_TEXT: Final = 400
"""Characters of a reply of the next hop that are passed on, so that it fits into one line; no RFC names a number."""

_ABOUT_US: Final = frozenset({503, 530, 534, 535, 538})
"""Refusals of the way that we speak or log in, not of this mail: it must not bounce because of them."""


class _ConnectionLost(Exception):
    """The next hop can do nothing more for this transaction; the text says why, *reply* is what our client hears."""

    def __init__(self, reason: str, reply: smtp.Reply = UNREACHABLE) -> None:
        super().__init__(reason)
        self.reply = reply


class _StartTlsFailed(Exception):
    """STARTTLS was offered, and the connection broke in it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


_FAILURES: Final = (_ConnectionLost, OSError, LocalProtocolError, RemoteProtocolError)


class RelayConnection:
    """A connection to the next hop, made when a recipient needs it, used for one transaction after another.

    It is an Outbox: what it stages, the next hop has.  Leave its context and the connection ends.
    """

    __slots__ = (
        "_client",
        "_clock",
        "_hop",
        "_host_name",
        "_machine",
        "_mail",
        "_open",
        "_session",
        "_used",
        "refusal",
    )

    def __init__(self, hop: NextHop, *, host_name: str, session: str, clock: Callable[[], float]) -> None:
        """*host_name* is how we name ourselves, *session* the connection id for the log, *clock* gives seconds."""
        self._hop = hop
        self._host_name = host_name
        self._session = session
        self._clock = clock
        self._client: Client[smtp.ClientEvent] | None = None
        self._machine: smtp.ClientConnection | None = None
        self._used = 0.0
        self._mail: smtp.Mail | None = None  # the transaction that the last recipient belonged to
        self._open: smtp.Mail | None = None  # the transaction that is open there: that one, or an earlier one
        self.refusal: smtp.Reply | None = None
        """What the next hop, or its absence, says to that transaction as a whole."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._send_quit()
        else:
            self._abort()

    # What our client asks for

    async def recipient(self, mail: smtp.Mail, path: smtp.Mailbox) -> smtp.Verdict:
        """What the next hop says to this recipient of *mail*; 451 when it says nothing of use.

        It hears of the transaction, which is known by the very object that *mail* is, with the first recipient.
        """
        if mail is not self._mail:
            self._mail = mail
            self.refusal = None
        if self.refusal is not None:
            return self.refusal
        try:
            async with _loops.current().within(self._hop.timeouts.recipient):
                if self._open is not mail:
                    self.refusal = await self._open_transaction(mail)
                    if self.refusal is not None:
                        return self.refusal
                reply = await self._ask_about_mail(smtp.Rcpt(forward_path=path))
        except _FAILURES as error:
            return self._lose(error)
        return ACCEPT if reply.positive else _passed_on(reply)

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> _RelayedMessage:
        """Hand the message on.  Returns only when the next hop has said 250; raises Declined with what to say else."""
        timeouts, loop = self._hop.timeouts, _loops.current()
        if self.refusal is not None:
            raise DeliveryRejected(self.refusal)
        try:
            async with loop.within(timeouts.data):
                reply = await self._ask_about_mail(smtp.Data())
            if reply.code == 354:
                for chunk in (head, *content.chunks):
                    for start in range(0, len(chunk), PIECE):
                        async with loop.within(timeouts.block):
                            self._connected.send(MessageChunk(data=chunk[start : start + PIECE]))
                            await self._connected.flush()
                self._open = None
                async with loop.within(timeouts.final_reply):
                    reply = await self._ask_next_hop(smtp.MessageComplete())
        except _FAILURES as error:
            raise DeliveryRejected(self._lose(error)) from None
        if not reply.positive:
            raise DeliveryRejected(_passed_on(reply))
        self._log(logging.INFO, "next hop took", queue_id=envelope.queue_id, reply=reply)
        return _RelayedMessage()

    # What is said to the next hop

    async def _open_transaction(self, mail: smtp.Mail) -> smtp.Reply | None:
        """Over the connection that there is, or a new one; what the next hop says if it will not."""
        if self._client is not None and self._clock() - self._used > self._hop.timeouts.idle:
            await self._send_quit()
        if self._client is not None:
            try:
                if self._open is None or (await self._ask_next_hop(smtp.Rset())).positive:
                    return await self._send_mail(mail)
            except _FAILURES:
                pass  # it had gone, or went, since it was last used: no word of this transaction is lost
            self._abort()
        await self.connect()
        return await self._send_mail(mail)

    async def _send_mail(self, mail: smtp.Mail) -> smtp.Reply | None:
        offered = self._offered
        if mail.body is smtp.Body.EIGHT_BIT_MIME and "8BITMIME" not in offered:
            return NO_EIGHT_BITS
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
            return _passed_on(reply)
        self._open = mail
        return None

    async def connect(self) -> None:
        """Connect, go inside TLS, log in.  Raises what ``reason()`` explains, and leaves a half-made connection then.

        Where no TLS is needed and STARTTLS breaks, connect once more and stay in clear text (RFC 7435 section 3).  No
        mail and no login has been said by then.
        """
        hop = self._hop
        in_clear = not hop.needs_tls and hop.tls_failure.is_recent(self._clock())
        try:
            await self._connect(in_clear=in_clear)
        except _StartTlsFailed as error:
            if hop.needs_tls:
                raise error.cause from None
            self._abort()
            hop.tls_failure.record(self._clock())
            self._log(logging.WARNING, "next hop in clear", reason=reason(error.cause))
            await self._connect(in_clear=True)

    async def _connect(self, *, in_clear: bool) -> None:
        hop = self._hop
        self._open = None
        self._client = client = await _loops.current().adapter.connect(
            self._build, hop.host, hop.port, ssl_context=hop.ssl_context, implicit_tls=hop.implicit_tls
        )
        greeting = await self._reply()
        if not greeting.positive:
            raise _ConnectionLost(f"greeted with {greeting}")
        await self._send_hello()
        if client.tls is None and hop.ssl_context is not None and "STARTTLS" in self._offered and not in_clear:
            if await self._start_tls():
                await self._send_hello()
        if client.tls is None and hop.needs_tls:
            raise _ConnectionLost("no TLS to be had, and it is required")
        if hop.login is not None:
            client.authenticate(*hop.login.mechanisms(client.tls, clear_text=hop.clear_text_login))
            event = await self._event()
            if not isinstance(event, sasl.Authenticated):
                # Its text stays out of the log: it may repeat what it was told.
                raise _ConnectionLost(
                    f"our login was refused with {event.reply.code} {event.reply.enhanced_status_code}"
                )

    async def _start_tls(self) -> bool:
        """Whether the next hop took STARTTLS.  Raises _StartTlsFailed when the connection did not survive it."""
        self._connected.send(smtp.StartTls())
        try:
            event = await self._event()
        except (_ConnectionLost, OSError, RemoteProtocolError) as error:
            raise _StartTlsFailed(error) from error
        return self._reply_in(event).positive

    def _build(self, tls: Tls | None) -> smtp.ClientConnection:
        settings = smtp.ClientSettings(tls_required=self._hop.needs_tls)
        self._machine = smtp.ClientConnection(settings, tls=tls)
        return self._machine

    async def _send_hello(self) -> None:
        for extended in (True, False):
            reply = await self._ask_next_hop(smtp.Hello(domain=self._host_name, extended=extended))
            if reply.positive:
                return
        raise _ConnectionLost(f"EHLO and HELO refused with {reply}")

    @property
    def _offered(self) -> Mapping[str, str]:
        return {} if self._machine is None else self._machine.extensions

    async def _ask_next_hop(self, command: Command) -> smtp.Reply:
        self._connected.send(command)
        return await self._reply()

    async def _ask_about_mail(self, command: smtp.Mail | smtp.Rcpt | smtp.Data) -> smtp.Reply:
        reply = await self._ask_next_hop(command)
        if reply.code == 530:
            self._hop.tls_failure.clear()  # it may want TLS, which is tried by the next transaction
        if reply.code in _ABOUT_US:
            raise _ConnectionLost(f"will not do with us: {reply}")
        return reply

    async def _reply(self) -> smtp.Reply:
        return self._reply_in(await self._event())

    def _reply_in(self, event: smtp.ClientEvent) -> smtp.Reply:
        if isinstance(event, sasl.Authenticated):
            raise _ConnectionLost("a login that was not begun has ended")
        reply = event.reply
        if reply.code == 421:
            raise _ConnectionLost(f"closed with {reply}", _passed_on(reply, code=451))
        return reply

    async def _event(self) -> smtp.ClientEvent:
        async for event in self._connected:
            self._used = self._clock()
            return event
        raise _ConnectionLost("closed the connection")

    @property
    def _connected(self) -> Client[smtp.ClientEvent]:
        if self._client is None:
            raise _ConnectionLost("no connection")
        return self._client

    # The end

    def _lose(self, error: Exception) -> smtp.Reply:
        """Nothing more comes of this transaction there; the next one gets a new connection."""
        self._abort()
        self._log(logging.ERROR, "next hop failed", reason=reason(error))
        self.refusal = error.reply if isinstance(error, _ConnectionLost) else UNREACHABLE
        return self.refusal

    def _log(self, level: int, event: str, **fields: object) -> None:
        LOGGER.log(level, Event(event, {"connection": self._session, "next_hop": str(self._hop), **fields}))

    def _abort(self) -> None:
        client, self._client, self._open = self._client, None, None
        if client is not None:
            client.abort()

    async def _send_quit(self) -> None:
        """Say QUIT, within bounds."""
        client, self._client, self._open = self._client, None, None
        if client is not None:
            with contextlib.suppress(*_FAILURES):
                async with _loops.current().within(self._hop.timeouts.quit):
                    await client.aclose()


class _RelayedMessage:
    """The next hop has it, for good."""

    async def commit(self) -> None:
        """Nobody waits for that."""

    def discard(self) -> None:
        """It is too late."""


async def check_next_hop(hop: NextHop, host_name: str) -> str | None:
    """Connect to *hop* and log in, once; why mail could not go there now, None when it could."""
    try:
        async with (
            _loops.current().within(hop.timeouts.check),
            RelayConnection(hop, host_name=host_name, session="-", clock=time.monotonic) as relaying,
        ):
            await relaying.connect()
    except _FAILURES as error:
        return reason(error)
    return None


def reason(error: Exception) -> str:
    """What went wrong with the next hop, for the end of a log line; no word of it is from a login."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    kind = "" if isinstance(error, _ConnectionLost) else f"{type(error).__name__}: "
    return f"{kind}{_one_line(str(error))}"


def _passed_on(reply: smtp.Reply, *, code: int | None = None) -> smtp.Reply:
    """*reply* as our client hears it: in one line, and never without an enhanced status code."""
    enhanced = reply.enhanced_status_code or f"{reply.code // 100}.0.0"
    return smtp.Reply(code or reply.code, enhanced, _one_line(reply.text))


def _one_line(text: str) -> str:
    """What a server said, printable and without an end of line that could forge another one in a log."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")[:MAX_TEXT]
