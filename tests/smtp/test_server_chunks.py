"""The server's rules for content by BDAT (RFC 3030)."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest

from mailauth import ACCEPT, CloseReason, LocalProtocolError, MessageChunk, smtp
from tests.smtp.drive import IN_CLEAR, LEFT_OPEN, Session, each_cut, ready, serve, without_cuts

SETTINGS = attrs.evolve(IN_CLEAR, chunking=True)
BINARY = attrs.evolve(SETTINGS, binary_mime=True)
SMALL = attrs.evolve(SETTINGS, max_message_size=65_536, discard_limit=1_000)
BEGIN = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"
COMPLETE = smtp.MessageComplete(recipients=(smtp.Mailbox("a", "b"),))
NO = smtp.Reply(550, "5.7.1", "no")
TOO_MANY = "too many junk commands"
BAD = smtp.MessageAborted(reason=smtp.ContentFault.BARE_LINE_END)


def chunk(data: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n" % (len(data), b" LAST" if last else b"") + data


def chunks(*pieces: bytes, settings: smtp.ServerSettings = SETTINGS, **rest: Any) -> Session:
    return ready(BEGIN, settings=settings, **rest).forget().receive(*pieces)


def test_chunking_is_advertised_only_if_enabled() -> None:
    """RFC 3030 section 2."""
    assert "250 CHUNKING" in serve(b"EHLO c\r\n", settings=SETTINGS).lines
    assert not any("BINARYMIME" in line for line in serve(b"EHLO c\r\n", settings=SETTINGS).lines)
    assert "250-BINARYMIME" in serve(b"EHLO c\r\n", settings=BINARY).lines
    assert not any("CHUNKING" in line for line in serve(b"EHLO c\r\n").lines)
    assert ready(BEGIN + b"BDAT 4 LAST\r\n").codes == [250, 250, 502]


def test_setting_binary_mime_without_chunking_is_rejected() -> None:
    """RFC 3030 section 3."""
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(binary_mime=True)


def test_message_in_chunks_gives_the_same_events_at_any_split() -> None:
    """RFC 3030 section 2: each chunk is answered after its bytes; a dot has no special meaning."""
    data = chunk(b"first\r\n.\r\n") + chunk(b"") + b"NOOP\r\n" + chunk(b"..last\r\n", last=True) + b"NOOP\r\n"
    for pieces in each_cut(data):
        session = chunks(*pieces)
        assert without_cuts(session.events) == [
            smtp.Data(),
            MessageChunk(data=b"first\r\n.\r\n"),
            smtp.Noop(),
            MessageChunk(data=b"..last\r\n"),
            COMPLETE,
            smtp.Noop(),
        ]
        assert session.lines == [
            "250 2.0.0 10 bytes received",
            "250 2.0.0 0 bytes received",
            "250 2.0.0 ok",
            "250 2.0.0 message accepted",
            "250 2.0.0 ok",
        ]


def test_last_chunk_may_be_empty_and_may_be_the_only_chunk() -> None:
    """RFC 3030 section 2."""
    assert chunks(chunk(b"x\r\n") + b"bdat 0 last\r\n").codes == [250, 250]
    assert chunks(b"BDAT 0 LAST\r\n").events == [smtp.Data(), COMPLETE]


def test_chunk_may_be_pipelined_after_rcpt() -> None:
    """RFC 3030 section 4.2."""
    session = ready(BEGIN + chunk(b"x\r\n", last=True) + BEGIN + b"DATA\r\n.\r\n", settings=SETTINGS)
    assert session.codes == [250] * 5 + [354, 250]


@pytest.mark.parametrize("answer", [NO, smtp.Reply(451, "4.3.0", "later")])
def test_chunk_data_is_discarded_after_a_rejected_data_question(answer: smtp.Reply) -> None:
    """RFC 3030 section 2: read, discarded, and then refused; later chunks, too, because the first part is missing."""
    session = chunks(
        chunk(b"QUIT\r\n") + chunk(b"QUIT\r\n", last=True) + BEGIN + b"DATA\r\n", answers={smtp.Data: [answer, ACCEPT]}
    )
    assert session.codes == [answer.code, 503, 250, 250, 354]
    assert session.of(MessageChunk, smtp.Quit, smtp.MessageComplete, smtp.MessageAborted) == []


@pytest.mark.parametrize("before", [BEGIN, b"MAIL FROM:<>\r\n"])
def test_pipelined_chunks_after_a_rejected_one_do_not_count_as_errors(before: bytes) -> None:
    """RFC 3030 section 2: a server must be prepared to discard them; the next message is counted from zero."""
    settings = attrs.evolve(SETTINGS, max_errors=3)
    data = before + chunk(b"x") * 50 + chunk(b"y", last=True) + b"NOOP\r\n"
    session = ready(data, settings=settings, answers={smtp.Data: [NO, NO]})
    assert session.codes[-51:] == [*[503] * 50, 250]
    assert session.closed is None
    again = session.forget().receive(chunk(b"x", last=True) * 3)
    assert again.codes[-1] == 421
    assert again.closed is not None


def test_chunks_after_a_rejected_one_are_discarded_up_to_the_message_limit() -> None:
    """A small chunk counts for 4 KiB; otherwise it would cost nothing."""
    refused = chunks(chunk(b"x") * 16, settings=SMALL, answers={smtp.Data: [NO]})
    assert refused.codes == [550, *[503] * 15]
    refused.receive(b"RSET\r\n" + chunk(b"x") * 2)
    assert refused.codes[-3:] == [250, 503, 503]
    endless = chunks(chunk(b"x") * 30, settings=SMALL, answers={smtp.Data: [NO]})
    assert endless.codes == [550, *[503] * 16, 421]
    assert endless.closed is not None


def test_421_to_the_data_question_closes_the_session_immediately() -> None:
    """RFC 5321 section 3.8."""
    session = chunks(chunk(b"x"), answers={smtp.Data: smtp.Reply(421, "4.3.2", "enough")})
    assert session.codes == [421]
    assert session.closed is not None


def test_chunk_data_is_discarded_after_rejected_recipients() -> None:
    """RFC 3030 section 2: a part of a message must not be accepted because a later recipient was valid."""
    session = ready(
        b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n" + chunk(b"QUIT\r\n") + b"RCPT TO:<c@d>\r\n" + chunk(b"x", last=True),
        settings=SETTINGS,
        answers={smtp.Rcpt: [NO]},
    )
    assert session.codes == [250, 550, 503, 503, 503]
    assert session.of(smtp.Data, smtp.Quit) == []


@pytest.mark.parametrize("before", [b"", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<>\r\n"])
def test_bdat_out_of_order_discards_its_data(before: bytes) -> None:
    """RFC 3030 section 2."""
    for pieces in each_cut(before + chunk(b"QUIT\r\n") + b"NOOP\r\n"):
        session = serve(*pieces, settings=SETTINGS)
        assert session.codes[-2:] == [503, 250]
        assert session.of(smtp.Quit) == []


def test_data_mail_and_rcpt_between_chunks_are_rejected() -> None:
    """RFC 3030 section 2: 503, and further chunks are accepted."""
    session = chunks(chunk(b"x\r\n") + b"DATA\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\n" + chunk(b"y\r\n", last=True))
    assert session.codes == [250, 503, 503, 503, 250]
    assert session.content == b"x\r\ny\r\n"


@pytest.mark.parametrize(("line", "event"), [(b"RSET", smtp.Rset()), (b"EHLO d", smtp.Hello(domain="d"))])
def test_rset_or_ehlo_between_chunks_aborts_the_message(line: bytes, event: object) -> None:
    """RFC 3030 section 2."""
    session = chunks(chunk(b"x") + line + b"\r\n" + BEGIN + b"DATA\r\n.\r\n")
    assert session.events[2:4] == [smtp.MessageAborted(reason=smtp.ContentFault.ABANDONED), event]
    assert session.codes == [250, 250, 250, 250, 354, 250]
    assert session.of(smtp.MessageComplete) == [COMPLETE]


def test_quit_between_chunks_aborts_the_message() -> None:
    session = chunks(chunk(b"x") + b"QUIT\r\n")
    assert session.events[2:] == [smtp.MessageAborted(reason=smtp.ContentFault.ABANDONED), smtp.Quit()]
    assert session.codes == [250, 221]


@pytest.mark.parametrize("data", [chunk(b"abc"), chunk(b"abc")[:-1], b"BDAT 3\r\n", chunk(b"abc") + b"NOO"])
def test_a_disconnect_aborts_the_message(data: bytes) -> None:
    """architecture.md, A connection: each message that began ends exactly once."""
    session = chunks(data, b"")
    assert session.events[-1] == smtp.MessageAborted(reason=CloseReason.PEER_CLOSED)
    assert session.closed is not None


@pytest.mark.parametrize("data", [chunk(b"abc"), chunk(b"abc")[:-1]])
def test_shut_down_during_or_after_a_chunk_aborts_the_message(data: bytes) -> None:
    session = chunks(data)
    session.machine.shut_down(CloseReason.TIMED_OUT)
    session.pull()
    assert session.events[-1] == smtp.MessageAborted(reason=CloseReason.TIMED_OUT)
    assert session.codes[-1] == 421
    assert session.closed is not None


@pytest.mark.parametrize("answer", [ACCEPT, NO])
def test_shut_down_waits_for_the_answer_to_the_data_question(answer: object) -> None:
    session = chunks(b"BDAT 3\r\nab", answers={smtp.Data: LEFT_OPEN})
    session.machine.shut_down()
    session.answer(answer)
    assert session.codes == [421]
    assert len(session.of(smtp.MessageAborted)) == (answer is ACCEPT)


@pytest.mark.parametrize("size", [0, 1, 63])
def test_tiny_chunks_count_as_junk_commands(size: int) -> None:
    """They cost as much as NOOP, and achieve as little."""
    settings = attrs.evolve(SETTINGS, max_junk_commands=5)
    session = chunks(chunk(b"x" * size) * 9, settings=settings)
    assert session.codes == [*[250] * 6, 421]  # two more for the transaction, and one was spent by EHLO
    assert session.events[-2:] == [
        smtp.CommandRejected(verb="BDAT", line=b"BDAT %d" % size, reply=smtp.Reply(421, "4.7.0", TOO_MANY)),
        smtp.MessageAborted(reason=CloseReason.TOO_MANY_ERRORS),
    ]
    assert session.closed is not None


@pytest.mark.parametrize("answer", [NO, smtp.Reply(451, "4.3.0", "later")])
def test_discarded_tiny_chunks_count_as_junk_commands(answer: smtp.Reply) -> None:
    session = chunks(
        chunk(b"x") * 9, settings=attrs.evolve(SETTINGS, max_junk_commands=5), answers={smtp.Data: [answer]}
    )
    assert session.codes == [answer.code, *[503] * 5, 421]
    assert session.of(smtp.MessageAborted) == []
    assert session.closed is not None


def test_larger_chunks_and_last_chunk_do_not_count_as_junk_commands() -> None:
    settings = attrs.evolve(SETTINGS, max_junk_commands=1)
    assert chunks(chunk(b"x" * 64) * 500 + chunk(b"", last=True), settings=settings).codes == [250] * 501
    assert ready((BEGIN + chunk(b"x", last=True)) * 500, settings=settings).codes == [250] * 1_500


@pytest.mark.parametrize("line", [b"N" * 3_000 + b"\r\n", b"N" * 3_000, b"N" * 2_049])
def test_overlong_line_between_chunks_closes_the_session(line: bytes) -> None:
    """It may have been BDAT, so the start of the next command is unknown; the server does not wait for its end."""
    for size in (1, 1_000, len(line)):
        session = chunks(chunk(b"x"), *[line[n : n + size] for n in range(0, len(line), size)])
        assert session.codes == [250, 500]
        assert session.events[-2:] == [
            smtp.CommandRejected(verb="", line=b"", reply=smtp.Reply(500, "5.5.2", "line too long")),
            smtp.MessageAborted(reason=CloseReason.TOO_MANY_ERRORS),
        ]
        assert session.closed is not None


def test_too_many_errors_between_chunks_abort_the_message() -> None:
    session = chunks(chunk(b"x") + b"FOO\r\n" * 3, settings=attrs.evolve(SETTINGS, max_errors=3))
    assert session.codes == [250, 500, 500, 500, 421]
    assert session.events[-1] == smtp.MessageAborted(reason=CloseReason.TOO_MANY_ERRORS)


@pytest.mark.parametrize("argument", [b"", b" x", b" -1", b" 1 FIRST", b" 1 LAST x", b" 1" * 2, b" " + b"9" * 21])
@pytest.mark.parametrize("before", [b"", chunk(b"x")])
def test_bdat_with_invalid_argument_closes_the_session(argument: bytes, before: bytes) -> None:
    """The start of the next command is unknown: content would be executed as commands."""
    session = chunks(before + b"BDAT" + argument + b"\r\nRSET\r\n")
    assert session.codes[-1] == 501
    assert session.of(smtp.Rset) == []
    assert session.closed is not None
    assert len(session.of(smtp.MessageAborted)) == bool(before)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"a\rb",),
        (b"a\nb",),
        (b"a\0b",),
        (b"a\r",),
        (b"a\r", b"b"),
        (b"a", b"\nb"),
        (b"a\r", b"\r\n"),
        (b"\r\n\r", b""),
    ],
)
def test_bare_cr_lf_and_nul_are_rejected_across_chunks(pieces: tuple[bytes, ...]) -> None:
    """RFC 5321 section 2.3.8: content received by BDAT and relayed by DATA could be smuggled."""
    head, tail = b"".join(map(chunk, pieces[:-1])), chunk(pieces[-1], last=True) + b"NOOP\r\n"
    for cut in each_cut(head + tail):
        session = chunks(*cut)
        assert session.of(smtp.MessageAborted, smtp.MessageComplete) == [BAD]
        assert session.codes == [*[250] * (len(pieces) - 1), 554, 250]


@pytest.mark.parametrize("content", [b"a", b"a\r\nb", b"."])
def test_missing_final_crlf_is_added(content: bytes) -> None:
    """RFC 5321 section 4.1.1.4: as with DATA, but not with BINARYMIME or *allow_bare_line_ends*."""
    for pieces in each_cut(chunk(content[:1]) + chunk(content[1:], last=True)):
        session = chunks(*pieces)
        assert session.content == content + b"\r\n"
        assert session.codes == [250, 250]
    assert (
        chunks(chunk(content, last=True), settings=attrs.evolve(SETTINGS, allow_bare_line_ends=True)).content == content
    )


def test_crlf_split_between_two_chunks_is_accepted() -> None:
    session = chunks(chunk(b"a\r") + chunk(b"\nb\r\n", last=True))
    assert session.content == b"a\r\nb\r\n"
    assert session.codes == [250, 250]


def test_binarymime_allows_any_bytes_only_by_bdat() -> None:
    """RFC 3030 section 3."""
    data = bytes(range(256)) + b"\r"
    mail = b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<a@b>\r\n"
    session = ready(mail + b"DATA\r\n" + chunk(data, last=True), settings=BINARY)
    assert session.codes == [250, 250, 503, 250]
    assert session.content == data
    assert session.of(smtp.Mail) == [smtp.Mail(reverse_path=None, body=smtp.Body.BINARY_MIME)]
    assert ready(mail[:30], settings=SETTINGS).codes == [555]


@pytest.mark.parametrize("ending", [b"RSET\r\n", chunk(b"\0", last=True), b"EHLO c\r\n"])
def test_binarymime_applies_to_one_transaction(ending: bytes) -> None:
    """RFC 3030 section 3: the next transaction is not BINARYMIME."""
    session = ready(b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<a@b>\r\n" + ending, settings=BINARY).forget()
    session.receive(BEGIN + chunk(b"\0", last=True) + BEGIN + b"DATA\r\n\0\r\n.\r\n")
    assert session.codes == [250, 250, 554, 250, 250, 354, 554]


def test_rejected_binarymime_mail_does_not_affect_the_next_transaction() -> None:
    session = ready(
        b"MAIL FROM:<> BODY=BINARYMIME\r\n" + BEGIN + b"DATA\r\n.\r\n", settings=BINARY, answers={smtp.Mail: [NO]}
    )
    assert session.codes == [550, 250, 250, 354, 250]


def test_chunks_over_the_size_limit_get_552_and_are_discarded() -> None:
    """RFC 1870 section 6.1: refused before the bytes are received."""
    first = chunks(chunk(b"x" * 65_537, last=True) + b"NOOP\r\n", settings=SMALL)
    assert first.of(smtp.Data) == []
    assert first.codes == [552, 250]
    data = chunk(b"x" * 65_536) + chunk(b"y", last=True) + b"NOOP\r\n"
    for pieces in ([data], [data[:70_000], data[70_000:]]):
        later = chunks(*pieces, settings=SMALL)
        assert later.content == b"x" * 65_536
        assert later.of(smtp.MessageAborted) == [smtp.MessageAborted(reason=smtp.ContentFault.TOO_LARGE)]
        assert later.codes == [250, 552, 250]
    assert chunks(chunk(b"x" * 65_534) + chunk(b"\r\n", last=True), settings=SMALL).codes == [250, 250]


@pytest.mark.parametrize("before", [b"", chunk(b"x"), b"RSET\r\n"])
def test_chunk_far_over_the_size_limit_closes_the_session(before: bytes) -> None:
    """Otherwise it would be read for hours, only to be refused."""
    session = chunks(before + b"BDAT 66537\r\n", settings=SMALL)
    assert session.codes[-1] == 421
    assert session.closed is not None
    assert len(session.of(smtp.MessageAborted)) == (before == chunk(b"x"))
    assert chunks(b"BDAT 66536\r\n", settings=SMALL).closed is None


def test_content_far_over_the_size_limit_closes_the_session() -> None:
    """DATA, too: endless content is not read for good; 552 is for content that ends."""
    settings = attrs.evolve(SMALL, discard_limit=100_000)
    begin = BEGIN + b"DATA\r\n"
    over = ready(begin + (b"x" * 998 + b"\r\n") * 165 + b".\r\n", settings=settings)
    assert over.codes == [250, 250, 354, 552]
    for size in (1_000, 7_000, 300_000):
        data = begin + (b"x" * 998 + b"\r\n") * 166 + b".\r\n"
        session = ready(*[data[n : n + size] for n in range(0, len(data), size)], settings=settings)
        assert session.codes == [250, 250, 354, 421]
        assert session.events[-1] == smtp.MessageAborted(reason=smtp.ContentFault.TOO_LARGE)
        assert session.closed is not None


@pytest.mark.parametrize("by_bdat", [True, False])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"x" * 998 + b"\r\n", 250),
        (b"x" * 999 + b"\r\n", 554),
        ((b"x" * 998 + b"\r\n") * 3, 250),
        (b"\r\n" * 2_000 + b"x" * 999 + b"\r\n", 554),
        (b"x" * 5_000, 554),
        (b"." * 998 + b"\r\n", 250),
    ],
)
def test_lines_over_1000_bytes_are_rejected_with_max_text_line(content: bytes, code: int, by_bdat: bool) -> None:
    """RFC 5321 section 4.5.3.1.6: the CRLF counts, the dot of dot-stuffing does not."""
    settings = attrs.evolve(SETTINGS, max_text_line=1_000)
    end = b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n"
    data = chunk(content, last=True) if by_bdat else b"DATA\r\n" + b"." * content.startswith(b".") + content + end
    for size in (1, 7, len(data)):
        if size == 1 and len(data) > 3_100:
            continue
        session = chunks(*[data[n : n + size] for n in range(0, len(data), size)], settings=settings)
        assert session.codes[-1] == code
        if code == 554:
            assert session.events[-1] == smtp.MessageAborted(reason=smtp.ContentFault.LONG_LINE)
    after = session.forget().receive(BEGIN + b"DATA\r\n.\r\n")
    assert after.codes == [250, 250, 354, 250]


@pytest.mark.parametrize("data", [chunk(b"a\rb\nc\0d\r", last=True), b"DATA\r\na\rb\nc\0d\r\r\n.\r\n"])
def test_bare_line_endings_are_accepted_with_allow_bare_line_ends(data: bytes) -> None:
    """architecture.md, invariant 1 is the default; with the setting, the application is responsible."""
    session = chunks(data, settings=attrs.evolve(SETTINGS, allow_bare_line_ends=True))
    assert re.fullmatch(rb"a\rb\nc\0d\r(\r\n)?", session.content)
    assert session.codes[-1] == 250


def test_chunk_data_is_passed_on_without_buffering() -> None:
    """architecture.md, invariant 4: its bytes are passed on as they arrive."""
    session = chunks(b"BDAT 10000000 LAST\r\n")
    for _ in range(100):
        session.receive(b"x" * 99_998 + b"\r\n")
        assert len(session.machine._input) == 0
    assert len(session.of(MessageChunk)) == 100
    assert session.codes == [250]
