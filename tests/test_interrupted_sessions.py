"""What a server has begun ends exactly once, wherever the session is interrupted.

A message ends in MessageComplete or MessageAborted, and a login in Authenticated or AuthenticationFailed.  Each session
is played again for each of its events, and interrupted there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import pytest

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    CloseReason,
    MessageChunk,
    NeedData,
    Paused,
    Question,
    ServerMachine,
    Tls,
    pop3,
    sasl,
    smtp,
)

SMTP: Final = smtp.ServerSettings(
    mechanisms=sasl.ALL_MECHANISMS,
    scram_decoy=sasl.ScramDecoy(key=bytes(32)),
    mechanisms_without_tls=frozenset(sasl.ALL_MECHANISMS.names),
    starttls=True,
    chunking=True,
    binary_mime=True,
    max_message_size=65_536,
    max_text_line=1_000,
    discard_limit=100,
    max_errors=3,
)
LMTP: Final = attrs.evolve(SMTP, lmtp=True)
POP3: Final = pop3.ServerSettings(
    mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names), stls=True, max_errors=3
)
HELLO: Final = b"EHLO c\r\n"
TO: Final = HELLO + b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@d.test>\r\n"
DATA: Final = TO + b"DATA\r\n"
LINES: Final = b"x" * 62 + b"\r\n"
LOGIN: Final = b"USER alice\r\nPASS wonderland\r\n"

SESSIONS: Final[Sequence[tuple[str, smtp.ServerSettings | pop3.ServerSettings, bytes, bytes]]] = (
    ("a message", SMTP, DATA, b"a\r\n..b\r\n.\r\nNOOP\r\nQUIT\r\n"),
    ("a message without content", SMTP, DATA, b".\r\nQUIT\r\n"),
    ("an incomplete message", SMTP, DATA, b"a\r\n."),
    ("a bare CR", SMTP, DATA, b"ab\rcd\r\n.\r\nQUIT\r\n"),
    ("a bare LF", SMTP, DATA, b"ab\ncd\r\n.\r\nQUIT\r\n"),
    ("a bare LF at the start", SMTP, DATA, b"\ncd\r\n.\r\nQUIT\r\n"),
    ("a NUL", SMTP, DATA, b"ab\r\nc\0d\r\n.\r\nQUIT\r\n"),
    ("a bare CR without an end", SMTP, DATA, b"ab\rcd"),
    ("a message that is too large", SMTP, DATA + LINES * 1_024 + b"ab", b"c\r\nd\r\n.\r\nQUIT\r\n"),
    ("endless content", SMTP, DATA + LINES * 1_024 + b"ab", b"c\r\n" + LINES * 2 + b"d\r\n.\r\nQUIT\r\n"),
    ("a long line", SMTP, DATA + b"x" * 998, b"yyyy\r\n.\r\nQUIT\r\n"),
    ("two messages", SMTP, DATA, b"a\r\n.\r\n" + DATA + b"b\n\r\n.\r\nQUIT\r\n"),
    ("two recipients of LMTP", LMTP, DATA.replace(b"EHLO", b"LHLO"), b"a\r\n.\r\nQUIT\r\n"),
    ("a fault in LMTP", LMTP, DATA.replace(b"EHLO", b"LHLO"), b"ab\rc\r\n.\r\nQUIT\r\n"),
    ("chunks", SMTP, TO, b"BDAT 4\r\nab\r\nBDAT 3 LAST\r\nc\r\nQUIT\r\n"),
    ("a last chunk without CRLF", SMTP, TO, b"BDAT 3\r\nabcBDAT 0 LAST\r\nQUIT\r\n"),
    ("a last chunk that ends in CR", SMTP, TO, b"BDAT 3 LAST\r\nab\rQUIT\r\n"),
    ("a bare CR in a chunk", SMTP, TO, b"BDAT 4\r\na\rbcBDAT 2 LAST\r\n\r\nQUIT\r\n"),
    ("a bare CR between two chunks", SMTP, TO, b"BDAT 2\r\na\rBDAT 3 LAST\r\nb\r\nQUIT\r\n"),
    ("a bare LF in the last chunk", SMTP, TO, b"BDAT 3 LAST\r\na\nbQUIT\r\n"),
    ("a chunk too large", SMTP, TO + b"BDAT 65534\r\n" + (LINES * 1_024)[2:], b"BDAT 4\r\nabcdRSET\r\nQUIT\r\n"),
    ("a chunk over the limit", SMTP, TO, b"BDAT 4\r\nabcdBDAT 70000 LAST\r\nQUIT\r\n"),
    ("RSET between chunks", SMTP, TO, b"BDAT 4\r\nabcdRSET\r\nQUIT\r\n"),
    ("EHLO between chunks", SMTP, TO, b"BDAT 4\r\nabcd" + HELLO + b"QUIT\r\n"),
    ("QUIT between chunks", SMTP, TO, b"BDAT 4\r\nabcdQUIT\r\n"),
    ("errors between chunks", SMTP, TO, b"BDAT 4\r\nabcdDATA\r\nMAIL\r\nFOO\r\n"),
    ("a malformed BDAT between chunks", SMTP, TO, b"BDAT 4\r\nabcdBDAT x\r\nQUIT\r\n"),
    ("another protocol between chunks", SMTP, TO, b"BDAT 4\r\nabcdGET / HTTP/1.1\r\nQUIT\r\n"),
    ("binary chunks", SMTP, TO.replace(b"b.test>", b"b.test> BODY=BINARYMIME"), b"BDAT 4 LAST\r\na\0\r\nQUIT\r\n"),
    ("PLAIN", SMTP, HELLO, b"AUTH PLAIN AGFsaWNlAHdvbmRlcmxhbmQ=\r\nQUIT\r\n"),
    ("PLAIN in two lines", SMTP, HELLO, b"AUTH PLAIN\r\nAGFsaWNlAHdvbmRlcmxhbmQ=\r\nQUIT\r\n"),
    ("LOGIN", SMTP, HELLO, b"AUTH LOGIN\r\nYWxpY2U=\r\nd29uZGVybGFuZA==\r\nQUIT\r\n"),
    ("a login that is cancelled", SMTP, HELLO, b"AUTH LOGIN\r\nYWxpY2U=\r\n*\r\nAUTH LOGIN\r\n"),
    ("an identity to act as", SMTP, HELLO, b"AUTH PLAIN Ym9iAGFsaWNlAHdvbmRlcmxhbmQ=\r\nQUIT\r\n"),
    ("CRAM-MD5", SMTP, HELLO, b"AUTH CRAM-MD5\r\nYWxpY2UgMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\r\nQUIT\r\n"),
    ("SCRAM", SMTP, HELLO, b"AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\nx\r\nQUIT\r\n"),
    ("a wrong token", SMTP, HELLO, b"AUTH XOAUTH2 dXNlcj1hbGljZQFhdXRoPUJlYXJlciB4AQE=\r\n\r\nQUIT\r\n"),
    ("errors before and after a login", SMTP, HELLO, b"AUTH LOGIN\r\n!\r\nAUTH LOGIN\r\n!\r\nAUTH LOGIN\r\n!\r\n"),
    ("STARTTLS", SMTP, HELLO, b"STARTTLS\r\n"),
    ("USER", POP3, b"", LOGIN + b"QUIT\r\n"),
    ("USER twice", POP3, b"", b"USER bob\r\n" + LOGIN + b"QUIT\r\n"),
    ("commands after USER", POP3, b"", b"USER alice\r\nCAPA\r\nSTAT\r\nPASS wonderland\r\nQUIT\r\n"),
    ("QUIT after USER", POP3, b"", b"USER alice\r\nQUIT\r\n"),
    ("errors after USER", POP3, b"", b"USER alice\r\nFOO\r\nBAR\r\nSTLS\r\n"),
    ("another protocol after USER", POP3, b"", b"USER alice\r\nGET / HTTP/1.1\r\nQUIT\r\n"),
    ("APOP", POP3, b"", b"APOP alice 0123456789abcdef0123456789abcdef\r\nQUIT\r\n"),
    ("AUTH in POP3", POP3, b"", b"AUTH LOGIN\r\nYWxpY2U=\r\nd29uZGVybGFuZA==\r\nQUIT\r\n"),
    ("AUTH after AUTH in POP3", POP3, b"", b"AUTH\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN\r\n"),
    ("STLS", POP3, b"", b"STLS\r\n"),
    ("a maildrop", POP3, LOGIN, b"LIST\r\nRETR 1\r\nTOP 1 0\r\nDELE 1\r\nQUIT\r\n"),
)


class How(enum.Enum):
    """How a session is interrupted."""

    SHUT_DOWN = enum.auto()
    """By ``shut_down()``, before a question is answered."""
    SHUT_DOWN_AFTERWARDS = enum.auto()
    """By ``shut_down()``, after a question is answered."""
    END_OF_STREAM = enum.auto()
    """The peer has closed its side, so no more data follows."""
    UNAVAILABLE = enum.auto()
    """Not at all, but the question is declined."""
    FINAL_REPLY = enum.auto()
    """By a reply of 421 to the question."""


MESSAGE: Final = pop3.Content(data=b"Subject: a\r\n\r\n.b", last=False)
REST: Final = pop3.Content(data=b"\r\n", last=True)


def accept(question: Question[Any]) -> object:
    """Return the positive answer to *question*."""
    match question:
        case sasl.FetchSecret():
            return b"wonderland"
        case sasl.FetchScramKeys():
            return sasl.scram_keys(b"wonderland", salt=b"salt", iterations=4_096)
        case sasl.CheckToken():
            return sasl.Refusal.BAD_CREDENTIALS
        case pop3.OpenMaildrop():
            return pop3.Maildrop(messages=(pop3.Message(size=len(MESSAGE.data) + 2, unique_id="1"),))
        case pop3.Retrieve():
            return MESSAGE
        case pop3.RetrieveMore():
            return REST
        case _:
            return ACCEPT


@attrs.define
class Pairs:
    """What is open: at most one message and one login.  Raises AssertionError for an event out of place."""

    message: bool = False
    login: bool = False

    def note(self, event: object) -> None:
        match event:
            case MessageChunk():
                assert self.message, "content outside a message"
            case smtp.MessageComplete() | smtp.MessageAborted():
                assert self.message, "the end of no message"
                self.message = False
            case sasl.AuthenticationStarted():
                assert not self.login, "a second login"
                self.login = True
            case sasl.Authenticated() | sasl.AuthenticationFailed():
                assert self.login, "the end of no login"
                self.login = False
            case Closed():
                assert not self.message, "the message has no end"
                assert not self.login, "the login has no end"

    def note_answer(self, question: Question[Any], answer: object) -> None:
        if isinstance(question, smtp.Data) and answer is ACCEPT:
            assert not self.message, "a second message"
            self.message = True


def play(
    settings: smtp.ServerSettings | pop3.ServerSettings, pieces: Sequence[bytes], at: int, how: How
) -> Iterator[object]:
    """Play a session, interrupt it at the event number *at*, and yield every event up to Closed."""
    machine: ServerMachine[Any] = (
        smtp.ServerConnection(settings, entropy=bytes(32))
        if isinstance(settings, smtp.ServerSettings)
        else pop3.ServerConnection(settings, entropy=bytes(32))
    )
    waiting = [*pieces, b""]
    pairs = Pairs()
    count = 0
    while not isinstance(event := machine.next_event(), Closed):
        assert not isinstance(event, Paused)
        pairs.note(event)
        yield event
        here = count == at
        count += 1
        if here and how is How.SHUT_DOWN:
            machine.shut_down(CloseReason.TIMED_OUT)
        elif here and how is How.END_OF_STREAM:
            machine.receive_data(b"")
            waiting = []
        if isinstance(event, Question):
            answer = accept(event)
            if here and how is How.UNAVAILABLE:
                answer = event.unavailable
            elif here and how is How.FINAL_REPLY and isinstance(event, smtp.VerdictQuestion | smtp.MessageComplete):
                answer = smtp.Reply(421, "4.3.2", "closing")
            pairs.note_answer(event, answer)
            machine.answer(event, answer)
        if here and how is How.SHUT_DOWN_AFTERWARDS:
            machine.shut_down()
        elif isinstance(event, BeginTls) and not (here and how in (How.SHUT_DOWN, How.END_OF_STREAM)):
            machine.tls_started(Tls(version="TLSv1.3"))
        elif isinstance(event, NeedData) and not (here and how in (How.SHUT_DOWN, How.END_OF_STREAM)):
            machine.receive_data(waiting.pop(0))
    pairs.note(event)
    yield event
    assert machine.next_event() == event


@pytest.mark.parametrize(("settings", "before", "rest"), [pytest.param(*row, id=name) for name, *row in SESSIONS])
def test_what_has_begun_ends_once_wherever_the_session_is_interrupted(
    settings: smtp.ServerSettings | pop3.ServerSettings, before: bytes, rest: bytes
) -> None:
    """architecture.md, "A connection": each accepted Data ends once; each login that has started, too."""
    for pieces in ([before + rest], [before, *(rest[place : place + 1] for place in range(len(rest)))]):
        pieces = [piece for piece in pieces if piece]
        for at, event in enumerate(list(play(settings, pieces, -1, How.SHUT_DOWN))):
            for how in How if isinstance(event, Question) else (How.SHUT_DOWN, How.END_OF_STREAM):
                *_, last = play(settings, pieces, at, how)
                assert isinstance(last, Closed)
