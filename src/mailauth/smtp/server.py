"""The SMTP server state machine, from the greeting to the last reply (RFC 5321, 3207, 4954)."""

from __future__ import annotations

import re
from typing import Final, Generic, Never, TypeVar

from .. import sasl
from .._errors import Malformed
from .._events import Action, CloseReason, Question, Tls
from .._lines import LineTooLong
from . import _standard_replies
from ._command_lines import COMMON, PARSERS, from_common, split_line
from ._content import ContentReceiver, checked, is_tiny
from ._parameters import Body
from ._states import GROUPABLE, NEXT, State
from .commands import (
    Auth,
    Bdat,
    Data,
    Hello,
    Help,
    LineCommand,
    Mail,
    MessageComplete,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from .events import CommandRejected, Connected, ContentFault, MessageAborted, ServerEvent
from .replies import Reply
from .settings import ExtendedServerSettings, ServerSettings

A = TypeVar("A")
Q = TypeVar("Q")

_match_common: Final = COMMON.match
_GREETING, _DATA, _AUTH, _CHUNKS = State.GREETING, State.DATA, State.AUTH, State.CHUNKS

_NOT_IMPLEMENTED: Final = frozenset({"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "BDAT"})

_HTTP: Final = frozenset({"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI"})
_TLS_HANDSHAKE: Final = 0x16  # first byte of a ClientHello (RFC 8446 section 5.1); no command begins with it
_SPACE_AFTER_COLON: Final = re.compile(r"\A((?i:FROM|TO):) +<")

_CONTENT: Final = frozenset({State.DATA, State.CHUNKS})

_MAY_WAIT: Final = GROUPABLE | {"STARTTLS"}  # the reply to STARTTLS is part of BeginTls

_IN_CLEAR: Final = frozenset({"EHLO", "NOOP", "RSET", "HELP", "STARTTLS", "QUIT"})
"""The commands allowed without TLS if TLS is required (RFC 3207 section 4)."""


class _Connection(ContentReceiver[Q], Generic[Q]):
    """One SMTP session.  *Q* is the type of the additional questions that a login may ask."""

    __slots__ = ("_failed_logins", "_junk_commands")

    def __init__(self, settings: ExtendedServerSettings, *, entropy: bytes, tls: Tls | None = None) -> None:
        super().__init__(settings, entropy=entropy, tls=tls)
        self._failed_logins = 0
        self._junk_commands = 0

    # Commands

    def _advance(self) -> ServerEvent | Action | None:
        state = self._state
        if state is _DATA and self._unstuffer is not None:
            return self._take_content(self._unstuffer)
        if state is _AUTH and self._exchange is not None:
            return self._take_response(self._exchange, self._wait)
        if state is _GREETING:
            self._question = connected = Connected()
            return connected
        received = self._input
        # Between two chunks the server still holds the message, so the minimum rate of content also applies here.
        wait = self._settings.timeouts[2] if state is _CHUNKS else self._wait
        if received.offset == len(received.data):
            return self._need_more_data(wait)
        found = _match_common(received.data, received.offset)
        if found is not None and not received.dropping:
            command = from_common(found)
            if command is not None:
                received.offset = found.end()
                return self._handle_command(command, found)
        if state is State.CONNECTED and received.data[received.offset] == _TLS_HANDSHAKE and not received.dropping:
            return self._reject_foreign_protocol(b"")
        try:
            line = received.take_line(self._settings.max_command_line)
        except LineTooLong:
            if state is _CHUNKS:
                return self._close_endless_chunk(b"", _standard_replies.LINE_TOO_LONG)
            return self._refuse("", b"", _standard_replies.LINE_TOO_LONG)
        if line is None:
            if received.dropping and state is _CHUNKS:
                # Its bytes would extend the deadline as content does, so a line without an end could keep it open.
                return self._close_endless_chunk(b"", _standard_replies.LINE_TOO_LONG)
            return self._need_more_data(wait)
        return self._read(line)

    def _read(self, line: bytes) -> ServerEvent | None:
        """Handle a line that is not in a common form."""
        settings = self._settings
        stripped = line.rstrip(b" \t") if settings.allow_trailing_space else line
        try:
            verb, argument = split_line(stripped, smtputf8=settings.smtputf8)
        except Malformed:
            return self._refuse("", line, _standard_replies.BAD_LINE)
        parse = PARSERS.get(verb)
        if parse is None or verb not in settings.verbs:
            if verb in _NOT_IMPLEMENTED:
                return self._refuse(verb, line, _standard_replies.NOT_IMPLEMENTED)
            if verb in _HTTP:
                return self._reject_foreign_protocol(line)
            return self._refuse("", line, _standard_replies.UNKNOWN_COMMAND)
        if settings.allow_space_after_colon and verb in {"MAIL", "RCPT"}:
            argument = _SPACE_AFTER_COLON.sub(r"\1<", argument)
        try:
            if stripped.endswith(b" "):
                raise Malformed("trailing space not allowed")
            command = parse(argument)
        except Malformed as error:
            reply = Reply(501, "5.5.4", str(error))
            if verb == "BDAT" and self._state is not State.REFUSING:
                return self._close_endless_chunk(line, reply)
            return self._refuse(verb, line, reply)
        if isinstance(command, Bdat) and is_tiny(command) and self._count_junk_command():
            self._write_reply(_standard_replies.TOO_MANY_JUNK_COMMANDS)
            return CommandRejected(verb=verb, line=line, reply=_standard_replies.TOO_MANY_JUNK_COMMANDS)
        return self._handle_command(command, line)

    def _handle_command(self, command: LineCommand, line: bytes | re.Match[bytes]) -> ServerEvent | None:
        verb = command.verb
        if verb not in NEXT[self._state]:
            return self._refuse(verb, line, _standard_replies.BAD_SEQUENCE, command)
        if self._settings.tls_required and self._tls is None and verb not in _IN_CLEAR:
            return self._refuse(verb, line, _standard_replies.TLS_REQUIRED, command)
        refusal: Reply | None = None
        match command:
            case Rcpt():
                refusal = self._check_rcpt(command, line)
            case Mail():
                refusal = self._check_mail(command, line)
            case StartTls():
                refusal = self._check_start_tls()
            case Auth():
                refusal = self._check_auth(command)
            case Data():
                refusal = _standard_replies.BINARY_NEEDS_BDAT if self._mail.body is Body.BINARY_MIME else None
            case Bdat():
                refusal = self._check_bdat(command)
            case Vrfy(smtputf8=True) if not self._settings.smtputf8:
                refusal = _not_offered("SMTPUTF8")
            case _:
                refusal = self._check_junk_commands(command)
                if refusal is None:
                    return self._execute(command)
        if refusal is not None:
            return self._refuse(verb, line, refusal, command)
        if isinstance(command, Auth):
            return self._auth(command)
        if isinstance(command, Bdat):
            return self._take_bdat(command)
        self._question = command
        return command

    def _execute(self, command: Hello | Rset | Noop | Vrfy | Help | Quit) -> ServerEvent:
        """Execute a command that needs no answer from the application."""
        between_chunks = self._state is State.CHUNKS
        match command:
            case Hello():
                self._hello(command)
            case Rset():
                self._state = NEXT[self._state]["RSET"]
                self._reset()
                self._write_reply(_standard_replies.RESET, due=False)
            case Noop():
                self._write_reply(_standard_replies.NOOP)
            case Vrfy():
                self._write_reply(_standard_replies.VRFY)
            case Help():
                self._write_reply(self._settings.help_reply)
            case Quit():
                self._write_reply(_standard_replies.GOODBYE)
                self._close(CloseReason.QUIT)
        if between_chunks and isinstance(command, (Hello, Rset, Quit)):
            self._events.append(command)
            return MessageAborted(reason=ContentFault.ABANDONED)
        return command

    def _refuse(
        self, verb: str, line: bytes | re.Match[bytes], reply: Reply, command: LineCommand | None = None
    ) -> ServerEvent:
        """Refuse a command that breaks a rule of the protocol or of the settings.  A 5yz reply counts as an error."""
        if self._state is State.REFUSING:
            reply = _standard_replies.NO_SERVICE  # to every command except QUIT (RFC 5321 section 3.1)
        if isinstance(command, Auth):
            line = f"AUTH {command.mechanism}".encode("ascii")
        elif verb == "AUTH":
            line = b"AUTH"
        elif isinstance(line, re.Match):  # a match of COMMON includes the CRLF
            line = line.group()[:-2]
        if isinstance(command, Bdat):
            return self._refuse_bdat(command, line, reply)
        self._write_reply(reply)
        if reply.code >= 500:
            self._errors += 1
            self._check_errors()
        elif reply.code != 421 and self._count_junk_command():
            self._write_reply(_standard_replies.TOO_MANY_JUNK_COMMANDS)
        return CommandRejected(verb=verb, line=line, reply=reply)

    def _reject_foreign_protocol(self, line: bytes) -> CommandRejected:
        """End the session: the client speaks HTTP, or TLS without STARTTLS.

        A browser can be made to send an HTTP request with SMTP commands in its body.
        """
        self._write_reply(_standard_replies.NOT_SMTP)
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return CommandRejected(verb="", line=line, reply=_standard_replies.NOT_SMTP)

    # Checks of a command: each returns the Reply that refuses it, or None

    def _check_junk_commands(self, command: LineCommand) -> Reply | None:
        return (
            None
            if isinstance(command, Quit) or not self._count_junk_command()
            else _standard_replies.TOO_MANY_JUNK_COMMANDS
        )

    def _count_junk_command(self) -> bool:
        """Count a command that does not advance the session.

        Return True, and end the session, if there were too many.
        """
        self._junk_commands += 1
        if self._junk_commands - 2 * self._transactions <= self._settings.max_junk_commands:
            return False
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return True

    def _check_start_tls(self) -> Reply | None:
        if self._tls is not None:
            return _standard_replies.TLS_ACTIVE
        return None if self._settings.starttls else _standard_replies.NOT_IMPLEMENTED

    def _check_auth(self, command: Auth) -> Reply | None:
        if self._identity is not None:
            return _standard_replies.ALREADY_LOGGED_IN
        offered = self._settings.offered(self._tls)
        if command.mechanism in offered:
            return None
        return _standard_replies.NO_MECHANISM if offered else _standard_replies.NOT_IMPLEMENTED

    def _check_mail(self, command: Mail, line: bytes | re.Match[bytes]) -> Reply | None:
        settings = self._settings
        if settings.authentication_required and self._identity is None:
            return _standard_replies.LOGIN_REQUIRED
        unknown = settings.not_offered(command)
        if unknown is None and command.body is Body.BINARY_MIME and not settings.binary_mime:
            unknown = "BODY=BINARYMIME"
        if unknown is None and command.require_tls and self._tls is None:
            unknown = "REQUIRETLS"
        if unknown is not None:
            return _not_offered(unknown)
        if not command.smtputf8 and _non_ascii(line):
            return _standard_replies.ASCII_REVERSE_PATH
        if command.size is not None and command.size > settings.max_message_size:
            return _standard_replies.CONTENT_FAULTS[ContentFault.TOO_LARGE]
        if self._transactions >= settings.max_transactions:
            self._close(CloseReason.TOO_MANY_ERRORS)
            return _standard_replies.TOO_MANY_TRANSACTIONS
        if command.body is Body.BINARY_MIME or command.smtputf8:
            self._mail = command
            self._accepted = {}  # disables the fast path, which does not reset these fields
        return None

    def _check_rcpt(self, command: Rcpt, line: bytes | re.Match[bytes]) -> Reply | None:
        unknown = self._settings.not_offered(command)
        if unknown is not None:
            return _not_offered(unknown)
        if not self._mail.smtputf8 and _non_ascii(line):
            return _standard_replies.ASCII_FORWARD_PATH
        if len(self._recipients) >= self._settings.max_recipients:
            return _standard_replies.TOO_MANY_RECIPIENTS
        return None

    # Greeting and login

    def _hello(self, command: Hello) -> None:
        self._reset()
        self._state = State.READY
        if command.extended:
            self._write(self._settings.hello_reply(self._tls), due=True)
        else:
            self._write(Reply(250, "", self._settings.host_name).to_wire(), due=True)

    def _auth(self, command: Auth) -> ServerEvent:
        context = self._settings.context(self._nonce(), self._tls)
        exchange = self._start_login(self._settings.mechanisms.create(command.mechanism, context))
        self._state = State.AUTH
        self._proceed(exchange, exchange.begin(command.initial_response))
        return sasl.AuthenticationStarted(mechanism=command.mechanism)

    # Answers

    def _resolve(self, question: Question[A], answer: A) -> None:
        if isinstance(question, MessageComplete) and self._settings.lmtp:
            self._answer_each(question, answer)
            return
        reply = checked(answer)
        if isinstance(question, Connected):
            self._greet(reply)
        elif isinstance(question, (Mail, Rcpt, Data, MessageComplete, StartTls)):
            verb = question.verb
            due = verb not in _MAY_WAIT
            if verb == "STARTTLS" and self._phase is not None and (reply is None or reply.positive):
                return  # shut_down() came first: the client gets its 421, and no handshake begins
            if verb == "DATA" and self._chunks is not None and (reply is None or reply.code != 421):
                self._begin_chunks(reply)
                return
            if reply is None:
                self._write_reply(_standard_replies.ACCEPTED[type(question)], due=due)
            elif reply.positive:
                code = _standard_replies.ACCEPTED[type(question)].code
                self._write_reply(reply if code == 250 else Reply(code, "", reply.text), due=due)
            else:
                self._write_reply(reply, due=due)
                if verb in {".", "MAIL"}:
                    self._end_transaction()
                if reply.code == 421:
                    self._close(CloseReason.SHUT_DOWN)
                elif self._count_junk_command():
                    self._write_reply(_standard_replies.TOO_MANY_JUNK_COMMANDS)
                return
            self._enter(question)

    def _greet(self, reply: Reply | None) -> None:
        """Send the greeting, which has no enhanced status code (RFC 2034 section 4)."""
        if reply is None or reply.positive:
            text = reply.text if reply is not None and reply.text else "LMTP" if self._settings.lmtp else "ESMTP"
            self._write(Reply(220, "", f"{self._settings.host_name} {text}").to_wire(), due=True)
            self._state = State.CONNECTED
            return
        self._write(reply.to_wire(enhanced=False), due=True)
        self._state = State.REFUSING
        if reply.code == 421:
            self._close(CloseReason.SHUT_DOWN)

    def _enter(self, question: Mail | Rcpt | Data | MessageComplete | StartTls) -> None:
        """Enter the state that TRANSITIONS gives after a positive reply."""
        self._state = NEXT[self._state][question.verb]
        if isinstance(question, Data):
            self._begin_content()
        elif isinstance(question, Rcpt):
            self._recipients.append(question.forward_path)
        elif isinstance(question, Mail):
            self._transactions += 1
        elif isinstance(question, MessageComplete):
            self._wait = self._settings.timeouts[1]
            self._reset()
        else:
            self._expect_tls()

    # The login

    def _challenge(self, data: bytes) -> None:
        # An empty challenge keeps the space (RFC 4954 section 4): clients hang without it.
        self._write(b"334 " + sasl.encode_base64(data) + b"\r\n", due=True)

    def _accept_login(self, success: sasl.Success) -> None:
        self._state = State.READY
        self._wait = self._settings.timeouts[1]
        self._write_reply(_standard_replies.LOGGED_IN)

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
        elif self._count_junk_command():
            self._write_reply(_standard_replies.TOO_MANY_JUNK_COMMANDS)

    # TLS and the end

    def _on_tls_started(self, tls: Tls) -> None:
        self._state = State.CONNECTED
        self._reset()
        self._events.append(self._drop_clear_text(tls))

    def _send_shutdown_reply(self) -> None:
        self._write_reply(
            _standard_replies.TIMED_OUT if self._reason is CloseReason.TIMED_OUT else _standard_replies.SHUTTING_DOWN
        )

    def _end_unfinished(self, reason: CloseReason) -> None:
        if self._state in _CONTENT and self._fault is None:
            self._events.append(MessageAborted(reason=reason))
        super()._end_unfinished(reason)


def _not_offered(parameter: str) -> Reply:
    return Reply(555, "5.5.4", f"unsupported parameter: {parameter[:40]}")


def _non_ascii(line: bytes | re.Match[bytes]) -> bool:
    return isinstance(line, bytes) and not line.isascii()  # COMMON matches ASCII only


class ServerConnection(_Connection[Never]):
    """One SMTP session as a server.

        server = smtp.ServerConnection(smtp.ServerSettings(), entropy=secrets.token_bytes(32))
        event = server.next_event()  # smtp.Connected(): pass ACCEPT or a Reply to server.answer(event, ...)

    *entropy* is 32 secret random bytes, different for each connection.  *tls* is passed if TLS was started before SMTP
    (port 465).
    """

    __slots__ = ()

    def __init__(self, settings: ServerSettings, *, entropy: bytes, tls: Tls | None = None) -> None:
        super().__init__(settings, entropy=entropy, tls=tls)


class ExtendedServerConnection(_Connection[sasl.ExtendedQuestion]):
    """One SMTP session as a server whose clients may also log in by SCRAM, a token or a certificate."""

    __slots__ = ()

    _asks_extended = True
