"""AUTH in the client (RFC 4954 section 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from mailauth import LocalProtocolError, RemoteProtocolError, Tls, sasl, smtp
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


@pytest.mark.parametrize("prompt", [b"Username:", b"VXNlcm5hbWU", b"VXNlcm5hbWU6 ", b"\xff\xfe", b""])
def test_prompts_of_login_need_not_be_base64(prompt: bytes) -> None:
    line = b"334 " + prompt + b"\r\n"
    session = log_in(LOGIN).receive(line, line, b"235 2.7.0 ok\r\n")
    assert session.data == b"AUTH LOGIN\r\ndGVzdA==\r\nMTIzNA==\r\n"
    assert session.events == [sasl.Authenticated(mechanism="LOGIN")]


def test_prompt_of_several_lines_cancels_the_login() -> None:
    assert log_in(LOGIN).forget().receive(b"334-Username\r\n334 Username\r\n").data == b"*\r\n"


def test_with_strict_syntax_a_prompt_that_is_not_base64_cancels_the_login() -> None:
    session = greeted("AUTH LOGIN PLAIN", settings=smtp.ClientSettings(strict_syntax=True))
    session.client.authenticate(LOGIN)
    assert session.pull().forget().receive(b"334 Username:\r\n").data == b"*\r\n"


def test_initial_response_can_be_held_back() -> None:
    """Some servers cannot take it, and answer the AUTH line with any text."""
    for text in (b"", b"go ahead", b"UGxlYXNl"):
        session = greeted("AUTH PLAIN")
        session.client.authenticate(PLAIN, initial_response=False)
        assert session.pull().data == b"AUTH PLAIN\r\n"
        session.receive(b"334 " + text + b"\r\n", b"235 ok\r\n")
        assert session.data == b"AUTH PLAIN\r\nAHRlc3QAMTIzNA==\r\n"
        assert session.events == [sasl.Authenticated(mechanism="PLAIN")]


def test_mechanism_that_the_server_does_not_list_can_be_assumed() -> None:
    for offer in ("SIZE", "AUTH CRAM-MD5"):
        session = greeted(offer)
        session.client.authenticate(LOGIN, PLAIN, assume={"plain"})
        assert session.pull().data == b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"


@pytest.mark.parametrize("assume", ["PLAIN", b"PLAIN", 1, None, {1}])
def test_invalid_set_of_assumed_mechanisms_is_an_error(assume: Any) -> None:
    session = greeted("AUTH PLAIN")
    with pytest.raises(LocalProtocolError, match="assume must be a set"):
        session.client.authenticate(PLAIN, assume=assume)
    assert session.pull().sends == []


def test_words_of_the_offer_may_be_separated_by_tabs() -> None:
    assert log_in(PLAIN, offer="AUTH\tLOGIN\tPLAIN").data.startswith(b"AUTH PLAIN ")
    strict = greeted("AUTH\tPLAIN", settings=smtp.ClientSettings(strict_syntax=True))
    with pytest.raises(LocalProtocolError, match="does not offer PLAIN"):
        strict.client.authenticate(PLAIN)


def refused(session: Session, *codes: int) -> Session:
    return session.receive(*(b"%d no\r\n" % code for code in codes))


@pytest.mark.parametrize("code", [504, 534, 535])
def test_weaker_mechanism_is_tried_after_a_refusal_if_the_caller_allows_it(code: int) -> None:
    session = greeted("AUTH PLAIN LOGIN CRAM-MD5")
    session.client.authenticate(CRAM_MD5, PLAIN, LOGIN, retry_weaker=True)
    session.pull().receive(b"334 PDFAaD4=\r\n").forget()
    assert refused(session, code).data == b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"
    session.receive(b"235 ok\r\n")
    assert session.events == [sasl.Authenticated(mechanism="PLAIN")]


def test_after_the_last_refusal_all_are_reported() -> None:
    session = greeted("AUTH PLAIN LOGIN")
    session.client.authenticate(CRAM_MD5, PLAIN, LOGIN, retry_weaker=True)
    refused(session.pull(), 535, 504)
    first = smtp.AuthenticationRejected(mechanism="PLAIN", reply=smtp.Reply(535, "", "no"))
    assert session.events == [
        smtp.AuthenticationRejected(mechanism="LOGIN", reply=smtp.Reply(504, "", "no"), earlier=(first,))
    ]
    session.forget()
    session.client.authenticate(PLAIN)
    refused(session.pull(), 535)
    assert session.events == [first]


def test_at_most_two_more_logins_are_made_on_a_connection() -> None:
    session = greeted("AUTH PLAIN LOGIN")
    session.client.authenticate(PLAIN, LOGIN, PLAIN, LOGIN, retry_weaker=True)
    refused(session.pull(), 535, 535, 535)
    (event,) = session.events
    assert isinstance(event, smtp.AuthenticationRejected)
    assert [earlier.mechanism for earlier in event.earlier] == ["PLAIN", "LOGIN"]
    session.forget()
    session.client.authenticate(PLAIN, LOGIN, retry_weaker=True)
    refused(session.pull(), 535)
    assert [type(event) for event in session.events] == [smtp.AuthenticationRejected]


@pytest.mark.parametrize("code", [421, 432, 454, 501, 530, 550])
def test_nothing_is_tried_after_a_reply_that_is_not_about_the_mechanism(code: int) -> None:
    session = greeted("AUTH PLAIN LOGIN")
    session.client.authenticate(PLAIN, LOGIN, retry_weaker=True)
    refused(session.pull().forget(), code)
    assert session.data == b""
    assert [type(event) for event in session.events] == [smtp.AuthenticationRejected]


def test_nothing_is_tried_after_the_client_has_cancelled() -> None:
    """The server sent what CRAM-MD5 does not accept: it gets no password."""
    session = greeted("AUTH PLAIN CRAM-MD5")
    session.client.authenticate(CRAM_MD5, PLAIN, retry_weaker=True)
    session.pull().receive(b"334 !!!\r\n").forget()
    refused(session, 535)
    assert session.data == b""
    assert [type(event) for event in session.events] == [smtp.AuthenticationRejected]


def test_nothing_is_tried_after_the_connection_was_lost() -> None:
    session = greeted("AUTH PLAIN LOGIN")
    session.client.authenticate(PLAIN, LOGIN, retry_weaker=True)
    session.pull().forget()
    breaks(session, b"")
    assert session.data == b""


BOUND = Tls(version="TLSv1.3", channel_bindings={"tls-server-end-point": b"digest", "tls-unique": b"finished"})


def flag(session: Session) -> bytes:
    """Return the GS2 flag of the SCRAM message that was sent last."""
    return sasl.decode_base64(session.data.split()[-1]).split(b",")[0]


def with_bindings(offer: str, **options: Any) -> Session:
    session = greeted(offer, tls=BOUND)
    mechanisms = sasl.password_mechanisms("test", b"1234", entropy=bytes(range(32)), tls=BOUND)
    session.client.authenticate(*mechanisms, **options)
    return session.pull()


@pytest.mark.parametrize("code", [501, 535])
def test_refused_plus_is_tried_with_another_binding(code: int) -> None:
    """Cyrus SASL with ``tls-unique`` alone replies "bad protocol" to another binding."""
    session = with_bindings("AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN")
    assert flag(session) == b"p=tls-server-end-point"
    refused(session.forget(), code)
    assert session.data.startswith(b"AUTH SCRAM-SHA-256-PLUS ")
    assert flag(session) == b"p=tls-unique"


def test_plus_refused_by_an_error_message_is_tried_with_another_binding() -> None:
    session = with_bindings("AUTH SCRAM-SHA-256-PLUS").forget()
    message = sasl.encode_base64(b"e=unsupported-channel-binding-type")
    assert session.receive(b"334 " + message + b"\r\n").data == b"\r\n"
    assert flag(refused(session.forget(), 535)) == b"p=tls-unique"


def test_success_after_an_error_message_of_scram_is_an_error() -> None:
    session = with_bindings("AUTH SCRAM-SHA-256-PLUS")
    session.receive(b"334 " + sasl.encode_base64(b"e=other-error") + b"\r\n")
    breaks(session, b"235 ok\r\n")


@pytest.mark.parametrize("retry_weaker", [False, True])
def test_refused_plus_is_never_followed_by_a_login_without_binding(retry_weaker: bool) -> None:
    """RFC 5802 section 6.  The event names the bindings that were refused."""
    session = with_bindings("AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN", retry_weaker=retry_weaker)
    refused(session, 535, 535)
    assert session.data.count(b"AUTH SCRAM-SHA-256-PLUS ") == session.data.count(b"AUTH ") == 2
    (event,) = session.events
    assert isinstance(event, smtp.AuthenticationRejected)
    assert event.channel_bindings == ("tls-server-end-point", "tls-unique")


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
