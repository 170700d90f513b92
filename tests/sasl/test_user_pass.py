"""USER and PASS as a mechanism (RFC 1939 section 7)."""

from __future__ import annotations

import pytest

from mailauth import ACCEPT
from mailauth.sasl import Challenge, CheckPassword, Fault, Refusal, Success, UserPassClient, UserPassServer


def named(name: bytes) -> UserPassServer:
    server = UserPassServer(tls=False)
    assert server.respond(name) == Challenge(b"")
    return server


def test_server_receives_name_then_password() -> None:
    server = named(b"mrose")
    assert server.respond(b"tan staaf") == CheckPassword(
        authentication_identity="mrose", password=b"tan staaf", mechanism="USER", tls=False
    )
    assert server.resolve(ACCEPT) == Success(authentication_identity="mrose")


@pytest.mark.parametrize("name", [b"", b"\xff", b"a\0b", b"x" * 256])
def test_invalid_name_fails_at_the_password(name: bytes) -> None:
    """RFC 1939 section 13: the reply to USER must not show which names exist."""
    assert named(name).respond(b"secret") is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize("name", [b"mrose", b"\xff"])
@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 1025])
def test_invalid_password_is_malformed_for_any_name(name: bytes, password: bytes) -> None:
    assert named(name).respond(password) is Fault.MALFORMED


def test_client_sends_name_then_password_and_ignores_reply_text() -> None:
    client = UserPassClient(authentication_identity="mrose", password=b"tan staaf")
    assert [client.respond(None), client.respond(b"mrose is a real hoopy frood")] == [b"mrose", b"tan staaf"]
