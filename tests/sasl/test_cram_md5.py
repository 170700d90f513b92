"""CRAM-MD5 (RFC 2195)."""

from __future__ import annotations

import base64
import hmac

import pytest

from mailauth.errors import Malformed
from mailauth.sasl import (
    Challenge,
    ClientExchange,
    CramMd5Client,
    CramMd5Server,
    Fault,
    FetchSecret,
    Refusal,
    ServerExchange,
    Success,
    encode_base64,
)
from mailauth.sasl._digest import _DECOY_SECRET
from mailauth.sasl._md5 import keyed_md5

CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
DIGEST = b"b913a602c7eda7a495b4e6e7334d3890"
SECRET = b"tanstaaftanstaaf"


def challenged() -> CramMd5Server:
    server = CramMd5Server(challenge=CHALLENGE, tls=False)
    assert server.respond(None) == Challenge(CHALLENGE)
    return server


def test_example_of_rfc_2195() -> None:
    """RFC 2195 section 2, in base64."""
    line = b"PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"
    response = b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    server = ServerExchange(CramMd5Server(challenge=CHALLENGE, tls=False))
    client = ClientExchange(CramMd5Client(authentication_identity="tim", password=SECRET))
    assert client.begin() is None
    challenge = server.begin(None)
    assert isinstance(challenge, Challenge)
    assert encode_base64(challenge.data) == line
    assert client.respond(line) == response
    assert server.receive(response) == FetchSecret(authentication_identity="tim", mechanism="CRAM-MD5", tls=False)
    assert server.answer(SECRET) == Success(authentication_identity="tim", authorization_identity="tim")


def test_name_ends_at_the_last_space() -> None:
    """RFC 2195 section 2: names may contain spaces, digests may not."""
    question = challenged().respond(b"tim  the  enchanter " + DIGEST)
    assert isinstance(question, FetchSecret)
    assert question.authentication_identity == "tim  the  enchanter"


@pytest.mark.parametrize("secret", [None, b"", b"tanstaaf", SECRET + b" "])
def test_wrong_and_missing_secret_give_bad_credentials(secret: bytes | None) -> None:
    """architecture.md, invariant 6."""
    server = challenged()
    server.respond(b"tim " + DIGEST)
    assert server.resolve(secret) is Refusal.BAD_CREDENTIALS


def test_digest_of_decoy_secret_gives_bad_credentials() -> None:
    """A client that knows the decoy secret must not be able to log in with it."""
    for missing in (None, b""):
        server = challenged()
        server.respond(b"tim " + keyed_md5(_DECOY_SECRET, CHALLENGE))
        assert server.resolve(missing) is Refusal.BAD_CREDENTIALS


def test_every_secret_takes_one_digest_and_one_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """architecture.md, invariant 6: the same calls, whether the identity exists or not."""
    calls: list[str] = []
    real_digest, real_compare = hmac.digest, hmac.compare_digest

    def digest(key: bytes, msg: bytes, name: str) -> bytes:
        calls.append("digest")
        return real_digest(key, msg, name)

    def compare(a: bytes, b: bytes) -> bool:
        calls.append("compare")
        return real_compare(a, b)

    monkeypatch.setattr(hmac, "digest", digest)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for secret in (None, b"", b"wrong", SECRET):
        server = challenged()
        server.respond(b"tim " + DIGEST)
        calls.clear()
        server.resolve(secret)
        assert calls == ["digest", "compare"]


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b" ",
        b"tim",
        DIGEST,
        b" " + DIGEST,
        b"tim " + DIGEST[:-1],
        b"tim " + DIGEST + b"0",
        b"tim " + DIGEST + b" ",
        b"tim " + DIGEST.upper(),
        b"tim\t" + DIGEST,
        b"t\xffm " + DIGEST,
        b"t\0m " + DIGEST,
        b"tim " + b"g" * 32,
        b"x" * 256 + b" " + DIGEST,
    ],
)
def test_invalid_response_is_malformed(response: bytes) -> None:
    """RFC 2195 section 2: a name, a space, 16 bytes in lower-case hexadecimal."""
    assert challenged().respond(response) is Fault.MALFORMED


def test_initial_response_is_rejected() -> None:
    """RFC 4954 section 4."""
    server = CramMd5Server(challenge=CHALLENGE, tls=False)
    assert server.respond(b"tim " + DIGEST) is Fault.UNEXPECTED_INITIAL_RESPONSE


def test_response_to_another_challenge_gives_bad_credentials() -> None:
    """RFC 2195 section 2: a recorded response cannot be replayed."""
    client = CramMd5Client(authentication_identity="tim", password=SECRET)
    client.respond(None)
    response = client.respond(b"<1896.697170953@postoffice.reston.mci.net>")
    server = challenged()
    server.respond(response)
    assert server.resolve(SECRET) is Refusal.BAD_CREDENTIALS


def test_client_rejects_empty_challenge() -> None:
    """The response to it would be valid in every session."""
    client = CramMd5Client(authentication_identity="tim", password=SECRET)
    client.respond(None)
    with pytest.raises(Malformed):
        client.respond(b"")


def test_unavailable_store_gives_temporary_refusal() -> None:
    server = challenged()
    question = server.respond(b"tim " + DIGEST)
    assert isinstance(question, FetchSecret)
    assert server.resolve(question.unavailable) is Refusal.TEMPORARY


def test_the_response_on_the_wire_is_lower_case_hexadecimal() -> None:
    client = CramMd5Client(authentication_identity="tim", password=SECRET)
    client.respond(None)
    assert base64.b64encode(client.respond(CHALLENGE)) == b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
