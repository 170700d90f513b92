"""The fast path for an ordinary transaction: MAIL, RCPT, DATA and content, each answered with ACCEPT.

It exists only for speed.  It implements no rule that ``server`` does not implement, and passes everything unusual to
the complete path.  A test checks that both behave alike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Generic, TypeAlias, TypeVar

from .._dots import Unstuffer
from .._events import ACCEPT, Action, MessageChunk, Question, Send, Tls
from .._server import ServerMachine
from . import _standard_replies
from ._command_lines import COMMON, COMMON_DATA, COMMON_MAIL, COMMON_RCPT, common_mail, common_rcpt
from ._grammar import Mailbox
from ._states import NEXT, State
from ._text import LimitedUnstuffer, LineLengths
from .commands import Data, Mail, MessageComplete, Rcpt
from .events import ContentFault, ServerEvent
from .settings import ExtendedServerSettings

A = TypeVar("A")
Q = TypeVar("Q")

_new: Final = object.__new__
_set_data: Final = vars(MessageChunk)["data"].__set__
_set_recipients: Final = vars(MessageComplete)["recipients"].__set__
_match_common: Final = COMMON.match
_READY, _MAIL, _RCPT, _DATA, _CHUNKS = State.READY, State.MAIL, State.RCPT, State.DATA, State.CHUNKS
_GREETING = State.GREETING

_AFTER: Final[Mapping[type[object], State]] = {
    Mail: NEXT[_READY]["MAIL"],
    Rcpt: NEXT[_MAIL]["RCPT"],
    Data: NEXT[_RCPT]["DATA"],
    MessageComplete: NEXT[_DATA]["."],
}
"""The state after a positive answer to each of the four, in any state that allows it."""

_Step: TypeAlias = tuple[Send, State]

_FAST_TRANSITIONS: Final[Mapping[bool, Mapping[type[object], _Step]]] = {
    enhanced: {
        question: (Send(data=_standard_replies.ACCEPTED[question].to_wire(enhanced=enhanced)), after)
        for question, after in _AFTER.items()
    }
    for enhanced in (True, False)
}
_FAST_TRANSITIONS_LMTP: Final[Mapping[type[object], _Step]] = {
    question: step for question, step in _FAST_TRANSITIONS[True].items() if question is not MessageComplete
}
"""LMTP answers the end of content once for each recipient, so MessageComplete is missing here."""


class FastPath(ServerMachine[ServerEvent | Q], Generic[Q]):
    """The state of a mail transaction, and its fast path."""

    __slots__ = (
        "_accepted", "_fault", "_lengths", "_plain_mail", "_recipients", "_settings", "_size", "_state",
        "_transactions", "_unstuffer", "_wait",
    )  # fmt: skip

    def __init__(self, settings: ExtendedServerSettings, *, entropy: bytes, tls: Tls | None) -> None:
        super().__init__(entropy=entropy, tls=tls)
        self._settings = settings
        self._state = State.GREETING
        self._wait = settings.timeouts[0]
        self._recipients: list[Mailbox] = []
        self._transactions = 0
        self._unstuffer: Unstuffer | None = None  # created for the first content: most connections are idle
        self._size = 0  # bytes of content so far
        self._fault: ContentFault | None = None  # the first fault in the content of DATA
        limit = settings.max_text_line
        self._lengths = None if limit is None else LineLengths(limit)
        self._accepted = self._short_answers()
        # MAIL without parameters is refused only for the state or the number of transactions.
        self._plain_mail = not (settings.authentication_required or settings.tls_required)

    def _short_answers(self) -> Mapping[type[object], _Step]:
        """Return the questions for which ACCEPT only sends a reply and changes the state."""
        settings = self._settings
        return _FAST_TRANSITIONS_LMTP if settings.lmtp else _FAST_TRANSITIONS[settings.enhanced_status_codes]

    def next_event(self) -> ServerEvent | Q | Action:
        ready = self._ready
        if ready is not None:
            self._ready = None
            return ready
        state = self._state
        if (
            self._events
            or self._question is not None
            or self._output_due
            or self._phase is not None
            or state is _GREETING
        ):
            return super().next_event()
        if state is _DATA:
            return self._next_of_content()
        received = self._input
        data, offset = received.data, received.offset
        if offset == len(data):
            if self._output or received.later or received.ended:
                return super().next_event()
            return self._wait if state is not _CHUNKS else self._settings.timeouts[2]
        found = _match_common(data, offset)
        if found is None or received.dropping:
            return super().next_event()
        kind = found.lastindex
        settings = self._settings
        question: Mail | Rcpt | Data | None = None
        if kind == COMMON_RCPT:
            if (state is _RCPT or state is _MAIL) and len(self._recipients) < settings.max_recipients:
                question = common_rcpt(found)
        elif kind == COMMON_DATA:
            if state is _RCPT and self._accepted:
                question = _new(Data)
        elif (
            kind == COMMON_MAIL
            and state is _READY
            and self._plain_mail
            and found[2] is not None
            and found[4] is None
            and self._transactions < settings.max_transactions
        ):
            question = common_mail(found)
        if question is None:
            return super().next_event()
        self._question = question
        received.offset = found.end()
        return question

    def _next_of_content(self) -> ServerEvent | Q | Action:
        unstuffer = self._unstuffer
        if unstuffer is None:
            return super().next_event()
        limit = self._settings.max_message_size
        if unstuffer.ended:
            if self._size > limit or not unstuffer.clean:
                return super().next_event()
            complete = _new(MessageComplete)  # like __init__, at half the cost; the same for the chunk below
            _set_recipients(complete, tuple(self._recipients))
            self._question = complete
            return complete
        received = self._input
        if received.offset == len(received.data) and not (received.later or received.ended or self._output):
            return self._settings.timeouts[2]
        content = unstuffer.take(received)
        if content and unstuffer.clean and self._size + len(content) <= limit:
            self._size += len(content)
            chunk = _new(MessageChunk)
            _set_data(chunk, content)
            return chunk
        # No chunk: more data is needed, the content has ended, or it has a fault.
        return (self._emit_content(content) if content else None) or super().next_event()

    @abstractmethod
    def _emit_content(self, content: bytes) -> MessageChunk | None:
        """Return the part of *content* that may be passed on, or None, and report the fault that stops the rest."""

    def answer(self, question: Question[A], answer: A) -> None:
        step = self._accepted.get(type(question))
        if step is None or answer is not ACCEPT or question is not self._question:
            super().answer(question, answer)
            return
        self._question = None
        send, after = step
        self._state = after
        due = True
        if after is _DATA:
            self._begin_content()
        elif after is _READY:
            self._recipients = []
            self._wait = self._settings.timeouts[1]
        else:
            received = self._input
            due = received.offset == len(received.data)
            if after is _MAIL:
                self._transactions += 1
            elif isinstance(question, Rcpt):
                self._recipients.append(question.forward_path)
        if due and not self._output:
            self._ready = send
        else:
            self._write(send.data, due=due)

    def _begin_content(self) -> None:
        self._size = 0
        self._fault = None
        if self._unstuffer is None:
            self._unstuffer = Unstuffer() if self._lengths is None else LimitedUnstuffer(self._lengths)
        else:
            self._unstuffer.begin()
