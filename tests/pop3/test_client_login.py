"""Logins at POP3 servers that break the grammar, and the choice of the next mechanism after a refusal."""

from __future__ import annotations

import pytest

from mailauth import LocalProtocolError, RemoteProtocolError, pop3, sasl
from tests.pop3.drive import TLS, exchange, pull, said

USER = sasl.UserPassClient(authentication_identity="alice", password=b"wonderland")
PLAIN = sasl.PlainClient(authentication_identity="alice", password=b"wonderland")
LOGIN = sasl.LoginClient(authentication_identity="alice", password=b"wonderland")
CRAM = sasl.CramMd5Client(authentication_identity="alice", password=b"wonderland")
APOP = sasl.ApopClient(authentication_identity="alice", password=b"wonderland")


def greeted(
    *capabilities: bytes, tls: bool = True, strict: bool = False, greeting: bytes = b"+OK hello"
) -> pop3.ClientConnection:
    connection = pop3.ClientConnection(pop3.ClientSettings(strict_syntax=strict), tls=TLS if tls else None)
    connection.receive_data(greeting + b"\r\n")
    connection.next_event()
    if capabilities:
        exchange(connection, pop3.Capa(), b"".join(line + b"\r\n" for line in (b"+OK", *capabilities, b".")))
    return connection


def receive(connection: pop3.ClientConnection, data: bytes) -> list[object]:
    connection.receive_data(data)
    return list(pull(connection))


def answer(connection: pop3.ClientConnection, line: bytes) -> bytes:
    """Return what the client sends after *line*."""
    connection.receive_data(line + b"\r\n")
    return said(pull(connection))


# The offer


def test_mechanisms_of_two_sasl_lines_are_joined() -> None:
    connection = greeted(b"SASL PLAIN CRAM-MD5", b"STLS", b"sasl LOGIN PLAIN")
    assert connection.capabilities == {"SASL": "PLAIN CRAM-MD5 LOGIN", "STLS": ""}


def test_words_of_the_offer_may_be_separated_by_tabs() -> None:
    connection = greeted(b"SASL\tPLAIN \t CRAM-MD5", b"\tUSER")
    assert connection.capabilities["SASL"].split() == ["PLAIN", "CRAM-MD5"]
    assert "USER" in connection.capabilities
    connection.authenticate(CRAM)
    assert said(pull(connection)) == b"AUTH CRAM-MD5\r\n"


def test_with_strict_syntax_a_tab_is_no_blank() -> None:
    connection = greeted(b"SASL\tPLAIN", strict=True)
    with pytest.raises(LocalProtocolError, match="does not offer PLAIN"):
        connection.authenticate(PLAIN)


@pytest.mark.parametrize("capabilities", [(), (b"USER",), (b"SASL CRAM-MD5",)])
def test_mechanism_that_the_server_does_not_list_can_be_assumed(capabilities: tuple[bytes, ...]) -> None:
    connection = greeted(*capabilities)
    connection.authenticate(LOGIN, PLAIN, assume={"PLAIN"})
    assert said(pull(connection)).startswith(b"AUTH PLAIN ")


def test_user_can_be_assumed() -> None:
    connection = greeted(b"STLS")
    connection.authenticate(USER, assume=["user"])
    assert said(pull(connection)) == b"USER alice\r\n"


def test_apop_cannot_be_assumed_without_a_timestamp() -> None:
    with pytest.raises(LocalProtocolError, match="does not offer APOP"):
        greeted().authenticate(APOP, assume={"APOP"})


@pytest.mark.parametrize("name", ["alice", "al\xefce"])
def test_error_for_a_server_with_user_alone_gives_the_reason(name: str) -> None:
    """The name or the password is not ASCII."""
    password = "gr\xfcn" if name.isascii() else "wonderland"
    mechanisms = sasl.password_mechanisms(name, password.encode(), entropy=bytes(16), tls=TLS)
    for given in (mechanisms, (sasl.UserPassClient(authentication_identity=name, password=password.encode()),)):
        for connection in (greeted(b"USER"), greeted()):
            with pytest.raises(LocalProtocolError, match=r"USER cannot carry .* not ASCII.* UTF8 USER"):
                connection.authenticate(*given)
    with_utf8 = greeted(b"USER", b"UTF8 USER")
    with_utf8.authenticate(*mechanisms)
    assert said(pull(with_utf8)) == b"USER " + name.encode() + b"\r\n"


def test_password_that_is_not_ascii_uses_a_mechanism_that_can_carry_it() -> None:
    connection = greeted(b"USER", b"SASL PLAIN")
    user = sasl.UserPassClient(authentication_identity="alice", password="gr\xfcn".encode())
    plain = sasl.PlainClient(authentication_identity="alice", password="gr\xfcn".encode())
    connection.authenticate(user, plain)
    assert said(pull(connection)).startswith(b"AUTH PLAIN ")


