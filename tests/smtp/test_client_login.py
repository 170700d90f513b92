"""AUTH in the client (RFC 4954 section 4)."""

from __future__ import annotations

from typing import ClassVar

import pytest

from mailauth import LocalProtocolError, RemoteProtocolError, sasl, smtp
from tests.smtp.drive import Session, greeted

PLAIN = sasl.PlainClient(authentication_identity="test", password=b"1234")
LOGIN = sasl.LoginClient(authentication_identity="test", password=b"1234")
CRAM_MD5 = sasl.CramMd5Client(authentication_identity="tim", password=b"tanstaaftanstaaf")


def log_in(*mechanisms: sasl.ClientMechanism, offer: str = "AUTH PLAIN LOGIN CRAM-MD5") -> Session:
    session = greeted(offer, "PIPELINING")
    session.client.authenticate(*mechanisms)
    return session.pull()


def breaks(session: Session, data: bytes) -> None:
    session.machine.receive_data(data)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            session.pull()


def test_first_offered_mechanism_is_used() -> None:
    """architecture.md, A connection: in the order of the caller, case-insensitive."""
    assert log_in(CRAM_MD5, PLAIN).data == b"AUTH CRAM-MD5\r\n"
    assert log_in(CRAM_MD5, PLAIN, offer="AUTH plain").data == b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"
    assert log_in(PLAIN, offer="AUTH=PLAIN").data == b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"


@pytest.mark.parametrize("offer", ["SIZE", "AUTH", "AUTH PLAINER", "AUTHPLAIN PLAIN"])
def test_mechanism_not_offered_raises_local_protocol_error(offer: str) -> None:
    """RFC 4954 section 4: nothing is sent, and the session continues."""
    session = greeted(offer)
    for mechanisms in ((PLAIN, LOGIN), ()):
        with pytest.raises(LocalProtocolError):
            session.client.authenticate(*mechanisms)
    assert session.pull().sends == []
    session.send(smtp.Noop()).receive(b"250 ok\r\n")
    assert len(session.events) == 1


def test_authenticate_raises_in_a_transaction_or_with_a_reply_due() -> None:
    """RFC 4954 section 4."""
    for session in (
        greeted("AUTH PLAIN").send(smtp.Noop()),
        greeted("AUTH PLAIN").send(smtp.Mail(reverse_path=None)).receive(b"250 ok\r\n"),
        greeted("AUTH PLAIN", "STARTTLS").send(smtp.StartTls()).receive(b"220 go\r\n"),
        log_in(PLAIN),
    ):
        session.forget()
        with pytest.raises(LocalProtocolError):
            session.client.authenticate(PLAIN)
        assert session.pull().sends == []


