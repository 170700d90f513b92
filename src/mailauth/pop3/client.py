"""POP3 as a client sees it: commands in, replies out, in order and with the very object that was sent (RFC 1939).

Knows what may be sent when and what must wait for a reply; which messages to fetch, and what a refusal means, is the
application's.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import sasl
from .._client import ClientMachine
from .._dots import Unstuffer
from .._errors import LocalProtocolError, Malformed, RemoteProtocolError
from .._events import Action, CloseReason, Command, MessageChunk, Tls
from .._lines import check_line
from ._grammar import find_timestamp
from ._states import ANSWER_TIMEOUT, CLIENT_TIMEOUTS, NEXT, State
from .commands import SENDABLE, Apop, Auth, Capa, Dele, List, Pass, Quit, Retrieve, Rset, Stls, Uidl, User, Utf8
from .events import AuthenticationRejected, ClientEvent, ReplyReceived
from .replies import Reply, parse_status, printable
from .settings import MAX_COMMAND_LINE, ClientSettings


class ClientConnection(ClientMachine[ClientEvent]):
    """One POP3 session.  The first event is ``ReplyReceived(command=None)``: the greeting.

    *tls* is given when TLS came first (port 995).
    """

    __slots__ = (
        "_answer_size", "_capabilities", "_lines", "_marked", "_settings", "_state", "_status", "_timestamp",
        "_unstuffer", "_utf8",
    )  # fmt: skip

    def __init__(self, settings: ClientSettings | None = None, *, tls: Tls | None = None) -> None:
        self._settings = settings or ClientSettings()
        super().__init__(tls=tls, max_unanswered=self._settings.max_unanswered)
        self._state = State.GREETING
        self._capabilities: Mapping[str, str] = {}
        self._timestamp: bytes | None = None
        self._marked = False  # a message is marked as deleted, so that QUIT would remove it
        self._status = Reply(True)  # of the multi-line answer that is being received, and its lines
        self._lines: list[str] | None = None
        self._answer_size = 0
        self._unstuffer: Unstuffer | None = None
        self._utf8 = False  # UTF8 was said

    @property
    def capabilities(self) -> Mapping[str, str]:
        """What the last CAPA answer said, tag in capitals to arguments; empty before one, and again after STLS."""
        return self._capabilities

    @property
    def timestamp(self) -> bytes | None:
        """The greeting's timestamp, for APOP; None for none, and for what is no strict msg-id (CVE-2007-1558)."""
        return self._timestamp

    def send(self, command: Command) -> None:
        """Queue *command*; it leaves when it may, and is answered by one Replied.

        The text that Retrieve asks for comes before its Replied, as MessageChunks with the dots unstuffed.  Commands
        are pipelined when the server's CAPA said so (RFC 2449 section 6.6); otherwise each waits for the reply to the
        one before.  Raises LocalProtocolError, nothing having been sent, when the command is not allowed now or too
        many are unanswered.
        """
        self._check_command_allowed()
        if not isinstance(command, SENDABLE):
            raise LocalProtocolError(f"{type(command).__name__} is no POP3 command to send")
        if self._state is State.GREETING:
            raise LocalProtocolError("the server speaks first: read its greeting")
        after = NEXT[self._state].get(command.verb)
        if after is None:
            raise LocalProtocolError(f"{command.verb} is not allowed in {self._state.name}")
        if isinstance(command, Stls) and self._tls is not None:
            raise LocalProtocolError("TLS is active already")
        if isinstance(command, Stls) and self._utf8:
            raise LocalProtocolError("STLS may not follow UTF8 (RFC 6856 section 2.1)")
        data = check_line(command.to_wire())
        self._utf8 = self._utf8 or isinstance(command, Utf8)
        self._state = after
        self._queue(command, data)

    def _may_follow(self) -> bool:
        return "PIPELINING" in self._capabilities

    # The login

    def authenticate(self, *mechanisms: sasl.ClientMechanism) -> None:
        """As the base says.  Inside TLS, APOP is taken only when none of the others is offered: MD5 is broken.

        With a name or password outside ASCII, USER and APOP are offered only by a CAPA answer with ``UTF8 USER`` (RFC
        6856 section 2.2).
        """
        if "USER" not in self._capabilities.get("UTF8", "").upper().split():
            mechanisms = tuple(mechanism for mechanism in mechanisms if not _needs_utf8(mechanism))
        if self._tls is not None:
            mechanisms = tuple(sorted(mechanisms, key=lambda mechanism: mechanism.name == "APOP"))
        super().authenticate(*mechanisms)

    def _check_login_allowed(self) -> None:
        if not self._idle or self._state is not State.AUTHORIZATION:
            raise LocalProtocolError("a login is allowed once, behind the greeting, with no reply due")
        if self._tls is None and self._settings.tls_required:
            raise LocalProtocolError("a login needs TLS here: tls_required is set")

    def _offers(self, mechanism: str) -> bool:
        """Whether *mechanism* is offered.  A server that was not asked CAPA, or has none, is taken to know USER."""
        if mechanism == "APOP":
            return self._timestamp is not None
        if mechanism == "USER":
            return not self._capabilities or "USER" in self._capabilities
        return mechanism in self._capabilities.get("SASL", "").upper().split()

    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        name = exchange.mechanism
        if name == "USER":
            self._log_in(User(argument=exchange.say(None)))
        elif name == "APOP":
            exchange.say(None)
            self._log_in(Apop(argument=exchange.say(self._timestamp)))
        else:
            room = MAX_COMMAND_LINE - len(f"AUTH {name} \r\n")  # RFC 5034 section 4
            self._log_in(Auth(mechanism=name, initial_response=exchange.begin(room)))

    def _log_in(self, command: User | Pass | Apop | Auth) -> None:
        self._write_login_line(command, command.to_wire())

    def _continue_login(self, reply: Reply) -> ClientEvent | None:
        command = self._unanswered.popleft()
        if not reply.positive:
            return AuthenticationRejected(mechanism=self._end_login().mechanism, reply=reply)
        if isinstance(command, User) and self._exchange is not None:
            try:
                self._log_in(Pass(argument=self._exchange.say(b"")))
            except LocalProtocolError:
                self._end_login()
                raise
            return None
        succeeded = self._succeed()
        self._state = State.TRANSACTION
        return succeeded

    # What comes in

    def _advance(self) -> ClientEvent | Action | None:
        if self._unstuffer is not None:
            return self._take_content(self._unstuffer)
        line = self._take_reply_line(self._settings.max_reply_line if self._exchange is None else sasl.MAX_LINE)
        if line is None:
            return self._need_more_data(CLIENT_TIMEOUTS if self._lines is None else ANSWER_TIMEOUT)
        if self._lines is not None:
            return self._take_line(line, self._lines)
        if self._exchange is not None and (line.startswith(b"+ ") or line == b"+"):
            if not isinstance(self._unanswered[0], Auth):
                raise RemoteProtocolError("a challenge outside AUTH")
            self._take_challenge(line[2:])
            return None
        try:
            reply = parse_status(line)
        except Malformed:
            raise self._malformed_reply(line) from None
        return self._take(reply, line)

    def _take(self, reply: Reply, line: bytes) -> ClientEvent | None:
        """A status line: whose is it, and does more follow?"""
        if self._state is State.GREETING:
            self._greeted = True
            self._state = State.AUTHORIZATION
            self._timestamp = find_timestamp(line)
            self._shutdown_reply = not reply.positive
            return ReplyReceived(command=None, reply=reply)
        if not self._unanswered:
            if reply.positive:
                raise RemoteProtocolError("a reply to nothing")
            self._shutdown_reply = True  # an autologout, most likely
            return ReplyReceived(command=None, reply=reply)
        if self._exchange is not None:
            return self._continue_login(reply)
        command = self._unanswered[0]
        if reply.positive:
            if isinstance(command, Retrieve):
                self._status = reply
                self._unstuffer = Unstuffer()
                return None
            if isinstance(command, Capa) or (isinstance(command, List | Uidl) and command.number is None):
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
        """One line more of a multi-line answer (RFC 1939 section 3)."""
        if line == b".":
            self._lines = None
            status = self._status
            return self._finish(Reply(True, status.response_code, status.text, tuple(lines)))
        self._answer_size += len(line) + 2
        if self._answer_size > self._settings.max_response:
            raise RemoteProtocolError(f"an answer of over {self._settings.max_response} octets")
        lines.append(printable(line[1:] if line.startswith(b".") else line))
        return None

    def _finish(self, reply: Reply) -> ClientEvent | None:
        """The answer to the oldest command is whole: what does it change?"""
        command = self._unanswered.popleft()
        if isinstance(command, Stls) and reply.positive:
            self._upgrade(ReplyReceived(command=command, reply=reply))
            return None
        if isinstance(command, Quit):
            self._close(CloseReason.QUIT)
        elif isinstance(command, Stls):
            self._state = State.AUTHORIZATION
        elif isinstance(command, Capa):
            self._capabilities = _parse_capabilities(reply.lines or ())
        elif isinstance(command, Dele):
            self._marked = self._marked or reply.positive
        elif isinstance(command, Rset) and reply.positive:
            self._marked = False
        self._send_permitted()
        return ReplyReceived(command=command, reply=reply)

    # TLS and the end

    def _secured(self, tls: Tls) -> None:
        super()._secured(tls)
        self._state = State.AUTHORIZATION
        self._capabilities = {}

    def _begin_shutdown(self) -> None:
        """QUIT when nothing is due, and nothing is marked: to commit deletions is for ``send()`` alone (section 6)."""
        if self._idle and not self._marked and self._state in (State.AUTHORIZATION, State.TRANSACTION):
            self._write(Quit().to_wire(), due=True)
        self._close(self._why)


def _needs_utf8(mechanism: sasl.ClientMechanism) -> bool:
    return isinstance(mechanism, sasl.UserPassClient | sasl.ApopClient) and mechanism.needs_utf8


def _parse_capabilities(lines: tuple[str, ...]) -> dict[str, str]:
    """``SASL PLAIN LOGIN`` and its like: tag to arguments (RFC 2449 section 5)."""
    capabilities: dict[str, str] = {}
    for line in lines:
        tag, _, arguments = line.strip().partition(" ")
        if tag:
            capabilities[tag.upper()] = arguments
    return capabilities
