"""The server's rules for message content: where it ends, what it may contain, its size (RFC 5321 section 4.5.2)."""

from __future__ import annotations

import re

import pytest

from mailauth import MessageChunk, smtp
from tests.smtp.drive import Session, each_cut, ready, without_cuts

BEGIN = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n"
END = b"\r\n.\r\n"


def content(*pieces: bytes, settings: smtp.ServerSettings | None = None) -> Session:
    session = ready(BEGIN) if settings is None else ready(BEGIN, settings=settings)
    return session.forget().receive(*pieces)


@pytest.mark.parametrize("cr", [b"", b"\r", b"\n", b"\r\n", b"\0", b"\r\0", b"\n\0", b"\0\r\n"])
@pytest.mark.parametrize("lf", [b"", b"\r", b"\n", b"\r\n", b"\0", b"\r\0", b"\n\0", b"\r\n\0"])
def test_only_crlf_dot_crlf_ends_content(cr: bytes, lf: bytes) -> None:
    """RFC 5321 section 4.1.1.4: SMTP smuggling (CVE-2023-51764), at every split."""
    smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<you@y>\r\nDATA\r\nsecond"
    data = b"first" + cr + b"." + lf + smuggled
    sessions = [content(*pieces) for pieces in each_cut(data + END + b"NOOP\r\n")]
    whole = sessions[0]
    if cr.endswith(b"\r\n") and lf.startswith(b"\r\n"):
        assert len(whole.of(smtp.MessageComplete, smtp.MessageAborted)) == (2 if lf == b"\r\n" else 1)
    else:
        dirty = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", data) is not None
        assert whole.of(smtp.Mail) == []
        assert whole.codes == [554 if dirty else 250, 250]
        assert len(whole.of(smtp.MessageAborted)) == dirty
    for session in sessions:
        assert without_cuts(session.events) == without_cuts(whole.events)
        assert session.data == whole.data


@pytest.mark.parametrize("bad", [b"a\rb", b"a\nb", b"a\0b", b"\nb", b"\n.\n", b"\r.\r", b"\r\r\n", b".\n", b"\n\r\n"])
def test_bare_cr_lf_or_nul_in_content_is_rejected_at_the_end_of_content(bad: bytes) -> None:
    """RFC 5321 section 2.3.8; the content before the fault is passed on, and MessageAborted discards it."""
    session = content(bad + END + b"NOOP\r\n")
    assert session.lines == ["554 5.6.0 bare CR, bare LF or NUL in message content", "250 2.0.0 ok"]
    assert session.of(smtp.MessageAborted) == [smtp.MessageAborted(reason=smtp.ContentFault.BARE_LINE_END)]
    assert session.of(smtp.MessageComplete) == []


def test_eight_bit_content_is_passed_on_unchanged() -> None:
    """RFC 6152 section 3; whatever BODY was."""
    data = bytes(range(128, 256)) + b"\x85\x0b\x0c\x1c\r\n"
    session = content(data + b".\r\n")
    assert session.content == data
    assert session.codes == [250]


