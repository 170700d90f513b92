"""One SMTP session: answers the core's questions from the relay policy and the stores.

Permission is checked at RCPT only; MAIL never requires a login.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Final, Self, TypeVar, assert_never

import attrs

from mailauth import ACCEPT, ExtensionQuestion, MessageChunk, Notice, Question, TlsStarted, sasl, smtp
from mailauth.grants import Grant, Lookup
from mailauth.policy import Reason

from ..adapters.connection import AsyncServerConnection
from ..logs import shown
from ..stores import BudgetExceeded, MessageContent, Outbox
from . import delivery, trace
from ._relay import RelayConnection
from ._session import Next, Session
from ._session_limiter import RelayClient
from .interceptors import ReceivedMessage, SessionView
from .next_hop import NextHop
from .state import ServerState

A = TypeVar("A")

RECIPIENT: Final = 256
"""Bytes charged for a recipient in addition to its address; with short addresses, one uses about 300 bytes in all."""

NO_MAILBOX = smtp.Reply(550, "5.1.1", "no such mailbox here")

_ABOUT_MAIL: Final = smtp.Mail | smtp.Rcpt | smtp.Data | smtp.MessageComplete
"""The questions of a mail transaction."""

# Constants, since an attribute of an enum takes longer.
_LOCAL: Final = Reason.LOCAL
_NO_GRANT: Final = Reason.NO_GRANT

_NO_MAIL: Final = smtp.Mail(reverse_path=None)
"""A placeholder before the first MAIL."""

_NO_HELLO: Final = smtp.Hello(domain="unknown", extended=False)
"""A placeholder: the core accepts no MAIL before EHLO."""


RECIPIENT_SECONDS: Final = 1.0
"""Seconds that a RCPT adds to the time for which a client may keep a session with the next hop waiting.  A client with
a slow connection may send many of them, one after the other."""


@attrs.frozen(eq=False)
class _TimedEvents:
    """The events of *connection*.  The waits for them are reported to *hop*.

    Content adds to the time that the client has left as it does in the core (``NeedData.min_rate``): the client of a
    large message is not slow, and one that sends a byte now and then is.
    """

    connection: AsyncServerConnection[smtp.ServerEvent]
    hop: RelayConnection
    min_rate: float

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> smtp.ServerEvent:
        self.hop.begin_client_wait()
        event = await anext(self.connection)
        progress = 0.0
        if isinstance(event, MessageChunk):
            progress = len(event.data) / self.min_rate
        elif isinstance(event, smtp.Rcpt):
            progress = RECIPIENT_SECONDS
        self.hop.end_client_wait(progress)
        return event


class SmtpSession(Session[smtp.ServerEvent]):
    """An SMTP session.  It holds one mail transaction, and its content while it is received."""

    __slots__ = (
        "_accepted",
        "_arrived",
        "_content",
        "_grant",
        "_hello",
        "_hop",
        "_kept",
        "_lookup",
        "_mail",
        "_maildrops",
        "_messages",
        "_outbox",
        "_permission",
        "_quota",
        "_relayed",
    )

    protocol: ClassVar[str] = "SMTP"

    def __init__(self, server_state: ServerState, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        super().__init__(server_state, connection)
        self._hello = _NO_HELLO
        self._lookup: Lookup = None  # the lookup for the interceptors at the open question
        self._grant: str | None = None  # the identity that it has last found in this transaction
        self._messages = 0  # for which DATA was accepted, counted for the queue ids
        self._content: MessageContent | None = None
        self._arrived = 0  # bytes of content received
        self._kept = 0  # bytes that the recipients use
        self._quota = server_state.inbound_quota.share_of(connection.peer.address)
        self._hop: RelayConnection | None = None
        outbox = server_state.stores.outbox
        if server_state.next_hop is not None:
            outbox = self._hop = RelayConnection(
                server_state.next_hop,
                host_name=server_state.config.domains[0],
                session=self.id,
                clock=server_state.clock,
            )
        assert outbox is not None  # serve() has checked it
        assert not isinstance(outbox, NextHop)
        self._outbox: Outbox = outbox
        self._mail = _NO_MAIL
        self._permission: tuple[str, str | None] | None = None  # for the log: reason and identity
        # The dicts keep the recipients in order and without duplicates.
        self._maildrops: dict[str, None] = {}
        self._relayed: dict[smtp.Mailbox, None] = {}
        self._accepted: list[smtp.Rcpt] = []  # for interceptors

    def _begin(self, mail: smtp.Mail) -> None:
        """Start a mail transaction."""
        self._mail = mail
        self._forget_recipients()
        self._permission = None

    def _forget_recipients(self) -> None:
        """Release the memory of the recipients."""
        if self._kept:  # each accepted recipient adds to it
            self._release(self._kept)
            self._maildrops.clear()
            self._relayed.clear()
            self._accepted.clear()

    @property
    def _sender(self) -> str:
        """The reverse-path without brackets, in the grammar of RFC 5321; empty for the null one."""
        return "" if self._mail.reverse_path is None else str(self._mail.reverse_path)

    async def run(self) -> None:
        if self._hop is None:
            await self._answer_all()
        else:
            async with self._hop:
                await self._answer_all()

    async def _answer_all(self) -> None:
        connection = self.connection
        answer = connection.answer
        intercepted = bool(self.server_state.interceptors)
        if intercepted:
            answer = self._answer_intercepted
        events: AsyncIterator[smtp.ServerEvent] = connection
        if self._hop is not None:
            events = _TimedEvents(connection, self._hop, self.server_state.config.limits.min_rate)
        async for event in events:
            if intercepted and isinstance(event, Question):
                following = await self.intercept(event)
                if following is Next.DROPPED:
                    return
                if following is Next.ANSWERED:
                    continue
            match event:
                case smtp.Mail() as question:
                    answer(question, self._open(question))
                case smtp.Rcpt() as question:
                    answer(question, await self._rcpt(question))
                case smtp.Data() as question:
                    answer(question, self._data())
                case MessageChunk(data=data):
                    self._take(data)
                case smtp.MessageComplete() as question:
                    connection.answer(question, await self._complete())
                case smtp.MessageAborted(reason=reason):
                    self.log(logging.INFO, "message aborted", reason=reason.name)
                    self._drop_content()  # the core keeps the recipients until the end of the content
                case (
                    sasl.CheckPassword()
                    | sasl.FetchSecret()
                    | sasl.FetchScramKeys()
                    | sasl.CheckToken()
                    | sasl.CheckExternal()
                    | sasl.Authorize()
                ) as question:
                    await self.answer_login(question)
                case smtp.Connected() as question:
                    connection.answer(question, self._greeting())
                case smtp.StartTls() as question:
                    answer(question, ACCEPT)
                case smtp.Hello():
                    self._hello = event
                    self.release_resources()
                case smtp.Rset():
                    self.release_resources()
                case sasl.AuthenticationStarted():
                    self.start_login()
                case sasl.Authenticated():
                    self.note_login(event)
                case sasl.AuthenticationFailed():
                    await self.refuse_login(event)
                case TlsStarted(dropped=dropped):
                    self.mechanism = None
                    self._hello = _NO_HELLO
                    if dropped:
                        self.log(logging.WARNING, "clear text dropped", bytes=dropped)
                case smtp.CommandRejected(verb=verb, reply=reply):
                    self.log(logging.DEBUG, "command refused", verb=verb or None, reply=reply)
                case ExtensionQuestion():
                    connection.decline(event)
                case Notice():
                    pass
                case _:
                    assert_never(event)

    def view(self, question: Question[Any]) -> SessionView:
        machine, content = self.connection.machine, self._content
        assert isinstance(machine, smtp.ServerConnection)
        return attrs.evolve(
            super().view(question),
            grant=self._grant if isinstance(question, _ABOUT_MAIL) else None,
            hello=None if self._hello is _NO_HELLO else self._hello,
            mail=machine.mail,
            recipients=() if machine.mail is None else tuple(self._accepted),
            message=None
            if content is None or not isinstance(question, smtp.MessageComplete)
            else ReceivedMessage(content, self._queue_id, self._received(self._queue_id)),
        )

    async def intercept(self, question: Question[Any]) -> Next:
        if isinstance(question, smtp.Mail | smtp.Rcpt):
            await self._look_up_grant(question)
        if not isinstance(question, smtp.MessageComplete):
            return await super().intercept(question)
        content = self._content
        if content is None:
            return Next.SERVER_ANSWERS  # it refuses the message, which no interceptor could read
        content.seal()
        if trace.is_refused(content):
            return Next.SERVER_ANSWERS  # an interceptor might send it on
        following = await super().intercept(question)
        if following is not Next.SERVER_ANSWERS:
            self.release_resources()
        return following

    async def _look_up_grant(self, question: smtp.Mail | smtp.Rcpt) -> None:
        """Look up the grant that interceptors see.  A client that has logged in needs none."""
        if isinstance(question, smtp.Mail):
            self._grant = None  # that of the last transaction
        self._lookup = None
        if self.connection.identity is None:
            self._lookup = await self.server_state.find_grant(self.id, self.connection.peer.address)
        if isinstance(self._lookup, Grant):
            self._grant = self._lookup.identity

    def _answer_intercepted(self, question: Question[A], answer: A) -> None:
        """Answer *question*.  If the answer is positive, the reply of the interceptor is sent instead."""
        asked: object = question
        verdict: Any = answer
        if verdict is ACCEPT:
            if isinstance(asked, smtp.Rcpt):
                self._accepted.append(asked)
            verdict = self._reply or ACCEPT
        self.connection.answer(question, verdict)

    def _greeting(self) -> smtp.Verdict:
        """Return the greeting, that of an interceptor if it has one.

        If this server relays, the greeting has the token by which it recognizes itself as its next hop.
        """
        hop = self.server_state.next_hop
        if hop is None:
            return self._reply or ACCEPT
        text = self._reply.text if self._reply is not None and self._reply.text else "ESMTP"
        return smtp.Reply(220, "", f"{text} {hop.token}")

    def _open(self, question: smtp.Mail) -> smtp.Verdict:
        if question.size is not None and question.size > self.server_state.stores.budget.free:
            return delivery.NO_ROOM
        self._begin(question)
        return ACCEPT

    async def _rcpt(self, question: smtp.Rcpt) -> smtp.Verdict:
        server_state, path = self.server_state, question.forward_path
        identity = self.connection.identity
        decision = server_state.policy.decide(path, identity=identity, grant=None)
        if decision.reason is _NO_GRANT and not self._relay_permitted:
            grant = self._lookup  # what the interceptors have seen, so that they and the policy agree
            if not server_state.interceptors:
                grant = await server_state.find_grant(self.id, self.connection.peer.address)
            decision = server_state.policy.decide(path, identity=identity, grant=grant)
        verdict = decision.verdict
        reason: Reason | None = decision.reason
        if reason is _NO_GRANT and self._relay_permitted:
            verdict, reason = ACCEPT, None
        if verdict is ACCEPT:
            size = self._size_of(question)
            try:
                self._take_memory(size)
            except BudgetExceeded:
                verdict = delivery.NO_ROOM
            else:
                verdict = await (self._local(question) if reason is _LOCAL else self._remote(path, decision.identity))
                if verdict is not ACCEPT:
                    self._release(size)
        if verdict is not ACCEPT:
            self.log(
                logging.INFO, "recipient refused",
                hello=shown(self._hello.domain), sender=shown(self._sender), recipient=shown(str(path)),
                reason=_shown_reason(reason), reply=verdict,
            )  # fmt: skip
        elif self._permission is None or reason is not _LOCAL:
            self._permission = _shown_reason(reason), decision.identity  # one that permits relaying replaces LOCAL
        return verdict

    def _size_of(self, question: smtp.Rcpt) -> int:
        """Return the bytes of memory that a recipient uses until the end of its transaction.

        The size of a text is not its number of characters: with one emoji, each of them takes four bytes.
        """
        path = question.forward_path
        size = RECIPIENT + sys.getsizeof(path.local_part) + sys.getsizeof(path.domain)
        if self.server_state.interceptors:  # they see the whole command
            size += RECIPIENT + sum(map(sys.getsizeof, question.source_route))
        return size

    def _take_memory(self, size: int) -> None:
        """Charge *size* bytes to the address and to the budget.  Raises BudgetExceeded, and charges nothing."""
        self._quota.take(size)
        try:
            self.server_state.stores.budget.take(size)
        except BudgetExceeded:
            self._quota.release(size)
            raise
        self._kept += size

    def _release(self, size: int) -> None:
        """Return memory that ``_take_memory()`` has charged."""
        self._quota.release(size)
        self.server_state.stores.budget.release(size)
        self._kept -= size

    async def _remote(self, path: smtp.Mailbox, identity: str | None) -> smtp.Verdict:
        """Return the verdict on a permitted remote recipient: that of the next hop if there is one.

        *identity* is the account that is responsible for it.
        """
        if path in self._relayed:
            return ACCEPT
        if self._hop is not None:
            server_state = self.server_state
            name = identity and (server_state.name(identity) or identity)
            client = RelayClient(server_state.limit_key(self.connection.peer.address), name)
            verdict = await self._hop.recipient(self._mail, path, client)
            if verdict is not ACCEPT:
                return verdict
        self._relayed[path] = None
        return ACCEPT

    async def _local(self, question: smtp.Rcpt) -> smtp.Verdict:
        """Return the verdict on a local recipient: whether the mailbox exists."""
        try:
            accounts = await self.server_state.accounts(self.id)
            for name in self._local_names(question.forward_path):
                if await accounts.exists(name):
                    self._maildrops[name] = None
                    return ACCEPT
        except Exception as error:
            self.server_state.log_failure(self.id, "accounts", error)
            return question.unavailable
        return NO_MAILBOX

    def _local_names(self, path: smtp.Mailbox) -> tuple[str, ...]:
        """Return the canonical name of the mailbox of a local *path*.

        For the postmaster (RFC 5321 section 4.5.1), the configured account follows, in case no account has this name.
        """
        if path.local_part.lower() == "postmaster":
            return ("postmaster", self.server_state.postmaster)
        return (self.server_state.name(f"{path.local_part}@{path.domain}"),)  # not str(): names have no quotes

    def _data(self) -> smtp.Verdict:
        if self._relayed and self._hop is not None and self._hop.refusal is not None:
            return self._hop.refusal  # the connection was lost after it had accepted recipients
        try:
            self._content = MessageContent(self.server_state.stores.budget)
        except BudgetExceeded:
            return delivery.NO_ROOM
        self._messages += 1
        return ACCEPT

    @property
    def _queue_id(self) -> str:
        """The queue id of the current message."""
        return f"{self.id}-{self._messages}"

    def _take(self, data: bytes) -> None:
        if self._content is None:
            return  # an earlier chunk exceeded a limit: the message is rejected when it is complete
        try:
            if not self._arrived and (empty_line := trace.end_of_trace(data)):
                self._content.append(empty_line)
            self._quota.take(len(data))
            self._arrived += len(data)
            self._content.append(data)
        except BudgetExceeded:
            self._drop_content()

    async def _complete(self) -> smtp.Verdict:
        content = self._content
        if content is None:
            reply = delivery.NO_ROOM
            self._forget_recipients()
            self.log(logging.WARNING, "message refused", sender=shown(self._sender), reply=reply)
            return reply
        content.seal()
        queue_id = self._queue_id
        message = delivery.Message(
            queue_id=queue_id,
            reverse_path=self._mail.reverse_path,
            maildrops=tuple(self._maildrops),
            relayed=tuple(path.spelling for path in self._relayed),
            received=self._received(queue_id),
            content=content,
        )
        size = content.size
        try:
            reply = await delivery.deliver(message, self.server_state.stores.maildrops, self._outbox)
        finally:
            self.release_resources()
        reason, identity = self._permission or (None, None)
        self.log(
            logging.INFO, "message", repeatable=not reply.positive,
            queue_id=queue_id, mechanism=self.mechanism, hello=shown(self._hello.domain),
            sender=shown(self._sender), size=size, maildrops=len(message.maildrops),
            remote=len(message.relayed), reason=reason, by=shown(identity), reply=reply,
        )  # fmt: skip
        return reply

    def _received(self, queue_id: str) -> bytes:
        hello, connection = self._hello, self.connection
        return trace.received(
            hello=hello,
            peer=connection.peer.address,
            host_name=self.server_state.config.domains[0],
            protocol=trace.protocol_keyword(
                extended=hello.extended,
                tls=connection.tls is not None,
                authenticated=connection.identity is not None,
            ),
            queue_id=queue_id,
            when=time.time(),
        )

    def release_resources(self) -> None:
        """End the mail transaction: release its memory, and the connection to the next hop for other sessions."""
        self._drop_content()
        self._forget_recipients()

    def _drop_content(self) -> None:
        """Release the content of the current message, and the connection to the next hop."""
        if self._hop is not None:
            self._hop.end_transaction()
        content, self._content = self._content, None
        if content is not None:
            content.release()
            self._quota.release(self._arrived)
            self._arrived = 0


def _shown_reason(reason: Reason | None) -> str:
    """Return why a recipient was accepted or refused, for the log.  None: an interceptor permits relaying."""
    return "INTERCEPTOR" if reason is None else reason.name
