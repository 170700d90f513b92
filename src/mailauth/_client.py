"""What the two clients share: commands waiting and under way, logins, errors that stay, the end of the stream.

Knows no verb and no reply; what a reply means is told by the subclasses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TypeVar

from . import sasl
from ._errors import LocalProtocolError, Malformed, RemoteProtocolError
from ._events import Action, BeginTls, Closed, CloseReason, Command, Send, Tls
from ._lines import LineTooLong, check_line
from ._machine import Machine

E = TypeVar("E")


class ClientMachine(Machine[E]):
    """A client: sends commands, and tells its application what was answered."""

    __slots__ = (
        "_cancelled",
        "_error",
        "_exchange",
        "_greeted",
        "_max_unanswered",
        "_shutdown_reply",
        "_unanswered",
        "_unsent",
        "_upgraded",
    )  # fmt: skip

    def __init__(self, *, tls: Tls | None, max_unanswered: int) -> None:
        super().__init__(tls)
        self._max_unanswered = max_unanswered
        self._unanswered: deque[Command] = deque()
        self._unsent: deque[tuple[Command, bytes]] = deque()  # waiting for the replies to earlier ones
        self._exchange: sasl.ClientExchange | None = None
        self._cancelled = False  # the login under way: its challenge could not be answered
        self._greeted = False
        self._shutdown_reply = False  # the server will close: whatever is unanswered stays so
        self._upgraded: E | None = None  # the reply to the TLS command, to be told inside TLS
        self._error: RemoteProtocolError | None = None

    def next_event(self) -> E | Action:
        """As the base says.  Raises RemoteProtocolError, then at each call, when the server broke the protocol."""
        if self._error is not None:
            raise self._error
        try:
            return super().next_event()
        except RemoteProtocolError as error:
            self._error = error
            self._close(CloseReason.ABORTED)  # what still comes is nobody's
            raise

    # Commands

    @abstractmethod
    def send(self, command: Command) -> None:
        """Queue *command*.  Raises LocalProtocolError, the connection being as it was, when it is not allowed now."""

    def _check_open(self) -> None:
        if self._phase is not None or self._error is not None or self._shutdown_reply:
            raise LocalProtocolError("the connection is closed, closing, or waiting for TLS")

    def _check_command_allowed(self) -> None:
        """Raise LocalProtocolError when no command may be added to those that are unanswered."""
        self._check_open()
        if self._exchange is not None:
            raise LocalProtocolError("a login is under way")
        if len(self._unanswered) + len(self._unsent) >= self._max_unanswered:
            raise LocalProtocolError("too many commands are unanswered: read replies before sending more")

    @abstractmethod
    def _may_follow(self) -> bool:
        """Whether the next command may leave before the unanswered ones are answered."""

    def _queue(self, command: Command, data: bytes) -> None:
        self._unsent.append((command, data))
        self._send_permitted()

    def _send_permitted(self) -> None:
        unsent = self._unsent
        while unsent and (not self._unanswered or self._may_follow()):
            command, data = unsent.popleft()
            self._unanswered.append(command)
            self._write(data, due=not unsent)

    @property
    def _idle(self) -> bool:
        """Nothing is under way, and nothing stands in the way of a command."""
        return not (self._unanswered or self._unsent or self._exchange or self._shutdown_reply)

    # Replies

    def _take_reply_line(self, limit: int) -> bytes | None:
        """A line of at most *limit* octets, CRLF counted; None while it is not whole, and behind the last words."""
        if self._shutdown_reply:
            self._input.clear()  # nothing that follows them answers anything
            return None
        try:
            line = self._input.take_line(limit)
        except LineTooLong:
            raise RemoteProtocolError(f"a reply line of over {limit} octets") from None
        if self._input.dropping:
            raise RemoteProtocolError(f"a reply line of over {limit} octets")
        return line

    def _malformed_reply(self, line: bytes) -> RemoteProtocolError:
        """*line* is none; during a login it is not quoted, since it may echo a password."""
        return RemoteProtocolError("not a reply" if self._exchange is not None else f"not a reply: {line[:80]!r}")

    # The login

    def authenticate(self, *mechanisms: sasl.ClientMechanism) -> None:
        """Log in by the first of *mechanisms* that the server offers; it ends in Authenticated or AuthenticationFailed.

        Raises LocalProtocolError when it offers none of them, or when no login is possible now.
        """
        self._check_open()
        self._check_login_allowed()
        for mechanism in mechanisms:
            if self._offers(mechanism.name):
                exchange = sasl.ClientExchange(mechanism)
                self._start_login(exchange)
                self._exchange = exchange  # not before it has begun: a mechanism that raises leaves no login open
                self._cancelled = False
                return
        names = ", ".join(mechanism.name for mechanism in mechanisms)
        raise LocalProtocolError(f"the server does not offer {names or 'a mechanism that was never named'}")

    @abstractmethod
    def _check_login_allowed(self) -> None:
        """Raise LocalProtocolError when no login is possible in this state."""

    @abstractmethod
    def _offers(self, mechanism: str) -> bool:
        """Whether the server offers that mechanism now."""

    @abstractmethod
    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        """Write the command that opens the exchange."""

    def _write_login_line(self, command: Command, line: bytes) -> None:
        """Write *command* of the login, which is *line*, at once."""
        check_line(line)
        self._unanswered.append(command)
        self._write(line, due=True)

    def _take_challenge(self, challenge: bytes) -> None:
        """Answer *challenge*, which is in base64; one that cannot be taken cancels the login (RFC 4954 section 4)."""
        if self._exchange is None or self._cancelled:
            raise RemoteProtocolError("a challenge outside a login")
        try:
            response = self._exchange.respond(challenge)
        except Malformed:
            response = b"*"
            self._cancelled = True
        self._write(check_line(response + b"\r\n"), due=True)

    def _end_login(self) -> sasl.ClientExchange:
        """The server has given its verdict."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            raise RemoteProtocolError("the server judged a login that was not under way")
        return exchange

    def _succeed(self) -> sasl.Authenticated:
        """The server says yes; believe it only when the mechanism is satisfied with the server's own proof."""
        exchange = self._end_login()
        if self._cancelled or not exchange.satisfied:
            raise RemoteProtocolError(f"the server claims success before {exchange.mechanism} proved it")
        return sasl.Authenticated(mechanism=exchange.mechanism)

    # TLS

    def _upgrade(self, told: E) -> None:
        """The server agreed to TLS; *told* is reported when it has started, so that who waits for it is inside."""
        self._upgraded = told
        self._phase = self._begin_tls

    def _begin_tls(self) -> BeginTls:
        # Octets behind the reply to the TLS command came in clear and would pose as the first inside TLS
        # (CVE-2021-23993).
        if len(self._input):
            raise RemoteProtocolError("the server sent octets behind its reply to the TLS command")
        return super()._begin_tls()

    def _secured(self, tls: Tls) -> None:
        if self._upgraded is not None:
            self._events.append(self._upgraded)
            self._upgraded = None

    # The end

    def _at_end_of_stream(self) -> None:
        if not self._shutdown_reply:
            if not self._greeted:
                raise RemoteProtocolError("the server closed the connection before its greeting")
            if self._unanswered:
                raise RemoteProtocolError("the server closed the connection with replies due")
        self._close(CloseReason.PEER_CLOSED)

    def _flush_then_close(self) -> Send | Closed:
        if self._output:
            return self._flush()
        return Closed(reason=self._why, unanswered=(*self._unanswered, *(command for command, _ in self._unsent)))
