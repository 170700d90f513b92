"""USER and PASS as a mechanism (RFC 1939 section 7)."""

from __future__ import annotations

import pytest

from mailauth import ACCEPT
from mailauth.sasl import Challenge, CheckPassword, Fault, Refusal, Success, UserPassClient, UserPassServer


def named(name: bytes) -> UserPassServer:
    server = UserPassServer(tls=False)
    assert server.respond(name) == Challenge(b"")
    return server


def test_the_name_then_the_password() -> None:
    server = named(b"mrose")
    assert server.respond(b"tan staaf") == CheckPassword(
        authentication_identity="mrose", password=b"tan staaf", mechanism="USER", tls=False
    )
    assert server.resolve(ACCEPT) == Success(authentication_identity="mrose")


@pytest.mark.parametrize("name", [b"", b"\xff", b"a\0b", b"x" * 256])
def test_a_name_that_nobody_can_have_fails_at_the_password(name: bytes) -> None:
    """RFC 1939 section 13: the reply to USER must not show which names exist."""
    assert named(name).respond(b"secret") is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize("name", [b"mrose", b"\xff"])
@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 1025])
def test_a_password_that_cannot_be_one_is_malformed_for_every_name(name: bytes, password: bytes) -> None:
    assert named(name).respond(password) is Fault.MALFORMED


def test_the_client_says_the_name_and_then_whatever_the_reply_the_password() -> None:
    client = UserPassClient(authentication_identity="mrose", password=b"tan staaf")
    assert [client.respond(None), client.respond(b"mrose is a real hoopy frood")] == [b"mrose", b"tan staaf"]
