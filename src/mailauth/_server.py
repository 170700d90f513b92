"""What the two servers share: questions and their answers, challenges, and the one path that every login takes.

Knows no verb and no reply; who may log in is the application's to answer.
"""

from __future__ import annotations

import hmac
from abc import abstractmethod
from typing import ClassVar, TypeAlias, TypeVar, cast

from . import sasl
from ._errors import LocalProtocolError
from ._events import Action, CloseReason, NeedData, Question, Send, Tls, TlsStarted
from ._lines import LineTooLong
from ._machine import Machine

A = TypeVar("A")
E = TypeVar("E")

LoginEvent: TypeAlias = sasl.ServerQuestion | sasl.Authenticated | sasl.AuthenticationFailed


class ServerMachine(Machine[E]):
    """A server: asks its application, and answers its client."""

    __slots__ = ("_entropy", "_exchange", "_identity", "_nonces", "_ready")

    _asks_extended: ClassVar[bool] = False
    """Whether its application is asked about more than passwords: SCRAM keys, tokens, certificates."""

    def __init__(self, *, entropy: bytes, tls: Tls | None) -> None:
        if len(entropy) != 32:
            raise LocalProtocolError("entropy must be 32 octets, fresh for each connection")
        super().__init__(tls)
        self._entropy = entropy
        self._nonces = 0
        self._identity: str | None = None
        self._exchange: sasl.ServerExchange | None = None
        # A reply that leaves alone, and before anything else: what a short path sets and looks at first.
        self._ready: Send | None = None

    @property
    def identity(self) -> str | None:
        """The authorization identity of the client; None before a login, and again after STARTTLS or STLS."""
        return self._identity

    def answer(self, question: Question[A], answer: A) -> None:
        """Answer the open question.

        Raises LocalProtocolError, the question staying open, when *question* is not the open one or *answer* is none
        for it.
        """
        if self._question is None or question is not self._question:
            raise LocalProtocolError("this question is not open: it was answered, or never asked here")
        exchange = self._exchange
        if exchange is None:
            self._resolve(question, answer)
            self._question = None
        else:
            step = exchange.answer(answer)
            self._question = None
            self._proceed(exchange, step)

    @abstractmethod
    def _resolve(self, question: Question[A], answer: A) -> None:
        """Act on an answer; raise LocalProtocolError before anything changed when it cannot be one."""

    # The login

    def _announce(self, event: LoginEvent) -> None:
        """Queue *event*."""
        if isinstance(event, sasl.ExtendedQuestion) and not self._asks_extended:
            self._cannot_ask(event)
        else:
            self._events.append(cast(E, event))  # each server's events hold those of the logins that it allows

    @abstractmethod
    def _challenge(self, data: bytes) -> None:
        """Write a mechanism's challenge in the protocol's form."""

    @abstractmethod
    def _accept_login(self, success: sasl.Success) -> None:
        """The identity is proved."""

    @abstractmethod
    def _reject_login(self, reason: sasl.Refusal | sasl.Fault, *, counts: bool) -> None:
        """The login failed: say so.  *counts*: against the number of failed logins, not of errors."""

    def _nonce(self) -> str:
        """32 hexadecimal digits, never the same twice: a counter under the entropy of this connection (HMAC-SHA256)."""
        self._nonces += 1
        return hmac.digest(self._entropy, b"%d" % self._nonces, "sha256").hex()[:32]

    def _start_login(self, mechanism: sasl.ServerMechanism) -> sasl.ServerExchange:
        """Open the exchange; the caller begins it and hands its first step to ``_proceed()``."""
        self._exchange = exchange = sasl.ServerExchange(mechanism)
        return exchange

    def _take_response(self, exchange: sasl.ServerExchange, need: NeedData) -> Action | None:
        """The next line of an AUTH exchange."""
        try:
            line = self._input.take_line(sasl.MAX_LINE)
        except LineTooLong:
            self._proceed(exchange, sasl.Fault.TOO_LONG)
            return None
        if line is None:
            return self._need_more_data(need)
        self._proceed(exchange, exchange.receive(line))
        return None

    def _proceed(self, exchange: sasl.ServerExchange, step: sasl.Step) -> None:
        """Carry out what the mechanism says next; its events follow the one that is being returned."""
        match step:
            case sasl.Challenge(data=data):
                self._challenge(data)
            case sasl.Success(authorization_identity=identity):
                self._exchange = None
                self._identity = identity
                self._accept_login(step)
                self._announce(sasl.Authenticated(mechanism=exchange.mechanism, identity=identity))
            case sasl.Refusal() | sasl.Fault():
                self._exchange = None
                self._reject_login(step, counts=_is_failed_login(exchange, step))
                self._announce(login_failed(exchange, step))
            case question:
                self._question = question
                self._announce(question)

    def _cannot_ask(self, question: sasl.ExtendedQuestion) -> None:
        """The application of this server is asked about passwords alone: a mechanism of another kind slipped in."""
        exchange = self._exchange
        assert exchange is not None
        self._question = None
        self._proceed(exchange, exchange.answer(question.unavailable))

    # The end

    def _begin_shutdown(self) -> None:
        self._end_unfinished(self._why)
        self._send_shutdown_reply()
        self._close(self._why)

    @abstractmethod
    def _send_shutdown_reply(self) -> None:
        """``shut_down()`` was called: the last reply, if the protocol has one for that."""

    def _at_end_of_stream(self) -> None:
        self._end_unfinished(CloseReason.PEER_CLOSED)
        self._close(CloseReason.PEER_CLOSED)

    def _end_unfinished(self, reason: CloseReason) -> None:
        """Tell the end of what was begun and will not be finished: here a login."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._announce(login_failed(exchange, None))

    # TLS

    def _expect_tls(self) -> None:
        """The positive reply to STARTTLS or STLS is written: the wall (RFC 3207 section 4.2)."""
        self._output_due = False  # all that waits leaves with BeginTls: write and handshake are one act
        self._phase = self._begin_tls

    def _drop_clear_text(self, tls: Tls) -> TlsStarted:
        """Forget what came before the handshake: octets, identity."""
        self._identity = None
        return TlsStarted(tls=tls, dropped=self._input.clear())


def _is_failed_login(exchange: sasl.ServerExchange, reason: sasl.Refusal | sasl.Fault) -> bool:
    """Whether an exchange that ended this way is a failed login (RFC 4954 section 9) and not only an error.

    It is if the server has done the work of a login: it examined a name, a password or a proof, even one that it could
    not prepare, or it asked the application.  Otherwise a client could cancel to have more tries, or to cause that work
    more often.
    """
    if isinstance(reason, sasl.Refusal):
        return reason is not sasl.Refusal.TEMPORARY
    return reason is sasl.Fault.MALFORMED or exchange.was_asked


def login_failed(exchange: sasl.ServerExchange, reason: sasl.Refusal | sasl.Fault | None) -> sasl.AuthenticationFailed:
    """The notice for *exchange*, which came to no good end."""
    return sasl.AuthenticationFailed(
        mechanism=exchange.mechanism, authentication_identity=exchange.authentication_identity, reason=reason
    )
