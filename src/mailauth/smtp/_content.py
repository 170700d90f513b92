"""Message content as a server takes it, by DATA or by BDAT: its limits, its faults, and the end of a transaction.

Knows no order of commands; whether a message is stored is the application's to answer.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from .._dots import Unstuffer
from .._errors import LocalProtocolError
from .._events import Accept, Action, CloseReason, MessageChunk, Tls
from .._lines import CRLF
from . import _standard_replies
from ._fast_path import FastPath
from ._parameters import Body
from ._states import NEXT, State
from ._text import Chunks, find_bare
from .commands import Bdat, Data, Mail, MessageComplete
from .events import CommandRejected, ContentFault, MessageAborted, ServerEvent
from .replies import PerRecipient, Reply, sendable
from .settings import ExtendedServerSettings

Q = TypeVar("Q")

_TRANSACTION: Final = frozenset({State.MAIL, State.RCPT, State.CHUNKS})
_FAST_MAIL: Final = Mail(reverse_path=None)
_MANY: Final = 256  # replies that wait for the rest of a group: each as an object of its own weighs thrice its octets
_MIN_DISCARD: Final = 4_096  # octets that a dropped chunk counts for at least, or endless small ones would be free

MIN_CHUNK: Final = 64
"""Octets of a chunk; a shorter one that is not the last of its message counts as a command that leads nowhere.  No RFC
names a number; clients send chunks of 8 KiB and more, and short ones only at the end."""


class ContentReceiver(FastPath[Q], Generic[Q]):
    """A session as far as message content goes."""

    __slots__ = ("_chunk_reply", "_chunks", "_dropped", "_errors", "_mail")

    def __init__(self, settings: ExtendedServerSettings, *, entropy: bytes, tls: Tls | None) -> None:
        super().__init__(settings, entropy=entropy, tls=tls)
        self._errors = 0
        self._mail = _FAST_MAIL  # or the one that opened this transaction with BODY=BINARYMIME or SMTPUTF8
        self._chunks: Chunks | None = None
        self._dropped = 0  # octets of chunks that were refused, while the last one of their message has not come
        self._chunk_reply = 1  # replies to that last one

    def shut_down(self, reason: CloseReason = CloseReason.SHUT_DOWN) -> None:
        if self._phase == self._take_chunk:
            self._phase = None
        super().shut_down(reason)

    # DATA

    def _take_content(self, unstuffer: Unstuffer) -> ServerEvent | Action | None:
        settings = self._settings
        if self._size - settings.max_message_size > settings.discard_limit:
            self._abort_content()
            return None
        if unstuffer.ended:
            return self._end_content(clean=unstuffer.clean)
        content = unstuffer.take(self._input)
        if content is None:
            return self._need_more_data(self._settings.waits[2])
        return self._emit_content(content) if content else None

    def _emit_content(self, content: bytes) -> MessageChunk | None:
        """*content* up to its first fault; what follows that is counted and dropped.

        The message is aborted there, so that the application holds it no longer; the reply waits for its end.
        """
        self._size += len(content)
        if self._fault is not None:
            return None
        unstuffer = self._unstuffer
        assert unstuffer is not None
        at, fault = self._find_fault(content, clean=unstuffer.clean, after_cr=unstuffer.after_cr)
        if fault is not None:
            self._fault = fault
            self._events.append(MessageAborted(reason=fault))
        return MessageChunk(data=content[:at]) if at else None

    def _find_fault(self, content: bytes, *, clean: bool, after_cr: bool) -> tuple[int, ContentFault | None]:
        """How many octets of *content* may be handed on, and the first fault, if there is one.

        *content* is counted in the size already.  *clean*: it has no bare CR, bare LF or NUL; *after_cr* as for
        ``find_bare()``.
        """
        found: list[tuple[int, ContentFault | None]] = [(len(content), None)]
        excess = self._size - self._settings.max_message_size
        if excess > 0:
            found.append((len(content) - excess, ContentFault.TOO_LARGE))
        if self._lengths is not None and not self._lengths.within:
            found.append((self._lengths.beyond, ContentFault.LONG_LINE))
        if not (clean or self._content_event):
            bare = find_bare(content, after_cr=after_cr)
            if bare is not None:
                found.append((bare, ContentFault.BARE_LINE_END))
        return min(found, key=lambda each: each[0])

    # BDAT

    def _take_bdat(self, command: Bdat) -> ServerEvent | None:
        """A chunk that may come where it does."""
        chunks = self._chunks
        if chunks is None:
            self._chunks = chunks = Chunks(self._lengths)
            self._accepted = {}  # ACCEPT says no 354 now
            self._question = Data()
        chunks.begin(command.size, last=command.last)
        self._phase = self._take_chunk
        return self._question if isinstance(self._question, Data) else None

    def _begin_chunks(self, reply: Reply | None) -> None:
        """Data, asked for a first BDAT, was answered."""
        chunks = self._chunks
        assert chunks is not None
        if reply is None or reply.positive:
            self._state = NEXT[State.RCPT]["BDAT"]
            self._size = self._dropped = 0
            self._fault = None
        else:
            self._skip(chunks, reply)

    def _refuse_bdat(self, command: Bdat, line: bytes, reply: Reply) -> ServerEvent:
        """The octets come all the same (RFC 3030 section 2), and what was begun is over: a part of it would be lost.

        A client that pipelines cannot call back the chunks behind one that was refused: they are refused too, but spend
        no budget of errors.
        """
        refused = CommandRejected(verb="BDAT", line=line, reply=reply)
        aborted = self._state is State.CHUNKS
        settings = self._settings
        if self._dropped + command.size - settings.max_message_size > settings.discard_limit:
            self._abort_content()
            refused = CommandRejected(verb="BDAT", line=line, reply=_standard_replies.ENDLESS_CONTENT)
        else:
            if reply.code >= 500 and not self._dropped:
                self._errors += 1
            chunks = Chunks(None)
            chunks.begin(command.size, last=command.last)
            self._skip(chunks, reply)
            self._phase = self._take_chunk
        if aborted:
            self._events.append(refused)
            return MessageAborted(reason=ContentFault.TOO_LARGE)
        return refused

    def _close_endless_chunk(self, line: bytes, reply: Reply) -> ServerEvent:
        """The number of octets of a chunk is unknown, so the start of the next command is unknown: close.

        BDAT had a malformed size, or a line between two chunks, which may have been BDAT, was too long.
        """
        self._write_reply(reply)
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return CommandRejected(verb="BDAT" if line else "", line=line, reply=reply)

    def _skip(self, chunks: Chunks, reply: Reply) -> None:
        """Read over the octets of a chunk, then say *reply*."""
        if self._state in _TRANSACTION or not self._dropped:
            self._chunk_reply = self._final_replies
        if chunks.last:
            chunks.replies = self._chunk_reply
        if self._state in _TRANSACTION:
            self._end_transaction()
        self._dropped = 0 if chunks.last else self._dropped + max(chunks.size, _MIN_DISCARD)
        chunks.refusal = reply
        self._chunks = chunks

    def _take_chunk(self) -> ServerEvent | Action | None:
        chunks = self._chunks
        assert chunks is not None
        if chunks.missing:
            data = chunks.take(self._input)
            if not data:
                return self._need_more_data(self._settings.waits[2])
            self._size += len(data)
            return self._emit_chunk(chunks, data) if chunks.refusal is None else None
        if chunks.last and chunks.tail != CRLF and chunks.refusal is None and not self._content_event:
            chunks.tail = CRLF
            return MessageChunk(data=CRLF)  # as DATA would have brought it: text ends in a line end
        self._phase = None
        if chunks.refusal is not None:
            self._chunks = None
            for _ in range(chunks.replies):
                self._write_reply(chunks.refusal)
            self._check_errors()
            return None
        if not chunks.last:
            self._write_reply(Reply(250, "2.0.0", f"{chunks.size} octets taken"))
            return None
        return self._end_content(clean=chunks.ends_clean)

    def _emit_chunk(self, chunks: Chunks, data: bytes) -> MessageChunk | None:
        """As ``_emit_content``; the chunk is refused at its end, and so are those behind it."""
        at, fault = self._find_fault(data, clean=chunks.clean, after_cr=chunks.after_cr)
        if fault is not None:
            self._events.append(MessageAborted(reason=fault))
            self._skip(chunks, _standard_replies.CONTENT_FAULTS[fault])
        return MessageChunk(data=data[:at]) if at else None

    def _check_bdat(self, command: Bdat) -> Reply | None:
        already = self._size if self._state is State.CHUNKS else 0
        if already + command.size > self._settings.max_message_size:
            return _standard_replies.CONTENT_FAULTS[ContentFault.TOO_LARGE]
        return None

    # The end

    def _end_content(self, *, clean: bool) -> ServerEvent | None:
        if self._fault is not None:
            self._refuse_content(self._fault)
            return None
        if not (clean or self._content_event):  # a CR at the very end of the last chunk
            self._refuse_content(ContentFault.BARE_LINE_END)
            return MessageAborted(reason=ContentFault.BARE_LINE_END)
        self._question = complete = MessageComplete(recipients=tuple(self._recipients))
        return complete

    @property
    def _content_event(self) -> bool:
        """Content is no text, or nobody shall look at it."""
        return self._mail.body is Body.BINARY_MIME or self._settings.allow_bare_line_ends

    def _refuse_content(self, fault: ContentFault) -> None:
        for _ in range(self._final_replies):
            self._write_reply(_standard_replies.CONTENT_FAULTS[fault])
        self._end_transaction()

    @property
    def _final_replies(self) -> int:
        """How many answer the end of content: in LMTP one for each accepted recipient (RFC 2033 section 4.2)."""
        return len(self._recipients) or 1 if self._settings.lmtp else 1

    def _answer_each(self, question: MessageComplete, answer: object) -> None:
        """LMTP: a verdict for each recipient, or one for all."""
        verdicts: tuple[object, ...] = (answer,) * len(question.recipients)
        if isinstance(answer, PerRecipient):
            verdicts = answer.verdicts
        if len(verdicts) != len(question.recipients):
            raise LocalProtocolError(f"{len(question.recipients)} recipients were accepted, not {len(verdicts)}")
        replies = [checked(verdict) or _standard_replies.ACCEPTED[MessageComplete] for verdict in verdicts]
        if any(reply.positive for reply in replies):
            self._wait = self._settings.waits[1]
        self._end_transaction()
        for reply in replies:
            self._write_reply(reply)
            if reply.code == 421:
                self._close(CloseReason.SHUT_DOWN)
                return

    def _abort_content(self) -> None:
        """There is no end to it."""
        self._write_reply(_standard_replies.ENDLESS_CONTENT)
        self._close(CloseReason.TOO_MANY_ERRORS)

    def _reset(self) -> None:
        """No transaction is open (RFC 5321 section 4.1.1.5)."""
        self._dropped = 0
        if self._recipients:
            self._recipients = []
        if not self._accepted:
            self._accepted = self._short_answers()
            self._mail = _FAST_MAIL
            self._chunks = None

    def _end_transaction(self) -> None:
        self._state = State.READY
        self._reset()

    def _check_errors(self) -> None:
        if self._errors >= self._settings.max_errors:
            self._write_reply(_standard_replies.TOO_MANY_ERRORS)
            self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
            self._close(CloseReason.TOO_MANY_ERRORS)

    def _write_reply(self, reply: Reply, *, due: bool = True) -> None:
        self._write(reply.to_wire(enhanced=self._settings.enhanced_status_codes), due=due)
        if len(self._output) > _MANY:
            self._output[:] = (b"".join(self._output),)


def is_tiny(command: Bdat) -> bool:
    """Whether *command* announces so short a chunk that it counts against ``max_junk_commands``."""
    return command.size < MIN_CHUNK and not command.last


def checked(answer: object) -> Reply | None:
    """The Reply that *answer* is, None for ACCEPT.  Raises LocalProtocolError for what cannot answer a question."""
    if isinstance(answer, Accept):
        return None
    if not isinstance(answer, Reply):
        raise LocalProtocolError(f"the answer is ACCEPT or a Reply here, not {type(answer).__name__}")
    if 300 <= answer.code < 400:
        raise LocalProtocolError(f"{answer.code} answers no question: say yes with 2yz, no with 4yz or 5yz")
    if answer.enhanced_status_code and int(answer.enhanced_status_code[0]) != answer.code // 100:
        raise LocalProtocolError(f"{answer.enhanced_status_code} is of another class than {answer.code}")
    return sendable(answer)
