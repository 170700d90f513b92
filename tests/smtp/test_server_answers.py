"""What an answer to a question does, and what cannot be an answer (architecture.md, A connection)."""

from __future__ import annotations

import attrs
import pytest

from mailauth import ACCEPT, Accept, CloseReason, LocalProtocolError, Question, Tls, sasl, smtp
from mailauth.events import PAUSED
from tests.smtp.drive import IN_CLEAR, LEFT_OPEN, ready, serve

MESSAGE = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n"
QUESTIONS = [
    (smtp.Mail, b"MAIL FROM:<>\r\n", 250),
    (smtp.Rcpt, b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n", 250),
    (smtp.Data, b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", 354),
    (smtp.MessageComplete, MESSAGE, 250),
    (smtp.StartTls, b"STARTTLS\r\n", 220),
]


@pytest.mark.parametrize(("kind", "data", "code"), QUESTIONS)
@pytest.mark.parametrize(
    "answer",
    [
        smtp.Reply(354, "", "go on"),
        smtp.Reply(334),
        smtp.Reply(250, "5.1.1", "what now"),
        smtp.Reply(550, "2.1.1", "what now"),
        smtp.Reply(421, "5.3.2", "what now"),
        smtp.PerRecipient((ACCEPT,)),
        None,
        True,
        "250 ok",
        sasl.Refusal.TEMPORARY,
        b"secret",
    ],
)
def test_invalid_answer_raises_and_leaves_question_open(
    kind: type[object], data: bytes, code: int, answer: object
) -> None:
    """architecture.md, A connection: a LocalProtocolError; a valid answer is still accepted."""
    session = ready(data, answers={kind: LEFT_OPEN})
    before = session.data
    with pytest.raises(LocalProtocolError):
        session.answer(answer)
    assert session.machine.next_event() == PAUSED
    assert session.data == before
    session.answer(ACCEPT)
    assert session.codes[-1] == code


@pytest.mark.parametrize(("kind", "data", "code"), QUESTIONS)
def test_reply_text_of_the_application_is_sent(kind: type[object], data: bytes, code: int) -> None:
    """The text of the application; the codes and enhanced codes of DATA and STARTTLS are those of the protocol."""
    session = ready(data, answers={kind: smtp.Reply(250, "2.0.0", "queued as 7F3A\nthank you")})
    status = "2.0.0 " if code == 250 else ""
    assert session.lines[-2:] == [f"{code}-{status}queued as 7F3A", f"{code} {status}thank you"]


@pytest.mark.parametrize(("kind", "data", "code"), QUESTIONS)
def test_rejection_is_sent_and_starts_no_transaction_content_or_tls(kind: type[object], data: bytes, code: int) -> None:
    """RFC 5321 section 4.2.1; a transaction continues without the recipient or the DATA, but not without MAIL."""
    session = ready(data, answers={kind: smtp.Reply(550, "5.7.1", "no")}).forget()
    session.receive(b"MAIL FROM:<>\r\n")
    inside = kind in (smtp.Rcpt, smtp.Data)
    assert session.codes == [503 if inside else 550 if kind is smtp.Mail else 250]
    session = ready(data, answers={kind: smtp.Reply(550, "5.7.1", "no")})
    assert session.lines[-1] == "550 5.7.1 no"
    assert session.begun_tls == []


@pytest.mark.parametrize(("kind", "data", "code"), QUESTIONS)
def test_421_is_sent_and_ends_the_session(kind: type[object], data: bytes, code: int) -> None:
    """RFC 5321 section 3.8; what the client had pipelined is not read."""
    session = ready(data + b"NOOP\r\n", answers={kind: smtp.Reply(421, "4.3.2", "enough")})
    assert session.lines[-1] == "421 4.3.2 enough"
    assert session.closed is not None
    assert session.closed.reason is CloseReason.SHUT_DOWN
    assert session.of(smtp.Noop, smtp.MessageAborted) == []


def test_any_accept_instance_counts_as_accept() -> None:
    """Any instance of Accept counts."""
    assert serve(answers={smtp.Connected: Accept()}).codes == [220]


def test_unavailable_of_each_question_is_a_valid_answer() -> None:
    """architecture.md, A connection: for a store that failed, and for test doubles."""

    def unavailable(question: Question[object]) -> object:
        return question.unavailable

    assert serve(answers={smtp.Connected: unavailable}).codes == [421]
    for kind, data, _ in QUESTIONS:
        assert ready(data, answers={kind: unavailable}).codes[-1] == 451
    for kind, data in (
        (sasl.CheckPassword, b"AUTH PLAIN AGEAYg==\r\n"),
        (sasl.FetchSecret, b"AUTH CRAM-MD5\r\n" + sasl.encode_base64(b"a " + b"0" * 32) + b"\r\n"),
        (sasl.Authorize, b"AUTH PLAIN " + sasl.encode_base64(b"bob\0test\0001234") + b"\r\n"),
    ):
        assert ready(data, answers={kind: unavailable}).codes[-1] == 454


def test_late_repeated_and_foreign_answers_are_rejected() -> None:
    """architecture.md, A connection: questions are matched by identity."""
    session = ready(b"MAIL FROM:<a@b>\r\n", answers={smtp.Mail: LEFT_OPEN})
    question = session.question
    assert isinstance(question, smtp.Mail)
    twin = smtp.Mail(reverse_path=question.reverse_path)
    assert twin == question
    with pytest.raises(LocalProtocolError):
        session.server.answer(twin, ACCEPT)
    session.answer(ACCEPT)
    with pytest.raises(LocalProtocolError):
        session.server.answer(question, ACCEPT)
    session.receive(b"RSET\r\n")
    with pytest.raises(LocalProtocolError):
        session.server.answer(question, ACCEPT)
    assert session.codes == [250, 250]


def test_answer_before_any_question_or_after_close_raises() -> None:
    server = smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32))
    with pytest.raises(LocalProtocolError):
        server.answer(smtp.Connected(), ACCEPT)
    session = ready(b"QUIT\r\n")
    with pytest.raises(LocalProtocolError):
        session.server.answer(smtp.Connected(), ACCEPT)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (ACCEPT, "220 localhost ESMTP"),
        (smtp.Reply(250), "220 localhost ESMTP"),
        (smtp.Reply(220, "2.0.0", "hello"), "220 localhost hello"),
        (smtp.Reply(554, "5.7.1", "go away"), "554 go away"),
        (smtp.Reply(421, "4.7.0", "busy"), "421 busy"),
    ],
)
def test_greeting_has_no_enhanced_status_code(answer: object, line: str) -> None:
    """RFC 2034 section 4; RFC 5321 section 4.2: the host comes first in a 220."""
    session = serve(answers={smtp.Connected: answer})
    assert session.lines == [line]
    assert (session.closed is not None) == line.startswith("421")


