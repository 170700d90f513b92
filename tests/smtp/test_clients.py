"""What real mail clients send, and which replies they need."""

from __future__ import annotations

import attrs
import pytest

from mailauth import CloseReason, Send, sasl, smtp
from tests.smtp.drive import IN_CLEAR, TLS, each_cut, ready, serve

EVERYTHING = attrs.evolve(
    IN_CLEAR,
    chunking=True,
    binary_mime=True,
    smtputf8=True,
    dsn=True,
    requiretls=True,
    limits=True,
    extra_extensions=("XFLAG",),
)


def test_ehlo_keywords_and_mechanisms_are_in_upper_case() -> None:
    """With lower case, curl silently sends without AUTH (RFC 5321 section 2.4 allows either)."""
    for tls in (None, TLS):
        lines = serve(b"ehlo c\r\n", settings=EVERYTHING, tls=tls).lines[2:]
        assert len(lines) > 10
        assert all(line[4:] == line[4:].upper() for line in lines)


def test_empty_challenge_has_a_space_after_334() -> None:
    """s-nail and mutt fail without the space; only base64 follows it (RFC 4954 section 4)."""
    assert ready(b"AUTH PLAIN\r\n").data == b"334 \r\n"
    for line in (b"AUTH LOGIN\r\ndGVzdA==\r\n", b"AUTH CRAM-MD5\r\n"):
        for challenge in ready(line).data.split(b"\r\n")[:-1]:
            assert challenge.startswith(b"334 ")
            assert sasl.decode_base64(challenge[4:])


@pytest.mark.parametrize(
    "reply", [smtp.Reply(250), smtp.Reply(250, "2.0.0"), smtp.Reply(550), smtp.Reply(450, "4.0.0")]
)
def test_reply_always_has_text(reply: smtp.Reply) -> None:
    """swaks hangs on a bare 250; msmtp and s-nail fail."""
    session = ready(b"MAIL FROM:<a@b>\r\n", answers={smtp.Mail: reply})
    assert session.data[3:4] == b" "
    assert session.data.strip()[4:].decode("ascii").removeprefix(reply.enhanced_status_code).strip()
    assert ready(b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n").lines == ["235 2.7.0 authentication succeeded"]


@pytest.mark.parametrize(
    "data",
    [
        b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n",
        b"AUTH PLAIN\r\nAHRlc3QAMTIzNA==\r\n",
        b"AUTH PLAIN dGVzdAB0ZXN0ADEyMzQ=\r\n",  # user name as authorization identity: mutt, git, Java
        b"AUTH LOGIN\r\ndGVzdA==\r\nMTIzNA==\r\n",
        b"AUTH LOGIN dGVzdA==\r\nMTIzNA==\r\n",  # user name as initial response
        b"auth login dGVzdA==\r\nMTIzNA==\r\n",
        b"Auth Plain AHRlc3QAMTIzNA==\r\n",
    ],
)
def test_auth_plain_and_login_variants_are_accepted_at_any_split(data: bytes) -> None:
    """Some clients write AUTH PLAIN and its CRLF separately."""
    for pieces in each_cut(data):
        session = ready(*pieces)
        assert session.codes[-1] == 235
        assert session.server.identity == "test"
        assert session.of(sasl.Authorize) == []


def test_pipelined_mail_rcpt_rcpt_data_is_answered_in_one_send() -> None:
    """swaks sends this burst; RFC 2920 section 3.2."""
    session = ready(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n")
    assert len([event for event in session.log if isinstance(event, Send)]) == 1
    assert session.codes == [250, 250, 250, 354]


def test_disconnect_without_quit_keeps_the_accepted_message() -> None:
    """nodemailer and Twisted close the connection after the last 250."""
    session = ready(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n", b"")
    assert session.codes[-1] == 250
    assert len(session.of(smtp.MessageComplete)) == 1
    assert session.of(smtp.MessageAborted) == []
    assert session.closed is not None
    assert session.closed.reason is CloseReason.PEER_CLOSED


@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM:<a@b> AUTH=<>",
        b"MAIL FROM:<a@b> auth=a@b",
        b"MAIL FROM:<a@b> RET=HDRS ENVID=1+202",
        b"MAIL FROM:<a@b> size=100 body=8bitmime SMTPUTF8",
        b"MAIL FROM:<a@b> BODY=7BIT",
        b"RCPT TO:<a@b> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@b",
        b"RCPT TO:<a@b> notify=never",
    ],
)
def test_advertised_parameters_are_accepted(line: bytes) -> None:
    """Real senders use these parameters."""
    before = b"MAIL FROM:<>\r\n" if line.startswith(b"RCPT") else b""
    assert ready(before + line + b"\r\n", settings=EVERYTHING).codes[-1] == 250
