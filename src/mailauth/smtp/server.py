"""An SMTP server as a state machine, from the greeting to the last reply (RFC 5321, RFC 3207, RFC 4954).

It implements the order of commands.  What a verb does is in its row (``verbs``), and content is received in
``content``.  The application decides who may send what to whom.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast, final

from .. import sasl
from .._lines import LineTooLong
from .._machine import Phase
from .._server import ServerMachine
from .._unchecked import new, slot_setters
from .._validators import check_type
from ..errors import LocalProtocolError, Malformed
from ..events import Action, CloseReason, Command, MessageChunk, Question, Tls
from ..sasl.messages import authentication_started
from . import _fast_path, _standard_replies, content
from ._command_lines import COMMON, from_common, parse_argument, split_line
from ._grammar import Mailbox
from .commands import Auth, Bdat, Data, Mail, MessageComplete, Rcpt
from .events import CommandRejected, Connected, ContentFault, MessageAborted, ServerEvent
from .parameters import Body
from .replies import PerRecipient, Reply, checked_answer
from .settings import ServerSettings
from .states import State
from .verbs import COMPLETED, Effect, Verb

A = TypeVar("A")
Receiver: TypeAlias = content.ContentReceiver | content.ChunkReceiver

(_set_data,) = slot_setters(MessageChunk, "data")
(_set_recipients,) = slot_setters(MessageComplete, "recipients")
_match_common: Final = COMMON.match
_BINARY_MIME: Final = Body.BINARY_MIME
_GREETING, _DATA, _AUTH, _CHUNK, _CHUNKS = State.GREETING, State.DATA, State.AUTH, State.CHUNK, State.CHUNKS

_NOT_IMPLEMENTED: Final = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "BDAT"})

_HTTP: Final = frozenset({"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI"})
_TLS_HANDSHAKE: Final = 0x16  # the first byte of a ClientHello (RFC 8446 section 5.1); no command begins with it
# As an attribute of its class, a member costs more; a set would call its hash function, which is written in Python.
_OPEN_TRANSACTION, _ADD_RECIPIENT = Effect.OPEN_TRANSACTION, Effect.ADD_RECIPIENT
_BEGIN_CONTENT, _BEGIN_CHUNK, _BEGIN_TLS = Effect.BEGIN_CONTENT, Effect.BEGIN_CHUNK, Effect.BEGIN_TLS
_RESET, _RESTART_SESSION, _CLOSE = Effect.RESET, Effect.RESTART_SESSION, Effect.CLOSE
_JUNK: Final = (Effect.NONE, _RESET, _RESTART_SESSION)
_ENDS_MESSAGE: Final = (_RESET, _RESTART_SESSION, _CLOSE)
_MANY: Final = 256  # replies that wait for the rest of a group: as single objects they take three times their size

MIN_CHUNK: Final = 64
"""A smaller chunk that is not the last of its message counts as a junk command.  The number is in no RFC; clients send
chunks of 8 KiB and more, and short ones only at the end."""


@final
class ServerConnection(ServerMachine[ServerEvent]):
    """One SMTP session.

    *entropy* is 32 random bytes, used for nothing else.  *tls* is given if TLS was started before SMTP (port 465).

        >>> settings = smtp.ServerSettings(host_name="mx.example")
        >>> connection = smtp.ServerConnection(settings, entropy=secrets.token_bytes(32))
        >>> connection.answer(connection.next_event(), ACCEPT)  # the question is Connected
        >>> connection.next_event().data
        b'220 mx.example ESMTP\\r\\n'
    """

    __slots__ = (
        "_ascii_line",
        "_asked",
        "_chunk_replies",
        "_content",
        "_errors",
        "_failed_logins",
        "_junk_commands",
        "_mail",
        "_recipients",
        "_refusal",
        "_settings",
        "_state",
        "_state_after_chunk",
        "_transactions",
        "_wait",
    )  # fmt: skip

    def __init__(self, settings: ServerSettings, *, entropy: bytes, tls: Tls | None = None) -> None:
        check_type("settings", ServerSettings, settings)
        super().__init__(entropy=entropy, tls=tls)
        self._settings = settings
        self._state = State.GREETING
        self._wait = settings.timeouts[0]
        self._asked: Verb[Any] | None = None  # the row of the open question
        self._ascii_line = True
        self._mail: Mail | None = None
        self._recipients: list[Mailbox] = []
        self._content: Receiver | None = None
        self._refusal: Reply | None = None  # of the chunk whose data is being discarded
        self._chunk_replies = 1  # how often it is sent after the last chunk: in LMTP, once for each recipient
        self._state_after_chunk = State.READY
        self._transactions = 0
        self._errors = 0
        self._junk_commands = 0
        self._failed_logins = 0

    # What a row may read (verbs.View)

    @property
    def settings(self) -> ServerSettings:
        """The settings."""
        return self._settings

    @property
    def mail(self) -> Mail | None:
        """The MAIL command of the open transaction; None without one."""
        return self._mail

    @property
    def recipients(self) -> Sequence[Mailbox]:
        """The accepted recipients of the open transaction."""
        return self._recipients

    @property
    def transactions(self) -> int:
        """The number of transactions that were opened in this session."""
        return self._transactions

    @property
    def content_size(self) -> int:
        """The bytes received of the message in progress."""
        receiver = self._content
        return 0 if receiver is None or self._state not in (_DATA, _CHUNK, _CHUNKS) else receiver.size

    @property
    def ascii_line(self) -> bool:
        """Whether the command line that is being checked is ASCII."""
        return self._ascii_line

    def answer(self, question: Question[A], answer: A) -> None:
        """Answer the open question (see the base class)."""
        if not _fast_path.answer(self, question, answer):
            super().answer(question, answer)

    # Input

    def _advance(self) -> ServerEvent | Action | None:
        state = self._state
        if (state is _DATA or state is _CHUNK) and self._content is not None:
            return self._receive_content(self._content)
        if state is _AUTH and self._exchange is not None:
            return self._take_response(self._exchange, self._wait)
        if state is _GREETING:
            self._question = connected = Connected()
            return connected
        received = self._input
        if received.offset == len(received.data):
            return self._need_line()
        found = _match_common(received.data, received.offset)
        if found is not None and not received.dropping:
            question = _fast_path.next_question(self, found)
            if question is not None:
                return question
            command = from_common(found)
            row = None if command is None else self._settings.common_rows.get(command.verb)
            if command is not None and row is not None:
                received.offset = found.end()
                self._ascii_line = True
                return self._handle_command(row, command, found)
        if state is State.CONNECTED and received.data[received.offset] == _TLS_HANDSHAKE and not received.dropping:
            return self._reject_foreign_protocol(b"")
        try:
            line = received.take_line(self._settings.max_command_line)
        except LineTooLong:
            if state is _CHUNKS:
                return self._close_endless_chunk(b"", _standard_replies.LINE_TOO_LONG)
            return self._reject("", b"", _standard_replies.LINE_TOO_LONG)
        if line is None:
            if received.dropping and state is _CHUNKS:
                # The bytes of this line would count for the rate of content, and a line without an end has no limit.
                return self._close_endless_chunk(b"", _standard_replies.LINE_TOO_LONG)
            return self._need_line()
        return self._read(line)

    def _need_line(self) -> Action | None:
        # Between two chunks the server still holds the message, so the rate of content applies.
        return self._need_more_data(self._settings.timeouts[2] if self._state is _CHUNKS else self._wait)

    def _read(self, line: bytes) -> ServerEvent | None:
        """Handle *line*, which is not one of the common lines."""
        settings = self._settings
        strict = settings.strict_syntax
        try:
            verb, argument = split_line(line, smtputf8=settings.smtputf8, strict=strict)
        except Malformed:
            return self._reject("", line, _standard_replies.BAD_LINE)
        row = settings.table.get(verb)
        if row is None:
            if verb in _NOT_IMPLEMENTED:
                return self._reject(verb, line, _standard_replies.NOT_IMPLEMENTED)
            if verb in _HTTP:
                return self._reject_foreign_protocol(line)
            return self._reject("", line, _standard_replies.UNKNOWN_COMMAND)
        try:
            command = parse_argument(row, argument, line, strict=strict)
        except Malformed as error:
            reply = Reply(501, "5.5.4", str(error))
            if row.effect is _BEGIN_CHUNK and self._state is not State.REFUSING:
                return self._close_endless_chunk(line, reply)
            return self._reject(verb, b"AUTH" if row.effect is Effect.BEGIN_LOGIN else line, reply)
        self._ascii_line = line.isascii()
        return self._handle_command(row, command, line)

    def _out_of_sequence(self) -> Reply:
        """Return the reply to a command that is not allowed in this state.

        Many clients forget EHLO after STARTTLS (RFC 3207 section 4.2), so the reply says what is missing.
        """
        if self._state is not State.CONNECTED:
            return _standard_replies.BAD_SEQUENCE
        return _standard_replies.LHLO_NEEDED if self._settings.lmtp else _standard_replies.EHLO_NEEDED

    def _handle_command(self, row: Verb[Any], command: Command, line: bytes | re.Match[bytes]) -> ServerEvent | None:
        refusal: Reply | None = None
        if self._state not in row.states:
            refusal = self._out_of_sequence()
        elif self._tls is None and not row.before_tls and self._settings.tls_required:
            refusal = _standard_replies.TLS_REQUIRED
        elif row.check is not None:
            refusal = row.check(self, command)
        if refusal is None and row.effect in _JUNK:
            refusal = self._count_junk_command()
        if isinstance(line, re.Match):  # of COMMON, with its CRLF
            line = line.group()[:-2] if refusal is not None else b""
        elif refusal is not None and isinstance(command, Auth):
            line = f"AUTH {command.mechanism}".encode("ascii")  # the initial response may be a secret
        if isinstance(command, Bdat):
            return self._begin_chunk(row, command, line, refusal)
        if refusal is not None:
            return self._reject(row.name, line, refusal)
        if isinstance(command, Auth):
            return self._begin_login(row, command)
        if row.asks:
            self._asked = row
            self._question = command
            return cast(ServerEvent, command)
        between_chunks = self._state is _CHUNKS
        self._accept(row, command, None)
        if between_chunks and row.effect in _ENDS_MESSAGE:
            self._events.append(cast(ServerEvent, command))
            return MessageAborted(reason=ContentFault.ABANDONED)
        return cast(ServerEvent, command)

    def _reject(self, verb: str, line: bytes, reply: Reply) -> ServerEvent:
        """Reject a command; each 5yz reply counts as an error."""
        if self._phase is Phase.CLOSED:  # too many junk commands: the reply is written
            return CommandRejected(verb=verb, line=line, reply=reply)
        if self._state is State.REFUSING:
            reply = _standard_replies.NO_SERVICE  # to everything except QUIT (RFC 5321 section 3.1)
        self._write_reply(reply)
        if reply.code >= 500:
            self._errors += 1
            self._check_errors()
        elif reply.code == 421:
            self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
            self._close(CloseReason.TOO_MANY_ERRORS)
        else:
            self._count_junk_command()
        return CommandRejected(verb=verb, line=line, reply=reply)

    def _reject_foreign_protocol(self, line: bytes) -> CommandRejected:
        """Close the connection: the client speaks another protocol, which may carry SMTP inside (a browser, TLS)."""
        self._write_reply(_standard_replies.NOT_SMTP)
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return CommandRejected(verb="", line=line, reply=_standard_replies.NOT_SMTP)

    def _count_junk_command(self) -> Reply | None:
        """Count a command that does not advance a transaction.  If there were too many, close, and return the reply."""
        self._junk_commands += 1
        if self._junk_commands - 2 * self._transactions <= self._settings.max_junk_commands:
            return None
        self._write_reply(_standard_replies.TOO_MANY_JUNK_COMMANDS)
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return _standard_replies.TOO_MANY_JUNK_COMMANDS

    def _check_errors(self) -> None:
        if self._errors >= self._settings.max_errors:
            self._write_reply(_standard_replies.TOO_MANY_ERRORS)
            self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
            self._close(CloseReason.TOO_MANY_ERRORS)

    # Answers

    def _resolve(self, question: Question[A], answer: A) -> None:
        if isinstance(question, MessageComplete):
            self._complete(question, answer)
            return
        reply = checked_answer(answer)
        if isinstance(question, Connected):
            self._greet(reply)
            return
        row = self._asked
        assert row is not None
        assert isinstance(question, Command)
        if reply is None or reply.positive:
            if row.effect is _BEGIN_TLS and self._phase is not Phase.OPEN:
                return  # shut_down() was called meanwhile: its 421 is the reply, and no handshake begins
            if self._state is _CHUNKS and row.effect in _ENDS_MESSAGE:
                self._events.append(MessageAborted(reason=ContentFault.ABANDONED))
            self._accept(row, question, reply)
        elif row.effect is _BEGIN_CHUNK and reply.code != 421:
            self._discard_chunk(reply)
        else:
            self._write_reply(reply, due=not (row.groupable or row.effect is _BEGIN_TLS))
            if row.effect is _OPEN_TRANSACTION:
                self._mail = None
            if reply.code == 421:
                self._end_unfinished(CloseReason.SHUT_DOWN)
                self._close(CloseReason.SHUT_DOWN)
            elif row.effect not in _JUNK:  # these were counted before the question
                self._count_junk_command()

    def _accept(self, row: Verb[Any], command: Command, reply: Reply | None) -> None:
        """Carry out an accepted command: the state, the effect, then the reply."""
        self._state = row.states[self._state]
        effect = row.effect
        if effect is _OPEN_TRANSACTION:
            assert isinstance(command, Mail)
            self._mail = command
            self._transactions += 1
        elif effect is _ADD_RECIPIENT:
            assert isinstance(command, Rcpt)
            self._recipients.append(command.forward_path)
        elif effect is _BEGIN_CONTENT:
            self._begin_content()
        elif effect is _BEGIN_CHUNK:
            return  # the reply follows the data
        elif effect is _RESET:
            self._reset()
        elif effect is _RESTART_SESSION:
            self._reset()
            self._identity = None
        # NONE changes nothing else, BEGIN_TLS and CLOSE do after the reply, and a login is accepted by its exchange.
        accepted: Reply | bytes
        if reply is None:
            wire = self._settings.accepted.get(row.name)
            accepted = row.accepted(self) if callable(row.accepted) else wire or row.accepted
        elif row.code_fixed:
            accepted = row.accepted(self) if callable(row.accepted) else row.accepted
            if isinstance(accepted, Reply):
                accepted = Reply(accepted.code, "", reply.text)
        else:
            accepted = reply
        if isinstance(accepted, bytes):
            self._write(accepted, due=not row.groupable)
        else:
            self._write_reply(accepted, due=not row.groupable)
        if effect is _CLOSE:
            self._close(CloseReason.QUIT)
        elif effect is _BEGIN_TLS:
            self._expect_tls()

    def _greet(self, reply: Reply | None) -> None:
        """Write the greeting, which has no enhanced status code (RFC 2034 section 4)."""
        if reply is None or reply.positive:
            greeting = self._settings.accepted[""]
            if reply is not None and reply.text:
                greeting = Reply(220, "", f"{self._settings.host_name} {reply.text}").to_wire()
            self._write(greeting, due=True)
            self._state = State.CONNECTED
            return
        self._write(reply.to_wire(enhanced=False), due=True)
        self._state = State.REFUSING
        if reply.code == 421:
            self._close(CloseReason.SHUT_DOWN)

    # Content

    @property
    def _limits(self) -> content.ContentLimits:
        return self._settings.content_limits[self._mail is not None and self._mail.body is _BINARY_MIME]

    def _begin_content(self) -> None:
        receiver = self._content
        if isinstance(receiver, content.ContentReceiver):
            receiver.begin(self._limits)
        else:
            self._content = content.ContentReceiver(self._limits)

    def _receive_content(self, receiver: Receiver) -> ServerEvent | Action | None:
        step = receiver.receive(self._input)
        if type(step) is bytes:
            chunk = new(MessageChunk)  # what __init__ does, in half the time
            _set_data(chunk, step)
            return chunk
        if step is None:
            return self._need_more_data(self._settings.timeouts[2])
        if step is content.END:
            return self._end_chunk(receiver) if self._state is _CHUNK else self._end_content(receiver)
        if step is content.OVERFLOW:
            self._write_reply(_standard_replies.ENDLESS_CONTENT)
            self._close(CloseReason.TOO_MANY_ERRORS)
            return None
        assert isinstance(step, ContentFault)
        if self._state is _CHUNK:
            self._discard_chunk(_standard_replies.CONTENT_FAULTS[step])
        return MessageAborted(reason=step)

    def _end_content(self, receiver: Receiver) -> ServerEvent | None:
        """The content is complete: ask the application whether it is stored, or write the reply to its fault."""
        if receiver.fault is None:
            self._question = complete = new(MessageComplete)
            _set_recipients(complete, tuple(self._recipients))
            return complete
        for _ in range(self._final_replies):
            self._write_reply(_standard_replies.CONTENT_FAULTS[receiver.fault])
        self._end_transaction()
        return None

    @property
    def _final_replies(self) -> int:
        """The number of replies to the end of content: in LMTP, one for each recipient (RFC 2033 section 4.2)."""
        return len(self._recipients) or 1 if self._settings.lmtp else 1

    def _complete(self, question: MessageComplete, answer: object) -> None:
        """Carry out the answer to MessageComplete."""
        count = len(question.recipients)
        verdicts: tuple[object, ...] = (answer,)
        if self._settings.lmtp:
            verdicts = answer.verdicts if isinstance(answer, PerRecipient) else (answer,) * count
            if len(verdicts) != count:
                raise LocalProtocolError(f"answer with {count} verdicts, one for each recipient, not {len(verdicts)}")
        replies = [checked_answer(verdict) or COMPLETED for verdict in verdicts]
        accepted = any(reply.positive for reply in replies)
        if accepted:
            self._wait = self._settings.timeouts[1]
        self._end_transaction()
        for reply in replies:
            self._write_reply(reply)
            if reply.code == 421:
                self._close(CloseReason.SHUT_DOWN)
                return
        if not accepted and not self._settings.lmtp:
            self._count_junk_command()

    # Chunks: their data arrives whatever the reply is (RFC 3030 section 2)

    def _begin_chunk(self, row: Verb[Any], bdat: Bdat, line: bytes, refusal: Reply | None) -> ServerEvent | None:
        if bdat.size < MIN_CHUNK and not bdat.last and (junk := self._count_junk_command()) is not None:
            return CommandRejected(verb=row.name, line=line, reply=junk)
        first = self._state is not _CHUNKS
        receiver = self._content
        if not isinstance(receiver, content.ChunkReceiver) or (first and self._mail is not None):
            self._content = receiver = content.ChunkReceiver(self._limits)
        if refusal is not None:
            return self._refuse_chunk(receiver, bdat, line, refusal)
        receiver.begin(bdat.size, last=bdat.last)
        if not first:
            self._state = row.states[self._state]
            return None
        self._asked = row
        self._question = question = Data()
        return question

    def _refuse_chunk(self, receiver: content.ChunkReceiver, bdat: Bdat, line: bytes, reply: Reply) -> ServerEvent:
        """Reject a chunk.  A client that pipelines cannot take back the next ones: they are rejected too, without
        counting as errors."""
        if self._state is State.REFUSING:
            reply = _standard_replies.NO_SERVICE
        rejected = CommandRejected(verb="BDAT", line=line, reply=reply)
        aborted = self._state is _CHUNKS
        if not receiver.may_discard(bdat.size):
            self._write_reply(_standard_replies.ENDLESS_CONTENT)
            self._close(CloseReason.TOO_MANY_ERRORS)
            rejected = CommandRejected(verb="BDAT", line=line, reply=_standard_replies.ENDLESS_CONTENT)
        else:
            if reply.code >= 500 and not receiver.discarded:
                self._errors += 1
            receiver.begin(bdat.size, last=bdat.last)
            self._discard_chunk(reply)
        if aborted:
            self._events.append(rejected)
            return MessageAborted(reason=ContentFault.TOO_LARGE)
        return rejected

    def _discard_chunk(self, reply: Reply) -> None:
        """Read the data of the current chunk, then write *reply*.  The transaction is over: the message is lost."""
        receiver = self._content
        assert isinstance(receiver, content.ChunkReceiver)
        in_transaction = self._mail is not None
        if in_transaction or not receiver.discarded:
            self._chunk_replies = self._final_replies
        receiver.discard()
        if in_transaction:
            self._end_transaction()
        self._refusal = reply
        self._state_after_chunk, self._state = self._state, _CHUNK

    def _end_chunk(self, receiver: Receiver) -> ServerEvent | None:
        """The data of a chunk is complete."""
        assert isinstance(receiver, content.ChunkReceiver)
        if self._refusal is not None:
            for _ in range(self._chunk_replies if receiver.last else 1):
                self._write_reply(self._refusal)
            self._refusal = None
            self._state = self._state_after_chunk
            self._check_errors()
            return None
        if receiver.last:
            return self._end_content(receiver)
        self._state = _CHUNKS
        self._write_reply(Reply(250, "2.0.0", f"{receiver.chunk_size} bytes received"))
        return None

    def _close_endless_chunk(self, line: bytes, reply: Reply) -> ServerEvent:
        """Close: the size of a chunk is unknown, so where the next command begins is unknown.

        The size after BDAT was malformed, or a line between two chunks, which may have been BDAT, was too long.
        """
        self._write_reply(reply)
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return CommandRejected(verb="BDAT" if line else "", line=line, reply=reply)

    # Transaction

    def _reset(self) -> None:
        """End the transaction (RFC 5321 section 4.1.1.5)."""
        self._mail = None
        if self._recipients:
            self._recipients = []
        if isinstance(self._content, content.ChunkReceiver):
            self._content = None

    def _end_transaction(self) -> None:
        self._state = State.READY
        self._mail = None
        if self._recipients:
            self._recipients = []

    # Login

    def _begin_login(self, row: Verb[Any], command: Auth) -> ServerEvent:
        context = self._settings.context(self._nonce(), self._tls)
        exchange = self._start_login(
            self._settings.mechanisms.create(command.mechanism, context), strict=self._settings.strict_syntax
        )
        self._state = row.states[self._state]
        self._proceed(exchange, exchange.begin(command.initial_response))
        return authentication_started(command.mechanism)

    def _challenge(self, data: bytes) -> None:
        # An empty challenge keeps its space (RFC 4954 section 4): without it, clients hang.
        self._write(b"334 " + sasl.encode_base64(data) + b"\r\n", due=True)

    def _accept_login(self, success: sasl.Success) -> None:
        self._state = State.READY
        self._wait = self._settings.timeouts[1]
        wire = self._settings.accepted.get("AUTH")  # none if an added row replaces AUTH
        if wire is None:
            self._write_reply(_standard_replies.LOGGED_IN)
        else:
            self._write(wire, due=True)

    def _reject_login(self, reason: sasl.Refusal | sasl.Fault, *, counts: bool) -> None:
        self._state = State.READY
        self._write_reply(_standard_replies.LOGIN_FAILURES[reason])
        if counts:
            self._failed_logins += 1
            if self._failed_logins >= self._settings.max_failed_logins:
                self._write_reply(_standard_replies.TOO_MANY_LOGINS)
                self._close(CloseReason.TOO_MANY_ERRORS)
        elif isinstance(reason, sasl.Fault):
            self._errors += 1
            self._check_errors()
        else:
            self._count_junk_command()

    # TLS and the end

    def _on_tls_started(self, tls: Tls) -> None:
        self._state = State.CONNECTED
        self._reset()
        self._events.append(self._drop_clear_text(tls))

    def _send_shutdown_reply(self) -> None:
        timed_out = self._reason is CloseReason.TIMED_OUT
        self._write_reply(_standard_replies.TIMED_OUT if timed_out else _standard_replies.SHUTTING_DOWN)

    def _end_unfinished(self, reason: CloseReason) -> None:
        receiver = self._content
        if self._state in (_DATA, _CHUNK, _CHUNKS) and receiver is not None and receiver.fault is None:
            if self._refusal is None:
                self._events.append(MessageAborted(reason=reason))
        super()._end_unfinished(reason)

    def _write_reply(self, reply: Reply, *, due: bool = True) -> None:
        self._write(reply.to_wire(enhanced=self._settings.enhanced_status_codes), due=due)
        if len(self._output) > _MANY:
            self._output[:] = (b"".join(self._output),)
