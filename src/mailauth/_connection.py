"""The skeleton of the four connections: buffers, the open question, when a Send is due, how a session ends.

Knows no verb and no reply: what the octets mean is told by the subclasses in ``smtp`` and ``pop3``.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from . import sasl
from ._errors import LocalProtocolError, RemoteProtocolError
from ._events import PAUSED, Action, BeginTls, Closed, Command, NeedData, Paused, Question, Send, Tls, TlsStarted, Why
from ._lines import LineBuffer

A = TypeVar("A")
E = TypeVar("E")

MAXIMUM_UNREAD: Final = 65_536
"""Octets a connection keeps besides the chunk in hand, in and out; an adapter reads no more at once."""


class Machine(Generic[E]):
    """A pure state machine that is pulled: ``next_event()`` gives one value at a time, in causal order."""

    __slots__ = ("_events", "_input", "_instead", "_output", "_output_due", "_output_size", "_question", "_tls", "_why")

    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls
        self._input = LineBuffer()
        self._events: deque[E] = deque()  # what happened beside the event that is being returned
        self._question: object | None = None  # clients never have one
        self._output: list[bytes] = []
        self._output_size = 0
        self._output_due = False
        self._instead: Callable[[], E | Action | None] | None = None  # what happens instead of reading on: TLS, the end
        self._why = Why.PEER

    @property
    def tls(self) -> Tls | None:
        """The TLS layer under this connection; None in clear text."""
        return self._tls

    def receive_data(self, octets: bytes) -> None:
        """Take octets from the peer; ``b""`` is the end of the stream.  After Closed they are ignored.

        Raises LocalProtocolError between BeginTls and ``tls_started()``, after the end of the stream, and when 64 KiB
        wait to be pulled already.
        """
        received = self._input
        if self._instead is not None:
            if self._instead == self._say_closed:
                return
            if self._instead == self._wait_for_tls:
                if octets:
                    raise LocalProtocolError("octets from before the handshake may not be handed in after it")
                self._close(Why.PEER)
                return
        if octets:
            if received.ended:
                raise LocalProtocolError("the stream has ended already")
            if not received.used_up and len(received) > MAXIMUM_UNREAD:
                raise LocalProtocolError("pull the events that are due before handing in more octets")
        received.feed(octets)

    def next_event(self) -> E | Action:
        """What comes next; NeedData, Paused and Closed repeat until something changes."""
        if self._question is not None:
            return PAUSED
        while True:
            if self._events:
                return self._events.popleft()
            if self._output_due:
                return self._flush()
            event = self._advance() if self._instead is None else self._instead()
            if event is not None:
                return event

    def tls_started(self, tls: Tls) -> None:
        """The handshake that BeginTls asked for is done.  Raises LocalProtocolError when none was asked for."""
        if self._instead != self._wait_for_tls:
            raise LocalProtocolError("no TLS handshake was asked for")
        self._instead = None
        self._tls = tls
        self._secured(tls)

    def shut_down(self, why: Why = Why.SHUT_DOWN) -> None:
        """End the session as soon and as politely as the protocol allows; a second call changes nothing."""
        if self._instead is None:
            self._why = why
            self._instead = self._wind_up
        elif self._instead in (self._begin_tls, self._wait_for_tls):
            self._output.clear()
            self._close(why)

    @abstractmethod
    def _advance(self) -> E | Action | None:
        """Use some input; None when something changed and the caller shall look again."""

    @abstractmethod
    def _wind_up(self) -> E | Action | None:
        """Say what is still to be said after ``shut_down()``, then ``_close()``; called again until it does.

        A server takes the step that is due in a login first: the answer to a question is still said.
        """

    @abstractmethod
    def _secured(self, tls: Tls) -> None:
        """TLS has started: forget everything that was said before it."""

    def _at_end_of_stream(self) -> None:
        """Nothing more will come and all that came is used up: ``_close()``, or raise RemoteProtocolError."""
        self._close(Why.PEER)

    def _write(self, octets: bytes, *, due: bool) -> None:
        """Queue output; it leaves when it is *due*, at 64 KiB, or when more input is needed (RFC 2920 section 3.2)."""
        self._output.append(octets)
        self._output_size += len(octets)
        if due or self._output_size >= MAXIMUM_UNREAD:
            self._output_due = True

    def _flush(self) -> Send:
        output = self._output
        octets = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self._output_size = 0
        self._output_due = False
        return Send(octets=octets)

    def _starve(self, need: NeedData) -> Action | None:
        """All input is used up: write what waits, end with the stream, or ask for more."""
        if self._output:
            return self._flush()
        if self._input.ended:
            self._at_end_of_stream()
            return None
        return need

    def _close(self, why: Why) -> None:
        self._why = why
        self._instead = self._say_closed
        self._input.clear()

    def _say_closed(self) -> Send | Closed:
        return self._flush() if self._output else Closed(why=self._why)

    def _begin_tls(self) -> BeginTls:
        octets = self._flush().octets
        self._instead = self._wait_for_tls
        return BeginTls(octets=octets)

    def _wait_for_tls(self) -> Paused:
        return PAUSED


class ServerMachine(Machine[E]):
    """What the two servers share: questions and their answers, challenges, and the path of every login."""

    __slots__ = ("_entropy", "_exchange", "_identity", "_nonces", "_step")

    def __init__(self, *, entropy: bytes, tls: Tls | None) -> None:
        if len(entropy) != 32:
            raise LocalProtocolError("entropy must be 32 octets, fresh for each connection")
        super().__init__(tls)
        self._entropy = entropy
        self._nonces = 0
        self._identity: str | None = None
        self._exchange: sasl.ServerExchange | None = None
        self._step: sasl.Step | None = None

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
        if self._exchange is None:
            self._resolve(question, answer)
        else:
            self._step = self._exchange.answer(answer)
        self._question = None

    @abstractmethod
    def _resolve(self, question: Question[A], answer: A) -> None:
        """Act on an answer; raise LocalProtocolError before anything changed when it cannot be one."""

    @abstractmethod
    def _challenge(self, octets: bytes) -> None:
        """Write a mechanism's challenge in the protocol's form."""

    @abstractmethod
    def _admit(self, success: sasl.Success) -> None:
        """The identity is proved."""

    @abstractmethod
    def _deny(self, why: sasl.Refusal | sasl.Fault) -> None:
        """The login failed: say so."""

    def _nonce(self) -> str:
        """32 hexadecimal digits, never the same twice: a counter under the entropy of this connection (HMAC-SHA256)."""
        self._nonces += 1
        return hmac.new(self._entropy, b"%d" % self._nonces, hashlib.sha256).hexdigest()[:32]

    def _start_login(self, mechanism: sasl.ServerMechanism) -> sasl.ServerExchange:
        """Open the exchange; the caller puts its first step into ``_step``."""
        self._exchange = exchange = sasl.ServerExchange(mechanism)
        return exchange

    def _take_step(self) -> sasl.ServerQuestion | sasl.Authenticated | sasl.AuthenticationFailed | None:
        """Carry out the step of the mechanism that is due."""
        step, self._step = self._step, None
        exchange = self._exchange
        if step is None or exchange is None:
            return None
        match step:
            case sasl.Challenge(octets=octets):
                self._challenge(octets)
                return None
            case sasl.Success():
                self._exchange = None
                self._identity = step.authorization_identity
                self._admit(step)
                return sasl.Authenticated(mechanism=exchange.mechanism, identity=self._identity)
            case sasl.Refusal() | sasl.Fault():
                self._exchange = None
                self._deny(step)
                return self._login_failed(exchange, step)
            case question:
                self._question = question
                return question

    def _abandon_login(self) -> sasl.AuthenticationFailed | None:
        """The session ends; the notice for a login that was under way, if one was."""
        exchange, self._exchange, self._step = self._exchange, None, None
        return None if exchange is None else self._login_failed(exchange, None)

    def _login_failed(
        self, exchange: sasl.ServerExchange, why: sasl.Refusal | sasl.Fault | None
    ) -> sasl.AuthenticationFailed:
        return sasl.AuthenticationFailed(
            mechanism=exchange.mechanism, authentication_identity=exchange.authentication_identity, why=why
        )

    def _expect_tls(self) -> None:
        """The positive reply to STARTTLS or STLS is written: the wall (RFC 3207 section 4.2)."""
        self._output_due = False  # all that waits leaves with BeginTls: write and handshake are one act
        self._instead = self._begin_tls

    def _drop_clear_text(self, tls: Tls) -> TlsStarted:
        """Forget what came before the handshake: octets, identity."""
        self._identity = None
        return TlsStarted(tls=tls, dropped=self._input.clear())


class ClientMachine(Machine[E]):
    """What the two clients share: commands under way, errors that stay, and the end of the stream."""

    __slots__ = ("_error", "_exchange", "_last_words", "_unanswered")

    def __init__(self, *, tls: Tls | None) -> None:
        super().__init__(tls)
        self._unanswered: deque[Command] = deque()
        self._exchange: sasl.ClientExchange | None = None
        self._error: RemoteProtocolError | None = None
        self._last_words = False  # the server has said 421: whatever is unanswered stays so

    def next_event(self) -> E | Action:
        """As the base says.  Raises RemoteProtocolError, then at each call, when the server broke the protocol."""
        if self._error is not None:
            raise self._error
        try:
            return super().next_event()
        except RemoteProtocolError as error:
            self._error = error
            raise

    def _say_closed(self) -> Send | Closed:
        return self._flush() if self._output else Closed(why=self._why, unanswered=tuple(self._unanswered))

    def _at_end_of_stream(self) -> None:
        if self._unanswered and not self._last_words:
            raise RemoteProtocolError("the server closed the connection with replies due")
        self._close(Why.PEER)

    def _check_open(self) -> None:
        if self._instead is not None or self._error is not None or self._last_words:
            raise LocalProtocolError("the connection is closed, closing, or waiting for TLS")

    @abstractmethod
    def send(self, command: Command) -> None:
        """Queue *command*.  Raises LocalProtocolError, the connection being as it was, when it is not allowed now."""

    def authenticate(self, *mechanisms: sasl.ClientMechanism) -> None:
        """Log in by the first of *mechanisms* that the server offers; it ends in Authenticated or AuthenticationFailed.

        Raises LocalProtocolError when it offers none of them, or when no login is possible now.
        """
        self._check_open()
        self._check_may_log_in()
        for mechanism in mechanisms:
            if self._offers(mechanism.name):
                exchange = sasl.ClientExchange(mechanism)
                self._start_login(exchange)
                self._exchange = exchange  # not before it has begun: a mechanism that raises leaves no login open
                return
        names = ", ".join(mechanism.name for mechanism in mechanisms)
        raise LocalProtocolError(f"the server does not offer {names or 'a mechanism that was never named'}")

    @abstractmethod
    def _check_may_log_in(self) -> None:
        """Raise LocalProtocolError when no login is possible in this state."""

    @abstractmethod
    def _offers(self, mechanism: str) -> bool:
        """Whether the server offers that mechanism now."""

    @abstractmethod
    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        """Write the command that opens the exchange."""

    def _end_login(self) -> sasl.ClientExchange:
        """The server has given its verdict."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            raise RemoteProtocolError("the server judged a login that was not under way")
        return exchange

    def _succeed(self) -> sasl.Authenticated:
        """The server says yes; believe it only when the mechanism is satisfied with the server's own proof."""
        exchange = self._end_login()
        if not exchange.satisfied:
            raise RemoteProtocolError(f"the server claims success before {exchange.mechanism} proved it")
        return sasl.Authenticated(mechanism=exchange.mechanism)

    def _begin_tls(self) -> BeginTls:
        # Octets behind the reply to the TLS command came in clear and would pose as the first inside TLS
        # (CVE-2021-23993).
        if len(self._input):
            raise RemoteProtocolError("the server sent octets behind its reply to the TLS command")
        return super()._begin_tls()
