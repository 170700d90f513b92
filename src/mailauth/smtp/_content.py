"""Message content as a server receives it, by DATA or BDAT: its limits, its faults, and the end of a transaction."""

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
_MANY: Final = 256  # queued replies; more are joined, because separate bytes objects take three times the memory
_MIN_DISCARD: Final = 4_096  # minimum bytes that a discarded chunk counts for; otherwise small ones cost nothing

MIN_CHUNK: Final = 64
"""A chunk of fewer bytes counts against ``max_junk_commands``, unless it is the last of its message.  No RFC gives a
number; clients send chunks of 8 KiB and more, and a short one only at the end."""


class ContentReceiver(FastPath[Q], Generic[Q]):
    """The part of a server session that receives message content."""

    __slots__ = ("_chunk_reply", "_chunks", "_dropped", "_errors", "_mail")

    def __init__(self, settings: ExtendedServerSettings, *, entropy: bytes, tls: Tls | None) -> None:
        super().__init__(settings, entropy=entropy, tls=tls)
        self._errors = 0
        self._mail = _FAST_MAIL  # or the MAIL of this transaction, if it has BODY=BINARYMIME or SMTPUTF8
        self._chunks: Chunks | None = None
        self._dropped = 0  # bytes of refused chunks, until the last chunk of their message has been received
        self._chunk_reply = 1  # number of replies to that last chunk

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
            return self._need_more_data(self._settings.timeouts[2])
        return self._emit_content(content) if content else None

    def _emit_content(self, content: bytes) -> MessageChunk | None:
        """Return *content* up to its first fault, or None; what follows the fault is counted and dropped.

        The message is aborted at the fault, so that the application can release it.  The reply is sent at the end of
        the content.
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
        """Return how many bytes of *content* may be passed on, and the first fault or None.

        *content* is already counted in the size.  *clean*: the message has no bare CR, bare LF or NUL so far.
        *after_cr*: as for ``find_bare()``.
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
        """Begin to receive the chunk of a BDAT command that passed all checks."""
        chunks = self._chunks
        if chunks is None:
            self._chunks = chunks = Chunks(self._lengths)
            self._accepted = {}  # the answer to Data must not send 354
            self._question = Data()
        chunks.begin(command.size, last=command.last)
        self._phase = self._take_chunk
        return self._question if isinstance(self._question, Data) else None

    def _begin_chunks(self, reply: Reply | None) -> None:
        """Handle the answer to Data, which was asked for the first BDAT."""
        chunks = self._chunks
        assert chunks is not None
        if reply is None or reply.positive:
            self._state = NEXT[State.RCPT]["BDAT"]
            self._size = self._dropped = 0
            self._fault = None
        else:
            self._skip(chunks, reply)

    def _refuse_bdat(self, command: Bdat, line: bytes, reply: Reply) -> ServerEvent:
        """Refuse a chunk and discard its bytes, which the client sends in any case (RFC 3030 section 2).

        The message is aborted if it had begun, because a part of it would be missing.  A client that pipelines cannot
        withdraw the chunks after a refused one: they are refused too, but do not count as errors.
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
        """Close the session: the length of a chunk is unknown, so the start of the next command is unknown.

        BDAT had a malformed size, or a line between two chunks, which may have been BDAT, was too long.
        """
        self._write_reply(reply)
        self._end_unfinished(CloseReason.TOO_MANY_ERRORS)
        self._close(CloseReason.TOO_MANY_ERRORS)
        return CommandRejected(verb="BDAT" if line else "", line=line, reply=reply)

    def _skip(self, chunks: Chunks, reply: Reply) -> None:
        """Discard the bytes of a chunk, then send *reply*."""
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
                return self._need_more_data(self._settings.timeouts[2])
            self._size += len(data)
            return self._emit_chunk(chunks, data) if chunks.refusal is None else None
        if chunks.last and chunks.tail != CRLF and chunks.refusal is None and not self._content_event:
            chunks.tail = CRLF
            return MessageChunk(data=CRLF)  # as with DATA: text ends with a line end
        self._phase = None
        if chunks.refusal is not None:
            self._chunks = None
            for _ in range(chunks.replies):
                self._write_reply(chunks.refusal)
            self._check_errors()
            return None
        if not chunks.last:
            self._write_reply(Reply(250, "2.0.0", f"{chunks.size} bytes received"))
            return None
        return self._end_content(clean=chunks.ends_clean)

    def _emit_chunk(self, chunks: Chunks, data: bytes) -> MessageChunk | None:
        """Like ``_emit_content()``.  The chunk is refused at its end, and so are the chunks after it."""
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
        """Whether line ends are not checked: the content is BINARYMIME, or a setting allows bare line ends."""
        return self._mail.body is Body.BINARY_MIME or self._settings.allow_bare_line_ends

    def _refuse_content(self, fault: ContentFault) -> None:
        for _ in range(self._final_replies):
            self._write_reply(_standard_replies.CONTENT_FAULTS[fault])
        self._end_transaction()

    @property
    def _final_replies(self) -> int:
        """How many replies the end of content gets: in LMTP one for each accepted recipient (RFC 2033 section 4.2)."""
        return len(self._recipients) or 1 if self._settings.lmtp else 1

    def _answer_each(self, question: MessageComplete, answer: object) -> None:
        """Answer the end of an LMTP message: with one verdict for each recipient, or one for all."""
        verdicts: tuple[object, ...] = (answer,) * len(question.recipients)
        if isinstance(answer, PerRecipient):
            verdicts = answer.verdicts
        if len(verdicts) != len(question.recipients):
            raise LocalProtocolError(
                f"PerRecipient has {len(verdicts)} verdicts for {len(question.recipients)} recipients;"
                " use one verdict for each of question.recipients"
            )
        replies = [checked(verdict) or _standard_replies.ACCEPTED[MessageComplete] for verdict in verdicts]
        if any(reply.positive for reply in replies):
            self._wait = self._settings.timeouts[1]
        self._end_transaction()
        for reply in replies:
            self._write_reply(reply)
            if reply.code == 421:
                self._close(CloseReason.SHUT_DOWN)
                return

    def _abort_content(self) -> None:
        """Close the session: the content exceeds its maximum size by more than ``discard_limit``."""
        self._write_reply(_standard_replies.ENDLESS_CONTENT)
        self._close(CloseReason.TOO_MANY_ERRORS)

    def _reset(self) -> None:
        """Discard the transaction, if one is open (RFC 5321 section 4.1.1.5)."""
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
    """Return whether the chunk of *command* is so short that it counts against ``max_junk_commands``."""
    return command.size < MIN_CHUNK and not command.last


def checked(answer: object) -> Reply | None:
    """Return *answer* as a Reply, or None for ACCEPT.  Raises LocalProtocolError if it cannot answer a question."""
    if isinstance(answer, Accept):
        return None
    if not isinstance(answer, Reply):
        raise LocalProtocolError(f"the answer must be ACCEPT or a Reply, not {type(answer).__name__}")
    if 300 <= answer.code < 400:
        raise LocalProtocolError(f"{answer.code} cannot answer a question; use 2yz to accept, 4yz or 5yz to reject")
    if answer.enhanced_status_code and int(answer.enhanced_status_code[0]) != answer.code // 100:
        raise LocalProtocolError(
            f"enhanced status code {answer.enhanced_status_code} does not match code {answer.code};"
            " use the same first digit"
        )
    return sendable(answer)
