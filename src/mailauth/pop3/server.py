"""A POP3 server as a state machine, from the greeting to the last reply (RFC 1939, 2449, 2595, 5034, 6856).

It implements the order of commands.  What a verb does is in its row (``verbs``), and multi-line output is made in
``content``.  The application checks passwords, opens the maildrop, provides the text of messages, and commits
deletions.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, TypeVar, assert_never, cast, final

import attrs

from .. import sasl
from .._lines import LineBuffer, LineEnds, LineTooLong
from .._machine import Phase
from .._server import ServerMachine, login_failed
from .._validators import check_type
from ..errors import LocalProtocolError, Malformed
from ..events import Accept, Action, CloseReason, Command, Question, Tls
from . import _fast_path, _standard_replies
from ._command_lines import login_line_limit, parse_argument, split_line
from .commands import Apop, Auth, Dele, Pass, Quit, Retrieve, User
from .content import Lines, MessageSender, needs_utf8
from .events import CommandRejected, Connected, OpenMaildrop, RetrieveMore, ServerEvent, Update
from .maildrop import Maildrop, MaildropSession
from .replies import Content, Reply, Unavailable
from .settings import ServerSettings, create_user_pass
from .states import State
from .verbs import Effect, Verb, maildrop_reply

A = TypeVar("A")

Sender: TypeAlias = Lines | MessageSender

_match_common: Final = _fast_path.match_common
_GREETING, _AUTHORIZATION, _USER_GIVEN, _AUTH = State.GREETING, State.AUTHORIZATION, State.USER_GIVEN, State.AUTH
_OPENING, _TRANSACTION, _SENDING, _UPDATE = State.OPENING, State.TRANSACTION, State.SENDING, State.UPDATE
_BEGIN_TLS: Final = Effect.BEGIN_TLS
_NO_MESSAGES: Final = Maildrop()
_USER_STARTED: Final = sasl.AuthenticationStarted(mechanism="USER")
_APOP_STARTED: Final = sasl.AuthenticationStarted(mechanism="APOP")
_QUIT: Final = Quit()
_QUIT_DELETING: Final = Quit(deleting=True)

_FROM_A_BROWSER: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE"})


@final
class ServerConnection(ServerMachine[ServerEvent]):
    """One POP3 session.

    *entropy* is 32 random bytes, secret and different for each connection.  Pass *tls* if TLS is already active, as on
    port 995.

        >>> connection = pop3.ServerConnection(pop3.ServerSettings(), entropy=secrets.token_bytes(32))
        >>> connection.answer(connection.next_event(), ACCEPT)  # the question is Connected
        >>> connection.next_event().data[:4]
        b'+OK '
    """

    __slots__ = (
        "_asked",
        "_errors",
        "_failed_logins",
        "_line_ends",
        "_maildrop",
        "_sender",
        "_settings",
        "_state",
        "_timestamp",
        "_utf8",
        "_utf8_mode",
        "_wait",
    )  # fmt: skip

    def __init__(self, settings: ServerSettings, *, entropy: bytes, tls: Tls | None = None) -> None:
        check_type("settings", ServerSettings, settings)
        super().__init__(entropy=entropy, tls=tls)
        self._settings = settings
        self._state = _GREETING
        self._wait = settings.timeouts[0]
        self._asked: Verb[Any] | None = None  # the row of the open question
        self._timestamp: str | None = None  # the nonce in the timestamp of the greeting
        self._maildrop: MaildropSession | None = None  # until it is open
        self._line_ends: LineEnds | None = None  # of the messages that are sent, from then on
        self._sender: Sender | None = None  # of the response that is sent in the state SENDING
        self._utf8_mode = False
        self._utf8 = not settings.refuses_utf8_headers  # a message with a UTF-8 header may be sent unchanged
        self._errors = 0
        self._failed_logins = 0

    # What a row may read (verbs.View)

    @property
    def settings(self) -> ServerSettings:
        """The settings."""
        return self._settings

    @property
    def state(self) -> State:
        """The state of the session."""
        return self._state

    @property
    def maildrop(self) -> MaildropSession:
        """The messages of the maildrop; none before it is open."""
        maildrop = self._maildrop
        return MaildropSession(_NO_MESSAGES) if maildrop is None else maildrop

    @property
    def utf8_mode(self) -> bool:
        """Whether the client has sent UTF8."""
        return self._utf8_mode

    @property
    def has_timestamp(self) -> bool:
        """Whether the greeting had a timestamp, which APOP requires."""
        return self._timestamp is not None

    def answer(self, question: Question[A], answer: A) -> None:
        """Answer the open question (see the base class)."""
        if not _fast_path.answer(self, question, answer):
            super().answer(question, answer)

    # Input

    def _advance(self) -> ServerEvent | Action | None:
        state = self._state
        if state is _TRANSACTION or state is _AUTHORIZATION or state is _USER_GIVEN:
            received = self._input
            if received.offset == len(received.data):
                return self._need_more_data(self._wait)
            found = _match_common(received.data, received.offset)
            if found is not None and not received.dropping:
                event = _fast_path.handle_command(self, found)
                if event is not None:
                    return event
            return self._take_command(received)
        if state is _SENDING:
            return self._continue_response()
        if state is _GREETING:
            self._question = connected = Connected()
            return connected
        if state is _OPENING:
            assert self._identity is not None
            self._question = opening = OpenMaildrop(identity=self._identity)
            return opening
        if state is _UPDATE:
            self._question = update = Update(deleted=frozenset(self.maildrop.deleted))
            return update
        assert self._exchange is not None
        return self._take_response(self._exchange, self._wait)

    def _take_command(self, received: LineBuffer) -> ServerEvent | Action | None:
        """Read the next line as a command."""
        limit = self._settings.max_command_line
        if self._state is not _TRANSACTION and len(received) > limit:
            limit = self._login_line_limit(limit)
        try:
            line = received.take_line(limit)
        except LineTooLong:
            return self._reject("", b"", _standard_replies.LINE_TOO_LONG)
        if line is None:
            return self._need_more_data(self._wait)
        return self._read(line)

    def _login_line_limit(self, limit: int) -> int:
        """Return the maximum bytes of the next line before the login, which is *limit* for most commands.

        It is called only if the line may be longer.
        """
        received = self._input
        received.gather()
        begin = received.data[received.offset : received.offset + 5]
        return login_line_limit(begin, limit, strict=self._settings.strict_syntax)

    def _read(self, line: bytes) -> ServerEvent | None:
        """Handle *line*, which is not one of the common lines."""
        strict = self._settings.strict_syntax
        verb, argument = split_line(line, strict=strict)
        row = self._settings.table.get(verb)
        if row is None:
            if verb in _FROM_A_BROWSER and self._state is _AUTHORIZATION:
                # A web page makes a browser connect here (CVE-2021-3618): end the session at once.
                return self._reject_foreign_protocol(line)
            return self._reject("", line, _standard_replies.UNKNOWN_COMMAND)
        if row.secret:
            line = verb.encode("ascii")
        if self._state not in row.states:
            return self._reject(verb, line, _standard_replies.BAD_SEQUENCE)
        try:
            command = parse_argument(row, argument, strict=strict)
        except Malformed as error:
            text = str(error)
            # A text in brackets would be a response code.
            return self._reject(verb, line, Reply(False, "", f"syntax: {text}" if text.startswith("[") else text))
        return self._handle_command(row, command, line)

    def _handle_command(self, row: Verb[Any], command: Command, line: bytes) -> ServerEvent | None:
        refusal = None if row.check is None else row.check(self, command)
        if refusal is not None:
            # In TRANSACTION the command itself is valid, and the message does not exist: this is not an error.
            return self._reject(row.name, line, refusal, counts=self._state is not _TRANSACTION)
        if row.is_login:
            return self._log_in(row, command, line)
        if row.asks:
            self._asked = row
            self._question = command
        else:
            if isinstance(command, Quit) and self.maildrop.deleted:
                command = _QUIT_DELETING if type(command) is Quit else attrs.evolve(command, deleting=True)
            self._accept(row, command, None)
        return cast(ServerEvent, command)

    def _reject_foreign_protocol(self, line: bytes) -> CommandRejected:
        self._end_unfinished(self._reason)
        self._close(CloseReason.TOO_MANY_ERRORS)
        self._write_reply(_standard_replies.NOT_POP3)
        return CommandRejected(verb="", line=line, reply=_standard_replies.NOT_POP3)

    def _reject(self, verb: str, line: bytes, reply: Reply, *, counts: bool = True) -> CommandRejected:
        """Reject a command with *reply*, and count an error if *counts* is true.  At max_errors the session ends."""
        if counts:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                reply = _standard_replies.TOO_MANY_ERRORS
                self._end_unfinished(self._reason)
                self._close(CloseReason.TOO_MANY_ERRORS)
        self._write_reply(reply)
        return CommandRejected(verb=verb, line=line, reply=reply)

    def _accept(self, row: Verb[Any], command: Command, reply: Reply | None) -> None:
        """Carry out an accepted command: the state, the effect, then the reply and the lines after it."""
        self._state = row.states[self._state]
        match row.effect:
            case Effect.NONE:
                pass
            case Effect.MARK_DELETED:
                assert isinstance(command, Dele)
                self.maildrop.delete(command.number)
            case Effect.UNMARK_ALL:
                self.maildrop.reset()
            case Effect.ENABLE_UTF8:
                self._utf8 = self._utf8_mode = True
            case Effect.CLOSE:
                if self._state is _UPDATE and self.maildrop.deleted:
                    return  # the reply follows the commit
                self._end_unfinished(self._reason)
                self._close(CloseReason.QUIT)
            case Effect.SEND_MESSAGE:
                pass  # after the reply
            case Effect.BEGIN_TLS:
                pass  # after the reply
            case Effect.BEGIN_LOGIN | Effect.CONTINUE_LOGIN:
                pass  # of these, only AUTH without a mechanism is accepted here
            case _:
                assert_never(row.effect)
        if reply is not None:
            self._write_reply(reply)
        else:
            self._write_accepted(row, command)
        if row.lines is not None and row.is_multi_line(command):
            self._begin_listing(row.lines(self))
        elif row.effect is _BEGIN_TLS:
            self._expect_tls()

    def _write_accepted(self, row: Verb[Any], command: Command) -> None:
        accepted = row.accepted(self, command) if callable(row.accepted) else self._settings.accepted[row.name]
        if isinstance(accepted, Reply):
            row.check_lines(command, accepted)
            accepted = accepted.to_wire()
        self._write(accepted, due=False)

    # Multi-line responses

    def _begin_response(self, sender: Sender) -> None:
        self._sender = sender
        self._state = _SENDING

    def _begin_listing(self, lines: Lines) -> None:
        """Write the first lines, which are all lines in most sessions."""
        self._write(lines.next_piece(), due=False)
        if not lines.ended:
            self._begin_response(lines)

    def _continue_response(self) -> RetrieveMore | None:
        """Write the next lines, or ask for more of the message."""
        sender = self._sender
        assert sender is not None
        if isinstance(sender, MessageSender):
            self._question = more = RetrieveMore(number=sender.number, offset=sender.offset)
            return more
        self._write(sender.next_piece(), due=False)
        if sender.ended:
            self._end_response()
        return None

    def _end_response(self) -> None:
        self._sender = None
        self._state = _TRANSACTION

    def _begin_message(self, row: Verb[Any], question: Retrieve, content: Content) -> None:
        sender = MessageSender(question.number, question.lines)
        sender.check(content.data, last=content.last)
        if not self._utf8 and needs_utf8(content.data):
            self._write_reply(_standard_replies.NEEDS_UTF8)
            return
        self._accept(row, question, None)
        self._begin_response(sender)
        self._send_message(sender, content)

    def _send_message(self, sender: MessageSender, content: Content) -> None:
        data = sender.take(content.data, last=content.last)
        if data:
            self._write(data, due=not sender.ended or self._input.used_up)
        if sender.ended:
            self._end_response()

    # Answers

    def _resolve(self, question: Question[A], answer: A) -> None:
        if isinstance(question, Command):
            row = self._asked
            assert row is not None
            self._resolve_command(row, question, answer)
        elif isinstance(question, RetrieveMore):
            if isinstance(answer, Content):
                sender = self._sender
                assert isinstance(sender, MessageSender)
                sender.check(answer.data, last=answer.last)
                self._send_message(sender, answer)
            else:
                _unavailable(answer, Content)
                self._close(CloseReason.ABORTED)  # with a final dot, the client would accept an incomplete message
        elif isinstance(question, OpenMaildrop):
            self._open(answer)
        elif isinstance(question, Connected):
            self._greet(None if isinstance(answer, Accept) else _unavailable(answer, Accept))
        else:  # in UPDATE: the connection ends either way (RFC 1939 section 6)
            if isinstance(answer, Accept):
                self._write_accepted(self._settings.table["QUIT"], _QUIT)
            else:
                self._write_reply(_standard_replies.UPDATE_FAILED[_unavailable(answer, Accept)])
            self._close(CloseReason.QUIT)

    def _resolve_command(self, row: Verb[Any], command: Command, answer: object) -> None:
        if row.effect is Effect.SEND_MESSAGE:
            if isinstance(answer, Content):
                assert isinstance(command, Retrieve)
                self._begin_message(row, command, answer)
            else:
                self._write_reply(row.unavailable[_unavailable(answer, Content)])
            return
        if isinstance(answer, Reply) and row.effect is not _BEGIN_TLS:
            reply = Reply(answer.positive, answer.response_code, answer.text, answer.lines)  # validated again
            if reply.positive:
                row.check_lines(command, reply)
                self._accept(row, command, reply)
            else:
                self._write_reply(reply)
            return
        shutting_down = row.effect is _BEGIN_TLS and self._phase is not Phase.OPEN
        if not isinstance(answer, Accept):
            self._write_reply(row.unavailable[_unavailable(answer, Accept)])
        elif shutting_down:  # ``shut_down()`` was called while the question was open: no handshake begins
            self._write_reply(row.unavailable[Unavailable.TEMPORARY])
        else:
            self._accept(row, command, None)

    def _open(self, answer: object) -> None:
        if isinstance(answer, Maildrop):
            self._maildrop = MaildropSession(answer)
            self._line_ends = LineEnds()
            self._state = _TRANSACTION
            self._wait = self._settings.timeouts[1]
            self._write(maildrop_reply(self, None), due=False)
            return
        reason = _unavailable(answer, Maildrop)
        self._identity = None
        self._state = _AUTHORIZATION
        self._write_reply(_standard_replies.MAILDROP_UNAVAILABLE[reason])
        self._errors += 1  # limits the number of password checks
        self._check_budgets()

    def _greet(self, reason: Unavailable | None) -> None:
        """Send the greeting.  If APOP is offered, the timestamp is its last word (RFC 1939 section 7)."""
        if reason is not None:
            self._write_reply(_standard_replies.CONNECTION_REFUSED[reason])
            self._close(CloseReason.SHUT_DOWN)
            return
        if self._settings.offers("APOP", self._tls):
            self._timestamp = self._nonce()
        self._state = _AUTHORIZATION
        self._write(self._settings.greeting(self._timestamp), due=False)

    # Login: USER and PASS, APOP and AUTH are dialogues, each with its own form

    def _log_in(self, row: Verb[Any], command: Command, line: bytes) -> ServerEvent | None:
        """Begin or continue a login.  Return its event, which comes before those of its first step."""
        match command:
            case User():
                return self._begin_user(row, command, line)
            case Pass():
                given = self._exchange
                if given is None:
                    return self._reject(row.name, line, _standard_replies.BAD_SEQUENCE)
                self._proceed(given, given.respond(self._prepared(command.argument, password=True)))
                return None
            case Apop():
                exchange = self._begin("APOP", self._timestamp)
                name, blank, digest = command.argument.rpartition(b" ")
                self._proceed(exchange, exchange.respond(self._prepared(name) + blank + digest))
                return _APOP_STARTED
            case Auth(mechanism=str(mechanism)):
                exchange = self._begin(mechanism)
                self._proceed(exchange, exchange.begin(command.initial_response))
                return sasl.AuthenticationStarted(mechanism=mechanism)
            case _:
                self._write_accepted(row, command)  # the list of mechanisms, which old clients request by AUTH alone
                return cast(ServerEvent, command)

    def _begin_user(self, row: Verb[Any], command: User, line: bytes) -> ServerEvent:
        replaced = self._exchange
        if replaced is not None:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                return self._reject(row.name, line, _standard_replies.TOO_MANY_ERRORS)  # ends the session
        own = self._settings.mechanisms.factories["USER"] is create_user_pass
        exchange = self._start_user_pass() if own else self._begin("USER")
        self._state = _USER_GIVEN
        started = _USER_STARTED
        if replaced is not None:
            self._events.append(started)
        step = exchange.respond(self._prepared(command.argument))
        if isinstance(step, sasl.Challenge):
            self._write_accepted(row, command)
        else:
            self._proceed(exchange, step)
        return started if replaced is None else login_failed(replaced, sasl.Fault.CANCELLED)

    def _start_user_pass(self) -> sasl.ServerExchange:
        """Return what ``_begin()`` does for this library's USER, which needs no nonce."""
        mechanism = sasl.UserPassServer(tls=self._tls is not None)
        return self._start_login(mechanism, strict=self._settings.strict_syntax)

    def _begin(self, mechanism: str, nonce: str | None = None) -> sasl.ServerExchange:
        self._state = _AUTH
        context = self._settings.context(nonce or self._nonce(), self._tls)
        return self._start_login(
            self._settings.mechanisms.create(mechanism, context), strict=self._settings.strict_syntax
        )

    def _prepared(self, argument: bytes, *, password: bool = False) -> bytes:
        """Return a name or password prepared by SASLprep; empty if it is invalid (RFC 6856 section 2.2).

        A password that is not UTF-8, as some old clients send it, is returned unchanged, unless syntax is strict.
        """
        if argument.isascii() or not self._settings.utf8:
            return argument
        try:
            return sasl.saslprep(argument.decode("utf-8"), query=True).encode("utf-8")
        except UnicodeDecodeError:
            return argument if password and not self._settings.strict_syntax else b""
        except Malformed:
            return b""

    def _challenge(self, data: bytes) -> None:
        # The space is sent with an empty challenge too: some clients hang without it.
        self._write(b"+ " + sasl.encode_base64(data) + b"\r\n", due=False)

    def _accept_login(self, success: sasl.Success) -> None:
        self._state = _OPENING

    def _reject_login(self, reason: sasl.Refusal | sasl.Fault, *, counts: bool) -> None:
        self._state = _AUTHORIZATION
        self._write_reply(_standard_replies.LOGIN_FAILURES[reason])
        if counts:
            self._failed_logins += 1
        else:
            self._errors += 1
        self._check_budgets()

    def _check_budgets(self) -> None:
        settings = self._settings
        if self._errors >= settings.max_errors or self._failed_logins >= settings.max_failed_logins:
            self._close(CloseReason.TOO_MANY_ERRORS)

    # TLS and shutdown

    def _on_tls_started(self, tls: Tls) -> None:
        self._state = _AUTHORIZATION
        self._events.append(self._drop_clear_text(tls))

    def _send_shutdown_reply(self) -> None:
        """Reply only to a login that is still unanswered.

        A client would take an unsolicited -ERR as the reply to its next command.
        """
        if self._state is _OPENING:
            self._write_reply(_standard_replies.SHUTTING_DOWN)

    def _write_reply(self, reply: Reply) -> None:
        # Pipelined replies are sent together (RFC 2449 section 6.6), after the last command that was received.
        self._write(reply.to_wire(), due=False)


def _unavailable(answer: object, wanted: type[object]) -> Unavailable:
    """Return *answer*, which is negative.  Raises LocalProtocolError if it is not."""
    if isinstance(answer, Unavailable):
        return answer
    name = "ACCEPT" if wanted is Accept else f"a {wanted.__name__}"
    raise LocalProtocolError(f"the answer must be {name} or an Unavailable, not {type(answer).__name__}")
