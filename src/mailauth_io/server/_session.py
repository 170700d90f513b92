"""The base class of SMTP and POP3 sessions: logging, logins, interceptors, and cleanup at the end of the connection."""

from __future__ import annotations

import enum
import logging
import secrets
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final, Generic, TypeVar

from mailauth import Question, sasl, smtp

from ..adapters.connection import AsyncServerConnection
from ..adapters.listener import report_error
from ..logs import Event, describe_error, place, shown
from ..stores import Proof
from . import _interception
from ._log import LOGGER, CountingRepetitions, log
from ._offer import REQUIRED_PROOF
from .interceptors import Answer, Delay, Drop, Interceptor, Pass, SessionView
from .state import ServerState

E = TypeVar("E")

_COUNTED_BEFORE_THE_JSON: Final = (
    sasl.Refusal.BAD_CREDENTIALS,
    sasl.Refusal.TOO_WEAK,
    sasl.Refusal.TRANSITION_NEEDED,
)
"""The refusals of a token that ``Session.refuse_login()`` does not count."""

_DELAY_STEP: Final = 1.0
"""Seconds between two checks, during a Delay, whether the client has disconnected or the server shuts down."""


class Next(enum.Enum):
    """What a session does after the interceptors were asked about a question."""

    SERVER_ANSWERS = "answer the question"
    ANSWERED = "go on to the next event"
    DROPPED = "return, because the connection is closed"