@pytest.mark.parametrize(
    ("wire", "data"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"..\r\n...\r\n.\r\n", b".\r\n..\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),  # a single dot that a client should have stuffed is also removed
        (b"a\r\n.b\r\n..c\r\n.\r\n", b"a\r\nb\r\n.c\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
    ],
)
def test_dots_are_unstuffed_at_any_split(wire: bytes, data: bytes) -> None:
    """RFC 5321 section 4.5.2."""
    for pieces in each_cut(wire + b"RSET\r\n"):
        session = content(*pieces)
        assert session.content == data
        assert session.codes == [250, 250]
        assert all(chunk.data for chunk in session.of(MessageChunk))


def test_content_of_exactly_the_size_limit_is_accepted() -> None:
    """RFC 1870 section 6.1: SIZE does not count the dots of dot-stuffing."""
    settings = smtp.ServerSettings(max_message_size=65_536)
    data = b"..234567890\r\n" * 5_461 + b"1234\r\n"
    assert len(data) - 5_461 == 65_538
    data = data[: -2 - 4] + b"12\r\n"
    session = content(data + b".\r\n", settings=settings)
    assert len(session.content) == 65_536
    assert session.codes == [250]


@pytest.mark.parametrize("size", [1, 7, 4_096, 100_000])
def test_content_over_the_size_limit_is_discarded_and_552_sent_at_its_end(size: int) -> None:
    """RFC 1870 section 6.1: 552, and the session continues."""
    settings = smtp.ServerSettings(max_message_size=65_536)
    data = b"x" * 998 + b"\r\n"
    wire = data * 66 + b".\r\nNOOP\r\n"
    head, tail = wire[:65_000], wire[65_000:]
    session = content(head, *[tail[n : n + size] for n in range(0, len(tail), size)], settings=settings)
    assert session.content == (data * 66)[:65_536]
    assert session.of(smtp.MessageAborted) == [smtp.MessageAborted(reason=smtp.ContentFault.TOO_LARGE)]
    assert session.codes == [552, 250]


@pytest.mark.parametrize("before", [65_535, 65_536])
@pytest.mark.parametrize("end", ["dot", "peer", "shut down", "endless"])
def test_content_over_the_size_limit_is_aborted_once_at_the_first_excess_byte(before: int, end: str) -> None:
    """The application can release the message while the rest is read; the reply is sent at the end."""
    settings = smtp.ServerSettings(max_message_size=65_536, discard_limit=1_000)
    session = content(b"x" * before, settings=settings)
    assert session.of(smtp.MessageAborted) == []
    session.receive(b"x" * (65_537 - before))
    aborted = smtp.MessageAborted(reason=smtp.ContentFault.TOO_LARGE)
    assert session.events[-1] == aborted
    assert session.content == b"x" * 65_536
    assert session.codes == []
    session.receive(b"x" * 100)
    if end == "shut down":
        session.machine.shut_down()
        session.pull()
    else:
        session.receive({"dot": END, "peer": b"", "endless": b"x" * 1_000}[end])
    assert session.of(smtp.MessageAborted) == [aborted]
    assert session.content == b"x" * 65_536
    assert session.codes == {"dot": [552], "peer": [], "shut down": [421], "endless": [421]}[end]
    assert (session.closed is None) is (end == "dot")


FAULTS = [
    (b"a\r", b"b", smtp.ContentFault.BARE_LINE_END),
    (b"a", b"\n", smtp.ContentFault.BARE_LINE_END),
    (b"a", b"\0", smtp.ContentFault.BARE_LINE_END),
    (b"x" * 1_000, b"x", smtp.ContentFault.LONG_LINE),
    (b"\r\nab\r\n" + b"x" * 999 + b"\r", b"\ny", smtp.ContentFault.LONG_LINE),
    (b"x" * 1_000, b"\n", smtp.ContentFault.LONG_LINE),
    (b"x" * 998 + b"\r\n", b"\n" + b"x" * 1_001, smtp.ContentFault.BARE_LINE_END),
]


@pytest.mark.parametrize("by_bdat", [False, True])
@pytest.mark.parametrize(("good", "bad", "fault"), FAULTS)
def test_message_is_aborted_at_its_first_fault_at_any_split(
    good: bytes, bad: bytes, fault: smtp.ContentFault, by_bdat: bool
) -> None:
    """Content before the fault is passed on, the rest is not; the reply is sent at the end of the content or chunk."""
    settings = smtp.ServerSettings(max_text_line=1_000, chunking=True)
    aborted = [smtp.MessageAborted(reason=fault)]
    rest = b"y\r\n" * 9_000 + b"\r\n"
    size = len(good + bad + rest) - (0 if by_bdat else 2)
    for at in {0, 1, 2, len(good) - 1, len(good), len(good) + 1}:
        data = good + bad
        session = ready(BEGIN[:-6] + (b"BDAT %d\r\n" % size if by_bdat else b"DATA\r\n"), settings=settings)
        session.forget().receive(*filter(None, (data[:at], data[at:])))
        assert session.of(smtp.MessageAborted) == aborted
        assert session.content == good
        assert session.codes == []
        session.receive(rest + (b"NOOP\r\n" if by_bdat else b".\r\nNOOP\r\n"))
        assert session.of(smtp.MessageAborted, smtp.MessageComplete) == aborted
        assert session.content == good
        assert session.codes == [554, 250]


@pytest.mark.parametrize("end", ["peer", "shut down"])
@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 100\r\n"])
def test_aborted_message_is_reported_only_once(command: bytes, end: str) -> None:
    session = ready(BEGIN[:-6] + command + b"a\nb", settings=smtp.ServerSettings(chunking=True))
    if end == "peer":
        session.receive(b"")
    else:
        session.machine.shut_down()
        session.pull()
    assert session.of(smtp.MessageAborted) == [smtp.MessageAborted(reason=smtp.ContentFault.BARE_LINE_END)]
    assert session.closed is not None


def test_chunks_after_a_faulty_chunk_are_503_and_do_not_count_as_errors() -> None:
    """RFC 3030 section 2: as after a chunk that is too large."""
    settings = smtp.ServerSettings(chunking=True, max_errors=3)
    data = b"BDAT 3\r\na\nb" + b"BDAT 64\r\n" + b"x" * 64 + b"BDAT 1\r\nx" * 9 + b"BDAT 1 LAST\r\nx" + BEGIN
    session = ready(BEGIN[:-6], settings=settings).forget().receive(data)
    assert session.codes == [554, *[503] * 11, 250, 250, 354]


def test_message_after_a_rejected_message_is_accepted() -> None:
    """A refused message leaves no state: neither size, nor line ends, nor recipients."""
    session = content(b"a\nb" + END + BEGIN + b"good" + END)
    assert session.codes == [554, 250, 250, 354, 250]
    assert session.of(smtp.MessageComplete) == [smtp.MessageComplete(recipients=(smtp.Mailbox("a", "b"),))]


def test_size_limit_applies_to_each_message_separately() -> None:
    """RFC 1870 section 6.1."""
    settings = smtp.ServerSettings(max_message_size=65_536)
    message = b"x" * 40_000 + END
    assert content(message + (BEGIN + message) * 2, settings=settings).codes == [250, *[250, 250, 354, 250] * 2]


def test_at_most_four_bytes_of_content_are_held_back() -> None:
    """architecture.md, invariant 7: at most four bytes of content are held back."""
    session = content(b"x" * 10_000 + b"\r\n.\r")
    assert len(session.content) == 10_000
    assert len(session.machine._input) == 4
    session.receive(b"x")
    assert len(session.machine._input) == 0


def test_command_line_limit_does_not_apply_to_content() -> None:
    session = content(b"x" * 50_000 + END)
    assert session.codes == [250]