# Prompts


@pytest.mark.parametrize("prompt", [b"Username:", b"VXNlcm5hbWU", b"VXNlcm5hbWU6 ", b"\xff", b""])
def test_prompts_of_login_need_not_be_base64(prompt: bytes) -> None:
    connection = greeted(b"SASL LOGIN")
    connection.authenticate(LOGIN)
    pull(connection)
    assert answer(connection, b"+ " + prompt) == b"YWxpY2U=\r\n"
    assert answer(connection, b"+ " + prompt) == b"d29uZGVybGFuZA==\r\n"
    assert receive(connection, b"+OK\r\n") == [sasl.Authenticated(mechanism="LOGIN")]


@pytest.mark.parametrize("text", [b"+", b"+ ", b"+ go ahead", b"+ Z28gYWhlYWQ="])
def test_initial_response_can_be_held_back(text: bytes) -> None:
    connection = greeted(b"SASL PLAIN")
    connection.authenticate(PLAIN, initial_response=False)
    assert said(pull(connection)) == b"AUTH PLAIN\r\n"
    assert answer(connection, text) == sasl.encode_base64(b"\0alice\0wonderland") + b"\r\n"


def test_with_strict_syntax_a_prompt_that_is_not_base64_cancels_the_login() -> None:
    for mechanism in (LOGIN, PLAIN):
        connection = greeted(b"SASL LOGIN PLAIN", strict=True)
        connection.authenticate(mechanism, initial_response=False)
        pull(connection)
        assert answer(connection, b"+ Username:") == b"*\r\n"


# After a refusal


@pytest.mark.parametrize("reply", [b"-ERR no", b"-ERR [AUTH] no"])
def test_weaker_mechanism_is_tried_after_a_refusal_if_the_caller_allows_it(reply: bytes) -> None:
    connection = greeted(b"SASL PLAIN", b"USER")
    connection.authenticate(CRAM, PLAIN, USER, retry_weaker=True)
    assert said(pull(connection)).startswith(b"AUTH PLAIN ")
    assert answer(connection, reply) == b"USER alice\r\n"
    assert answer(connection, b"+OK") == b"PASS wonderland\r\n"
    assert receive(connection, b"+OK\r\n") == [sasl.Authenticated(mechanism="USER")]


@pytest.mark.parametrize(
    "reply", [b"-ERR [SYS/TEMP] no", b"-ERR [SYS/PERM] no", b"-ERR [IN-USE] no", b"-ERR [LOGIN-DELAY] no"]
)
def test_nothing_is_tried_after_a_reply_that_is_not_about_the_mechanism(reply: bytes) -> None:
    connection = greeted(b"SASL PLAIN", b"USER")
    connection.authenticate(PLAIN, USER, retry_weaker=True)
    pull(connection)
    (event,) = receive(connection, reply + b"\r\n")
    assert isinstance(event, pop3.AuthenticationRejected)


def test_nothing_is_tried_unless_the_caller_allows_it() -> None:
    connection = greeted(b"SASL PLAIN", b"USER")
    connection.authenticate(PLAIN, USER)
    pull(connection)
    (event,) = receive(connection, b"-ERR [AUTH] no\r\n")
    assert event == pop3.AuthenticationRejected(mechanism="PLAIN", reply=pop3.Reply(False, "AUTH", "no"))


def test_with_tls_apop_is_tried_last() -> None:
    """CVE-2007-1558."""
    connection = greeted(b"SASL PLAIN", greeting=b"+OK <1@host>")
    connection.authenticate(APOP, PLAIN, retry_weaker=True)
    assert said(pull(connection)).startswith(b"AUTH PLAIN ")
    assert answer(connection, b"-ERR no").startswith(b"APOP alice ")


def test_nothing_is_tried_after_the_client_has_cancelled() -> None:
    connection = greeted(b"SASL CRAM-MD5 PLAIN")
    connection.authenticate(CRAM, PLAIN, retry_weaker=True)
    pull(connection)
    assert answer(connection, b"+ not base64") == b"*\r\n"
    (event,) = receive(connection, b"-ERR no\r\n")
    assert isinstance(event, pop3.AuthenticationRejected)


def test_nothing_is_tried_after_the_connection_was_lost() -> None:
    connection = greeted(b"SASL PLAIN LOGIN")
    connection.authenticate(PLAIN, LOGIN, retry_weaker=True)
    pull(connection)
    with pytest.raises(RemoteProtocolError):
        receive(connection, b"")
