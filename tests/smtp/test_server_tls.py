"""STARTTLS on the server is a barrier (RFC 3207)."""

from __future__ import annotations

import pytest

from mailauth import BeginTls, Closed, CloseReason, LocalProtocolError, TlsStarted, sasl, smtp
from mailauth.events import PAUSED
from tests.smtp.drive import IN_CLEAR, TLS, Session, ready, serve

EVIL = b"MAIL FROM:<evil@x>\r\nRCPT TO:<you@y>\r\nDATA\r\n"
PLAIN = b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"


def at_the_wall(*pieces: bytes) -> Session:
    """Return a server that waits for the handshake."""
    session = ready()
    session.starts_tls = False
    return session.receive(*pieces)


@pytest.mark.parametrize("cut", [0, 1, 5, len(EVIL)])
def test_data_pipelined_after_starttls_is_discarded(cut: int) -> None:
    """RFC 3207 section 4.2, CVE-2011-0411: dropped, and counted as the sign of an attack."""
    session = at_the_wall(b"STARTTLS\r\n" + EVIL[cut:])
    assert session.last == BeginTls(data=b"220 2.0.0 ready to start TLS\r\n")
    session.machine.tls_started(TLS)
    session.pull()
    assert session.of(TlsStarted) == [TlsStarted(tls=TLS, dropped=len(EVIL) - cut)]
    session.forget().receive(b"NOOP\r\n")
    assert session.events == [smtp.Noop()]


def test_starttls_may_come_before_ehlo() -> None:
    """RFC 3207 has STARTTLS offered in the EHLO reply, but does not require EHLO; gsasl omits it."""
    session = serve()
    session.starts_tls = False
    session.forget().receive(b"STARTTLS\r\n")
    assert session.last == BeginTls(data=b"220 2.0.0 ready to start TLS\r\n")


def test_receive_data_raises_between_begin_tls_and_tls_started() -> None:
    """RFC 3207 section 4.2: no input crosses the barrier."""
    session = at_the_wall(b"STARTTLS\r\n")
    with pytest.raises(LocalProtocolError):
        session.machine.receive_data(EVIL)
    assert session.machine.next_event() == PAUSED
    session.machine.tls_started(TLS)
    session.pull()
    assert session.of(TlsStarted) == [TlsStarted(tls=TLS)]


def test_session_state_is_reset_after_tls() -> None:
    """RFC 3207 section 4.2: EHLO, identity and transaction are discarded; STARTTLS is not offered again."""
    session = ready(PLAIN + b"STARTTLS\r\n")
    assert session.server.tls == TLS
    assert session.server.identity is None
    session.forget().receive(b"MAIL FROM:<>\r\nAUTH PLAIN\r\nEHLO c\r\nSTARTTLS\r\n" + PLAIN)
    assert session.codes == [503, 503, 250, 503, 235]
    assert not any("STARTTLS" in line for line in session.lines if line.startswith("250"))
    assert session.lines[-2] == "503 5.5.1 TLS already active"


def test_failed_handshake_closes_the_session_without_a_reply() -> None:
    """RFC 3207 section 4.1: nothing is sent."""
    session = at_the_wall(b"STARTTLS\r\n")
    before = session.data
    session.receive(b"")
    assert session.last == Closed(reason=CloseReason.PEER_CLOSED)
    assert session.data == before
    with pytest.raises(LocalProtocolError):
        session.machine.tls_started(TLS)


def test_starttls_with_an_argument_is_501_and_temporary_failure_is_454() -> None:
    """RFC 3207 section 4: 501 and 454."""
    no = smtp.Reply(454, "4.7.0", "TLS not available due to temporary reason")
    session = ready(b"STARTTLS now\r\nSTARTTLS\r\nNOOP\r\n", answers={smtp.StartTls: no})
    assert session.codes == [501, 454, 250]
    assert session.begun_tls == []


def test_starttls_that_is_not_offered_is_502() -> None:
    """RFC 5321 section 4.2.4."""
    assert ready(b"STARTTLS\r\n", settings=smtp.ServerSettings()).codes == [502]


def test_pending_replies_are_sent_with_begin_tls() -> None:
    """RFC 2920 section 3.2: the reply and the handshake are one action, and no earlier reply is sent after it."""
    session = at_the_wall(b"RSET\r\nSTARTTLS\r\n")
    assert session.last == BeginTls(data=b"250 2.0.0 reset\r\n220 2.0.0 ready to start TLS\r\n")


def test_starttls_220_reply_is_sent_only_with_begin_tls() -> None:
    """RFC 3207 section 4.2: also if it fills the 32 KiB of replies, or if more input could be read in between."""
    reply = len(b"250 2.0.0 reset\r\n")
    session = at_the_wall()
    session.receive(b"RSET\r\n" * ((32_768 - 1) // reply) + b"STARTTLS\r\n")
    assert isinstance(session.last, BeginTls)
    assert session.last.data.endswith(b"220 2.0.0 ready to start TLS\r\n")
    assert len(session.last.data) > 32_768


def test_tls_required_rejects_vrfy_mail_and_auth_before_tls() -> None:
    """RFC 3207 section 4: 530."""
    settings = smtp.ServerSettings(
        tls_required=True, starttls=True, mechanisms_without_tls=IN_CLEAR.mechanisms_without_tls
    )
    session = serve(
        b"EHLO c\r\nNOOP\r\nRSET\r\nHELP\r\nVRFY x\r\nMAIL FROM:<>\r\n" + PLAIN + b"STARTTLS\r\n", settings=settings
    )
    assert session.codes == [220, 250, 250, 250, 214, 530, 530, 530, 220]
    session.forget().receive(b"EHLO c\r\nVRFY x\r\n" + PLAIN + b"MAIL FROM:<>\r\n")
    assert session.codes == [250, 252, 235, 250]


def test_failed_login_limit_is_not_reset_by_starttls() -> None:
    """An attacker gets no further attempts after the handshake."""
    wrong = b"AUTH PLAIN " + sasl.encode_base64(b"\0test\0wrong") + b"\r\n"
    session = ready(wrong * 2 + b"STARTTLS\r\n")
    session.forget().receive(b"EHLO c\r\n" + wrong)
    assert session.codes == [250, 535, 421]
