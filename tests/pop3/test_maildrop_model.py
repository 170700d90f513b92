"""A POP3 session compared with a simple model: a list of messages and a set of deletions."""

from __future__ import annotations

import attrs
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailauth import Closed, CloseReason
from tests.pop3.drive import OPEN, ask, in_transaction, said, talk

LINES = st.sampled_from([b"a", b".", b"..", b"Subject: b", b"", b"\xc3\xa9"])
TEXTS = st.lists(LINES, max_size=6).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
NUMBERS = st.integers(1, 6)
BLANKS = st.sampled_from([b"", b" "])
"""A space at the end of a line bypasses the fast path."""


def wire(text: bytes) -> bytes:
    return (
        b"".join(b"." + line if line.startswith(b".") else line for line in text.splitlines(keepends=True)) + b".\r\n"
    )


def top(text: bytes, lines: int) -> bytes:
    rows = text.splitlines(keepends=True)
    blank = rows.index(b"\r\n") if b"\r\n" in rows else len(rows)
    return b"".join(rows[: blank + 1 + lines])


class Session(RuleBasedStateMachine):
    """RFC 1939 sections 5 to 7: numbers stay, deleted messages are omitted, RSET restores them, only QUIT commits."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[int] = set()
        self.over = False
        self.log_in([], 1, False)

    @initialize(texts=st.lists(TEXTS, max_size=5), piece=st.sampled_from([3, 1000]), refusing=st.booleans())
    def log_in(self, texts: list[bytes], piece: int, refusing: bool) -> None:
        self.texts = texts
        self.piece = piece
        self.refusing = refusing
        settings = attrs.evolve(OPEN, refuse_utf8_headers=refusing)
        self.connection, self.application = in_transaction(*texts, piece=piece, settings=settings)

    @precondition(lambda self: self.over)
    @rule(piece=st.sampled_from([3, 1000]))
    def log_in_again(self, piece: int) -> None:
        texts = [text for number, text in enumerate(self.texts, 1) if number not in self.deleted]
        self.deleted.clear()
        self.over = False
        self.log_in(texts, piece, self.refusing)

    @property
    def alive(self) -> list[int]:
        return [number for number in range(1, len(self.texts) + 1) if number not in self.deleted]

    def ask(self, line: bytes, blank: bytes) -> bytes:
        return ask(self.connection, self.application, line + blank)

    def ask_about(self, verb: bytes, number: int, blank: bytes) -> bytes | None:
        """Return the reply; None if there is no such message, after checking for -ERR."""
        answer = self.ask(b"%s %d" % (verb, number), blank)
        if number in self.alive:
            return answer
        assert answer.startswith(b"-ERR ")
        return None

    def size(self, number: int) -> int:
        return len(self.texts[number - 1])

    @precondition(lambda self: not self.over)
    @rule(number=NUMBERS, blank=BLANKS)
    def dele(self, number: int, blank: bytes) -> None:
        answer = self.ask_about(b"DELE", number, blank)
        if answer is not None:
            assert answer.startswith(b"+OK ")
            self.deleted.add(number)

    @precondition(lambda self: not self.over)
    @rule(number=NUMBERS, blank=BLANKS)
    def retr(self, number: int, blank: bytes) -> None:
        answer = self.ask_about(b"RETR", number, blank)
        if answer is not None:
            self.check_text(answer, self.texts[number - 1], self.texts[number - 1])

    @precondition(lambda self: not self.over)
    @rule(number=NUMBERS, lines=st.integers(0, 4), blank=BLANKS)
    def top(self, number: int, lines: int, blank: bytes) -> None:
        answer = self.ask(b"TOP %d %d" % (number, lines), blank)
        if number in self.alive:
            self.check_text(answer, self.texts[number - 1], top(self.texts[number - 1], lines))
        else:
            assert answer.startswith(b"-ERR ")

    def check_text(self, answer: bytes, text: bytes, expected: bytes) -> None:
        """A non-ASCII header is rejected, if that is configured, if the first piece shows it (RFC 6856)."""
        first = text[: self.piece]
        header = b"" if first.startswith(b"\r\n") else first.partition(b"\r\n\r\n")[0]
        if header.isascii() or not self.refusing:
            status, _, rest = answer.partition(b"\r\n")
            assert status.startswith(b"+OK")
            assert rest == wire(expected)
        else:
            assert answer.startswith(b"-ERR [UTF8] ")

    @precondition(lambda self: not self.over)
    @rule(number=NUMBERS, blank=BLANKS)
    def list_and_uidl_one(self, number: int, blank: bytes) -> None:
        answer = self.ask_about(b"LIST", number, blank)
        if answer is not None:
            assert answer == b"+OK %d %d\r\n" % (number, self.size(number))
        answer = self.ask_about(b"UIDL", number, blank)
        if answer is not None:
            assert answer == b"+OK %d uid-%d\r\n" % (number, number)

    @precondition(lambda self: not self.over)
    @rule(blank=BLANKS)
    def list_and_uidl_all(self, blank: bytes) -> None:
        rows = self.ask(b"LIST", blank).split(b"\r\n")
        assert rows[1:] == [*(b"%d %d" % (number, self.size(number)) for number in self.alive), b".", b""]
        rows = self.ask(b"UIDL", blank).split(b"\r\n")
        assert rows[1:] == [*(b"%d uid-%d" % (number, number) for number in self.alive), b".", b""]

    @precondition(lambda self: not self.over)
    @rule(blank=BLANKS)
    def rset(self, blank: bytes) -> None:
        assert self.ask(b"RSET", blank).startswith(b"+OK ")
        self.deleted.clear()

    @precondition(lambda self: not self.over)
    @rule(blank=BLANKS)
    def quit(self, blank: bytes) -> None:
        events = talk(self.connection, self.application, b"QUIT" + blank + b"\r\n")
        assert said(events).startswith(b"+OK")
        assert events[-1] == Closed(reason=CloseReason.QUIT)
        self.over = True

    @precondition(lambda self: not self.over)
    @rule(reason=st.sampled_from([CloseReason.SHUT_DOWN, CloseReason.TIMED_OUT]))
    def time_out(self, reason: CloseReason) -> None:
        self.connection.shut_down(reason)
        self.vanish(reason)

    @precondition(lambda self: not self.over)
    @rule()
    def hang_up(self) -> None:
        self.connection.receive_data(b"")
        self.vanish(CloseReason.PEER_CLOSED)

    def vanish(self, reason: CloseReason) -> None:
        assert self.connection.next_event() == Closed(reason=reason)
        self.deleted.clear()
        self.over = True

    @invariant()
    def stat_counts_what_is_not_deleted(self) -> None:
        if not self.over:
            expected = b"+OK %d %d\r\n" % (len(self.alive), sum(map(self.size, self.alive)))
            assert self.ask(b"STAT", b"") == self.ask(b"STAT", b" ") == expected

    @invariant()
    def nothing_is_committed_but_at_quit(self) -> None:
        assert self.application.committed == ([frozenset(self.deleted)] if self.over and self.deleted else [])


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=25)