def test_initial_response_too_long_for_auth_is_sent_separately() -> None:
    """RFC 4954 section 4: an AUTH command has at most 512 bytes with its CRLF."""
    room = 512 - len("AUTH PLAIN \r\n")
    fits = sasl.PlainClient(authentication_identity="a", password=b"x" * (room // 4 * 3 - 3))
    assert len(log_in(fits).data) <= 512
    longer = sasl.PlainClient(authentication_identity="a", password=b"x" * (room // 4 * 3))
    session = log_in(longer)
    assert session.data == b"AUTH PLAIN\r\n"
    session.forget().receive(b"334 \r\n")
    assert session.data == sasl.encode_base64(b"\0a\0" + b"x" * (room // 4 * 3)) + b"\r\n"
    session.receive(b"235 ok\r\n")
    assert session.events == [sasl.Authenticated(mechanism="PLAIN")]


class Broken:
    """A mechanism that cannot begin."""

    name: ClassVar[str] = "PLAIN"
    client_first: ClassVar[bool] = True
    satisfied = False

    def respond(self, challenge: bytes | None) -> bytes:
        raise LookupError("no password in the key ring")


def test_exception_in_a_mechanism_leaves_no_login_open() -> None:
    """architecture.md, A connection: the connection is as it was."""
    session = greeted("AUTH PLAIN")
    with pytest.raises(LookupError):
        session.client.authenticate(Broken())
    assert session.pull().sends == []
    session.client.authenticate(PLAIN)
    assert session.pull().data == b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"


def test_login_mechanism_ignores_prompt_text() -> None:
    """draft-murchison-sasl-login."""
    session = log_in(LOGIN).receive(b"334 AAAA\r\n", b"334 \r\n", b"235 2.7.0 ok\r\n")
    assert session.data == b"AUTH LOGIN\r\ndGVzdA==\r\nMTIzNA==\r\n"
    assert session.events == [sasl.Authenticated(mechanism="LOGIN")]


@pytest.mark.parametrize("code", [535, 534, 454, 432, 501, 504, 530])
def test_rejected_login_is_reported_and_another_may_follow(code: int) -> None:
    """RFC 4954 section 6."""
    session = log_in(PLAIN).receive(f"{code} no\r\n".encode("ascii"))
    assert session.events == [smtp.AuthenticationRejected(mechanism="PLAIN", reply=smtp.Reply(code, "", "no"))]
    session.forget()
    session.client.authenticate(LOGIN)
    assert session.pull().data == b"AUTH LOGIN\r\n"


def test_challenge_limit_is_12288_bytes() -> None:
    """RFC 4954 section 4: the length of the line with its CRLF; outside a login the limit of a reply applies."""
    for size, accepted in ((9_210, True), (9_216, False)):
        session = log_in(LOGIN).forget()
        line = b"334 " + sasl.encode_base64(b"x" * size) + b"\r\n"
        assert (len(line) <= 12_292) == accepted
        if accepted:
            assert session.receive(line).data == b"dGVzdA==\r\n"
        else:
            breaks(session, line)
    breaks(greeted().send(smtp.Noop()), b"250 " + b"x" * 4_100 + b"\r\n")


@pytest.mark.parametrize("challenge", [b"334 !!!\r\n", b"334 YQ\r\n", b"334-YWJj\r\n334 YWJj\r\n", b"334 \xff\r\n"])
def test_undecodable_challenge_cancels_the_login(challenge: bytes) -> None:
    """RFC 4954 section 4: ``*``, and the server answers 501."""
    session = log_in(CRAM_MD5).forget().receive(challenge)
    assert session.data == b"*\r\n"
    session.receive(b"501 cancelled\r\n")
    assert session.events == [smtp.AuthenticationRejected(mechanism="CRAM-MD5", reply=smtp.Reply(501, "", "cancelled"))]
    assert session.send(smtp.Noop()).data == b"*\r\nNOOP\r\n"


@pytest.mark.parametrize("mechanism", [PLAIN, CRAM_MD5])
def test_extra_challenge_cancels_the_login(mechanism: sasl.ClientMechanism) -> None:
    """RFC 4954 section 4."""
    session = log_in(mechanism)
    session.receive(*[b"334 YWJj\r\n"] * (2 if mechanism is CRAM_MD5 else 1))
    assert session.data.endswith(b"\r\n*\r\n")


@pytest.mark.parametrize("data", [b"334 YWJj\r\n", b"235 welcome\r\n", b"250 ok\r\n"])
def test_challenge_or_success_after_cancel_raises(data: bytes) -> None:
    """RFC 4954 section 4: the server must refuse, and gets no digest."""
    session = log_in(CRAM_MD5).receive(b"334 !!!\r\n")
    breaks(session, data)
    assert session.data == b"AUTH CRAM-MD5\r\n*\r\n"


@pytest.mark.parametrize("mechanism", [LOGIN, CRAM_MD5])
def test_success_before_the_mechanism_is_satisfied_raises(mechanism: sasl.ClientMechanism) -> None:
    """architecture.md, A connection."""
    breaks(log_in(mechanism), b"235 welcome\r\n")


def test_success_before_a_deferred_initial_response_raises() -> None:
    """RFC 4954 section 4: the server has seen no password."""
    breaks(log_in(sasl.PlainClient(authentication_identity="a", password=b"x" * 500)), b"235 welcome\r\n")


@pytest.mark.parametrize("code", [220, 250, 252, 350, 354])
def test_positive_reply_to_auth_other_than_235_raises(code: int) -> None:
    """RFC 4954 section 4: it is not clear whether the login succeeded."""
    breaks(log_in(PLAIN), f"{code} ok\r\n".encode("ascii"))


def test_421_during_a_login_fails_the_login() -> None:
    """RFC 5321 section 3.8."""
    session = log_in(CRAM_MD5).receive(b"421 bye\r\n")
    assert session.events == [smtp.AuthenticationRejected(mechanism="CRAM-MD5", reply=smtp.Reply(421, "", "bye"))]
    with pytest.raises(LocalProtocolError):
        session.client.authenticate(PLAIN)


def test_challenge_outside_a_login_raises_remote_protocol_error() -> None:
    breaks(greeted(), b"334 \r\n")
