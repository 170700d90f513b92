"""LOGIN (draft-murchison-sasl-login)."""

from __future__ import annotations

import pytest

from mailauth import ACCEPT
from mailauth.sasl import Challenge, CheckPassword, Context, Fault, LoginClient, LoginServer, Mechanisms, Success

ASKED = CheckPassword(authentication_identity="tim", password=b"tan staaf", mechanism="LOGIN", tls=False)


def test_default_prompts_are_username_and_password() -> None:
    server = LoginServer(tls=False)
    assert server.respond(None) == Challenge(b"Username:")
    assert server.respond(b"tim") == Challenge(b"Password:")
    assert server.respond(b"tan staaf") == ASKED
    assert server.resolve(ACCEPT) == Success(authentication_identity="tim")


def test_the_prompts_can_be_set() -> None:
    """With a factory of the application."""
    offer = Mechanisms(
        {
            "LOGIN": lambda context: LoginServer(
                tls=context.tls, name_prompt=b"User Name\0", password_prompt=b"Password\0"
            )
        }
    )
    server = offer.create("login", Context(nonce="n", host_name="h", tls=True))
    assert server.respond(None) == Challenge(b"User Name\0")
    assert server.respond(b"tim") == Challenge(b"Password\0")


def test_user_name_is_accepted_as_initial_response() -> None:
    """aiosmtplib always sends it so."""
    server = LoginServer(tls=False)
    assert server.client_first
    assert server.respond(b"tim") == Challenge(b"Password:")
    assert server.respond(b"tan staaf") == ASKED


@pytest.mark.parametrize("prompt", [b"Username:", b"User Name\0", b"", b"Wachtwoord", b"\xff"])
def test_client_ignores_prompt_text(prompt: bytes) -> None:
    """Section 2 of the draft."""
    client = LoginClient(authentication_identity="tim", password=b"tan staaf")
    client.respond(None)
    assert [client.respond(prompt), client.respond(prompt)] == [b"tim", b"tan staaf"]


def test_a_client_waits_for_the_first_prompt() -> None:
    client = LoginClient(authentication_identity="tim", password=b"tan staaf")
    assert not client.client_first
    assert client.respond(None) == b""


@pytest.mark.parametrize("name", [b"", b"t\xffm", b"tim\0", b"tim\r\nRCPT", b"x" * 256])
def test_invalid_user_name_is_malformed(name: bytes) -> None:
    assert LoginServer(tls=False).respond(name) is Fault.MALFORMED


@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 1025])
def test_invalid_password_is_malformed(password: bytes) -> None:
    """An empty password too: some stores accept any name with it."""
    server = LoginServer(tls=False)
    server.respond(b"tim")
    assert server.respond(password) is Fault.MALFORMED


def test_a_password_need_not_be_utf_8() -> None:
    server = LoginServer(tls=False)
    server.respond(b"tim")
    question = server.respond(b"\xe9t\xe9")
    assert isinstance(question, CheckPassword)
    assert question.password == b"\xe9t\xe9"
