"""The base class of the SMTP and POP3 clients: queued commands, logins, errors and the end of the stream.

The subclasses define the verbs and interpret the replies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Collection
from typing import Any, Final, TypeVar, cast

import attrs

from . import sasl
from ._lines import LineTooLong, check_line
from ._machine import Machine, Phase
from ._validators import check_type
from .errors import LocalProtocolError, Malformed, RemoteProtocolError
from .events import Action, AuthenticationRejected, BeginTls, Closed, CloseReason, Command, Tls

E = TypeVar("E")
J = TypeVar("J", bound=AuthenticationRejected[Any])

MAX_EMPTY_LINES: Final = 10
"""The maximum number of empty lines between replies, for a whole connection.  No RFC gives a number: it allows for a
server that sends one after each of a few replies, and ends a stream of them."""


class ClientMachine(Machine[E]):
    """A client: sends commands and reports the replies to the application.

    For example:

        def log_in(client: ClientMachine[smtp.ClientEvent] | ClientMachine[pop3.ClientEvent], password: bytes) -> None:
            client.authenticate(sasl.PlainClient(authentication_identity="alice", password=password))
    """

    __slots__ = (
        "_cancelled",
        "_earlier",
        "_empty_lines",
        "_error",
        "_exchange",
        "_greeted",
        "_initial_response",
        "_max_unanswered",
        "_mechanism",
        "_mechanisms",
        "_refusals",
        "_retry_weaker",
        "_shutdown_reply",
        "_strict_syntax",
        "_unanswered",
        "_unsent",
        "_upgraded",
    )  # fmt: skip

    def __init__(self, *, tls: Tls | None, max_unanswered: int, strict_syntax: bool = False) -> None:
        super().__init__(tls)
        self._empty_lines = 0  # empty lines that were skipped so far
        self._max_unanswered = max_unanswered
        self._strict_syntax = strict_syntax
        self._unanswered: deque[Command] = deque()
        self._unsent: deque[tuple[Command, bytes]] = deque()  # wait for the replies to earlier commands
        self._exchange: sasl.ClientExchange | None = None
        self._mechanism: sasl.ClientMechanism | None = None  # of the current login
        self._mechanisms: tuple[sasl.ClientMechanism, ...] = ()  # of the current login, if it is refused too
        self._earlier: tuple[AuthenticationRejected[Any], ...] = ()  # the refusals before the current login
        self._initial_response = True
        self._retry_weaker = False
        self._refusals = 0  # logins that the server has refused on this connection
        self._cancelled = False  # a challenge of the current login was malformed, and "*" was sent
        self._greeted = False
        self._shutdown_reply = False  # the server sent its last reply: 421, or an unsolicited -ERR
        self._upgraded: E | None = None  # the reply to STARTTLS or STLS, reported after the handshake
        self._error: RemoteProtocolError | None = None

    def next_event(self) -> E | Action:
        """Return the next event.

        Raises RemoteProtocolError if the server has violated the protocol.  Every further call raises it again.
        """
        if self._error is not None:
            if self._events:
                return self._events.pop(0)
            raise self._error
        try:
            return super().next_event()
        except RemoteProtocolError as error:
            self._error = error
            self._close(CloseReason.ABORTED)  # later input is ignored
            self._answer_refused_message()
            if self._events:
                return self._events.pop(0)
            raise

    # Commands

    @abstractmethod
    def send(self, command: Command) -> None:
        """Queue *command*.

        Raises LocalProtocolError if it is not allowed now.  The connection is unchanged then.
        """

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent: not during a TLS handshake, and not after the end.

        The server ends the session by its last reply (421, or an unsolicited -ERR), or by a violation of the protocol;
        ``next_event()`` reports it.
        """
        return self._phase is Phase.OPEN and self._error is None and not self._shutdown_reply

    def _check_open(self) -> None:
        if not self.is_open:
            raise LocalProtocolError("the connection is closed, closing or waiting for TLS: no command can be sent")

    def _check_command_allowed(self) -> None:
        """Raise LocalProtocolError if no further command may be queued now."""
        self._check_open()
        if self._exchange is not None:
            raise LocalProtocolError("a login is in progress: wait for its result before sending a command")
        if len(self._unanswered) + len(self._unsent) >= self._max_unanswered:
            raise LocalProtocolError("too many commands are unanswered: pull the replies before sending more")

    @abstractmethod
    def _may_follow(self) -> bool:
        """Return whether the next command may be sent before the earlier ones are answered."""

    def _queue(self, command: Command, data: bytes) -> None:
        self._unsent.append((command, data))
        self._send_permitted()

    def _send_permitted(self) -> None:
        """Write the queued commands that may be written now.

        What was received while nothing was unanswered is not the reply to the next command.  So if some of it is
        unread, the command is not written, and the data ends the connection when it is read.
        """
        unsent = self._unsent
        while unsent and (self._may_follow() if self._unanswered else self._all_read()):
            command, data = unsent.popleft()
            self._unanswered.append(command)
            self._write(data, due=not unsent)

    def _all_read(self) -> bool:
        """Return whether no part of a reply was received that is not reported yet."""
        return not len(self._input)

    @property
    def _idle(self) -> bool:
        """Whether no command or login is pending, and the server has not announced the end of the session."""
        return not (self._unanswered or self._unsent or self._exchange or self._shutdown_reply)

    # Replies

    def _take_reply_line(self, limit: int) -> bytes | None:
        """Return a line of at most *limit* bytes with its CRLF, or None while it is incomplete.

        Return None after the server has announced the end of the session (421, or an unsolicited -ERR).
        Raises RemoteProtocolError for a longer line.
        """
        if self._shutdown_reply:
            self._input.clear()  # no later line is a reply to a command
            return None
        try:
            line = self._input.take_line(limit)
        except LineTooLong:
            raise RemoteProtocolError(f"the reply line is longer than {limit} bytes") from None
        if self._input.dropping:
            raise RemoteProtocolError(f"the reply line is longer than {limit} bytes")
        return line

    def _skip_empty_line(self) -> bool:
        """Skip an empty line that was received where a reply begins, and return True; False if it is an error.

        None is skipped between AUTH and its last reply.  Between the reply to STARTTLS and the handshake nothing is
        read, so nothing is skipped there either.
        """
        in_login = self._exchange is not None and self._unanswered
        if self._strict_syntax or in_login or self._empty_lines == MAX_EMPTY_LINES:
            return False
        self._empty_lines += 1
        self._send_permitted()
        return True

    def _malformed_reply(self, line: bytes) -> RemoteProtocolError:
        """Return the error for *line*, which is not a valid reply.

        During a login the error does not quote the line, which may contain a secret.
        """
        return RemoteProtocolError("not a reply" if self._exchange is not None else f"not a reply: {line[:80]!r}")

    # Login

    def authenticate(
        self,
        *mechanisms: sasl.ClientMechanism,
        initial_response: bool = True,
        assume: Collection[str] = frozenset(),
        retry_weaker: bool = False,
    ) -> None:
        """Log in with the first of *mechanisms* that the server offers.

        The result is one ``sasl.Authenticated`` or ``AuthenticationRejected`` event.

        *initial_response* False: do not send the first response with the AUTH command, for servers that cannot take
        it there.  *assume* has the names of mechanisms that are used although the server does not list them, such as
        ``{"PLAIN"}``.

        If the server refuses a -PLUS form of SCRAM, the same mechanism is tried with the next channel binding.  With
        *retry_weaker*, the next of *mechanisms* is tried after other refusals too.
        ``sasl.mechanisms_after_refusal()`` has the rules: never without channel binding after a -PLUS form, never
        after a temporary failure, and at most two more logins on a connection.

        Raises LocalProtocolError if the server offers none of them, or if no login is possible now.
        """
        check_type("initial_response", bool, initial_response)
        check_type("retry_weaker", bool, retry_weaker)
        assumed = _upper_names(assume)
        self._check_open()
        self._check_login_allowed()
        usable = self._usable(mechanisms, assumed)
        self._initial_response = initial_response
        self._retry_weaker = retry_weaker
        self._begin_login(usable)

    def _usable(
        self, mechanisms: tuple[sasl.ClientMechanism, ...], assumed: frozenset[str]
    ) -> tuple[sasl.ClientMechanism, ...]:
        """Return those of *mechanisms* that can be used now.  Raises LocalProtocolError if there are none."""
        if not mechanisms:
            raise LocalProtocolError("pass at least one mechanism, such as sasl.PlainClient(...)")
        offered = tuple(each for each in mechanisms if self._offers(each.name) or self._assumes(each.name, assumed))
        if not offered:
            names = ", ".join(dict.fromkeys(mechanism.name for mechanism in mechanisms))
            raise LocalProtocolError(f"the server does not offer {names}")
        obstacles = {id(mechanism): self._obstacle(mechanism) for mechanism in offered}
        usable = tuple(mechanism for mechanism in offered if obstacles[id(mechanism)] is None)
        if not usable:
            raise LocalProtocolError(
                f"{obstacles[id(offered[0])]}, and the server offers no other mechanism of this login"
            )
        return usable

    def _begin_login(self, mechanisms: tuple[sasl.ClientMechanism, ...]) -> None:
        """Begin the login with the first of *mechanisms*; the others may follow if it is refused."""
        mechanism = mechanisms[0]
        exchange = sasl.ClientExchange(mechanism, strict_syntax=self._strict_syntax)
        self._start_login(exchange)
        self._exchange = exchange  # set last: if the mechanism raises, no login is in progress
        self._mechanism = mechanism
        self._mechanisms = mechanisms
        self._cancelled = False

    def _refuse_login(self, rejected: J, code: int | str) -> J | None:
        """End a refused login.  Return the event *rejected*, or None if another mechanism is tried.

        *code* is that of the server's reply, as for ``sasl.mechanisms_after_refusal()``.
        """
        refused, mechanisms, earlier = self._mechanism, self._mechanisms, self._earlier
        self._end_login()
        self._refusals += 1
        rejected = attrs.evolve(rejected, channel_binding=getattr(refused, "channel_binding", ""))
        if refused is not None and not self._cancelled:
            following = sasl.mechanisms_after_refusal(
                mechanisms, refused, code, weaker=self._retry_weaker, refusals=self._refusals
            )
            if following:
                self._begin_login(following)
                self._earlier = (*earlier, rejected)
                return None
        return attrs.evolve(rejected, earlier=earlier)

    @abstractmethod
    def _check_login_allowed(self) -> None:
        """Raise LocalProtocolError if no login is possible in this state."""

    @abstractmethod
    def _offers(self, mechanism: str) -> bool:
        """Return whether the server offers *mechanism* now."""

    def _assumes(self, mechanism: str, assumed: frozenset[str]) -> bool:
        """Return whether *mechanism* may be used because the caller says that the server has it."""
        return mechanism.upper() in assumed

    def _obstacle(self, mechanism: sasl.ClientMechanism) -> str | None:
        """Return why *mechanism*, which the server offers, cannot be used for this login; None if it can."""
        return None

    @abstractmethod
    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        """Queue the command that starts the exchange."""

    def _write_login_line(self, command: Command, line: bytes) -> None:
        """Queue *line*, the wire form of the login *command*."""
        self._queue(command, check_line(line))

    def _take_challenge(self, challenge: bytes) -> None:
        """Respond to *challenge*, in base64.  If it is malformed, cancel the login with ``*`` (RFC 4954 section 4)."""
        if self._exchange is None or self._cancelled:
            raise RemoteProtocolError("the server sent a challenge outside a login")
        if not self._all_read():
            raise RemoteProtocolError("the server sent data before the response to its challenge")
        try:
            response = self._exchange.respond(challenge)
        except Malformed:
            response = b"*"
            self._cancelled = True
        self._write(check_line(response + b"\r\n"), due=True)

    def _end_login(self) -> sasl.ClientExchange:
        """End the login after the server's final reply, and return its exchange.

        Raises RemoteProtocolError if no login is in progress.
        """
        exchange, self._exchange = self._exchange, None
        self._mechanism, self._mechanisms, self._earlier = None, (), ()
        if exchange is None:
            raise RemoteProtocolError("the server sent the final reply to a login that was not in progress")
        return exchange

    def _succeed(self) -> sasl.Authenticated:
        """End the login after a positive final reply, and return the event.

        Raises RemoteProtocolError if the login was cancelled, or if the mechanism does not trust the reply
        (``satisfied``), such as SCRAM before it has verified the server's signature.
        """
        exchange = self._end_login()
        if self._cancelled or not exchange.satisfied:
            raise RemoteProtocolError(f"the server reported success before {exchange.mechanism} was complete")
        return sasl.Authenticated(mechanism=exchange.mechanism)

    # TLS

    def _upgrade(self, event: E) -> None:
        """Begin the TLS handshake.  *event* is returned after it: an application that receives *event* has TLS."""
        self._upgraded = event
        self._phase = Phase.TLS_REPLY

    def _begin_tls(self) -> BeginTls:
        # Bytes after the reply to STARTTLS or STLS came in clear text.  Without this check they would be read as the
        # first bytes inside TLS (CVE-2021-23993).
        if len(self._input):
            raise RemoteProtocolError("the server sent data after its reply to STARTTLS or STLS, before the handshake")
        return super()._begin_tls()

    def _on_tls_started(self, tls: Tls) -> None:
        if self._upgraded is not None:
            self._events.append(self._upgraded)
            self._upgraded = None

    # The end

    def _answer_refused_message(self) -> None:
        """Queue the events for the rest of a message that the server has refused, which gets no reply of its own."""

    def _at_end_of_stream(self) -> None:
        self._answer_refused_message()
        if not self._shutdown_reply:
            if not self._greeted:
                raise RemoteProtocolError("the server closed the connection before the greeting")
            if self._unanswered and self._ends_session(self._unanswered[0]) and not self._strict_syntax:
                self._close(CloseReason.QUIT)  # many servers close instead of replying; no command follows QUIT
                return
            if self._unanswered:
                raise RemoteProtocolError("the server closed the connection before it had replied to every command")
        self._close(CloseReason.PEER_CLOSED)

    @abstractmethod
    def _ends_session(self, command: Command) -> bool:
        """Return whether *command* is QUIT, or has its effect."""

    def _closed(self) -> Closed:
        return Closed(reason=self._reason, unanswered=(*self._unanswered, *(command for command, _ in self._unsent)))


def _upper_names(assume: object) -> frozenset[str]:
    if isinstance(assume, Collection) and not isinstance(assume, str | bytes):
        names = tuple(cast("Collection[object]", assume))
        if all(isinstance(name, str) for name in names):
            return frozenset(str(name).upper() for name in names)
    raise LocalProtocolError('assume must be a set of names of mechanisms, such as {"PLAIN"}')
