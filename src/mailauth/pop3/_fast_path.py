"""The fast path of the POP3 server: the most common commands in TRANSACTION, above all RETR.

It exists only for speed.  It follows the same rules as ``server``, which handles all other cases.  A test checks that
both return the same events and replies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final, TypeVar

from .._dots import stuff_whole
from .._events import PAUSED, Action, CloseReason, Question, Tls
from .._machine import MAX_UNWRITTEN, Phase
from .._server import ServerMachine
from . import _standard_replies
from ._command_lines import COMMON, COMMON_LIST, COMMON_QUIT, COMMON_RETR, COMMON_STAT, QUIT, STAT, from_common
from ._states import State
from .commands import LineCommand, Retrieve, checked_list, checked_retrieve
from .events import ServerEvent
from .maildrop import Maildrop, MaildropSession
from .replies import Content
from .settings import ServerSettings

A = TypeVar("A")

_match_common: Final = COMMON.match
_OPEN: Final = Phase.OPEN
_TRANSACTION: Final = State.TRANSACTION
_MESSAGE_FOLLOWS: Final = _standard_replies.MESSAGE_FOLLOWS.to_wire()
_GOODBYE: Final = _standard_replies.GOODBYE.to_wire()
_NO_MESSAGES: Final = Maildrop()


class FastPath(ServerMachine[ServerEvent]):
    """The state of the session that RETR needs, and the fast path for common commands."""

    __slots__ = ("_maildrop", "_pending_step", "_settings", "_state", "_utf8", "_wait")

    def __init__(self, settings: ServerSettings, *, entropy: bytes, tls: Tls | None) -> None:
        super().__init__(entropy=entropy, tls=tls)
        self._settings = settings
        self._state = State.GREETING
        self._wait = settings.timeouts[0]
        # Called once before the next line is read.
        self._pending_step: Callable[[], ServerEvent | None] | None = None
        self._maildrop = MaildropSession(_NO_MESSAGES)
        self._utf8 = not settings.utf8  # a message with a UTF-8 header may be sent unchanged

    @abstractmethod
    def _handle_command(self, command: LineCommand, line: bytes | None) -> ServerEvent | None:
        """Carry out *command*.  *line* is the line received; None if it equals ``command.to_wire()``."""

    def next_event(self) -> ServerEvent | Action:
        """Return the next event; see the base class.  This is its loop with the fast path for common lines added."""
        while True:
            if self._events:
                return self._events.pop(0)
            if self._question is not None:
                return PAUSED
            if self._output_due:
                return self._flush()
            event: ServerEvent | Action | None
            if self._phase is not _OPEN:
                event = self._advance_phase()
            elif self._state is not _TRANSACTION or self._pending_step is not None:
                event = self._advance()
            else:
                received = self._input
                data, offset = received.data, received.offset
                if offset == len(data) and not (self._output or received.later or received.ended):
                    return self._wait
                found = _match_common(data, offset)
                if found is None or received.dropping:
                    event = self._advance()
                else:
                    received.offset = found.end()
                    kind = found.lastindex
                    maildrop = self._maildrop
                    if kind == COMMON_RETR:
                        number = int(found[COMMON_RETR])
                        if number <= maildrop.last and number not in maildrop.deleted:
                            self._question = retrieve = checked_retrieve(number)
                            return retrieve
                    elif kind == COMMON_STAT:
                        self._write(b"+OK " + maildrop.drop_listing(), due=False)
                        return STAT
                    elif kind == COMMON_LIST:
                        number = int(found[COMMON_LIST])
                        if number <= maildrop.last and number not in maildrop.deleted:
                            self._write(b"+OK " + maildrop.scan_listing(number), due=False)
                            return checked_list(number)
                    elif kind == COMMON_QUIT and not maildrop.deleted:
                        self._write(_GOODBYE, due=False)
                        self._close(CloseReason.QUIT)
                        return QUIT
                    event = self._handle_command(from_common(found), None)
            if event is not None:
                return event

    def answer(self, question: Question[A], answer: A) -> None:
        if (
            not isinstance(answer, Content)
            or not isinstance(question, Retrieve)
            or question is not self._question
            or question.lines is not None
            or not answer.last
            or not (self._utf8 or answer.data.isascii())
        ):
            super().answer(question, answer)
            return
        data = stuff_whole(_MESSAGE_FOLLOWS, answer.data)
        self._question = None
        self._output.append(data)
        self._output_size += len(data)
        received = self._input
        if self._output_size >= MAX_UNWRITTEN or (received.offset == len(received.data) and not received.later):
            self._output_due = True
