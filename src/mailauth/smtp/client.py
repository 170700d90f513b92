"""SMTP as a client sees it: commands in, replies out, in order and with the very object that was sent (RFC 5321, 2920,
4954).

Knows what may be sent when and what must wait for a reply; whom to write to, and what a refusal means, is the
application's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import sasl
from .._client import ClientMachine
from .._errors import LocalProtocolError, Malformed, RemoteProtocolError
from .._events import Action, CloseReason, Command, MessageChunk, Tls
from .._lines import check_line
from ._client_content import Content
from ._parameters import PARAMETERS, Body
from ._states import CLIENT_TIMEOUTS, DEFAULT_TIMEOUT, GROUPABLE, NEXT, State
from .commands import Auth, Bdat, Data, Hello, Help, Mail, MessageComplete, Noop, Quit, Rcpt, Rset, StartTls, Vrfy
from .events import AuthenticationRejected, ClientEvent, ReplyReceived
from .replies import Reply, join_lines, parse_extensions, parse_line
from .settings import ClientSettings

_LINE_COMMANDS: Final = (Hello, StartTls, Mail, Rcpt, Data, Rset, Noop, Vrfy, Help, Quit)
_MAX_COMMAND: Final = 512  # octets with CRLF (RFC 5321 section 4.5.3.1.4): what an AUTH command must fit into


class ClientConnection(ClientMachine[ClientEvent]):
    """One SMTP session.  The first event is ``ReplyReceived(command=None)``: the greeting.

    *tls* is given when TLS came first (port 465).
    """

    __slots__ = (
        "_accepted_recipients", "_code", "_content", "_extensions", "_given_up", "_lines", "_lmtp", "_lone_dot",
        "_mail", "_projected", "_refusal", "_replies_due", "_reply_size", "_settings", "_state",
    )  # fmt: skip

    def __init__(self, settings: ClientSettings | None = None, *, tls: Tls | None = None) -> None:
        self._settings = settings or ClientSettings()
        super().__init__(tls=tls, max_unanswered=self._settings.max_unanswered)
        self._state = State.GREETING
        self._projected = State.GREETING  # where the session will stand if every unanswered command is accepted
        self._extensions: Mapping[str, str] = {}
        self._accepted_recipients = 0
        self._lmtp = False
        self._replies_due = 0  # to a message, beside the one that comes next (RFC 2033 section 4.2)
        self._lone_dot = False
        self._code = 0  # of the reply that is being received, and its lines
        self._lines: list[str] = []
        self._reply_size = 0
        self._mail = Mail(reverse_path=None)  # the last that was sent
        self._refusal: Reply | None = None  # of a chunk of the message that is being answered
        self._given_up = False  # of that message RSET was sent for its end
        self._content: Content | None = None  # of the message that is being sent by BDAT or was asked for by 354

    @property
    def extensions(self) -> Mapping[str, str]:
        """What the last EHLO reply offered, keyword in capitals to parameters; forgotten at STARTTLS."""
        return self._extensions

    def send(self, command: Command) -> None:
        """Queue *command*; it leaves when it may, and is answered by one Replied (MessageChunk by none).

        Commands are pipelined when the server offers it (RFC 2920).  Content is sent after Data was answered by 354:
        MessageChunk as often as needed, CRLF line ends, dots as they are; then MessageComplete.  Where the server
        offers CHUNKING, the same may be sent behind Rcpt without Data: it goes by BDAT, where each MessageChunk is
        answered, too, by a Replied with its Bdat.  Once one was refused, Rset is what may follow; what had not left of
        the message never does, and is answered by the same reply (RFC 3030 section 2).
        Behind Hello(lmtp=True) MessageComplete is answered once for each accepted recipient, in their order.
        Raises LocalProtocolError, nothing having been sent, when the command is not allowed now or too much is queued.
        """
        self._check_open()
        if self._output_size > self._settings.max_unwritten:
            raise LocalProtocolError("too much is queued: flush before sending more")
        if isinstance(command, MessageChunk):
            self._send_content(command.data)
            return
        self._check_command_allowed()
        if isinstance(command, MessageComplete):
            self._complete(command)
            return
        if not isinstance(command, _LINE_COMMANDS):
            raise LocalProtocolError(f"{type(command).__name__} is no SMTP command")
        after = NEXT[self._projected].get(command.verb)
        if after is None:
            raise LocalProtocolError(f"{command.verb} is not allowed in {self._projected.name}")
        if isinstance(command, StartTls):
            if self._tls is not None:
                raise LocalProtocolError("TLS is active already")
        elif self._tls is None and self._settings.tls_required and command.verb == "MAIL":
            raise LocalProtocolError("MAIL needs TLS here: tls_required is set")
        if isinstance(command, (Mail, Rcpt)):
            self._check_parameters(command)
        elif isinstance(command, Data) and self._mail.body is Body.BINARY_MIME:
            raise LocalProtocolError("BODY=BINARYMIME needs BDAT: send the content without Data")
        data = check_line(command.to_wire())
        if not data.isascii() or (isinstance(command, Vrfy) and command.smtputf8):
            self._check_smtputf8(command)
        if isinstance(command, Mail):
            self._mail = command
        self._projected = after
        self._queue(command, data)

    def _check_parameters(self, command: Mail | Rcpt) -> None:
        """Raise LocalProtocolError for a parameter whose extension the server does not offer (RFC 5321 section
        4.1.1.11).
        """
        offered = self._extensions
        for row in PARAMETERS[command.verb]:
            extension = "BINARYMIME" if getattr(command, row.field) is Body.BINARY_MIME else row.extension
            if row.is_in(command) and extension not in offered:
                raise LocalProtocolError(f"{row.keyword} cannot be sent: the server does not offer {extension}")
        if isinstance(command, Mail) and command.size is not None:
            limit = offered["SIZE"].strip()
            if limit.isascii() and limit.isdigit() and 0 < int(limit[:21]) < command.size:  # 0: no limit (RFC 1870)
                raise LocalProtocolError(f"the server takes messages of up to {limit} octets")
        if isinstance(command, Mail) and command.body is Body.BINARY_MIME and "CHUNKING" not in offered:
            raise LocalProtocolError("BINARYMIME cannot be sent: the server does not offer CHUNKING")
        if isinstance(command, Mail) and command.require_tls and self._tls is None:
            raise LocalProtocolError("REQUIRETLS cannot be sent in clear text, whatever the server offers there")

    def _check_smtputf8(self, command: Command) -> None:
        """Raise LocalProtocolError when what lies beyond ASCII cannot be sent (RFC 6531 section 3.2)."""
        if "SMTPUTF8" not in self._extensions:
            raise LocalProtocolError("beyond ASCII nothing can be sent: the server does not offer SMTPUTF8")
        if isinstance(command, Rcpt) and not self._mail.smtputf8:
            raise LocalProtocolError("a recipient beyond ASCII needs smtputf8=True in Mail (SMTPUTF8, RFC 6531)")

    # Content

    def _send_content(self, data: bytes) -> None:
        if self._state is State.DATA and not self._lone_dot and self._content is not None:
            stuffed = self._content.stuff(data)
            if stuffed:
                self._write(stuffed, due=True)
            return
        if "BDAT" not in NEXT[self._projected] or "CHUNKING" not in self._extensions:
            raise LocalProtocolError("content is sent after Data was answered by 354, or by BDAT where it is offered")
        self._check_command_allowed()
        self._check_chunk_may_follow()
        if self._projected is State.RCPT:
            self._content = self._new_content()
        if self._content is None:
            raise LocalProtocolError("no message content is being sent")
        self._send_chunk(self._content.take(data))

    def _send_chunk(self, data: bytes, last: MessageComplete | None = None) -> None:
        line = Bdat(size=len(data), last=last is not None)
        self._projected = State.CHUNKS if last is None else State.READY
        self._queue(line if last is None else last, line.to_wire() + data)

    def _check_chunk_may_follow(self) -> None:
        under_way = (*self._unanswered, *(command for command, _ in self._unsent))
        if self._refusal is not None and not any(
            isinstance(command, (Rset, Hello, MessageComplete)) for command in under_way
        ):
            raise LocalProtocolError("a chunk was refused: only Rset leads on")
        if sum(len(data) for _, data in self._unsent) > self._settings.max_unwritten:
            raise LocalProtocolError("too much is queued: read replies before sending more")

    def _complete(self, command: MessageComplete) -> None:
        if self._content is None or self._lone_dot:
            raise LocalProtocolError("no message content is being sent")
        if self._state is State.DATA:
            self._write(self._content.end() + b".\r\n", due=True)
            self._unanswered.append(command)
            self._state = self._projected = State.READY
        elif self._projected is State.CHUNKS:
            self._check_chunk_may_follow()
            self._send_chunk(self._content.end(), command)
        else:
            raise LocalProtocolError("no message content is being sent")
        self._content = None

    def _new_content(self) -> Content:
        return Content(lf_to_crlf=self._settings.lf_to_crlf, binary=self._mail.body is Body.BINARY_MIME)

    def _send_permitted(self) -> None:
        """As the base says; of a message that was refused not an octet more (RFC 3030 section 2): RSET for its end."""
        unsent = self._unsent
        while self._refusal is not None and unsent and not self._unanswered:
            command = unsent[0][0]
            if isinstance(command, MessageComplete):
                unsent[0] = (command, Rset().to_wire())
                self._given_up = True
            if not isinstance(command, Bdat):
                break
            unsent.popleft()
            self._events.append(ReplyReceived(command=command, reply=self._refusal))
        super()._send_permitted()

    def _may_follow(self) -> bool:
        """RFC 2920 section 3.1: only the last of a group may be of any kind; the end of content may begin one (4)."""
        if "PIPELINING" not in self._extensions:
            return False
        last = self._unanswered[-1]
        return isinstance(last, (MessageComplete, Bdat)) or (
            isinstance(last, _LINE_COMMANDS) and last.verb in GROUPABLE
        )

    # The login

    def _check_login_allowed(self) -> None:
        if not self._idle or self._state is not State.READY:
            raise LocalProtocolError("AUTH is allowed after EHLO, outside a transaction, with no reply due")
        if self._tls is None and self._settings.tls_required:
            raise LocalProtocolError("AUTH needs TLS here: tls_required is set")

    def _offers(self, mechanism: str) -> bool:
        return mechanism.upper() in self._extensions.get("AUTH", "").upper().split()

    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        room = _MAX_COMMAND - len(f"AUTH {exchange.mechanism} \r\n")
        command = Auth(mechanism=exchange.mechanism, initial_response=exchange.begin(room))
        self._write_login_line(command, command.to_wire())

    def _continue_login(self, reply: Reply) -> ClientEvent | None:
        if reply.code == 334:
            self._take_challenge(reply.text.encode("ascii"))
            return None
        self._unanswered.popleft()
        if reply.code == 235:
            return self._succeed()
        if reply.code < 400:
            raise RemoteProtocolError(f"AUTH was answered by {reply.code}")
        return AuthenticationRejected(mechanism=self._end_login().mechanism, reply=reply)

    # What comes in

    def _advance(self) -> ClientEvent | Action | None:
        limit = self._settings.max_reply_line
        line = self._take_reply_line(limit if self._exchange is None else max(limit, sasl.MAX_LINE))
        if line is None:
            verb = getattr(self._unanswered[0], "verb", "") if self._unanswered else ""
            return self._need_more_data(CLIENT_TIMEOUTS.get(verb, DEFAULT_TIMEOUT))
        reply = self._read(line)
        return None if reply is None else self._take(reply)

    def _read(self, line: bytes) -> Reply | None:
        """One line more; the Reply when it was the last of one."""
        try:
            code, last, text = parse_line(line)
        except Malformed:
            raise self._malformed_reply(line) from None
        lines = self._lines
        if lines and code != self._code:
            raise RemoteProtocolError("the lines of one reply carry different codes")
        self._code = code
        lines.append(text)
        self._reply_size += len(line)
        settings = self._settings
        if len(lines) > settings.max_reply_lines or self._reply_size > settings.max_reply:
            raise RemoteProtocolError(
                f"a reply of over {settings.max_reply_lines} lines or {settings.max_reply} octets"
            )
        if not last:
            return None
        self._lines = []
        self._reply_size = 0
        return join_lines(code, lines)

    def _take(self, reply: Reply) -> ClientEvent | None:
        """A whole reply: whose is it, and what does it change?"""
        if reply.code == 421:
            return self._take_shutdown_reply(reply)
        if self._state is State.GREETING:
            if 300 <= reply.code < 400:
                raise RemoteProtocolError(f"the greeting is {reply.code}")
            self._greeted = True
            self._state = self._projected = State.CONNECTED if reply.positive else State.REFUSING
            return ReplyReceived(command=None, reply=reply)
        if not self._unanswered:
            raise RemoteProtocolError(f"a reply to nothing: {reply.code}")
        command = self._unanswered[0]
        if isinstance(command, Auth):
            return self._continue_login(reply)
        if isinstance(command, Data) and not self._lone_dot:
            if reply.code == 354 and self._accepted_recipients == 0:
                # Pipelined behind refused recipients: the content would be for nobody (RFC 2920 section 3.1).
                self._lone_dot = True
                self._write(b".\r\n", due=True)
                return None
            if reply.code < 400 and reply.code != 354:
                raise RemoteProtocolError(f"DATA was answered by {reply.code}")
        elif 300 <= reply.code < 400:
            raise RemoteProtocolError(f"{reply.code} where no continuation was asked for")
        if self._given_up and isinstance(command, MessageComplete):
            return self._give_up(command, reply)
        if isinstance(command, MessageComplete) and self._take_verdict(reply):
            return ReplyReceived(command=command, reply=reply)
        self._unanswered.popleft()
        self._apply(command, reply)
        if isinstance(command, StartTls) and reply.positive:
            self._upgrade(ReplyReceived(command=command, reply=reply))
            return None
        return ReplyReceived(command=command, reply=reply)

    def _give_up(self, command: MessageComplete, reply: Reply) -> ClientEvent:
        """The reply to the RSET that went for the end of a refused message: that end is answered as its chunk was."""
        refusal, self._refusal = self._refusal, None
        if refusal is None or not reply.positive:
            raise RemoteProtocolError(f"RSET was answered by {reply.code}")
        self._given_up = False
        self._unanswered.popleft()
        replied = ReplyReceived(command=command, reply=refusal)
        if self._lmtp:
            self._events.extend([replied] * (self._accepted_recipients - 1))
        self._state = State.READY
        self._project()
        self._send_permitted()
        return replied

    def _take_verdict(self, reply: Reply) -> bool:
        """LMTP: whether more replies to this message are due, one for each accepted recipient."""
        if not self._lmtp:
            return False
        if reply.positive and (self._refusal is not None or not self._accepted_recipients):
            raise RemoteProtocolError("a message was accepted that cannot be whole")
        self._replies_due = (self._replies_due or self._accepted_recipients or 1) - 1
        return self._replies_due > 0

    def _take_shutdown_reply(self, reply: Reply) -> ClientEvent:
        """421: the server will close; what is still unanswered stays so (RFC 5321 section 3.8)."""
        self._shutdown_reply = True
        if self._unanswered:
            command: Command | None = self._unanswered.popleft()
        else:
            command = None
        if self._exchange is not None:
            return AuthenticationRejected(mechanism=self._end_login().mechanism, reply=reply)
        return ReplyReceived(command=command, reply=reply)

    def _apply(self, command: Command, reply: Reply) -> None:
        """What a command that was answered leaves behind."""
        accepted = reply.code < 400
        if self._lone_dot:  # the transaction ended with it
            self._lone_dot = False
            self._state = State.READY
        elif isinstance(command, _LINE_COMMANDS) and accepted:
            if command.verb not in NEXT[self._state]:  # in flight when an earlier command was refused
                raise RemoteProtocolError(f"{command.verb} was accepted in {self._state.name}")
            self._state = NEXT[self._state][command.verb]
        elif isinstance(command, (Bdat, MessageComplete)):
            self._apply_content(command, reply)
        if isinstance(command, (Hello, Mail, Rset, MessageComplete)):
            self._refusal = None
        if isinstance(command, Hello) and accepted:
            self._extensions = parse_extensions(reply) if command.extended else {}
            self._lmtp = command.lmtp
        elif isinstance(command, Mail):
            self._accepted_recipients = 0
        elif isinstance(command, Rcpt) and accepted:
            self._accepted_recipients += 1
        elif isinstance(command, Data):
            self._content = self._new_content() if accepted and self._state is State.DATA else None
        elif isinstance(command, Quit):
            self._close(CloseReason.QUIT)
            return
        self._project()
        self._send_permitted()

    def _apply_content(self, command: Command, reply: Reply) -> None:
        state = self._state
        accepted = reply.positive
        if isinstance(command, Bdat):
            if "BDAT" in NEXT[state]:
                self._state = State.CHUNKS  # refused, too: until RSET nothing good comes of it (RFC 3030 section 2)
            elif accepted:
                raise RemoteProtocolError(f"BDAT was accepted in {state.name}")
            if not accepted and self._refusal is None:
                self._refusal = reply
            return
        if accepted and self._refusal is not None:
            raise RemoteProtocolError("a message was accepted of which a chunk was refused")
        self._state = State.READY  # whatever was said to it, also where a server kept the transaction: it says 503

    def _project(self) -> None:
        """Anew where the session will stand: a refusal has changed what the commands under way will find."""
        state = self._state
        for command in (*self._unanswered, *(command for command, _ in self._unsent)):
            if isinstance(command, (*_LINE_COMMANDS, Bdat, MessageComplete)):
                state = NEXT[state].get(command.verb, state)
        self._projected = state

    # TLS and the end

    def _secured(self, tls: Tls) -> None:
        super()._secured(tls)
        self._state = self._projected = State.CONNECTED
        self._extensions = {}

    def _begin_shutdown(self) -> None:
        if self._idle and self._state not in (State.GREETING, State.DATA):
            self._write(Quit().to_wire(), due=True)
        self._close(self._why)
