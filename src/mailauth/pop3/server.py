"""The POP3 server: a state machine from the greeting to the last reply (RFC 1939, 2449, 2595, 5034, 6856).

It asks the application to check passwords, open the maildrop, provide the text of messages, and commit deletions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar, final

from .. import sasl
from .._errors import LocalProtocolError, Malformed
from .._events import Accept, Action, CloseReason, Question, Tls
from .._lines import LineTooLong
from .._machine import Phase
from .._server import login_failed
from . import _standard_replies
from ._command_lines import PARSERS
from ._fast_path import FastPath
from ._states import NEXT, State
from .commands import (
    Apop,
    Auth,
    Capa,
    Dele,
    LineCommand,
    List,
    Noop,
    Pass,
    Quit,
    Retrieve,
    Rset,
    Stat,
    Stls,
    Uidl,
    User,
    Utf8,
)
from .events import CommandRejected, Connected, OpenMaildrop, ProtocolQuestion, RetrieveMore, ServerEvent, Update
from .maildrop import Maildrop, MaildropSession, OutgoingMessage, needs_utf8
from .replies import Content, Reply, Unavailable
from .settings import ServerSettings

A = TypeVar("A")

_AUTH, _TRANSACTION = State.AUTH, State.TRANSACTION
_MESSAGE_FOLLOWS: Final = _standard_replies.MESSAGE_FOLLOWS.to_wire()
_SEND_PASSWORD: Final = _standard_replies.SEND_PASSWORD.to_wire()
_NOOP: Final = _standard_replies.NOOP.to_wire()
_GOODBYE: Final = _standard_replies.GOODBYE.to_wire()

_SECRET: Final = frozenset({"PASS", "APOP", "AUTH"})
_FROM_A_BROWSER: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"})


@final
class ServerConnection(FastPath):
    """One POP3 session.

    *entropy* is 32 random bytes, secret and different for each connection.  Pass *tls* if TLS is already active, as on
    port 995.
    """

    __slots__ = ("_errors", "_failed_logins", "_outgoing", "_pieces", "_timestamp", "_utf8_announced")

    def __init__(self, settings: ServerSettings, *, entropy: bytes, tls: Tls | None = None) -> None:
        super().__init__(settings, entropy=entropy, tls=tls)
        self._pending_step = partial(self._ask, Connected())
        self._timestamp: str | None = None  # the nonce in the timestamp of the greeting
        self._utf8_announced = False
        self._pieces: Iterator[bytes] = iter(())  # the rest of a response to LIST or UIDL
        self._outgoing = OutgoingMessage(0, None)  # the message that RETR or TOP is sending
        self._errors = 0
        self._failed_logins = 0

    # Input

    def _advance(self) -> ServerEvent | Action | None:
        step = self._pending_step
        if step is not None:
            self._pending_step = None
            return step()
        state = self._state
        if state is _AUTH and self._exchange is not None:
            return self._take_response(self._exchange, self._wait)
        try:
            line = self._input.take_line(self._settings.max_command_line)
        except LineTooLong:
            return self._refuse("", b"", _standard_replies.LINE_TOO_LONG)
        if line is None:
            return self._need_more_data(self._wait)
        return self._read(line)

    def _read(self, line: bytes) -> ServerEvent | None:
        """Parse *line* and carry out its command."""
        word, _, argument = line.partition(b" ")
        verb = word.upper()
        parse = PARSERS.get(verb)
        if parse is None:
            if verb in _FROM_A_BROWSER and self._state is State.AUTHORIZATION:
                # A web page makes a browser connect here (CVE-2021-3618): end the session at once.
                return self._reject_foreign_protocol(line)
            return self._refuse("", line, _standard_replies.UNKNOWN_COMMAND)
        name = verb.decode("ascii")
        if name not in NEXT[self._state]:
            return self._refuse(name, line, _standard_replies.BAD_SEQUENCE)
        try:
            command = parse(argument)
        except Malformed as error:
            return self._refuse(name, line, Reply(False, "", str(error)))
        return self._handle_command(command, line)

    def _reject_foreign_protocol(self, line: bytes) -> CommandRejected:
        self._end_unfinished(self._reason)
        self._close(CloseReason.TOO_MANY_ERRORS)
        self._write_reply(_standard_replies.NOT_POP3)
        return CommandRejected(verb="", line=line, reply=_standard_replies.NOT_POP3)

    def _handle_command(self, command: LineCommand, line: bytes | None) -> ServerEvent | None:
        result = _HANDLERS[type(command)](self, command)
        if isinstance(result, Reply):
            # In TRANSACTION the only cause is a message that does not exist, which does not count as an error.
            breach = self._state is not _TRANSACTION
            return self._refuse(command.verb, command.to_wire()[:-2] if line is None else line, result, breach=breach)
        return result

    def _refuse(self, verb: str, line: bytes, reply: Reply, *, breach: bool = True) -> CommandRejected:
        """Reject a command with *reply*, and count an error if *breach* is true.  At max_errors the session ends."""
        if verb in _SECRET:
            line = verb.encode("ascii")
        if breach:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                reply = _standard_replies.TOO_MANY_ERRORS
                self._end_unfinished(self._reason)
                self._close(CloseReason.TOO_MANY_ERRORS)
        self._write_reply(reply)
        return CommandRejected(verb=verb, line=line, reply=reply)

    # Commands.  Each method returns its event, or the Reply that rejects the command

    def _capa(self, command: Capa) -> ServerEvent | Reply:
        self._write(self._settings.capa_reply(self._tls, logged_in=self._state is _TRANSACTION), due=False)
        return command

    def _utf8_mode(self, command: Utf8) -> ServerEvent | Reply:
        if not self._settings.utf8:
            return _standard_replies.NO_UTF8
        self._utf8 = self._utf8_announced = True
        self._write_reply(_standard_replies.UTF8_MODE)
        return command

    def _stls(self, command: Stls) -> ServerEvent | Reply:
        if self._tls is not None:
            return _standard_replies.TLS_ACTIVE
        if self._utf8_announced:
            return _standard_replies.NO_TLS_AFTER_UTF8
        if not self._settings.stls:
            return _standard_replies.NO_TLS
        return self._ask(command)

    def _stat(self, command: Stat) -> ServerEvent | Reply:
        self._write(b"+OK " + self._maildrop.drop_listing(), due=False)
        return command

    def _list(self, command: List) -> ServerEvent | Reply:
        maildrop = self._maildrop
        return self._write_listing(
            command, f"{maildrop.count} messages ({maildrop.size} octets)", maildrop.scan_listing
        )

    def _uidl(self, command: Uidl) -> ServerEvent | Reply:
        return self._write_listing(command, "unique-ids follow", self._maildrop.unique_id_listing)

    def _write_listing(self, command: List | Uidl, head: str, line: Callable[[int], bytes]) -> ServerEvent | Reply:
        """Write *line* of the requested message, or of all messages; a long list is written piece by piece."""
        number = command.number
        if number is None:
            self._write_ok(head)
            self._pieces = self._maildrop.listing(line)
            self._pending_step = self._write_more_listing
            return command
        missing = self._maildrop.missing(number)
        if missing is not None:
            return missing
        self._write(b"+OK " + line(number), due=False)
        return command

    def _write_more_listing(self) -> None:
        piece = next(self._pieces, None)
        if piece is not None:
            self._write(piece, due=False)
            self._pending_step = self._write_more_listing

    def _retrieve(self, command: Retrieve) -> ServerEvent | Reply:
        return self._maildrop.missing(command.number) or self._ask(command)

    def _dele(self, command: Dele) -> ServerEvent | Reply:
        missing = self._maildrop.missing(command.number)
        if missing is not None:
            return missing
        self._maildrop.delete(command.number)
        self._write_ok(f"message {command.number} deleted")
        return command

    def _rset(self, command: Rset) -> ServerEvent | Reply:
        self._maildrop.reset()
        self._write_content()
        return command

    def _noop(self, command: Noop) -> ServerEvent | Reply:
        self._write(_NOOP, due=False)
        return command

    def _quit(self, command: Quit) -> ServerEvent | Reply:
        if self._maildrop.deleted:
            self._state = State.UPDATE
            self._pending_step = partial(self._ask, Update(deleted=frozenset(self._maildrop.deleted)))
            return command
        self._end_unfinished(self._reason)
        self._write(_GOODBYE, due=False)
        self._close(CloseReason.QUIT)
        return command

    # Questions

    def _ask(self, question: ProtocolQuestion) -> ProtocolQuestion:
        self._question = question
        return question

    def _resolve(self, question: Question[A], answer: A) -> None:
        if isinstance(question, (Retrieve, RetrieveMore)):
            self._take_content(question, answer)
        elif isinstance(question, OpenMaildrop):
            self._open(answer)
        else:
            if not isinstance(answer, Accept | Unavailable):
                raise LocalProtocolError(f"the answer must be ACCEPT or an Unavailable, not {type(answer).__name__}")
            reason = None if isinstance(answer, Accept) else answer
            if isinstance(question, Connected):
                self._greet(reason)
            elif isinstance(question, Stls):
                self._start_tls(reason)
            else:  # in UPDATE: the connection ends either way (RFC 1939 section 6)
                self._write_reply(
                    _standard_replies.GOODBYE if reason is None else _standard_replies.UPDATE_FAILED[reason]
                )
                self._close(CloseReason.QUIT)

    def _take_content(self, question: Retrieve | RetrieveMore, answer: object) -> None:
        if isinstance(answer, Content):
            if isinstance(question, Retrieve):
                if not self._utf8 and needs_utf8(answer.data):
                    self._write_reply(_standard_replies.NEEDS_UTF8)
                    return
                self._outgoing = OutgoingMessage(question.number, question.lines)
                self._write(_MESSAGE_FOLLOWS, due=False)
            outgoing = self._outgoing
            data = outgoing.take(answer.data, last=answer.last)
            if data:
                self._write(data, due=not outgoing.ended or self._input.used_up)
            if not outgoing.ended:
                self._pending_step = partial(self._ask, RetrieveMore(number=outgoing.number, offset=outgoing.offset))
        elif not isinstance(answer, Unavailable):
            raise LocalProtocolError(f"the answer must be a Content or an Unavailable, not {type(answer).__name__}")
        elif isinstance(question, Retrieve):
            self._write_reply(_standard_replies.MESSAGE_UNAVAILABLE[answer])
        else:
            self._close(CloseReason.ABORTED)  # with a final dot, the client would accept an incomplete message

    def _open(self, answer: object) -> None:
        if isinstance(answer, Maildrop):
            self._maildrop = MaildropSession(answer)
            self._state = _TRANSACTION
            self._wait = self._settings.timeouts[1]
            self._write_content()
        elif isinstance(answer, Unavailable):
            self._identity = None
            self._state = State.AUTHORIZATION
            self._write_reply(_standard_replies.MAILDROP_UNAVAILABLE[answer])
            self._errors += 1  # limits the number of password checks
            self._check_budgets()
        else:
            raise LocalProtocolError(f"the answer must be a Maildrop or an Unavailable, not {type(answer).__name__}")

    def _greet(self, reason: Unavailable | None) -> None:
        """Send the greeting.  If APOP is offered, the timestamp is its last word (RFC 1939 section 7)."""
        if reason is not None:
            self._write_reply(_standard_replies.CONNECTION_REFUSED[reason])
            self._close(CloseReason.SHUT_DOWN)
            return
        text = "POP3 server ready"
        if self._offers("APOP"):
            self._timestamp = self._nonce()
            context = self._settings.context(self._timestamp, self._tls)
            text = f"{text} {context.message_id.decode('ascii')}"
        self._state = State.AUTHORIZATION
        self._write_ok(text)

    def _start_tls(self, reason: Unavailable | None) -> None:
        if reason is None and self._phase is Phase.OPEN:
            self._state = State.TLS
            self._write_reply(_standard_replies.BEGIN_TLS)
            self._expect_tls()
        else:  # also if ``shut_down()`` was called while the question was open
            self._write_reply(_standard_replies.TLS_UNAVAILABLE[reason or Unavailable.TEMPORARY])

    # Login

    def _user(self, command: User) -> ServerEvent | Reply:
        if not self._offers("USER"):
            return _standard_replies.NO_MECHANISM  # so that the client does not send PASS
        replaced = self._exchange
        if replaced is not None:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                return _standard_replies.TOO_MANY_ERRORS  # _refuse() then ends the session
        exchange = self._begin("USER", State.USER_GIVEN)
        started = sasl.AuthenticationStarted(mechanism="USER")
        if replaced is not None:
            self._events.append(started)
        self._proceed(exchange, exchange.respond(self._prepared(command.argument)))
        return started if replaced is None else login_failed(replaced, sasl.Fault.CANCELLED)

    def _pass(self, command: Pass) -> None:
        if self._exchange is not None:
            self._proceed(self._exchange, self._exchange.respond(self._prepared(command.argument)))

    def _apop(self, command: Apop) -> ServerEvent | Reply:
        if self._timestamp is None or not self._offers("APOP"):
            return _standard_replies.NO_MECHANISM
        exchange = self._begin("APOP", State.AUTH, self._timestamp)
        name, blank, digest = command.argument.rpartition(b" ")
        self._proceed(exchange, exchange.respond(self._prepared(name) + blank + digest))
        return sasl.AuthenticationStarted(mechanism="APOP")

    def _auth(self, command: Auth) -> ServerEvent | Reply:
        offered = self._settings.offered(self._tls)
        if command.mechanism is None:
            self._write_reply(Reply(True, "", "mechanisms follow", offered))
            return Capa()  # old clients send AUTH without an argument where newer ones send CAPA
        if command.mechanism not in offered:
            return _standard_replies.NO_MECHANISM
        exchange = self._begin(command.mechanism, State.AUTH)
        self._proceed(exchange, exchange.begin(command.initial_response))
        return sasl.AuthenticationStarted(mechanism=command.mechanism)

    def _prepared(self, argument: bytes) -> bytes:
        """Return a name or password prepared by SASLprep; empty if it is invalid (RFC 6856 section 2.2)."""
        if argument.isascii() or not self._settings.utf8:
            return argument
        try:
            return sasl.saslprep(argument.decode("utf-8"), query=True).encode("utf-8")
        except (UnicodeDecodeError, Malformed):
            return b""

    def _offers(self, mechanism: str) -> bool:
        return self._settings.offers(mechanism, self._tls)

    def _begin(self, mechanism: str, state: State, nonce: str | None = None) -> sasl.ServerExchange:
        self._state = state
        context = self._settings.context(nonce or self._nonce(), self._tls)
        return self._start_login(self._settings.mechanisms.create(mechanism, context))

    def _challenge(self, data: bytes) -> None:
        if self._state is State.USER_GIVEN:
            self._write(_SEND_PASSWORD, due=False)
        else:  # the space is sent with an empty challenge too: some clients hang without it
            self._write(b"+ " + sasl.encode_base64(data) + b"\r\n", due=False)

    def _accept_login(self, success: sasl.Success) -> None:
        self._state = State.OPENING
        self._pending_step = partial(self._ask, OpenMaildrop(identity=success.authorization_identity))

    def _reject_login(self, reason: sasl.Refusal | sasl.Fault, *, counts: bool) -> None:
        self._state = State.AUTHORIZATION
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
        self._state = State.AUTHORIZATION
        self._events.append(self._drop_clear_text(tls))

    def _send_shutdown_reply(self) -> None:
        """Reply only to a login that is still unanswered.

        A client would take an unsolicited -ERR as the reply to its next command.
        """
        if self._state is State.OPENING:
            self._write_reply(_standard_replies.SHUTTING_DOWN)

    def _write_content(self) -> None:
        self._write_ok(f"maildrop has {self._maildrop.count} messages ({self._maildrop.size} octets)")

    def _write_reply(self, reply: Reply) -> None:
        # Pipelined replies are sent together (RFC 2449 section 6.6), after the last command that was received.
        self._write(reply.to_wire(), due=False)

    def _write_ok(self, text: str) -> None:
        """Write +OK with *text*.  It is always valid, so it does not need the checks of Reply."""
        self._write(f"+OK {text}\r\n".encode("ascii"), due=False)


_HANDLERS: Final[Mapping[type[object], Callable[[ServerConnection, Any], ServerEvent | Reply | None]]] = {
    Capa: ServerConnection._capa,
    Utf8: ServerConnection._utf8_mode,
    Stls: ServerConnection._stls,
    User: ServerConnection._user,
    Pass: ServerConnection._pass,
    Apop: ServerConnection._apop,
    Auth: ServerConnection._auth,
    Stat: ServerConnection._stat,
    List: ServerConnection._list,
    Uidl: ServerConnection._uidl,
    Retrieve: ServerConnection._retrieve,
    Dele: ServerConnection._dele,
    Rset: ServerConnection._rset,
    Noop: ServerConnection._noop,
    Quit: ServerConnection._quit,
}
