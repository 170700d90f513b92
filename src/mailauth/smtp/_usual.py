"""The usual course of a transaction by the shortest way: MAIL, RCPT, DATA, content and ACCEPT as nearly all say them.

It exists for its speed alone, knows no rule that ``server`` does not know, and hands everything that is not quite usual
to the complete path; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from .._connection import MAXIMUM_UNREAD
from .._dots import Unstuffer
from .._events import ACCEPT, Action, MessageChunk, Question, Send, Tls
from .._server import ServerMachine
from . import _fixed
from ._command_lines import COMMON, COMMON_DATA, COMMON_MAIL, COMMON_RCPT, checked_mail, checked_rcpt, common_mailbox
from ._grammar import Mailbox
from ._states import NEXT, SERVER_PATIENCE, State
from ._text import LimitedUnstuffer, LineLengths
from .commands import Data, Mail, MessageComplete, Rcpt
from .events import ServerEvent
from .settings import AnyServerSettings

A = TypeVar("A")
Q = TypeVar("Q")

_AFTER: Final[Mapping[type[object], State]] = {
    Mail: NEXT[State.READY]["MAIL"],
    Rcpt: NEXT[State.MAIL]["RCPT"],
    Data: NEXT[State.RCPT]["DATA"],
    MessageComplete: NEXT[State.DATA]["."],
}
"""Where each of the four leads, from wherever it is allowed."""

_match_common: Final = COMMON.match
_DATA, _GREETING = State.DATA, State.GREETING

_STANDING_REPLIES: Final[Mapping[bool, Mapping[type[object], bytes]]] = {
    enhanced: {
        question: _fixed.ACCEPTED[question].to_wire(enhanced=enhanced)
        for question in (Mail, Rcpt, Data, MessageComplete)
    }
    for enhanced in (True, False)
}
_LMTP_REPLIES: Final[Mapping[type[object], bytes]] = {
    question: octets for question, octets in _STANDING_REPLIES[True].items() if question is not MessageComplete
}
"""Its content is answered once for each recipient."""

_STANDING_SENDS: Final[Mapping[bytes, Send]] = {
    octets: Send(octets=octets) for replies in _STANDING_REPLIES.values() for octets in replies.values()
}


class UsualCourse(ServerMachine[ServerEvent | Q], Generic[Q]):
    """What a mail transaction consists of, and its shortest way."""

    _standing = _STANDING_SENDS

    __slots__ = (
        "_accepted",
        "_lengths",
        "_plain_mail",
        "_recipients",
        "_settings",
        "_size",
        "_state",
        "_transactions",
        "_unstuffer",
    )

    def __init__(self, settings: AnyServerSettings, *, entropy: bytes, tls: Tls | None) -> None:
        super().__init__(entropy=entropy, tls=tls)
        self._settings = settings
        self._state = State.GREETING
        self._recipients: list[Mailbox] = []
        self._transactions = 0
        self._unstuffer: Unstuffer | None = None  # made with the first content: most connections idle
        self._size = 0  # octets of the content so far
        limit = settings.maximum_text_line
        self._lengths = None if limit is None else LineLengths(limit)
        self._accepted = self._short_answers()
        # MAIL without parameters is refused by nothing but its place and the number of transactions.
        self._plain_mail = not (settings.authentication_required or settings.tls_required)

    def _short_answers(self) -> Mapping[type[object], bytes]:
        """The questions to which ACCEPT has no consequence but its reply and a step of the state."""
        settings = self._settings
        return _LMTP_REPLIES if settings.lmtp else _STANDING_REPLIES[settings.enhanced_status_codes]

    def next_event(self) -> ServerEvent | Q | Action:
        if self._events or self._question is not None:
            return super().next_event()
        if self._output_due:
            output = self._output
            send = self._standing.get(output[0]) if len(output) == 1 else None
            if send is None:
                return self._flush()
            output.clear()
            self._output_size = 0
            self._output_due = False
            return send
        state = self._state
        if self._instead is not None or state is _GREETING:
            return super().next_event()
        if state is _DATA:
            return self._next_of_content()
        received = self._input
        octets, offset = received.octets, received.offset
        if offset == len(octets):
            if self._output or received.later or received.ended:
                return super().next_event()
            return SERVER_PATIENCE[state]
        found = _match_common(octets, offset)
        if found is None or received.dropping:
            return super().next_event()
        kind = found.lastindex
        if kind == COMMON_RCPT:
            mailbox = common_mailbox(found, 6)
            if (
                mailbox is None
                or "RCPT" not in NEXT[state]
                or len(self._recipients) >= self._settings.maximum_recipients
            ):
                return super().next_event()
            self._question = rcpt = checked_rcpt(mailbox)
            received.offset = found.end()
            return rcpt
        if kind == COMMON_DATA:
            if "DATA" not in NEXT[state] or not self._accepted:
                return super().next_event()
            self._question = data = Data()
            received.offset = found.end()
            return data
        if kind == COMMON_MAIL:
            mailbox = common_mailbox(found, 2)
            settings = self._settings
            if (
                mailbox is None
                or found[4] is not None
                or "MAIL" not in NEXT[state]
                or not self._plain_mail
                or self._transactions >= settings.maximum_transactions
            ):
                return super().next_event()
            self._question = mail = checked_mail(mailbox)
            received.offset = found.end()
            return mail
        return super().next_event()

    def _next_of_content(self) -> ServerEvent | Q | Action:
        unstuffer = self._unstuffer
        if unstuffer is None:
            return super().next_event()
        limit = self._settings.maximum_message_size
        if unstuffer.ended:
            if self._size > limit or not unstuffer.clean:
                return super().next_event()
            self._question = complete = MessageComplete(recipients=tuple(self._recipients))
            return complete
        received = self._input
        if received.offset == len(received.octets) and not (received.later or received.ended or self._output):
            return SERVER_PATIENCE[_DATA]
        content = unstuffer.take(received)
        # Without a chunk it starves, ends, or goes on beyond the limit.
        return (self._hand_on(content) if content else None) or super().next_event()

    def _hand_on(self, content: bytes) -> MessageChunk | None:
        """*content* as far as SIZE allows; what is beyond is counted and dropped."""
        self._size += len(content)
        excess = self._size - self._settings.maximum_message_size
        if excess <= 0:
            return MessageChunk(octets=content)
        return MessageChunk(octets=content[:-excess]) if excess < len(content) else None

    def answer(self, question: Question[A], answer: A) -> None:
        kind = type(question)
        accepted = self._accepted
        if answer is not ACCEPT or question is not self._question or kind not in accepted:
            super().answer(question, answer)
            return
        octets = accepted[kind]
        self._output.append(octets)
        self._output_size += len(octets)
        self._question = None
        self._state = _AFTER[kind]
        received = self._input
        if received.offset == len(received.octets) or self._output_size >= MAXIMUM_UNREAD:
            self._output_due = True
        if isinstance(question, Rcpt):
            self._recipients.append(question.forward_path)
        elif isinstance(question, Mail):
            self._transactions += 1
        else:
            self._output_due = True
            if isinstance(question, Data):
                self._begin_content()
            else:
                self._recipients = []

    def _begin_content(self) -> None:
        self._size = 0
        if self._unstuffer is None:
            self._unstuffer = Unstuffer() if self._lengths is None else LimitedUnstuffer(self._lengths)
        else:
            self._unstuffer.begin()
