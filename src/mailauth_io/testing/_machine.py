"""The machine of a connection of the test kit: a server machine that follows rules and records the session.

It passes the input of the client to the server machine command by command, so that the reply to each command is known.
What the client sends next follows from this reply: content after 354, a SASL response after 334, otherwise a command.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import attrs

from mailauth import (
    Accept,
    BeginTls,
    Closed,
    CloseReason,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    Question,
    Send,
    ServerMachine,
    Tls,
    TlsStarted,
    pop3,
    sasl,
    smtp,
)
from mailauth.events import Action as MachineAction

from ..server.interceptors import Drop, Pass
from .message import Envelope, Message
from .odd_replies import OddReply
from .rules import CLOSE_WITHOUT_NOTIFY, STALL, Answer, Occurrence, shown_answer
from .transcript import CLIENT, CLIENT_CLOSED, NOT_SENT, RULE, SERVER, ConnectionTranscript

A = TypeVar("A")
E = TypeVar("E")

_MAX_LINE: Final = 65_536
"""Bytes after which input without a line end is passed on."""

_REJECTION: Final = smtp.Reply(554)

_END_OF_CONTENT: Final = b".\r\n"
_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of a ClientHello, to which a server replies at once, without a line end (RFC 8446 section 5.1)."""

_PART_OF_END: Final = (b"\r\n.\r", b"\r\n.", b"\r")
"""How input may end of which the next byte decides whether the content ends."""

_WHILE_STALLED: Final = NeedData(timeout=86_400.0)

_RECORDED_LINES: Final = 100
"""Lines of a reply that the transcript keeps."""

_INJECTED: Final = {"SMTP": b"250 injected before TLS\r\n", "POP3": b"+OK injected before TLS\r\n"}
"""The reply that ``starttls="injected"`` adds to that of STARTTLS and STLS.  A client that reads it after the handshake
accepts clear text from an attacker as part of the TLS session."""


class Next(enum.Enum):
    """What the client sends next."""

    COMMAND = 1
    RESPONSE = 2
    """A SASL response, or the cancellation of the exchange."""
    CONTENT = 3


class Journal(Protocol):
    """What a machine reports to the server of the test kit, and asks of it."""

    @property
    def starttls_injected(self) -> bool:
        """Whether a second reply follows the reply to STARTTLS or STLS."""
        ...

    def rule_answer(self, occurrence: Occurrence) -> Answer | None:
        """Return the answer of the first rule that matches *occurrence*; None for the server's own reply."""
        ...

    def message_accepted(self, message: Message) -> None:
        """Keep *message*."""
        ...

    def sent_in_clear(self, data: bytes, connection: ConnectionTranscript) -> None:
        """Search *data*, which a client has sent without TLS, for secrets."""
        ...

    def grant_of(self, address: str, recipient: smtp.Mailbox) -> str | None:
        """Return the account whose grant has permitted *address* to relay to *recipient*; None if that is local."""
        ...


class Connection(Protocol):
    """The connection of a machine."""

    def abort(self) -> None: ...


