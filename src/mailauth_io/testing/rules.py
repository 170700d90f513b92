"""Rules: what the server of the test kit does at a step of a session, in place of its own reply."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import RLock
from typing import Any, Final, Self, TypeAlias

import attrs

from mailauth import LocalProtocolError, pop3, smtp
from mailauth.smtp import Mailbox

from .._checks import check_function, check_integer
from ..server.interceptors import Drop, Pass
from .odd_replies import OddReply


class Action(enum.Enum):
    """What a rule can do besides sending a reply.  The members are also names of ``mailauth_io.testing``.

    For example:

        mail_server.on(smtp.Data).reply(testing.STALL)
        mail_server.on(smtp.Quit).reply(testing.CLOSE_WITHOUT_NOTIFY)
    """

    STALL = "never reply"
    """Never reply, and read nothing more.  The connection stays open until the client or the test ends."""
    CLOSE_WITHOUT_NOTIFY = "reply, then close without close_notify"
    """Reply as usual, then close the TCP connection without the close_notify of TLS (RFC 8446 section 6.1)."""


STALL: Final = Action.STALL
CLOSE_WITHOUT_NOTIFY: Final = Action.CLOSE_WITHOUT_NOTIFY

Answer: TypeAlias = int | bytes | smtp.Reply | pop3.Reply | pop3.Unavailable | OddReply | Pass | Drop | Action
"""What ``Rule.reply()`` takes.  An int is the code of an SMTP reply; bytes are sent unchanged."""

SMTP_STEPS: Final[Mapping[type[Any], str]] = {
    smtp.Connected: "the greeting", smtp.Hello: "EHLO or HELO", smtp.StartTls: "STARTTLS", smtp.Auth: "AUTH",
    smtp.Mail: "MAIL", smtp.Rcpt: "RCPT", smtp.Data: "DATA", smtp.Bdat: "BDAT",
    smtp.MessageComplete: "the end of the content", smtp.Rset: "RSET", smtp.Noop: "NOOP", smtp.Vrfy: "VRFY",
    smtp.Help: "HELP", smtp.Quit: "QUIT",
}  # fmt: skip
"""The steps of an SMTP session at which a rule can reply."""

POP3_STEPS: Final[Mapping[type[Any], str]] = {
    pop3.Connected: "the greeting", pop3.Capa: "CAPA", pop3.Stls: "STLS", pop3.Utf8: "UTF8", pop3.User: "USER",
    pop3.Pass: "PASS", pop3.Apop: "APOP", pop3.Auth: "AUTH", pop3.Stat: "STAT", pop3.List: "LIST",
    pop3.Uidl: "UIDL", pop3.Retrieve: "RETR or TOP", pop3.Dele: "DELE", pop3.Noop: "NOOP", pop3.Rset: "RSET",
    pop3.Quit: "QUIT",
}  # fmt: skip
"""The steps of a POP3 session at which a rule can reply."""

_REPLIES: Final[Mapping[str, tuple[tuple[type[Any], ...], str]]] = {
    "SMTP": ((int, smtp.Reply), "a code such as 451, an smtp.Reply"),
    "POP3": ((pop3.Reply, pop3.Unavailable), "a pop3.Reply, a pop3.Unavailable"),
}
"""The types of replies that only one protocol has, and their names."""

_WITH_SENDER: Final = (smtp.Mail, smtp.Rcpt, smtp.Data, smtp.Bdat, smtp.MessageComplete)
_WITH_RECIPIENT: Final = (smtp.Rcpt, smtp.Data, smtp.Bdat, smtp.MessageComplete)


@attrs.frozen(kw_only=True)
class Occurrence:
    """One step of one session, as a rule sees it."""

    command: object
    """The command or question: an instance of the class that was passed to ``on()``."""
    sender: str | None = None
    """The reverse-path of the transaction, empty for the null one; None outside of a transaction."""
    recipients: tuple[str, ...] = ()
    """The accepted recipients of the transaction, or the recipient of RCPT."""


class Rule:
    """What the server does at one step of a session: the result of ``MailServer.on()``.

    The answers are given in turn, one for each time that the step occurs; after the last one, the server replies as
    usual.  Of several rules for the same step, the first one that has an answer left is used.

    A rule that is not used up fails the test, because the client has not done what the test is about.

    For example:

        mail_server.on(smtp.Rcpt, to="bob@far.test").reply(451, 451, testing.PASS)
        mail_server.on(pop3.Retrieve, number=2).reply(pop3.Unavailable.TEMPORARY).always()
    """

    def __init__(
        self,
        step: type[Any],
        where: Callable[[Any], bool] | None = None,
        **fields: object,
    ) -> None:
        """Raises TypeError if *step* is not a step of a session, or for a field that it does not have."""
        if not (step in SMTP_STEPS or step in POP3_STEPS):
            raise TypeError(f"step must be a class of mailauth.smtp or mailauth.pop3, not {step!r}; use {_all_steps()}")
        if where is not None:
            check_function("where", where)
        self.step = step
        """The class of the command, ``Connected``, or ``smtp.MessageComplete``."""
        self._where = where
        self._fields = fields
        self._answers: Sequence[Answer] = ()
        self._repeat: int | None = 1  # None: without end
        self._optional = False
        self._next: Iterator[Answer] = iter(())
        self._lock = RLock()
        self._failure: BaseException | None = None  # of where()
        self._missed = 0  # occurrences of the step that the rule does not match, or that another rule has answered
        self._reason = ""  # why the last one was missed
        self.used = 0
        """The number of answers that it has given."""
        known = {attribute.name for attribute in attrs.fields(step)} if attrs.has(step) else set[str]()
        for name, value in fields.items():
            if name in _extra_fields(step):
                if not isinstance(value, str):
                    raise TypeError(f"{name} must be an address such as 'bob@example.org', not {value!r}")
            elif name not in known:
                choices = sorted(known | _extra_fields(step))
                use = f"use {', '.join(choices)} or where" if choices else "use where"
                raise TypeError(f"{step.__name__} has no field {name!r}; {use}")

    @property
    def protocol(self) -> str:
        """``"SMTP"`` or ``"POP3"``."""
        return "SMTP" if self.step in SMTP_STEPS else "POP3"

    def reply(self, *answers: Answer) -> Self:
        """Give *answers* in turn.  See ``Answer`` for what they may be; PASS is the server's own reply.

        With a negative reply, the command is not carried out.  With a positive one it is, and if the server accepts it,
        the client gets the reply of the rule.  Raises TypeError or ValueError for an answer that cannot be sent.
        """
        if not answers:
            raise TypeError("reply() needs an answer, such as 451, b'451 try again\\r\\n', DROP or STALL")
        if self._answers:
            raise ValueError(f"{self} already has an answer; pass all answers to one reply()")
        for answer in answers:
            self._check(answer)
        self._answers = answers
        self._start()
        return self

    def _check(self, answer: object) -> None:
        types, names = _REPLIES[self.protocol]
        if isinstance(answer, bool) or not isinstance(answer, (*types, bytes, OddReply, Pass, Drop, Action)):
            raise TypeError(
                f"an answer at {self.step.__name__} must be {names}, bytes, an OddReply, PASS, DROP, STALL or"
                f" CLOSE_WITHOUT_NOTIFY; not {answer!r}"
            )
        if isinstance(answer, OddReply) and answer.protocol != self.protocol:
            raise ValueError(
                f"{answer.name} is a reply of {answer.protocol}, but {self.step.__name__} is a step of {self.protocol}"
            )
        if answer == b"":
            raise ValueError("an answer must not be empty; use STALL to send no reply")
        if isinstance(answer, int | smtp.Reply):
            try:
                reply = answer if isinstance(answer, smtp.Reply) else smtp.Reply(answer)
                reply.to_wire()
            except LocalProtocolError as error:
                raise ValueError(f"{error}; pass bytes to send a reply that no server should send") from None

    def always(self) -> Self:
        """Repeat the answers without end.  The rule must be used at least once."""
        self._set_repeat(None)
        return self

    def times(self, number: int) -> Self:
        """Give all answers *number* times.  Raises TypeError or ValueError if *number* is not a positive int."""
        check_integer("number", number, 1)
        self._set_repeat(number)
        return self

    def optional(self) -> Self:
        """Do not fail the test if the rule is not used up."""
        self._optional = True
        return self

    def _set_repeat(self, number: int | None) -> None:
        if not self._answers:
            raise ValueError("call reply() before always() and times()")
        self._repeat = number
        self._start()

    def _start(self) -> None:
        rounds = (
            itertools.repeat(self._answers) if self._repeat is None else itertools.repeat(self._answers, self._repeat)
        )
        self._next = itertools.chain.from_iterable(rounds)

    def _answer(self, occurrence: Occurrence) -> Answer | None:
        """Return the answer at *occurrence*; None if the rule does not match it, or has no answer left."""
        if type(occurrence.command) is not self.step:
            return None
        with self._lock:
            if not self._matches(occurrence):
                self._missed += 1
                self._reason = self._difference(occurrence)
                return None
            answer = next(self._next, None)
            if answer is not None:
                self.used += 1
            return answer

    def _miss(self, occurrence: Occurrence) -> None:
        """Note that another rule has answered at *occurrence*."""
        if type(occurrence.command) is self.step:
            with self._lock:
                self._missed += 1
                self._reason = "and another rule replied"
                if not self._has_fields(occurrence):
                    self._reason = self._difference(occurrence)

    def _difference(self, occurrence: Occurrence) -> str:
        """Return why *occurrence* does not match."""
        different = [name for name in self._fields if not self._has(occurrence, name)]
        shown = ", ".join(f"{name}={_shown_field(occurrence, name)!r}" for name in different)
        return f"with {shown}" if shown else "and where() returned false"

    def _has_fields(self, occurrence: Occurrence) -> bool:
        return all(self._has(occurrence, name) for name in self._fields)

    def _has(self, occurrence: Occurrence, name: str) -> bool:
        wanted = self._fields[name]
        if name == "to":
            return any(same_address(str(wanted), recipient) for recipient in occurrence.recipients)
        if name == "sender":
            return occurrence.sender is not None and same_address(str(wanted), occurrence.sender)
        return _equal(getattr(occurrence.command, name), wanted)

    def _matches(self, occurrence: Occurrence) -> bool:
        if not self._has_fields(occurrence):
            return False
        if self._where is None:
            return True
        try:
            return bool(self._where(occurrence.command))
        except BaseException as error:  # such as that of pytest.fail(); it must not end the thread of the server
            self._failure = error
            return False

    @property
    def problem(self) -> str | None:
        """The reason to fail the test because of this rule; None if the rule was used as it must be."""
        if self._failure is not None:
            return f"{self}: where() failed: {type(self._failure).__name__}: {self._failure}"
        if not self._answers:
            return f"{self} has no answer: call reply()"
        wanted = 1 if self._repeat is None else self._repeat * len(self._answers)
        if self._optional or self.used >= wanted:
            return None
        if self.used == 0:
            return f"{self} was never used: {self._why_unused()}"
        return f"{self} was used {self.used} of {wanted} times"

    def _why_unused(self) -> str:
        step = {**SMTP_STEPS, **POP3_STEPS}[self.step]
        if not self._missed:
            return f"no session reached {step}"
        last = "" if self._missed == 1 else "the last time "
        return f"{step} was reached {_times(self._missed)}, {last}{self._reason}"

    def __str__(self) -> str:
        arguments = [_name(self.step), *(f"{name}={value!r}" for name, value in self._fields.items())]
        if self._where is not None:
            arguments.append(f"where={getattr(self._where, '__name__', self._where)}")
        shown = f"on({', '.join(arguments)})"
        if self._answers:
            shown += f".reply({', '.join(map(shown_answer, self._answers))})"
        if self._repeat != 1:
            shown += ".always()" if self._repeat is None else f".times({self._repeat})"
        return shown

    __repr__ = __str__


def find_answer(rules: Iterable[Rule], occurrence: Occurrence) -> Answer | None:
    """Return the answer at *occurrence*, that of the first of *rules* that has one; None for the server's own reply."""
    found: Answer | None = None
    for rule in rules:
        if found is None:
            found = rule._answer(occurrence)  # pyright: ignore[reportPrivateUsage]  # of this module
        else:
            rule._miss(occurrence)  # pyright: ignore[reportPrivateUsage]  # of this module
    return found


