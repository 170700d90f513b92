"""The base class of the SMTP and POP3 servers: questions, their answers, and the login exchange.

The subclasses define the verbs and the replies.  The application decides who may log in.
"""

from __future__ import annotations

import hmac
import re
from abc import abstractmethod
from typing import Any, Final, TypeAlias, TypeVar

from . import sasl
from ._lines import LineTooLong
from ._machine import Machine, Phase
from .errors import LocalProtocolError, ProtocolError
from .events import Action, CloseReason, NeedData, Question, Tls, TlsStarted

A = TypeVar("A")
E = TypeVar("E")

_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")
_MAX_ERROR_TEXT: Final = 400  # so that the reply is one line

LoginEvent: TypeAlias = sasl.ServerQuestion | sasl.Authenticated | sasl.AuthenticationFailed


class ServerMachine(Machine[E]):
    """A server: returns questions to the application and writes replies to the client.

    For example:

        def build(entropy: bytes, tls: Tls | None) -> ServerMachine[smtp.ServerEvent]:
            return smtp.ServerConnection(smtp.ServerSettings(), entropy=entropy, tls=tls)
    """

    __slots__ = ("_entropy", "_exchange", "_identity", "_nonces")

    def __init__(self, *, entropy: bytes, tls: Tls | None) -> None:
        given: object = entropy
        if not (isinstance(given, bytes) and len(given) == 32):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocalProtocolError(
                "entropy must be 32 random bytes, fresh for each connection; use secrets.token_bytes(32)"
            )
        super().__init__(tls)
        self._entropy = entropy
        self._nonces = 0
        self._identity: str | None = None
        self._exchange: sasl.ServerExchange | None = None

    @property
    def identity(self) -> str | None:
        """The authorization identity of the client; None before a login, and after STARTTLS or STLS."""
        return self._identity

    def answer(self, question: Question[A], answer: A) -> None:
        """Answer the open question.

        Raises LocalProtocolError if *question* is not the open question (the same object), or if *answer* is not a
        valid answer to it.  The question stays open then.
        """
        if self._question is None or question is not self._question:
            raise LocalProtocolError("this question is not open: pass the question that next_event() returned, once")
        exchange = self._exchange
        if exchange is None or exchange.question is None:  # a verb may also ask between USER and PASS
            self._resolve(question, answer)
            self._question = None
        else:
            step = exchange.answer(answer)
            self._question = None
            self._proceed(exchange, step)

    def decline(self, question: Question[Any]) -> None:
        """Answer *question* with ``question.unavailable``: for questions that the application does not handle.

        Raises LocalProtocolError if it is not the open question.
        """
        self.answer(question, question.unavailable)

    @abstractmethod
    def _resolve(self, question: Question[A], answer: A) -> None:
        """Carry out *answer*.  Raises LocalProtocolError, before anything changes, if it is invalid."""

    # Login

    def _announce(self, event: LoginEvent) -> None:
        """Queue *event*."""
        self._events.append(event)  # type: ignore[arg-type]  # the events of both servers include those of a login

    @abstractmethod
    def _challenge(self, data: bytes) -> None:
        """Write the challenge *data* in the form of the protocol."""

    @abstractmethod
    def _accept_login(self, success: sasl.Success) -> None:
        """Handle a successful login."""

    @abstractmethod
    def _reject_login(self, reason: sasl.Refusal | sasl.Fault, *, counts: bool) -> None:
        """Reply to a failed login.

        If *counts* is true, it counts towards ``max_failed_logins``, and otherwise towards ``max_errors``.
        """

    def _nonce(self) -> str:
        """Return 32 hexadecimal digits, different at each call: HMAC-SHA256 of a counter, keyed with the entropy."""
        self._nonces += 1
        return hmac.digest(self._entropy, b"%d" % self._nonces, "sha256").hex()[:32]

    def _start_login(self, mechanism: sasl.ServerMechanism, *, strict: bool) -> sasl.ServerExchange:
        """Create the exchange.  The caller starts it and passes its first step to ``_proceed()``."""
        self._exchange = exchange = sasl.ServerExchange(mechanism, strict_syntax=strict)
        return exchange

    def _take_response(self, exchange: sasl.ServerExchange, need: NeedData) -> Action | None:
        """Read the next line of an AUTH exchange."""
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
        """Carry out *step*.  Its events are queued: they are returned after the current one."""
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

    # The end

    def _begin_shutdown(self) -> None:
        self._end_unfinished(self._reason)
        self._send_shutdown_reply()
        self._close(self._reason)

    @abstractmethod
    def _send_shutdown_reply(self) -> None:
        """Write the last reply after ``shut_down()``, if the protocol has one."""

    def _at_end_of_stream(self) -> None:
        self._end_unfinished(CloseReason.PEER_CLOSED)
        self._close(CloseReason.PEER_CLOSED)

    def _end_unfinished(self, reason: CloseReason) -> None:
        """Report each operation that will not be completed.  This base class reports a login."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._announce(login_failed(exchange, None))

    # TLS

    def _expect_tls(self) -> None:
        """Begin TLS after the positive reply to STARTTLS or STLS, which is queued already (RFC 3207 section 4.2)."""
        self._output_due = False  # BeginTls carries all output: the adapter writes it, then starts the handshake
        self._phase = Phase.TLS_REPLY

    def _drop_clear_text(self, tls: Tls) -> TlsStarted:
        """Discard the input and the identity from before the handshake, and return the event."""
        self._identity = None
        return TlsStarted(tls=tls, dropped=self._input.clear())


def _is_failed_login(exchange: sasl.ServerExchange, reason: sasl.Refusal | sasl.Fault) -> bool:
    """Return whether an exchange that ended with *reason* is a failed login (RFC 4954 section 9), not just an error.

    It is a failed login if the server has examined a name, a password or a proof, even one that SASLprep rejects, or
    has asked the application.  Otherwise a client could cancel each exchange to get more attempts, or to cause this
    work more often.
    """
    if isinstance(reason, sasl.Refusal):
        return reason is not sasl.Refusal.TEMPORARY
    return reason is sasl.Fault.MALFORMED or exchange.was_asked


def login_failed(exchange: sasl.ServerExchange, reason: sasl.Refusal | sasl.Fault | None) -> sasl.AuthenticationFailed:
    """Return the event for *exchange*, which failed."""
    return sasl.AuthenticationFailed(
        mechanism=exchange.mechanism, authentication_identity=exchange.authentication_identity, reason=reason
    )


def parse_error_text(error: Exception) -> str:
    """Return the text of the reply to a command whose parser raised *error*, which may be that of an added row.

    The text of an exception that is not a ProtocolError is not used: it may quote anything.
    """
    text = str(error) if isinstance(error, ProtocolError) else ""
    return _NOT_PRINTABLE.sub("?", text)[:_MAX_ERROR_TEXT] or "invalid argument"