def test_only_quit_is_accepted_after_a_554_greeting() -> None:
    """RFC 5321 section 3.1."""
    session = serve(
        b"EHLO c\r\nNOOP\r\nMAIL FROM:<>\r\nQUIT\r\n", answers={smtp.Connected: smtp.Reply(554, "5.7.1", "no service")}
    )
    assert session.codes == [554, 503, 503, 503, 221]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.QUIT


@pytest.mark.parametrize(
    "line", [b"FOO", b"EXPN x", b"", b"MAIL FROM", b"QUIT now", b"NO\0OP", b"x" * 3_000, b"BDAT x", b"BDAT 2\r\nab"]
)
def test_any_line_except_quit_gets_503_after_a_554_greeting(line: bytes) -> None:
    """RFC 5321 section 3.1: known or unknown, well formed or not."""
    session = serve(
        line + b"\r\nQUIT\r\n",
        settings=smtp.ServerSettings(chunking=True),
        answers={smtp.Connected: smtp.Reply(554, "5.7.1", "no service")},
    )
    assert session.codes[:2] == [554, 503]
    assert session.codes[-1] == 221


def test_input_is_not_processed_while_a_question_is_open() -> None:
    """architecture.md, A connection: no input after it is read."""
    session = ready(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nQUIT\r\n", answers={smtp.Mail: LEFT_OPEN})
    assert session.events == [smtp.Mail(reverse_path=None)]
    session.receive(b"NOOP\r\n")
    assert session.last == PAUSED
    assert session.data == b""
    session.answer(ACCEPT)
    assert session.codes == [250, 250, 221]


def test_input_over_64_kib_is_rejected_until_events_are_pulled() -> None:
    """architecture.md, invariant 4."""
    session = ready(b"MAIL FROM:<>\r\n", answers={smtp.Mail: LEFT_OPEN})
    piece = b"NOOP\r\n" * 2_000
    for _ in range(6):
        session.machine.receive_data(piece)
    with pytest.raises(LocalProtocolError):
        session.machine.receive_data(piece)
    assert len(session.machine._input) == 6 * len(piece)
    session.answer(ACCEPT)
    assert set(session.codes) == {250}


def test_entropy_of_wrong_length_is_rejected() -> None:
    """architecture.md, A connection: 32 bytes."""
    with pytest.raises(LocalProtocolError):
        smtp.ServerConnection(smtp.ServerSettings(), entropy=b"short")


def test_tls_started_without_a_handshake_raises() -> None:
    session = ready()
    with pytest.raises(LocalProtocolError):
        session.machine.tls_started(Tls(version="TLSv1.3"))


class ForgedText(str):
    """A str whose text differs from its encoded form."""

    def __format__(self, specification: str) -> str:
        return "ok\r\n250 forged"

    def split(self, *arguments: object) -> list[str]:
        return ["ok\r\n250 forged"]


class ForgedReply(smtp.Reply):
    """A reply that serializes itself differently if it has no enhanced status code."""

    def to_wire(self, *, enhanced: bool = True) -> bytes:
        return super().to_wire() if enhanced else b"250 ok\r\n250 forged\r\n"


@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize(
    "answer", [ForgedReply(250, "2.0.0", "taken"), smtp.Reply(250, "2.0.0", ForgedText("taken"))], ids=type
)
@pytest.mark.parametrize(("kind", "data", "code"), QUESTIONS)
def test_reply_or_text_subclass_cannot_inject_a_reply(
    kind: type[object], data: bytes, code: int, answer: smtp.Reply, enhanced: bool
) -> None:
    """Exactly one reply: a client would take a second one as the reply to its next command."""
    settings = attrs.evolve(IN_CLEAR, enhanced_status_codes=enhanced)
    session = ready(data, answers={kind: answer}, settings=settings)
    assert b"forged" not in session.data
    assert session.data.endswith(b"taken\r\n")
