"""APOP as a mechanism (RFC 1939 section 7)."""

from __future__ import annotations

import pytest

from mailauth import LocalProtocolError
from mailauth.errors import Malformed
from mailauth.sasl import (
    ApopClient,
    ApopServer,
    Challenge,
    Fault,
    FetchSecret,
    Refusal,
    ServerExchange,
    Success,
    apop,
    is_message_id,
)

TIMESTAMP = b"<1896.697170952@dbc.mtview.ca.us>"
RESPONSE = b"mrose c4c9334bac560ecc979e58001b3e22fb"
NOT_MESSAGE_IDS = [
    b"",
    b"<>",
    b"<@>",
    b"<a@>",
    b"<@b>",
    b"<1896.697170952>",
    b"1896.697170952@dbc.mtview.ca.us",
    b"<a@b",
    b"a@b>",
    b"<a@b@c>",
    b"<a b@c>",
    b"<a@b> ",
    b" <a@b>",
    b"<a@b>\n",
    b"<a@b><c@d>",
    b"<a..b@c>",
    b"<.a@b>",
    b"<a.@b>",
    b"<a\0@b>",
    b"<a\x80@b>",
    b"<\xc3\xa9@b>",
    b'<"a"@b>',
    b"<a@[b>",
    b"<" + b"a" * 400 + b"@b>",
]


def test_example_of_rfc_1939() -> None:
    """RFC 1939 section 7: ``mrose``, ``tanstaaf``."""
    client = ApopClient(authentication_identity="mrose", password=b"tanstaaf")
    assert client.respond(None) == b""
    assert client.respond(TIMESTAMP) == RESPONSE
    server = ServerExchange(ApopServer(timestamp=TIMESTAMP, tls=False))
    assert server.respond(RESPONSE) == FetchSecret(authentication_identity="mrose", mechanism="APOP", tls=False)
    assert server.answer(b"tanstaaf") == Success(authentication_identity="mrose", authorization_identity="mrose")


def test_the_challenge_is_the_timestamp_of_the_greeting() -> None:
    assert ApopServer(timestamp=TIMESTAMP, tls=False).respond(None) == Challenge(TIMESTAMP)


@pytest.mark.parametrize("timestamp", NOT_MESSAGE_IDS)
def test_client_rejects_timestamp_that_is_not_a_msg_id(timestamp: bytes) -> None:
    """CVE-2007-1558: timestamps that make MD5 collide are not valid msg-ids (RFC 5322 section 3.6.4)."""
    client = ApopClient(authentication_identity="mrose", password=b"tanstaaf")
    client.respond(None)
    with pytest.raises(Malformed):
        client.respond(timestamp)
    assert not client.satisfied


@pytest.mark.parametrize("timestamp", NOT_MESSAGE_IDS)
def test_server_rejects_timestamp_that_is_not_a_msg_id(timestamp: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        ApopServer(timestamp=timestamp, tls=False)


@pytest.mark.parametrize("timestamp", [TIMESTAMP, b"<a@b>", b"<x!#$%&'*+-/=?^_`{|}~y@h>", b"<1.2@[192.0.2.1]>"])
def test_valid_msg_id_is_accepted(timestamp: bytes) -> None:
    assert is_message_id(timestamp)


@pytest.mark.parametrize("secret", [None, b"", b"tanstaaf "])
def test_wrong_and_missing_secret_give_bad_credentials(secret: bytes | None) -> None:
    """architecture.md, invariant 6."""
    server = ApopServer(timestamp=TIMESTAMP, tls=False)
    server.respond(RESPONSE)
    assert server.resolve(secret) is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize(
    "response", [b"", b"mrose", b"mrose ", RESPONSE.upper(), RESPONSE + b" ", RESPONSE[:-1], b"\xff " + RESPONSE[6:]]
)
def test_invalid_response_is_malformed(response: bytes) -> None:
    """RFC 1939 section 7: the digest is in lower-case hexadecimal."""
    assert ApopServer(timestamp=TIMESTAMP, tls=False).respond(response) is Fault.MALFORMED


@pytest.mark.parametrize("size", [29, 33, 50])
def test_every_secret_takes_same_number_of_md5_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """architecture.md, invariant 6: a missing secret too, wherever the block of 64 bytes ends (RFC 1321 section 3)."""
    hashed: list[int] = []

    def plain_md5(secret: bytes, timestamp: bytes) -> bytes:
        hashed.append(len(timestamp) + len(secret))
        return b"0" * 32

    monkeypatch.setattr(apop, "plain_md5", plain_md5)
    costs = set()
    for secret in (None, *(b"s" * length for length in range(1, 65))):
        server = ServerExchange(ApopServer(timestamp=b"<a@" + b"b" * (size - 4) + b">", tls=False))
        server.respond(RESPONSE)
        assert server.answer(secret) is Refusal.BAD_CREDENTIALS
        costs.add(sum(data // 64 + (2 if data % 64 > 55 else 1) for data in hashed))
        hashed.clear()
    assert len(costs) == 1