def shown_answer(answer: Answer) -> str:
    """Return *answer* as a test writes it."""
    match answer:
        case Pass():
            return "PASS"
        case Drop():
            return "DROP"
        case Action():
            return answer.name
        case OddReply():
            return f"odd_replies.{answer.protocol.lower()}.{answer.name}"
        case pop3.Unavailable():
            return f"pop3.Unavailable.{answer.name}"
        case smtp.Reply() | pop3.Reply():
            return f"{str(answer)!r}"
        case _:
            return repr(answer)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _shown_field(occurrence: Occurrence, name: str) -> object:
    """Return the value of a field as a test writes it."""
    if name == "to":
        return ", ".join(occurrence.recipients)
    if name == "sender":
        return occurrence.sender
    value = getattr(occurrence.command, name)
    if isinstance(value, Mailbox):
        return str(value)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _name(step: type[Any]) -> str:
    return f"{'smtp' if step in SMTP_STEPS else 'pop3'}.{step.__name__}"


def _all_steps() -> str:
    return ", ".join(_name(step) for step in (*SMTP_STEPS, *POP3_STEPS))


def _extra_fields(step: type[Any]) -> set[str]:
    """Return the names that ``on()`` takes for *step* besides the fields of its class."""
    names = {"to": _WITH_RECIPIENT, "sender": _WITH_SENDER}
    return {name for name, steps in names.items() if step in steps}


def same_address(one: str, other: str) -> bool:
    """Return whether *one*, as a test has written it, is the address *other*.  Upper and lower case are the same."""
    return _unquoted(one).lower() == other.lower()


def _unquoted(address: str) -> str:
    """Return *address* without angle brackets, and without quotes that it does not need (RFC 5321 section 4.1.2)."""
    address = address.removeprefix("<").removesuffix(">")
    try:
        return str(Mailbox.parse(address))
    except ValueError:
        return address


def _equal(value: object, wanted: object) -> bool:
    """Compare a field with what the test has written: a path with an address, and bytes with text."""
    if isinstance(wanted, str):
        if isinstance(value, Mailbox):
            return same_address(wanted, str(value))
        if isinstance(value, bytes):
            return value == wanted.encode()
    return value == wanted
