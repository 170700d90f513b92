"""The POP3 client: sends commands and returns the replies in order (RFC 1939, 2449, 2595, 5034, 6856).

It checks that each command is allowed in the current state, and delays a command that must wait for a reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never, cast

from .. import sasl
from .._client import ClientMachine
from .._dots import Unstuffer
from .._lines import check_line
from .._validators import check_type
from ..errors import LocalProtocolError, Malformed, RemoteProtocolError
from ..events import Action, CloseReason, Command, MessageChunk, Tls
from ._grammar import find_timestamp
from .commands import Apop, Auth, Capa, GenericCommand, LineCommand, Pass, Quit, User
from .events import AuthenticationRejected, ClientEvent, ReplyReceived
from .replies import Reply, parse_line, parse_status
from .settings import MAX_COMMAND_LINE, ClientSettings
from .states import ANSWER_TIMEOUT, CLIENT_TIMEOUTS, State
from .verbs import GENERIC, Effect, Verb


class ClientConnection(ClientMachine[ClientEvent]):
    """One POP3 session.  The first event is ``ReplyReceived(command=None)``: the greeting.

    Pass *tls* if TLS is already active, as on port 995.

        >>> client = pop3.ClientConnection()
        >>> client.receive_data(b"+OK ready <1896.697170952@mail.example>\\r\\n")
        >>> greeting = client.next_event()
        >>> greeting.reply.positive, client.timestamp
        (True, b'<1896.697170952@mail.example>')
    """

    __slots__ = (
        "_answer_size", "_capabilities", "_lines", "_marked", "_settings", "_state", "_status", "_timestamp",
        "_unstuffer", "_utf8",
    )  # fmt: skip

    def __init__(self, settings: ClientSettings | None = None, *, tls: Tls | None = None) -> None:
        check_type("settings", ClientSettings, settings, optional=True)
        self._settings = settings or ClientSettings()
        super().__init__(
            tls=tls, max_unanswered=self._settings.max_unanswered, strict_syntax=self._settings.strict_syntax
        )
        self._state = State.GREETING
        self._capabilities: Mapping[str, str] = {}
        self._timestamp: bytes | None = None
        self._marked = False  # a message is marked as deleted: QUIT would remove it
        self._status = Reply(True)  # status of the multi-line response being received; its lines are in _lines
        self._lines: list[str] | None = None
        self._answer_size = 0
        self._unstuffer: Unstuffer | None = None
        self._utf8 = False  # the server has accepted UTF8

    @property
    def capabilities(self) -> Mapping[str, str]:
        """The last response to CAPA: maps tags in upper case to arguments.  Empty before CAPA, and again after STLS."""
        return self._capabilities

    @property
    def timestamp(self) -> bytes | None:
        """The timestamp of the greeting, for APOP; None without one, or if it is not a msg-id (CVE-2007-1558)."""
        return self._timestamp

    def send(self, command: Command) -> None:
        """Queue *command*.  It is sent when the protocol allows it, and gets one ReplyReceived.

        The message that Retrieve requests arrives as MessageChunk events, with the dots unstuffed, before its
        ReplyReceived.  Commands are pipelined if the response to CAPA lists PIPELINING (RFC 2449 section 6.6);
        otherwise each waits for the reply to the one before.  If a reply was received that is not reported yet, and no
        command is unanswered, *command* is not sent: the reply ends the connection.  Raises LocalProtocolError if the
        command is not allowed now or too many commands are unanswered; nothing is sent then.
        """
        self._check_command_allowed()
        row = self._row(command)
        if row is None or row.is_login:
            raise LocalProtocolError(
                f"{type(command).__name__} cannot be sent; pass a command such as pop3.Stat(), or"
                " pop3.GenericCommand(...) for a verb without a class; log in by authenticate()"
            )
        if self._state is State.GREETING:
            raise LocalProtocolError("the greeting has not been received yet: wait for the first ReplyReceived")
        after = row.states.get(self._state)
        if after is None:
            raise LocalProtocolError(f"{getattr(command, 'verb', row.name)} is not allowed in {self._state.name}")
        if row.effect is Effect.BEGIN_TLS and self._tls is not None:
            raise LocalProtocolError("TLS is already active")
        if row.effect is Effect.BEGIN_TLS and self._has_enabled_utf8():
            raise LocalProtocolError("STLS is not allowed after UTF8 (RFC 6856 section 2.1): send STLS first")
        data = check_line(cast(LineCommand, command).to_wire())
        self._state = after
        self._queue(command, data)

    def _row(self, command: Command) -> Verb[Any] | None:
        """Return the row of *command*; None if it has none."""
        row = self._settings.table.get(getattr(command, "verb", ""))
        if row is not None and isinstance(command, row.kind):
            return row
        return GENERIC if row is None and isinstance(command, GenericCommand) else None

    def _has_enabled_utf8(self) -> bool:
        """Return whether the server has accepted UTF8, or may still accept it."""
        pending = (*self._unanswered, *(command for command, _ in self._unsent))
        return self._utf8 or any(
            (row := self._row(command)) is not None and row.effect is Effect.ENABLE_UTF8 for command in pending
        )

    def _may_follow(self) -> bool:
        return "PIPELINING" in self._capabilities

    # The login

    def _usable(
        self, mechanisms: tuple[sasl.ClientMechanism, ...], assumed: frozenset[str]
    ) -> tuple[sasl.ClientMechanism, ...]:
        """With TLS, APOP is the last, because it uses MD5."""
        if self._tls is not None:
            mechanisms = tuple(sorted(mechanisms, key=lambda mechanism: mechanism.name == "APOP"))
        return super()._usable(mechanisms, assumed)

    def _obstacle(self, mechanism: sasl.ClientMechanism) -> str | None:
        """Return an error for a name or password that is not ASCII, unless CAPA lists ``UTF8 USER``."""
        if not isinstance(mechanism, sasl.UserPassClient | sasl.ApopClient) or not mechanism.needs_utf8:
            return None
        if "USER" in self._capabilities.get("UTF8", "").upper().split():
            return None
        what = "name" if isinstance(mechanism, sasl.ApopClient) else "name or password"
        return (
            f"{mechanism.name} cannot carry this {what}, which is not ASCII, because the response to CAPA does not list"
            " UTF8 USER (RFC 6856 section 2.2)"
        )

    def _check_login_allowed(self) -> None:
        if not self._idle or self._state is not State.AUTHORIZATION:
            raise LocalProtocolError(
                "a login is not allowed now: wait for the greeting and all replies, and log in once"
            )
        if self._tls is None and self._settings.tls_required:
            raise LocalProtocolError("tls_required is set, and TLS is not active: send Stls() before the login")

    def _assumes(self, mechanism: str, assumed: frozenset[str]) -> bool:
        return super()._assumes(mechanism, assumed) and (mechanism != "APOP" or self._timestamp is not None)

    def _offers(self, mechanism: str) -> bool:
        """Return whether *mechanism* is offered.  Without a response to CAPA, the server is assumed to support USER."""
        if mechanism == "APOP":
            return self._timestamp is not None
        if mechanism == "USER":
            return not self._capabilities or "USER" in self._capabilities
        return mechanism in self._capabilities.get("SASL", "").upper().split()

    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        name = exchange.mechanism
        if name == "USER":
            self._log_in(User(argument=exchange.respond_raw(None)))
        elif name == "APOP":
            exchange.respond_raw(None)
            self._log_in(Apop(argument=exchange.respond_raw(self._timestamp)))
        else:
            # RFC 5034 section 4
            room = MAX_COMMAND_LINE - len(f"AUTH {name} \r\n") if self._initial_response else 0
            self._log_in(Auth(mechanism=name, initial_response=exchange.begin(room)))

    def _log_in(self, command: User | Pass | Apop | Auth) -> None:
        self._write_login_line(command, command.to_wire())

    def _continue_login(self, reply: Reply) -> ClientEvent | None:
        command = self._unanswered.popleft()
        if not reply.positive:
            if self._exchange is None:
                raise RemoteProtocolError("the server replied to a login that was not in progress")
            rejected = AuthenticationRejected(mechanism=self._exchange.mechanism, reply=reply)
            return self._refuse_login(rejected, reply.response_code)
        if isinstance(command, User) and self._exchange is not None:
            try:
                self._log_in(Pass(argument=self._exchange.respond_raw(b"")))
            except LocalProtocolError:
                self._end_login()
                raise
            return None
        succeeded = self._succeed()
        self._state = State.TRANSACTION
        return succeeded

    # Replies

    def _advance(self) -> ClientEvent | Action | None:
        if self._unstuffer is not None:
            return self._take_content(self._unstuffer)
        limit = self._settings.max_reply_line if self._exchange is None else sasl.MAX_LINE
        line = self._take_reply_line(limit)
        if line is None:
            return self._need_more_data(CLIENT_TIMEOUTS if self._lines is None else ANSWER_TIMEOUT)
        if self._lines is not None:
            return self._take_line(line, self._lines)
        if not line and self._skip_empty_line():
            return None
        if self._exchange is not None and self._unanswered and (line.startswith(b"+ ") or line == b"+"):
            if not isinstance(self._unanswered[0], Auth):
                raise RemoteProtocolError("challenge received outside AUTH")
            self._take_challenge(line[2:])
            return None
        try:
            reply = parse_status(line)
        except Malformed:
            raise self._malformed_reply(line) from None
        return self._take(reply, line)

    def _take(self, reply: Reply, line: bytes) -> ClientEvent | None:
        """Process a status line, and start to receive the lines that follow it, if any."""
        if self._state is State.GREETING:
            self._greeted = True
            self._state = State.AUTHORIZATION
            self._timestamp = find_timestamp(line)
            self._shutdown_reply = not reply.positive
            return ReplyReceived(command=None, reply=reply)
        if not self._unanswered:
            if reply.positive:
                raise RemoteProtocolError("reply received without a command")
            self._shutdown_reply = True  # probably an autologout
            return ReplyReceived(command=None, reply=reply)
        if self._exchange is not None:
            return self._continue_login(reply)
        command = self._unanswered[0]
        row = self._row(command)
        if reply.positive and row is not None:
            if row.effect is Effect.SEND_MESSAGE:
                self._status = reply
                self._unstuffer = Unstuffer()
                return None
            if row.is_multi_line(command):
                self._status = reply
                self._lines = []
                self._answer_size = 0
                return None
        return self._finish(reply)

    def _take_content(self, unstuffer: Unstuffer) -> ClientEvent | Action | None:
        if not unstuffer.ended:
            content = unstuffer.take(self._input)
            if content is None:
                return self._need_more_data(ANSWER_TIMEOUT)
            if content:
                return MessageChunk(data=content)
        self._unstuffer = None
        return self._finish(self._status)

    def _take_line(self, line: bytes, lines: list[str]) -> ClientEvent | None:
        """Take the next line of a multi-line response (RFC 1939 section 3)."""
        if line == b".":
            self._lines = None
            status = self._status
            return self._finish(Reply(True, status.response_code, status.text, tuple(lines)))
        text = parse_line(line[1:] if line.startswith(b".") else line)
        self._answer_size += len(text) + 2
        if self._answer_size > self._settings.max_response:
            raise RemoteProtocolError(f"response longer than {self._settings.max_response} bytes")
        lines.append(text)
        return None

    def _finish(self, reply: Reply) -> ClientEvent | None:
        """Process the complete response to the oldest unanswered command, and return its event."""
        command = self._unanswered.popleft()
        row = self._row(command)
        effect = Effect.NONE if row is None else row.effect
        match effect:
            case Effect.BEGIN_TLS if reply.positive:
                self._upgrade(ReplyReceived(command=command, reply=reply))
                return None
            case Effect.BEGIN_TLS:
                self._state = State.AUTHORIZATION
            case Effect.CLOSE:
                self._close(CloseReason.QUIT)
            case Effect.MARK_DELETED:
                self._marked = self._marked or reply.positive
            case Effect.UNMARK_ALL:
                self._marked = self._marked and not reply.positive
            case Effect.ENABLE_UTF8:
                self._utf8 = self._utf8 or reply.positive
            case Effect.NONE | Effect.SEND_MESSAGE:
                pass
            case Effect.BEGIN_LOGIN | Effect.CONTINUE_LOGIN:
                pass  # of ``authenticate()``, which ends in ``_continue_login()``
            case _:
                assert_never(effect)
        if isinstance(command, Capa):
            self._capabilities = _parse_capabilities(reply.lines or (), strict=self._strict_syntax)
        self._send_permitted()
        return ReplyReceived(command=command, reply=reply)

    # TLS and shutdown

    def _on_tls_started(self, tls: Tls) -> None:
        super()._on_tls_started(tls)
        self._state = State.AUTHORIZATION
        self._capabilities = {}

    def _ends_session(self, command: Command) -> bool:
        row = self._row(command)
        return row is not None and row.effect is Effect.CLOSE

    def _begin_shutdown(self) -> None:
        """Send QUIT if no reply is due and no message is marked.

        QUIT commits deletions (RFC 1939 section 6), so with marked messages only ``send(Quit())`` sends it.
        """
        if self._idle and not self._marked and self._state in (State.AUTHORIZATION, State.TRANSACTION):
            self._write(Quit().to_wire(), due=True)
        self._close(self._reason)


def _parse_capabilities(lines: tuple[str, ...], *, strict: bool) -> dict[str, str]:
    """Map the tag of each line, such as ``SASL PLAIN LOGIN``, to its arguments (RFC 2449 section 5).

    The arguments of lines with the same tag are joined.  A tab is a blank, unless *strict* is true.
    """
    capabilities: dict[str, str] = {}
    for line in lines:
        tag, _, arguments = (line if strict else line.replace("\t", " ")).strip().partition(" ")
        tag = tag.upper()
        if tag in capabilities:
            arguments = " ".join(dict.fromkeys(f"{capabilities[tag]} {arguments}".split()))
        if tag:
            capabilities[tag] = arguments.strip()
    return capabilities
