"""The SMTP client state machine (RFC 5321, 2920, 4954).

Replies are returned in order, each with the command object that was passed to ``send()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from .. import sasl
from .._client import ClientMachine
from .._lines import check_line
from .._validators import check_type
from ..errors import LocalProtocolError, Malformed, RemoteProtocolError
from ..events import Action, CloseReason, Command, MessageChunk, Tls
from ._client_content import Content
from .commands import Auth, Bdat, GenericCommand, Hello, Mail, MessageComplete, Quit, Rcpt, Rset, Vrfy
from .events import AuthenticationRejected, ClientEvent, ReplyReceived
from .parameters import PARAMETERS, Body
from .replies import Reply, join_lines, parse_extensions, parse_line
from .settings import ClientSettings
from .states import CLIENT_TIMEOUTS, DEFAULT_TIMEOUT, State
from .verbs import ROWS, TRANSITIONS, Effect, Verb

_CHUNK_STATES: Final = ROWS["BDAT"].states
_NOT_SENT: Final = frozenset({Effect.BEGIN_LOGIN, Effect.BEGIN_CHUNK})  # by authenticate(), or by a MessageChunk
_RESETS: Final = frozenset({Effect.RESET, Effect.RESTART_SESSION})
_UNKNOWN_COMMAND: Final = (500, 502)
_MAX_COMMAND: Final = 512  # bytes with CRLF (RFC 5321 section 4.5.3.1.4): the limit for an AUTH command


class _LineCommand(Protocol):
    def to_wire(self) -> bytes: ...


class ClientConnection(ClientMachine[ClientEvent]):
    """One SMTP session as a client.  The first event is ``ReplyReceived(command=None)``: the greeting.

    Pass *tls* if TLS is already active, as on port 465.

        >>> client = smtp.ClientConnection()
        >>> client.receive_data(b"220 mx.example ESMTP\\r\\n")
        >>> client.next_event()
        ReplyReceived(command=None, reply=Reply(code=220, enhanced_status_code='', text='mx.example ESMTP'))
    """

    __slots__ = (
        "_accepted_recipients", "_code", "_content", "_extensions", "_given_up", "_lines", "_lmtp", "_lone_dot",
        "_mail", "_projected", "_refusal", "_replies_due", "_reply_size", "_settings", "_state",
    )  # fmt: skip

    def __init__(self, settings: ClientSettings | None = None, *, tls: Tls | None = None) -> None:
        check_type("settings", ClientSettings, settings, optional=True)
        self._settings = settings or ClientSettings()
        super().__init__(
            tls=tls, max_unanswered=self._settings.max_unanswered, strict_syntax=self._settings.strict_syntax
        )
        self._state = State.GREETING
        self._projected = State.GREETING  # the state if every unanswered command is accepted
        self._extensions: Mapping[str, str] = {}
        self._accepted_recipients = 0
        self._lmtp = False
        self._replies_due = 0  # further replies to a message, after the next one (RFC 2033 section 4.2)
        self._lone_dot = False  # after 354 only the final dot was sent, since no recipient was accepted
        self._code = 0  # code and lines of the reply that is being received
        self._lines: list[str] = []
        self._reply_size = 0
        self._mail = Mail(reverse_path=None)  # the last MAIL that was sent
        self._refusal: Reply | None = None  # the reply that refused a chunk of the current message
        self._given_up = False  # RSET was sent in place of the end of that message
        self._content: Content | None = None  # encoder of the message being sent by BDAT, or by DATA after 354

    @property
    def extensions(self) -> Mapping[str, str]:
        """The extensions in the last EHLO reply: maps keywords in upper case to parameters.  STARTTLS clears them."""
        return self._extensions

    def send(self, command: Command) -> None:
        """Queue *command*; it is sent when the protocol allows.

        Each command is answered by one ReplyReceived.  Commands are pipelined if the server offers it (RFC 2920).  The
        commands are those of this package, and those whose rows are in ``ClientSettings(verbs=...)``; GenericCommand
        sends any other verb.

        Content is sent after Data was answered by 354: any number of MessageChunk, with CRLF line ends and without
        dot-stuffing, then MessageComplete.  A MessageChunk is not answered.

        If the server offers CHUNKING, content may be sent directly after Rcpt, without Data.  It is then sent by BDAT,
        and each MessageChunk is answered by a ReplyReceived with its Bdat.  After a refused chunk only Rset is allowed.
        The rest of the message that is still queued is never sent, and is answered by the same reply (RFC 3030 section
        2).

        If a reply was received that is not reported yet, and no command is unanswered, *command* is not sent: the reply
        ends the connection.  If it is 4yz or 221, such as 421 or 451 after an idle time, it is reported as a
        ReplyReceived with ``command=None``; anything else is a RemoteProtocolError.

        After Hello(lmtp=True), MessageComplete is answered once for each accepted recipient, in their order.

        Raises LocalProtocolError, and sends nothing, if *command* is not allowed now or too much is queued.
        """
        self._check_open()
        if self._output_size > self._settings.max_unwritten:
            raise LocalProtocolError("too much is queued; flush before sending more")
        if isinstance(command, MessageChunk):
            self._send_content(command.data)
            return
        self._check_command_allowed()
        if isinstance(command, MessageComplete):
            self._complete(command)
            return
        row = self._settings.row(command)
        if row is None or row.effect in _NOT_SENT:
            raise LocalProtocolError(
                f"{type(command).__name__} is not a command that can be sent; use one such as smtp.Mail(...),"
                " smtp.GenericCommand(...) for another verb, or add its row to ClientSettings(verbs=...)"
            )
        after = row.states.get(self._projected)
        if after is None:
            name = getattr(command, "verb", row.name)
            raise LocalProtocolError(f"{name} is not allowed in state {self._projected.name}")
        self._check_row(row)
        if isinstance(command, GenericCommand) and command.verb in self._settings.verb_names:
            raise LocalProtocolError(f"{command.verb} has a class or a row of its own; send that command instead")
        if isinstance(command, (Mail, Rcpt)):
            self._check_parameters(command)
        data = check_line(cast(_LineCommand, command).to_wire())
        if not data.isascii() or (isinstance(command, Vrfy) and command.smtputf8):
            self._check_smtputf8(command)
        if isinstance(command, Mail):
            self._mail = command
        self._projected = after
        self._queue(command, data)

    def _check_row(self, row: Verb[Any]) -> None:
        """Raise LocalProtocolError for a verb that this server or this session does not allow."""
        if row.keyword is not None and row.keyword not in self._extensions:
            raise LocalProtocolError(f"{row.name} cannot be sent: the server does not offer {row.keyword}")
        if row.effect is Effect.BEGIN_TLS:
            if self._tls is not None:
                raise LocalProtocolError("TLS is already active")
        elif row.effect is Effect.OPEN_TRANSACTION:
            if self._tls is None and self._settings.tls_required:
                raise LocalProtocolError(f"{row.name} requires TLS because tls_required is set; send StartTls first")
        elif row.effect is Effect.BEGIN_CONTENT and self._mail.body is Body.BINARY_MIME:
            raise LocalProtocolError("BODY=BINARYMIME requires BDAT; send the content without Data")

    def _check_parameters(self, command: Mail | Rcpt) -> None:
        """Raise LocalProtocolError for a parameter that the server does not offer (RFC 5321 section 4.1.1.11)."""
        offered = self._extensions
        for row in PARAMETERS[command.verb]:
            extension = "BINARYMIME" if getattr(command, row.field) is Body.BINARY_MIME else row.extension
            if row.is_in(command) and extension not in offered:
                raise LocalProtocolError(f"{row.keyword} cannot be sent: the server does not offer {extension}")
        if isinstance(command, Mail) and command.size is not None:
            limit = offered["SIZE"].strip()
            if limit.isascii() and limit.isdigit() and 0 < int(limit[:21]) < command.size:  # 0: no limit (RFC 1870)
                raise LocalProtocolError(f"size must be at most {limit} bytes, the limit of the server")
        if isinstance(command, Mail) and command.body is Body.BINARY_MIME and "CHUNKING" not in offered:
            raise LocalProtocolError("BINARYMIME cannot be sent: the server does not offer CHUNKING")
        if isinstance(command, Mail) and command.require_tls and self._tls is None:
            raise LocalProtocolError(
                "REQUIRETLS requires TLS, even if it is offered in clear text; send StartTls first"
            )

    def _check_smtputf8(self, command: Command) -> None:
        """Raise LocalProtocolError if non-ASCII text cannot be sent (RFC 6531 section 3.2)."""
        if "SMTPUTF8" not in self._extensions:
            raise LocalProtocolError("non-ASCII text cannot be sent: the server does not offer SMTPUTF8")
        if isinstance(command, Rcpt) and not self._mail.smtputf8:
            raise LocalProtocolError("a non-ASCII recipient requires smtputf8=True in Mail (SMTPUTF8, RFC 6531)")

    # Content

    def _send_content(self, data: bytes) -> None:
        if self._state is State.DATA and not self._lone_dot and self._content is not None:
            stuffed = self._content.stuff(data)
            if stuffed:
                self._write(stuffed, due=True)
            return
        if self._projected not in _CHUNK_STATES or "CHUNKING" not in self._extensions:
            raise LocalProtocolError(
                "content is not allowed now; send it after Data was answered by 354,"
                " or after Rcpt if the server offers CHUNKING"
            )
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
        pending = (*self._unanswered, *(command for command, _ in self._unsent))
        if self._refusal is not None and not any(
            (row := self._settings.row(command)) is None or row.effect in _RESETS for command in pending
        ):
            raise LocalProtocolError("a chunk was refused; send Rset")
        if sum(len(data) for _, data in self._unsent) > self._settings.max_unwritten:
            raise LocalProtocolError("too much is queued; read replies before sending more")

    def _complete(self, command: MessageComplete) -> None:
        if self._content is None or self._lone_dot:
            raise LocalProtocolError("no message content is being sent")
        if self._state is State.DATA:
            end = self._content.end() + b".\r\n"
            self._state = self._projected = State.READY
            self._queue(command, end)
        elif self._projected is State.CHUNKS:
            self._check_chunk_may_follow()
            self._send_chunk(self._content.end(), command)
        else:
            raise LocalProtocolError("no message content is being sent")
        self._content = None

    def _new_content(self) -> Content:
        return Content(lf_to_crlf=self._settings.lf_to_crlf, binary=self._mail.body is Body.BINARY_MIME)

    def _send_permitted(self) -> None:
        """Send the queued commands that may be sent now.

        After a chunk was refused, the rest of its message is not sent (RFC 3030 section 2).  RSET replaces its end.
        """
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

    def _all_read(self) -> bool:
        return not (self._lines or len(self._input))

    def _may_follow(self) -> bool:
        """Return whether another command may be sent before the reply to the last one (RFC 2920 section 3.1).

        Only the last command of a group may be of any kind.  The end of content may begin a group.
        """
        if "PIPELINING" not in self._extensions:
            return False
        row = self._settings.row(self._unanswered[-1])
        return row is None or row.groupable  # MessageComplete has no row

    # The login

    def _check_login_allowed(self) -> None:
        if not self._idle or self._state is not State.READY:
            raise LocalProtocolError("AUTH is only allowed after EHLO, outside a transaction, when no reply is due")
        if self._tls is None and self._settings.tls_required:
            raise LocalProtocolError("AUTH requires TLS because tls_required is set; send StartTls first")

    def _offers(self, mechanism: str) -> bool:
        return mechanism.upper() in self._extensions.get("AUTH", "").upper().split()

    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        room = _MAX_COMMAND - len(f"AUTH {exchange.mechanism} \r\n") if self._initial_response else 0
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
            raise RemoteProtocolError(f"unexpected reply to AUTH: {reply.code}")
        return self._reject_login(reply)

    def _reject_login(self, reply: Reply) -> ClientEvent | None:
        if self._exchange is None:
            raise RemoteProtocolError(f"unexpected reply to AUTH: {reply.code}")
        return self._refuse_login(AuthenticationRejected(mechanism=self._exchange.mechanism, reply=reply), reply.code)

    # Replies

    def _advance(self) -> ClientEvent | Action | None:
        limit = self._settings.max_reply_line
        if self._exchange is not None and limit < sasl.MAX_LINE:
            limit = sasl.MAX_LINE
        line = self._take_reply_line(limit)
        if line is None:
            verb = getattr(self._unanswered[0], "verb", "") if self._unanswered else ""
            return self._need_more_data(CLIENT_TIMEOUTS.get(verb, DEFAULT_TIMEOUT))
        if not (line or self._lines) and self._skip_empty_line():
            return None
        reply = self._read(line)
        return None if reply is None else self._take(reply)

    def _read(self, line: bytes) -> Reply | None:
        """Add one line to the reply; return the Reply if the line was its last."""
        try:
            code, last, text = parse_line(line, strict=self._strict_syntax)
        except Malformed:
            raise self._malformed_reply(line) from None
        lines = self._lines
        if lines and code != self._code and not self._becomes_refusal(code):
            raise RemoteProtocolError("the lines of a reply have different codes")
        self._code = code
        lines.append(text)
        self._reply_size += len(line)
        settings = self._settings
        if len(lines) > settings.max_reply_lines or self._reply_size > settings.max_reply:
            raise RemoteProtocolError(
                f"reply longer than {settings.max_reply_lines} lines or {settings.max_reply} bytes"
            )
        if not last:
            return None
        self._lines = []
        self._reply_size = 0
        return join_lines(code, lines)

    def _becomes_refusal(self, code: int) -> bool:
        """Return whether the reply, positive so far, becomes a refusal with *code*.

        Some servers begin a reply before they know it: postscreen of Postfix sends ``220-`` to detect clients that do
        not wait, then ``521`` to those that it blocks.  It is clear in the greeting and in the reply to EHLO, which
        accept neither mail nor a login; in other replies the codes must agree (RFC 5321 section 4.2.1).
        """
        if self._strict_syntax or not (self._code < 300 and code >= 400):
            return False
        return self._state is State.GREETING or (bool(self._unanswered) and isinstance(self._unanswered[0], Hello))

    def _take(self, reply: Reply) -> ClientEvent | None:
        """Process a complete reply, and return its event if the application gets one."""
        if reply.code == 421:
            return self._take_shutdown_reply(reply)
        if self._state is State.GREETING:
            if 300 <= reply.code < 400:
                raise RemoteProtocolError(f"unexpected greeting: {reply.code}")
            self._greeted = True
            self._state = self._projected = State.CONNECTED if reply.positive else State.REFUSING
            return ReplyReceived(command=None, reply=reply)
        if not self._unanswered:
            if self._strict_syntax or not (reply.code == 221 or 400 <= reply.code < 500):
                raise RemoteProtocolError(f"reply without a command: {reply.code}")
            return self._take_shutdown_reply(reply)
        command = self._unanswered[0]
        if isinstance(command, Auth):
            return self._continue_login(reply)
        if (
            self._refusal is not None
            and reply.code in _UNKNOWN_COMMAND
            and isinstance(command, (Bdat, MessageComplete))
        ):
            raise RemoteProtocolError("the server has refused a chunk and reads its data as commands")
        row = self._settings.row(command)
        effect = Effect.NONE if row is None else row.effect
        if effect is Effect.BEGIN_CONTENT and not self._lone_dot:
            if reply.code == 354 and self._accepted_recipients == 0:
                # Pipelined after refused recipients: the content would have no recipient (RFC 2920 section 3.1).
                if not self._all_read():
                    raise RemoteProtocolError("the server sent data after 354, before the content")
                self._lone_dot = True
                self._write(b".\r\n", due=True)
                return None
            if reply.code < 400 and reply.code != 354:
                raise RemoteProtocolError(f"unexpected reply to DATA: {reply.code}")
        elif effect is Effect.BEGIN_TLS and reply.code < 400 and reply.code != 220:  # RFC 3207 section 4
            raise RemoteProtocolError(f"unexpected reply to STARTTLS: {reply.code}")
        elif 300 <= reply.code < 400:
            raise RemoteProtocolError(f"unexpected intermediate reply: {reply.code}")
        if isinstance(command, MessageComplete):
            if self._given_up:
                return self._give_up(command, reply)
            if self._refusal is not None:
                if reply.positive:
                    raise RemoteProtocolError("the server accepted a message after it refused a chunk of it")
                reply = self._refusal  # usually 503 follows it, which says nothing of the reason
            if self._take_verdict(reply):
                return ReplyReceived(command=command, reply=reply)
        self._unanswered.popleft()
        self._apply(command, row, reply)
        if effect is Effect.BEGIN_TLS and reply.positive:
            self._upgrade(ReplyReceived(command=command, reply=reply))
            return None
        return ReplyReceived(command=command, reply=reply)

    def _give_up(self, command: MessageComplete, reply: Reply) -> ClientEvent:
        """Handle the reply to the RSET that replaced the end of a refused message.

        MessageComplete is answered by the reply to the refused chunk.
        """
        refusal = self._refusal
        if refusal is None or not reply.positive:
            raise RemoteProtocolError(f"unexpected reply to RSET: {reply.code}")
        self._refusal = None
        self._given_up = False
        self._unanswered.popleft()
        event = ReplyReceived(command=command, reply=refusal)
        if self._lmtp:
            self._events.extend([event] * (self._accepted_recipients - 1))
        self._state = State.READY
        self._project()
        self._send_permitted()
        return event

    def _take_verdict(self, reply: Reply) -> bool:
        """Return whether more replies to this LMTP message are due: there is one for each accepted recipient."""
        if not self._lmtp:
            return False
        if reply.positive and not self._accepted_recipients:
            raise RemoteProtocolError("the server accepted a message without recipients")
        self._replies_due = (self._replies_due or self._accepted_recipients or 1) - 1
        return self._replies_due > 0

    def _take_shutdown_reply(self, reply: Reply) -> ClientEvent | None:
        """Handle 421: the server closes, and the other commands get no reply (RFC 5321 section 3.8).

        The same holds for another reply with which a server ends an idle session, such as 451 or 221.
        """
        self._shutdown_reply = True
        self._answer_refused_message()
        command = self._unanswered.popleft() if self._unanswered else None
        if reply.code != 421:
            self._close(CloseReason.PEER_CLOSED)  # the server does not have to close
        if isinstance(command, Auth):
            return self._reject_login(reply)
        self._events.append(ReplyReceived(command=command, reply=reply))
        return None

    def _answer_refused_message(self) -> None:
        """Queue the events for the chunks and the end of a message of which a chunk was refused.

        Exim replies 552 to a chunk that is too large, reads its data as commands, and closes the connection.
        """
        refusal = self._refusal
        pending = (*self._unanswered, *(command for command, _ in self._unsent))
        if refusal is None or not any(isinstance(command, MessageComplete) for command in pending):
            return
        for command in pending:
            if not isinstance(command, (Bdat, MessageComplete)):
                return
            (self._unanswered or self._unsent).popleft()
            event = ReplyReceived(command=command, reply=refusal)
            self._events.append(event)
            if isinstance(command, MessageComplete):
                further = self._replies_due or self._accepted_recipients
                self._events.extend([event] * (further - 1 if self._lmtp else 0))
                self._refusal = None
                return

    def _apply(self, command: Command, row: Verb[Any] | None, reply: Reply) -> None:
        """Apply the effects of *command*, which was answered by *reply*; MessageComplete has no row."""
        accepted = reply.code < 400
        effect = Effect.NONE if row is None else row.effect
        if self._lone_dot:  # the server has discarded the transaction
            self._lone_dot = False
            self._state = State.READY
        elif isinstance(command, (Bdat, MessageComplete)):
            self._apply_content(command, reply)
        elif row is not None and accepted:
            if self._state not in row.states:  # sent before an earlier command was refused
                raise RemoteProtocolError(f"{row.name} was accepted in state {self._state.name}")
            self._state = row.states[self._state]
        if isinstance(command, (Mail, MessageComplete)) or effect in _RESETS:
            self._refusal = None
        if isinstance(command, Hello) and accepted:
            self._extensions = parse_extensions(reply, strict=self._strict_syntax) if command.extended else {}
            self._lmtp = command.lmtp
        elif isinstance(command, Mail):
            self._accepted_recipients = 0
        elif isinstance(command, Rcpt) and accepted:
            self._accepted_recipients += 1
        elif effect is Effect.BEGIN_CONTENT:
            self._content = self._new_content() if accepted and self._state is State.DATA else None
        elif effect is Effect.RESTART_SESSION and accepted:
            self._extensions = {}
        elif isinstance(command, Quit) or (effect is Effect.CLOSE and accepted):
            self._close(CloseReason.QUIT)
            return
        self._project()
        self._send_permitted()

    def _apply_content(self, command: Command, reply: Reply) -> None:
        state = self._state
        accepted = reply.positive
        if isinstance(command, Bdat):
            if state in _CHUNK_STATES:
                self._state = State.CHUNKS  # also if refused: only RSET may follow (RFC 3030 section 2)
            elif accepted:
                raise RemoteProtocolError(f"BDAT was accepted in state {state.name}")
            if not accepted and self._refusal is None:
                self._refusal = reply
            return
        self._state = State.READY  # whatever the reply: a server that keeps the transaction replies 503 to MAIL

    def _project(self) -> None:
        """Recompute ``_projected``, since after a refusal the server reads the later commands in other states."""
        state = self._state
        for command in (*self._unanswered, *(command for command, _ in self._unsent)):
            row = self._settings.row(command)
            if row is None:
                state = TRANSITIONS.get((state, MessageComplete.verb), state)
            else:
                state = row.states.get(state, state)
            if state is State.CHUNK:  # the data is sent with the command
                state = State.CHUNKS
        self._projected = state

    # TLS and the end

    def _on_tls_started(self, tls: Tls) -> None:
        super()._on_tls_started(tls)
        self._state = self._projected = State.CONNECTED
        self._extensions = {}

    def _ends_session(self, command: Command) -> bool:
        row = self._settings.row(command)
        return row is not None and row.effect is Effect.CLOSE

    def _begin_shutdown(self) -> None:
        if self._idle and self._state not in (State.GREETING, State.DATA):
            self._write(Quit().to_wire(), due=True)
        self._close(self._reason)
