"""The server's rules for LMTP (RFC 2033)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from mailauth import ACCEPT, CloseReason, LocalProtocolError, smtp
from tests.smtp.drive import IN_CLEAR, LEFT_OPEN, Session, serve

LMTP = attrs.evolve(IN_CLEAR, lmtp=True, chunking=True, max_message_size=65_536)
BEGIN = b"MAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\n"
NO = smtp.Reply(550, "5.1.1", "no")
FULL = smtp.Reply(452, "4.2.2", "full")


def lmtp(*pieces: bytes, **rest: Any) -> Session:
    session = serve(b"LHLO c\r\n", settings=LMTP, **rest).forget()
    return session.receive(*pieces)


def test_lhlo_replaces_ehlo_and_helo_in_lmtp() -> None:
    """RFC 2033 section 4.1."""
    session = serve(b"EHLO c\r\nHELO c\r\nMAIL FROM:<>\r\nLHLO c\r\nMAIL FROM:<>\r\n", settings=LMTP)
    assert session.codes == [220, 500, 500, 503, 250, 250]
    assert session.lines[0] == "220 localhost LMTP"
    assert {"250-PIPELINING", "250-ENHANCEDSTATUSCODES"} <= set(session.lines)
    assert session.of(smtp.Hello) == [smtp.Hello(domain="c", lmtp=True)]
    assert serve(b"LHLO c\r\n").codes == [220, 500]
    assert lmtp(b"LHLO\r\n").codes == [501]


def test_data_without_an_accepted_recipient_is_503() -> None:
    """RFC 2033 section 4.2: a MUST, where SMTP allows 354."""
    assert lmtp(b"MAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\n", answers={smtp.Rcpt: NO}).codes == [250, 550, 503]


@pytest.mark.parametrize("content", [b"DATA\r\nx\r\n.\r\n", b"BDAT 3 LAST\r\nx\r\n", b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n"])
def test_each_accepted_recipient_gets_its_reply(content: bytes) -> None:
    """RFC 2033 section 4.2: in the order of the RCPT commands; the refused one gets none."""
    session = lmtp(
        BEGIN + content + b"NOOP\r\n",
        answers={smtp.Rcpt: [ACCEPT, NO, ACCEPT], smtp.MessageComplete: smtp.PerRecipient((ACCEPT, FULL))},
    )
    assert session.codes[:4] == [250, 250, 550, 250]
    assert session.lines[-3:] == ["250 2.0.0 message accepted", "452 4.2.2 full", "250 2.0.0 ok"]
    assert session.of(smtp.MessageComplete)[0].recipients == (smtp.Mailbox("a", "x"), smtp.Mailbox("c", "x"))


@pytest.mark.parametrize("verdict", [ACCEPT, FULL, smtp.Reply(250, "2.0.0", "queued")])
def test_single_verdict_applies_to_every_recipient(verdict: Any) -> None:
    """RFC 2033 section 4.2; and the next transaction starts clean."""
    session = lmtp(BEGIN + b"DATA\r\n.\r\n" + BEGIN + b"DATA\r\n", answers={smtp.MessageComplete: verdict})
    code = verdict.code if isinstance(verdict, smtp.Reply) else 250
    assert session.codes == [250, 250, 250, 250, 354, *[code] * 3, 250, 250, 250, 250, 354]


@pytest.mark.parametrize(
    "content", [b"DATA\r\na\nb\r\n.\r\n", b"BDAT 3 LAST\r\na\nb", b"BDAT 70000 LAST\r\n" + b"x" * 70_000]
)
def test_invalid_content_is_rejected_for_each_recipient(content: bytes) -> None:
    """RFC 2033 section 4.2: a client counts the replies."""
    codes = lmtp(BEGIN + content + b"NOOP\r\n").codes
    assert codes[-4:-1] in ([554] * 3, [552] * 3)
    assert codes[-1] == 250
    assert len([code for code in codes if code > 500]) == 3


def test_rejection_of_the_last_chunk_is_sent_for_each_recipient() -> None:
    """RFC 2033 section 4.2 with RFC 3030 section 2; a chunk that is not the last has one reply."""
    assert lmtp(BEGIN + b"BDAT 1 LAST\r\nx", answers={smtp.Data: FULL}).codes[4:] == [452] * 3
    assert lmtp(BEGIN + b"BDAT 1\r\nx", answers={smtp.Data: FULL}).codes[4:] == [452]
    assert lmtp(b"BDAT 1 LAST\r\nx").codes == [503]


@pytest.mark.parametrize("answer", [smtp.PerRecipient(()), smtp.PerRecipient((ACCEPT,) * 4), None, smtp.Reply(354)])
def test_invalid_answer_raises_and_leaves_the_question_open(answer: object) -> None:
    """architecture.md, A connection: one verdict for each, or one for all."""
    session = lmtp(BEGIN + b"DATA\r\n.\r\n", answers={smtp.MessageComplete: LEFT_OPEN}).forget()
    with pytest.raises(LocalProtocolError):
        session.answer(answer)
    assert session.answer(smtp.PerRecipient((ACCEPT, NO, ACCEPT))).codes == [250, 550, 250]


def test_421_ends_the_session_before_the_remaining_replies() -> None:
    """RFC 5321 section 3.8."""
    session = lmtp(BEGIN + b"DATA\r\n.\r\n", answers={smtp.MessageComplete: smtp.Reply(421, "4.3.2", "enough")})
    assert session.codes[4:] == [354, 421]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.SHUT_DOWN


@pytest.mark.parametrize(("pipelining", "enhanced"), [(False, True), (True, False)])
def test_lmtp_settings_require_pipelining_and_enhanced_status_codes(pipelining: bool, enhanced: bool) -> None:
    """RFC 2033 section 5."""
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(lmtp=True, pipelining=pipelining, enhanced_status_codes=enhanced)


@pytest.mark.parametrize("end", [b"BDAT 0 LAST\r\n", b"BDAT 3\r\nabc" + b"BDAT 1 LAST\r\nx"])
def test_end_of_a_rejected_message_is_answered_for_each_recipient(end: bytes) -> None:
    """RFC 2033 section 4.2: a client that pipelines expects one reply for each accepted RCPT."""
    session = lmtp(BEGIN + b"BDAT 2\r\nxy" + end + b"NOOP\r\n", answers={smtp.Data: [FULL]})
    assert session.codes == [250, 250, 250, 250, 452, *[503] * (2 + end.count(b"BDAT")), 250]
