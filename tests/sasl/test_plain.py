"""PLAIN (RFC 4616)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, LocalProtocolError
from mailauth.sasl import Challenge, CheckPassword, Fault, PlainClient, PlainServer, Refusal, Success, saslprep
from tests.sasl.driver import log_in


def asked(response: bytes) -> CheckPassword:
    question = PlainServer(tls=True).respond(response)
    assert isinstance(question, CheckPassword)
    return question


def test_rfc_4616_first_example() -> None:
    """RFC 4616 section 4: ``tim``, ``tanstaaftanstaaf``."""
    response = b"\0tim\0tanstaaftanstaaf"
    assert PlainClient(authentication_identity="tim", password=b"tanstaaftanstaaf").respond(None) == response
    assert asked(response) == CheckPassword(
        authentication_identity="tim", password=b"tanstaaftanstaaf", mechanism="PLAIN", tls=True
    )


def test_rfc_4616_second_example() -> None:
    """RFC 4616 section 4: ``Kurt`` asks to act as ``Ursel``."""
    response = b"Ursel\0Kurt\0xipj3plmq"
    client = PlainClient(authentication_identity="Kurt", password=b"xipj3plmq", authorization_identity="Ursel")
    assert client.respond(None) == response
    server = PlainServer(tls=True)
    server.respond(response)
    assert server.resolve(ACCEPT) == Success(authentication_identity="Kurt", authorization_identity="Ursel")


def test_challenge_is_empty_without_initial_response() -> None:
    """RFC 4616 section 2: the client sends the first message."""
    assert PlainServer.client_first
    assert PlainServer(tls=True).respond(None) == Challenge(b"")


def test_authorization_identity_equal_to_authentication_identity_is_empty() -> None:
    server = PlainServer(tls=True)
    server.respond(b"tim\0tim\0secret")
    assert server.resolve(ACCEPT) == Success(authentication_identity="tim", authorization_identity="")


def test_identities_are_case_sensitive() -> None:
    """What names mean is decided by the application.  Here ``Tim`` asks to act as ``tim``."""
    server = PlainServer(tls=True)
    server.respond(b"tim\0Tim\0secret")
    assert server.resolve(ACCEPT) == Success(authentication_identity="Tim", authorization_identity="tim")


def test_identities_and_passwords_of_255_bytes_are_accepted() -> None:
    """RFC 4616 section 2: a server accepts up to and including 255 octets in each field."""
    name = "é" * 127 + "x"
    question = asked(b"y" * 255 + b"\0" + name.encode() + b"\0" + b"z" * 255)
    assert (question.authentication_identity, question.password) == (name, b"z" * 255)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"tim",
        b"tim\0secret",
        b"\0tim\0sec\0ret",
        b"\0tim\0secret\0",
        b"\0\0secret",
        b"\0tim\0",
        b"\0\0",
        b"\0t\xffm\0secret",
        b"\xff\0tim\0secret",
        b"\0" + b"x" * 256 + b"\0secret",
        b"x" * 256 + b"\0tim\0secret",
        b"\0tim\0" + b"x" * 1025,
        b"\0tim\r\n\0secret",
        b"a\nb\0tim\0secret",
    ],
)
def test_invalid_response_is_malformed(response: bytes) -> None:
    """RFC 4616 section 2: two NULs, UTF-8, only the first field may be empty, and no field is too long."""
    server = PlainServer(tls=True)
    assert server.respond(response) is Fault.MALFORMED
    with pytest.raises(LocalProtocolError):
        server.resolve(ACCEPT)


@pytest.mark.parametrize("password", [b"\xff", b"gr\xfcn", b"\xc3", b"\xed\xa0\x80"])
def test_password_that_is_not_utf_8_is_passed_on_as_received_unless_syntax_is_strict(password: bytes) -> None:
    """RFC 4616 section 2 requires UTF-8; old clients send Latin-1."""
    assert asked(b"\0tim\0" + password).password == password
    assert PlainServer(tls=True, strict_syntax=True).respond(b"\0tim\0" + password) is Fault.MALFORMED


def test_limits_hold_for_passwords_that_are_not_utf_8() -> None:
    assert asked(b"\0tim\0" + b"\xff" * 1024).password == b"\xff" * 1024
    assert PlainServer(tls=True).respond(b"\0tim\0" + b"\xff" * 1025) is Fault.MALFORMED


@given(st.binary(max_size=12) | st.text(max_size=12).map(str.encode))
def test_where_strict_syntax_accepts_a_password_both_pass_on_the_same(password: bytes) -> None:
    strict = PlainServer(tls=True, strict_syntax=True).respond(b"\0tim\0" + password)
    if isinstance(strict, CheckPassword):
        assert PlainServer(tls=True).respond(b"\0tim\0" + password) == strict


@given(st.binary(max_size=30))
def test_response_without_exactly_two_nuls_is_malformed(response: bytes) -> None:
    step = PlainServer(tls=False).respond(response)
    assert step is Fault.MALFORMED or (isinstance(step, CheckPassword) and response.count(b"\0") == 2)


def test_client_rejects_password_that_is_not_utf_8() -> None:
    """RFC 4616 section 2."""
    with pytest.raises(LocalProtocolError):
        PlainClient(authentication_identity="tim", password=b"\xff")


@pytest.mark.parametrize("answer", [None, b"secret", True])
def test_resolve_raises_for_answer_of_wrong_type(answer: object) -> None:
    server = PlainServer(tls=True)
    server.respond(b"\0tim\0secret")
    with pytest.raises(LocalProtocolError):
        server.resolve(answer)


@pytest.mark.parametrize(
    ("sent", "asked_for"), [("I\u00adX", "IX"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")]
)
def test_server_applies_saslprep_to_names_and_passwords(sent: str, asked_for: str) -> None:
    """RFC 4616 section 2, RFC 4013 section 3: the server prepares the received strings before it compares them."""
    question = asked(f"\0{sent}\0{sent}".encode())
    assert (question.authentication_identity, question.password) == (asked_for, asked_for.encode())


def test_authorization_identity_is_compared_after_saslprep() -> None:
    """RFC 4954 section 4: it is prepared, too.  ``I-X`` with a soft hyphen is ``IX``."""
    server = PlainServer(tls=True)
    server.respond("I\u00adX\0IX\0secret".encode())
    assert server.resolve(ACCEPT) == Success(authentication_identity="IX", authorization_identity="")


@pytest.mark.parametrize("response", ["\0\u00ad\0secret", "\0tim\0\u00ad", "\0tim\0\u0627\u0031", "\0tim\0\ue000"])
def test_field_empty_or_prohibited_after_saslprep_is_malformed(response: str) -> None:
    """RFC 4616 section 2: empty after preparation, or prohibited.  The application is not asked."""
    assert PlainServer(tls=True).respond(response.encode()) is Fault.MALFORMED


def test_password_may_contain_unassigned_code_points() -> None:
    """RFC 4013 section 2.5: strings from a client are queries."""
    assert asked("\0tim\0\U0001f600".encode()).password == "\U0001f600".encode()


TEXT = st.text("ae\u00e9\u0301\u00ad\u00aa\u00a0 =,", min_size=1, max_size=4).filter(saslprep)


@given(TEXT, TEXT, TEXT, TEXT)
def test_login_succeeds_if_and_only_if_credentials_match(name: str, other: str, sent: str, kept: str) -> None:
    """Two strings that are the same after SASLprep count as the same."""
    client = PlainClient(authentication_identity=name, password=sent.encode())
    for account, password in ((name, sent), (name, kept), (other, sent)):
        known = {saslprep(account): saslprep(password).encode()}
        right = known.get(saslprep(name)) == saslprep(sent).encode()
        success = Success(authentication_identity=saslprep(name), authorization_identity=saslprep(name))
        assert log_in(client, PlainServer(tls=True), known) == (success if right else Refusal.BAD_CREDENTIALS)
