"""Which replies share a Send, and which are sent at once (RFC 2920 section 3.2)."""

from __future__ import annotations

import pytest

from mailauth import smtp
from tests.smtp.drive import ready, serve

GROUP = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\n"


def replies(data: bytes) -> list[int]:
    return [int(line[:3]) for line in data.decode("ascii").split("\r\n")[:-1] if line[3] == " "]


def test_a_whole_group_is_answered_in_one_send() -> None:
    """RFC 2920 section 3.2: MAIL, RCPT and RSET wait for the last command of the group."""
    session = ready(b"RSET\r\n" + GROUP + b"DATA\r\n")
    assert [replies(data) for data in session.sends] == [[250, 250, 250, 250, 354]]
    session.forget().receive(b"text\r\n.\r\n" + GROUP + b"DATA\r\n")
    assert [replies(data) for data in session.sends] == [[250], [250, 250, 250, 354]]


def test_replies_are_sent_when_the_input_is_consumed() -> None:
    """RFC 2920 section 3.2: otherwise client and server would wait for each other."""
    session = ready(GROUP)
    assert [replies(data) for data in session.sends] == [[250, 250, 250]]
    session = ready(GROUP + b"DAT")
    assert [replies(data) for data in session.sends] == [[250, 250, 250]]
    lock_step = ready(b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b>\r\n", b"RSET\r\n")
    assert [replies(data) for data in lock_step.sends] == [[250], [250], [250]]


@pytest.mark.parametrize(
    ("command", "code"),
    [(b"EHLO c", 250), (b"NOOP", 250), (b"VRFY x", 252), (b"HELP", 214), (b"QUIT", 221), (b"AUTH PLAIN", 334)],
)
def test_reply_to_ungroupable_command_is_sent_immediately(command: bytes, code: int) -> None:
    """RFC 2920 section 3.2: together with the replies that wait."""
    session = ready(b"RSET\r\n" + command + b"\r\n*\r\n")
    assert replies(session.sends[0]) == [250, code]


def test_syntax_error_reply_is_sent_immediately() -> None:
    """RFC 2920 section 3.2."""
    session = ready(GROUP, b"RCPT TO:nonsense\r\nRSET\r\n")
    assert [replies(data) for data in session.sends] == [[250, 250, 250], [501], [250]]


def test_pending_replies_are_sent_at_32_kib() -> None:
    """architecture.md, invariant 4: output is bounded too."""
    session = ready(b"RSET\r\n" * 10_000)
    assert len(session.sends) > 1
    assert max(map(len, session.sends)) < 32_768 + 512
    assert session.codes == [250] * 10_000


def test_pipelined_session_sends_the_same_bytes_as_line_by_line() -> None:
    """RFC 2920 section 3.1."""
    data = b"EHLO c\r\n" + GROUP + b"DATA\r\n..text\r\n.\r\nVRFY x\r\n" + GROUP + b"RSET\r\nQUIT\r\n"
    lines = [line + b"\r\n" for line in data.split(b"\r\n")[:-1]]
    whole, single = serve(data), serve(*lines)
    assert whole.data == single.data
    assert whole.of(smtp.MessageComplete) == single.of(smtp.MessageComplete)
    assert len(whole.sends) < len(single.sends)