class Session(ABC, Generic[E]):
    """The session of one connection.  *id* is the connection id in its log lines."""

    __slots__ = (
        "_asked",
        "_registered_identity",
        "_relay_permitted",
        "_reply",
        "connection",
        "id",
        "login_sequence",
        "mechanism",
        "server_state",
    )

    protocol: ClassVar[str]

    def __init__(self, server_state: ServerState, connection: AsyncServerConnection[E]) -> None:
        self.id = secrets.token_hex(6)
        self.server_state = server_state
        self.connection = connection
        self.login_sequence = 0
        """The sequence number of the start of the last login."""
        self.mechanism: str | None = None
        """The mechanism of the successful login; None before a login."""
        self._asked = False  # the current login has asked a question
        self._registered_identity: str | None = None  # the identity under which server_state lists this connection
        self._reply: smtp.Reply | None = None  # an interceptor's positive reply to the open question
        self._relay_permitted = False  # an interceptor permits the recipient of the open question

    @classmethod
    async def serve(cls, server_state: ServerState, connection: AsyncServerConnection[E]) -> None:
        """Serve *connection* until it closes.  All resources are released, after cancellation too."""
        session = cls(server_state, connection)
        session.log(logging.DEBUG, "connected")
        try:
            with CountingRepetitions():
                await session.run()
        finally:
            session.release_resources()
            session._set_identity(None)
            session.log(logging.DEBUG, "closed")

    def log(
        self,
        level: int,
        event: str,
        *,
        error: BaseException | None = None,
        repeatable: bool = True,
        **fields: object,
    ) -> None:
        """Log *event* with the connection's id, peer, protocol and TLS version, then *fields*.

        Text from the client must be escaped with ``shown()``.  *error* and *repeatable* as for ``_log.log()``.
        """
        if LOGGER.isEnabledFor(level):
            tls = self.connection.tls
            log(
                level,
                Event(
                    event,
                    {
                        "connection": self.id,
                        "peer": self.connection.peer.address,
                        "protocol": self.protocol,
                        "tls": None if tls is None else tls.version,
                        **fields,
                    },
                ),
                error=error,
                repeatable=repeatable,
            )

    def note_login(self, event: sasl.Authenticated | sasl.AuthenticationFailed) -> None:
        """Log the result of a login.  The format of a failed login is documented in docs/logging.md (fail2ban)."""
        if isinstance(event, sasl.Authenticated):
            self.mechanism = event.mechanism
            self._set_identity(event.identity)
            self.log(logging.INFO, "login", mechanism=event.mechanism, identity=shown(event.identity))
        else:
            reason = "ENDED" if event.reason is None else event.reason.name
            identity = shown(event.authentication_identity)
            self.log(logging.INFO, "login failed", mechanism=event.mechanism, identity=identity, reason=reason)

    def _set_identity(self, identity: str | None) -> None:
        if self._registered_identity is not None:
            self.server_state.remove_session(self.connection, self._registered_identity)
        self._registered_identity = identity
        if identity is not None:
            self.server_state.add_session(self.connection, identity, self.login_sequence)

    def start_login(self) -> None:
        """Record the start of a login: the client has chosen a mechanism."""
        self.login_sequence = self.server_state.next_sequence()
        self._asked = False

    async def answer_login(self, question: sasl.ServerQuestion) -> None:
        """Answer a question of the current login."""
        self._asked = True
        await self.server_state.answer_login(self.connection, self.id, question)

    async def refuse_login(self, event: sasl.AuthenticationFailed) -> None:
        """Log a failed login, count it for the client's address, and delay: the reply is sent after this returns.

        A login counts if it caused work: one with wrong credentials, one with a malformed response, which may be
        detected only after preparation (SASLprep), and one that ended after the server had sent a salt.
        """
        self.note_login(event)
        reason = event.reason
        if reason is sasl.Refusal.TEMPORARY:
            return
        if (
            REQUIRED_PROOF.get(event.mechanism) is Proof.TOKEN
            and self._asked
            and reason is not sasl.Refusal.NOT_AUTHORIZED
        ):
            return  # already counted and delayed before the JSON that reports a wrong token
        if self._asked or isinstance(reason, sasl.Refusal) or reason is sasl.Fault.MALFORMED:
            if reason is None:
                # The client has disconnected, so there is no reply to delay.
                self.server_state.count_failure(self.connection.peer.address)
            else:
                await self.server_state.delay_refusal(self.connection.peer.address)

    def view(self, question: Question[Any]) -> SessionView:
        """Return what interceptors see of this session when *question* is open."""
        connection = self.connection
        return SessionView(
            protocol=self.protocol,
            connection_id=self.id,
            peer=connection.peer,
            tls=connection.tls,
            identity=connection.identity,
        )

    async def intercept(self, question: Question[Any]) -> Next:
        """Ask the interceptors about *question*, and carry out the first decision other than PASS.

        A positive answer is only kept, since the server may still refuse, unless *question* belongs to a login or is
        MessageComplete.
        """
        self._reply = None
        self._relay_permitted = False
        view = self.view(question)
        for interceptor in self.server_state.interceptors:
            decision = await self._decision(interceptor, view, question)
            if not isinstance(decision, Pass):
                break
        else:
            return Next.SERVER_ANSWERS
        self.log(
            logging.INFO, "intercepted",
            interceptor=interceptor.name, question=type(question).__name__, **_interception.described(view, question),
            decision=_interception.shown_decision(decision),
        )  # fmt: skip
        is_login = isinstance(question, _interception.LOGIN_QUESTIONS)
        if isinstance(decision, Drop):
            if is_login:
                self._abandon_login(question)
            self.connection.abort()
            return Next.DROPPED
        if is_login:
            self._asked = True
            if isinstance(question, sasl.CheckToken) and decision in _COUNTED_BEFORE_THE_JSON:
                await self.server_state.delay_refusal(self.connection.peer.address)
        elif not (_interception.is_negative(decision) or isinstance(question, smtp.MessageComplete)):
            self._reply = decision if isinstance(decision, smtp.Reply) else None
            self._relay_permitted = interceptor.may_relay and isinstance(question, smtp.Rcpt)
            return Next.SERVER_ANSWERS
        answer: Any = decision
        self.connection.answer(question, answer)
        return Next.ANSWERED

    async def _decision(
        self, interceptor: Interceptor, view: SessionView, question: Question[Any]
    ) -> Answer | Pass | Drop:
        """Return the decision of *interceptor* after its delay.

        If it fails, the failure is logged and passed to ``on_error``, and ``question.unavailable`` is returned.
        """
        unavailable: Answer = question.unavailable
        try:
            decision = await _interception.call(interceptor, view, question)
        except BaseException as error:
            if _interception.ends_session(error):
                raise
            # With secrets, the message of the exception may quote a password or a token.
            quotable = not (interceptor.secrets and isinstance(question, _interception.LOGIN_QUESTIONS))
            self.log(
                logging.ERROR, "interceptor failed",
                interceptor=interceptor.name, question=type(question).__name__,
                reason=describe_error(error) if quotable else type(error).__name__, at=place(error),
                error=error if quotable else None,
            )  # fmt: skip
            report_error(
                self.server_state.on_error,
                error
                if quotable and isinstance(error, Exception)
                else _interception.without_message(interceptor, question, error),
                self.connection.peer,
            )
            return unavailable
        if not isinstance(decision, Delay):
            return decision
        left = decision.seconds
        while left > 0:
            if self.connection.peer_closed or self.server_state.stopping.is_set():
                self.connection.shut_down()
                return unavailable
            await self.server_state.sleep(min(left, _DELAY_STEP))
            left -= _DELAY_STEP
        return decision.then

    def _abandon_login(self, question: Question[Any]) -> None:
        """Log and count a login whose connection an interceptor closes."""
        self.server_state.count_failure(self.connection.peer.address)
        self.note_login(
            sasl.AuthenticationFailed(
                mechanism=getattr(question, "mechanism", ""),
                authentication_identity=getattr(question, "authentication_identity", None),
                reason=None,
            )
        )

    @abstractmethod
    async def run(self) -> None:
        """Handle every event until the connection closes."""

    @abstractmethod
    def release_resources(self) -> None:
        """Release memory and the maildrop.  A second call does nothing."""