class RecordingMachine(ABC, Generic[E]):
    """A server machine in front of *machine*.  It has the methods that an adapter and a session use."""

    protocol: str
    transcript: ConnectionTranscript
    _connection: Connection

    _longest_command = _MAX_LINE // 2
    """Bytes of a command without a line end after which they are passed on."""

    def __init__(self, machine: ServerMachine[E], journal: Journal, parse: Callable[[bytes], Command]) -> None:
        """*parse* returns the command in a line, or raises LocalProtocolError or ValueError."""
        self.machine = machine
        self._journal = journal
        self._parse = parse
        self._input = bytearray()
        self._within_line = False  # the last bytes that were passed on are not the end of a line
        self._ended = False
        self._end_passed = False
        self._bare_lf_noted = False
        self._handshake = False
        self._closed = False
        self._stalled = False
        self._output: deque[bytes] = deque()
        self._next = Next.COMMAND
        self._replacement: bytes | None = None  # for the server's own reply to the last command, if that is positive
        self._replaces_challenge = False  # or the challenge of a login
        self._reply_begun = False
        self._replaced = False  # ignore the rest of the server's own reply
        self._close_after_reply = False
        self._close_before_tls = False
        self._content_size = 0
        self._to_discard = 0  # bytes of a chunk whose BDAT was rejected
        self._to_pass = 0  # bytes of a chunk

    # What differs between the protocols

    @abstractmethod
    def _reply(self, answer: Any) -> smtp.Reply | pop3.Reply:
        """Return the reply that *answer* stands for.  ``Rule.reply()`` has checked its type."""

    @abstractmethod
    def _is_positive(self, reply: bytes, command: object = None) -> bool:
        """Return whether *reply* is positive: then a *command* to which it is the reply is carried out."""

    @abstractmethod
    def _follows(self, reply: bytes) -> Next:
        """Return what the client sends after *reply*."""

    @abstractmethod
    def _occurrence(self, command: object) -> Occurrence:
        """Return *command* with the state of the session."""

    @abstractmethod
    def _observe(self, event: E) -> E | MachineAction | None:
        """Look at an event of the machine.  Return what the session gets instead; None: nothing."""

    def _note_answer(self, question: Question[Any], answer: object) -> None:
        """Look at the answer of the session."""

    # The interface of a server machine

    def attach(self, connection: Connection, transcript: ConnectionTranscript) -> None:
        """Set the connection and its transcript.  The server does this before the first event."""
        self._connection = connection
        self.transcript = transcript
        transcript.tls = self.machine.tls

    @property
    def tls(self) -> Tls | None:
        return self.machine.tls

    @property
    def identity(self) -> str | None:
        return self.machine.identity

    def answer(self, question: Question[A], answer: A) -> None:
        self.machine.answer(question, answer)
        self._note_answer(question, answer)

    def decline(self, question: Question[Any]) -> None:
        self.machine.decline(question)

    def shut_down(self, reason: CloseReason = CloseReason.SHUT_DOWN) -> None:
        self._stalled = False
        self._reply_begun = False
        self.machine.shut_down(reason)

    def tls_started(self, tls: Tls) -> None:
        self._handshake = False
        self.transcript.tls = tls
        self.transcript.note(f"TLS started: {tls.version}")
        self.machine.tls_started(tls)

    def receive_data(self, data: bytes) -> None:
        if self._handshake:
            self.machine.receive_data(data)
        elif not data:
            self._ended = True
            self._stalled = False
        elif not self._stalled:
            self._input += data

    def next_event(self) -> E | MachineAction:
        while True:
            if self._output:
                return Send(data=self._output.popleft())
            if self._close_before_tls:
                self._close_before_tls = False
                self._end_reply()
            if self._closed:
                return Closed(reason=CloseReason.SHUT_DOWN)
            if self._stalled:
                return _WHILE_STALLED
            event = self.machine.next_event()
            if isinstance(event, Send):
                self._take_output(event.data)
            elif isinstance(event, NeedData):
                if not (self._end_reply() or self._feed()):
                    return event
            elif isinstance(event, BeginTls):
                if not self._close_after_reply:
                    return self._begin_tls(event)
                self._take_output(event.data)
                self._close_before_tls = True
            elif isinstance(event, Closed):
                self._end_reply()
                return event
            else:
                if isinstance(event, smtp.StartTls | pop3.Stls) and self._input:
                    self.machine.receive_data(bytes(self._input))  # which discards it, and reports that
                    self._discard_input()
                elif isinstance(event, TlsStarted) and event.dropped:
                    self.transcript.note(f"discarded {event.dropped} bytes that were sent before TLS")
                observed = self._observe(event)  # type: ignore[arg-type]  # all actions are handled above, except Paused
                if observed is not None:
                    return observed

    # Output

    def _take_output(self, data: bytes) -> None:
        """Send the server's own reply, or a part of it, unless a rule has another one."""
        if self._replaced:
            return
        if self._reply_begun:
            self.transcript.add(SERVER, b"<%d more bytes>" % len(data))
            self._output.append(data)
            return
        self._reply_begun = True
        self._next = self._follows(data)
        due = (self._next is Next.RESPONSE) is self._replaces_challenge
        if self._replacement is not None and due and self._is_positive(data):
            data, self._replacement = self._replacement, None
            self._replaced = True
        self._send(data)

    def _send(self, data: bytes) -> None:
        self._note_content()
        lines = data.removesuffix(b"\r\n").split(b"\r\n")
        for line in lines[:_RECORDED_LINES]:
            self.transcript.add(SERVER, line)
        if len(lines) > _RECORDED_LINES:
            self.transcript.add(SERVER, b"<%d more lines>" % (len(lines) - _RECORDED_LINES))
        self._output.append(data)

    def _note_content(self) -> None:
        if self._content_size:
            self.transcript.add(CLIENT, b"<content of %d bytes>" % self._content_size)
            self._content_size = 0

    def _end_reply(self) -> bool:
        """End the server's own reply to the last command.  Return whether the connection was closed."""
        if not (self._reply_begun or self._replaced):
            return self._closed  # the reply to BDAT follows the chunk
        self._replaced = False
        if self._next is Next.RESPONSE:
            return False  # the reply to the login is still due
        if self._replacement is not None:
            self._replacement = None
            self.transcript.note(f"{NOT_SENT}, because the server has sent no such reply of its own")
        if self._close_after_reply:
            self._close_after_reply = False
            self.transcript.note("closed without close_notify, by a rule")
            self._connection.abort()
            self._closed = True
        return self._closed

    def _begin_tls(self, event: BeginTls) -> BeginTls:
        data = event.data
        if self._replacement is not None:
            data = self._replacement
            self._replacement = None
        if self._journal.starttls_injected:
            data += _INJECTED[self.protocol]
        for line in data.removesuffix(b"\r\n").split(b"\r\n"):
            self.transcript.add(SERVER, line)
        self._handshake = True
        return BeginTls(data=data)

    # Input

    def _feed(self) -> bool:
        """Pass the next line of the input to the machine.  Return False if it is not complete."""
        if self._to_discard:
            del self._input[: self._discard()]
        unit = self._take_unit()
        if unit is None:
            if b"\n" in self._input and not self._bare_lf_noted:
                self._bare_lf_noted = True
                self.transcript.note("the client sent LF without CR, which does not end a line")
            if not self._ended or self._end_passed:
                return False
            self._end_passed = True
            self._note_content()
            self.transcript.note(CLIENT_CLOSED)
            self.machine.receive_data(b"")
            return True
        self._reply_begun = False
        begins_line, ends_line = not self._within_line, unit.endswith(b"\r\n")
        self._within_line = not ends_line
        if self._to_pass:
            self._content_size += len(unit)
            self._to_pass -= len(unit)
            self._within_line = False  # a chunk ends anywhere
        elif self._next is Next.CONTENT:
            if not (begins_line and unit == _END_OF_CONTENT):
                self._content_size += len(unit)
        else:
            line = unit.removesuffix(b"\r\n")
            self.transcript.add(CLIENT, line)
            if self.machine.tls is None:
                self._journal.sent_in_clear(line, self.transcript)
            whole = begins_line and ends_line
            if whole and self._next is Next.COMMAND and not self._apply_rules(line):
                return True
        self.machine.receive_data(unit)
        return True

    def _take_unit(self) -> bytes | None:
        """Return the next line, or the next part of a chunk or of content; None if it is not complete."""
        data = self._input
        if self._to_pass:
            size = min(self._to_pass, len(data))
        elif self._next is Next.CONTENT:
            size = self._content_before_end()
        else:
            end = data.find(b"\r\n")
            size = end + 2 if end >= 0 else 0
            longest = self._longest_command if self._next is Next.COMMAND else _MAX_LINE // 2
            if not size and (self._ended or len(data) > longest or data.startswith(_TLS_HANDSHAKE)):
                size = min(len(data), _MAX_LINE // 2)
                if not self._ended and data.endswith(b"\r", 0, size):
                    size -= 1  # it may be the CR of a CRLF
        if not size:
            return None
        unit = bytes(data[:size])
        del data[:size]
        return unit

    def _content_before_end(self) -> int:
        """Return the number of bytes of input before the line that ends the content; if it is next, its size."""
        data = self._input
        if not self._within_line and _END_OF_CONTENT.startswith(data[: len(_END_OF_CONTENT)]):
            return len(data[: len(_END_OF_CONTENT)]) if self._ended or len(data) >= len(_END_OF_CONTENT) else 0
        end = data.find(b"\r\n" + _END_OF_CONTENT)
        if end >= 0:
            return end + 2
        if not self._ended:
            for part in _PART_OF_END:
                if data.endswith(part):
                    return len(data) - len(part)
        return len(data)

    def _discard_input(self) -> None:
        """Discard what the client has sent without waiting for the reply.  It may contain a secret nevertheless."""
        if self.machine.tls is None:
            for line in bytes(self._input).split(b"\r\n"):
                self._journal.sent_in_clear(line, self.transcript)
        self._input.clear()

    def _discard(self) -> int:
        size = min(self._to_discard, len(self._input))
        self._to_discard -= size
        return size

    def _apply_rules(self, line: bytes) -> bool:
        """Carry out the rule for the command in *line*.  Return whether the server gets the command."""
        try:
            command = self._parse(line)
        except (LocalProtocolError, ValueError):
            return True
        passed = self._carry_out_rule(command)
        if isinstance(command, smtp.Bdat):
            if passed:
                self._to_pass = command.size
            elif not (self._stalled or self._closed):
                self._to_discard = command.size
                # The message is lost: the next chunk must not become one (RFC 3030 section 2).
                self._replaced = True
                self.machine.receive_data(b"RSET\r\n")
        return passed

    def _carry_out_rule(self, command: object) -> bool:
        """Carry out the answer of the rules to *command*.  Return whether the server does what the client wants."""
        answer = self._journal.rule_answer(self._occurrence(command))
        if answer is None or isinstance(answer, Pass):
            return True
        self._note_content()
        self.transcript.note(f"{RULE} {shown_answer(answer)}")
        if isinstance(answer, Drop):
            self._closed = True
            self._discard_input()
            return False
        if answer is STALL:
            self._stalled = True
            self._discard_input()
            return False
        if answer is CLOSE_WITHOUT_NOTIFY:
            self._close_after_reply = True
            return True
        reply = self._wire_data(answer)
        if self._is_positive(reply, command):
            self._replacement = reply
            looks_like_one = isinstance(command, smtp.Auth | pop3.Auth) and self._follows(reply) is Next.RESPONSE
            self._replaces_challenge = answer.challenge if isinstance(answer, OddReply) else looks_like_one
            return True
        self._next = Next.COMMAND
        self._send(reply)
        if reply.startswith(b"421"):
            self._closed = True
        return False

    def _wire_data(self, answer: Answer) -> bytes:
        """Return the bytes of a reply."""
        if isinstance(answer, bytes):
            return answer
        return answer.data if isinstance(answer, OddReply) else self._reply(answer).to_wire()


class SmtpMachine(RecordingMachine[smtp.ServerEvent]):
    """An SMTP machine that keeps the messages that it has accepted."""

    protocol = "SMTP"

    def __init__(self, machine: smtp.ServerConnection, journal: Journal) -> None:
        super().__init__(machine, journal, machine.settings.parse_command)
        self._transaction = machine
        self._longest_command = machine.settings.max_command_line  # between two chunks, the server replies at once
        self._hello = ""
        self._mechanism: str | None = None
        self._mail: smtp.Mail | None = None
        self._recipients: list[str] = []
        self._grant: str | None = None
        self._content: list[bytes] = []

    def _reply(self, answer: int | smtp.Reply) -> smtp.Reply:
        return smtp.Reply(answer, text="simulated by the test") if isinstance(answer, int) else answer

    def _is_positive(self, reply: bytes, command: object = None) -> bool:
        first = reply.lstrip(b"\r\n")[:1]
        return first == b"2" or (first == b"3" and not isinstance(command, smtp.MessageComplete))

    def _follows(self, reply: bytes) -> Next:
        code = reply[:3]
        return Next.CONTENT if code == b"354" else Next.RESPONSE if code == b"334" else Next.COMMAND

    def _occurrence(self, command: object) -> Occurrence:
        mail, recipients = self._transaction.mail, tuple(map(str, self._transaction.recipients))
        if isinstance(command, smtp.Mail):
            mail, recipients = command, ()
        elif isinstance(command, smtp.Rcpt):
            recipients = (str(command.forward_path),)
        sender = None if mail is None else str(mail.reverse_path or "")
        return Occurrence(command=command, sender=sender, recipients=recipients)

    def _observe(self, event: smtp.ServerEvent) -> smtp.ServerEvent | None:
        match event:
            case smtp.Connected() | smtp.MessageComplete():
                return self._at_question(event)
            case smtp.Hello():
                self._hello = event.domain
            case sasl.Authenticated():
                self._mechanism = event.mechanism
            case MessageChunk():
                self._content.append(event.data)
            case _:
                pass
        return event

    def _at_question(self, question: smtp.Connected | smtp.MessageComplete) -> smtp.ServerEvent | None:
        """Ask the rules about the greeting, or about the end of the content."""
        if self._carry_out_rule(question):
            return question
        self._replaced = True  # by the reply of the rule, or by none
        asked: Any = question  # of either type
        self.machine.answer(asked, _REJECTION)
        if isinstance(question, smtp.MessageComplete):
            return smtp.MessageAborted(reason=CloseReason.ABORTED)
        return None

    def _note_answer(self, question: Question[Any], answer: object) -> None:
        if not (isinstance(answer, Accept) or (isinstance(answer, smtp.Reply) and answer.positive)):
            return
        asked: object = question
        if isinstance(asked, smtp.Mail):
            self._mail = asked
            self._recipients = []
            self._grant = None
            self._content = []  # also that of a message that was rejected, or not completed
        elif isinstance(asked, smtp.Rcpt):
            self._recipients.append(str(asked.forward_path))
            if self.identity is None:
                self._grant = self._journal.grant_of(self.transcript.peer, asked.forward_path) or self._grant
        elif isinstance(asked, smtp.MessageComplete):
            self._keep()

    def _keep(self) -> None:
        mail = self._mail
        assert mail is not None
        message = Message(
            b"".join(self._content),
            Envelope(
                sender=str(mail.reverse_path or ""),
                recipients=tuple(self._recipients),
                identity=self.identity,
                mechanism=self._mechanism if self.identity is not None else None,
                grant=self._grant,
                tls=self.tls,
                hello=self._hello,
                peer=self.transcript.peer,
                parameters=mail_parameters(mail),
            ),
        )
        self._journal.message_accepted(message)


class Pop3Machine(RecordingMachine[pop3.ServerEvent]):
    """A POP3 machine."""

    protocol = "POP3"

    def __init__(self, machine: pop3.ServerConnection, journal: Journal) -> None:
        super().__init__(machine, journal, machine.settings.parse_command)

    def _reply(self, answer: pop3.Unavailable | pop3.Reply) -> pop3.Reply:
        if isinstance(answer, pop3.Unavailable):
            return pop3.Reply(False, answer.value, "simulated by the test")
        return answer

    def _is_positive(self, reply: bytes, command: object = None) -> bool:
        return reply.lstrip(b"\r\n").startswith(b"+")

    def _follows(self, reply: bytes) -> Next:
        return Next.RESPONSE if reply.startswith((b"+ ", b"+\r\n")) else Next.COMMAND

    def _occurrence(self, command: object) -> Occurrence:
        return Occurrence(command=command)

    def _observe(self, event: pop3.ServerEvent) -> pop3.ServerEvent | None:
        if not isinstance(event, pop3.Connected):
            return event
        if self._carry_out_rule(event):
            return event
        self._replaced = True
        self.machine.answer(event, pop3.Unavailable.TEMPORARY)
        return None


def mail_parameters(mail: smtp.Mail) -> dict[str, str | None]:
    """Return the parameters of *mail* as they are on the wire."""
    line = attrs.evolve(mail, reverse_path=None).to_wire().decode()
    words = line.removeprefix("MAIL FROM:<>").split()
    return {
        keyword.upper(): value if equals else None for keyword, equals, value in (word.partition("=") for word in words)
    }
