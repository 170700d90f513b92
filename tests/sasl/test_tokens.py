"""OAUTHBEARER (RFC 7628) and XOAUTH2."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, LocalProtocolError
from mailauth.errors import Malformed
from mailauth.sasl import (
    Authorize,
    Challenge,
    CheckToken,
    ClientExchange,
    Fault,
    OauthBearerClient,
    OauthBearerServer,
    Refusal,
    ServerExchange,
    Success,
    Xoauth2Client,
    Xoauth2Server,
)
from tests.sasl.driver import log_in

TOKEN = b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
RESPONSE = (
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
)
XOAUTH2_RESPONSE = b"user=user@example.com\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"

QUESTION = CheckToken(
    authorization_identity="user@example.com",
    token=TOKEN,
    mechanism="OAUTHBEARER",
    tls=True,
    host="server.example.com",
    port=143,
)


def bearer() -> OauthBearerServer:
    return OauthBearerServer(tls=True)


def test_rfc_7628_example() -> None:
    """RFC 7628 section 4.1."""
    line = (
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52"
        b"YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    client = OauthBearerClient(
        token=TOKEN, authorization_identity="user@example.com", host="server.example.com", port=143
    )
    exchange = ServerExchange(bearer())
    assert ClientExchange(client).begin() == line
    assert client.respond(None) == RESPONSE
    assert exchange.begin(line) == QUESTION
    assert exchange.answer("user@example.com") == Success(
        authentication_identity="user@example.com", authorization_identity="user@example.com"
    )
    assert client.satisfied


def test_xoauth2_initial_response_contains_user_and_token() -> None:
    client = Xoauth2Client(token=TOKEN, authorization_identity="user@example.com")
    assert client.respond(None) == XOAUTH2_RESPONSE
    assert Xoauth2Server(tls=True).respond(XOAUTH2_RESPONSE) == CheckToken(
        authorization_identity="user@example.com", token=TOKEN, mechanism="XOAUTH2", tls=True
    )


@pytest.mark.parametrize("dummy", [b"AQ==", b""])
@pytest.mark.parametrize(("make", "first"), [(OauthBearerServer, RESPONSE), (Xoauth2Server, XOAUTH2_RESPONSE)])
@pytest.mark.parametrize("refusal", [refusal for refusal in Refusal if refusal is not Refusal.TEMPORARY])
def test_rejected_token_gets_json_challenge_and_login_then_fails(
    make: type[OauthBearerServer | Xoauth2Server], first: bytes, dummy: bytes, refusal: Refusal
) -> None:
    """RFC 7628 section 3.2.3.  The login fails whatever the dummy response is."""
    exchange = ServerExchange(make(tls=True))
    exchange.begin(base64.b64encode(first))
    step = exchange.answer(refusal)
    assert isinstance(step, Challenge)
    assert json.loads(step.data)["schemes"] == "bearer"
    assert exchange.receive(dummy) is refusal


def test_json_challenge_contains_the_status() -> None:
    """RFC 7628 section 3.2.2: ``status`` is required; its values are those of RFC 6750."""
    assert json.loads(OauthBearerServer.refused)["status"] == "invalid_token"
    assert json.loads(Xoauth2Server.refused)["status"] == "401"


def test_unavailable_answer_fails_as_temporary_without_json_challenge() -> None:
    """Otherwise clients would discard a valid token."""
    exchange = ServerExchange(bearer())
    question = exchange.begin(base64.b64encode(RESPONSE))
    assert isinstance(question, CheckToken)
    assert exchange.answer(question.unavailable) is Refusal.TEMPORARY


def test_asterisk_after_json_challenge_cancels_the_login() -> None:
    exchange = ServerExchange(bearer())
    exchange.begin(base64.b64encode(RESPONSE))
    exchange.answer(Refusal.BAD_CREDENTIALS)
    assert exchange.receive(b"*") is Fault.CANCELLED


def test_missing_token_gets_json_challenge_without_a_question() -> None:
    """RFC 7628 section 3.1: a client sends an empty ``auth`` to find out where to get a token."""
    for response in (b"n,,\x01auth=\x01\x01", b"n,,\x01\x01", b"n,,\x01host=h\x01\x01"):
        step = bearer().respond(response)
        assert isinstance(step, Challenge)
        assert json.loads(step.data)["status"] == "invalid_token"


def test_answer_sets_identity_without_authorization_identity() -> None:
    """Without an authorization identity, the token alone decides the identity."""
    exchange = ServerExchange(bearer())
    question = exchange.begin(base64.b64encode(b"n,,\x01auth=Bearer abc\x01\x01"))
    assert question == CheckToken(authorization_identity="", token=b"abc", mechanism="OAUTHBEARER", tls=True)
    assert exchange.authentication_identity is None
    assert exchange.answer("alice") == Success(authentication_identity="alice", authorization_identity="alice")
    assert exchange.authentication_identity == "alice"


def test_other_authorization_identity_requires_authorize_question() -> None:
    """RFC 4422 section 3.4.1, for example for shared maildrops."""
    exchange = ServerExchange(bearer())
    exchange.begin(base64.b64encode(RESPONSE))
    assert exchange.authentication_identity == "user@example.com"
    assert exchange.answer("alice") == Authorize(
        authentication_identity="alice",
        authorization_identity="user@example.com",
        mechanism="OAUTHBEARER",
        tls=True,
    )


@pytest.mark.parametrize("answer", [ACCEPT, None, "", b"alice", True])
def test_invalid_answer_raises_and_leaves_question_open(answer: object) -> None:
    """An empty identity is not valid: it would name no account."""
    exchange = ServerExchange(bearer())
    question = exchange.begin(base64.b64encode(RESPONSE))
    with pytest.raises(LocalProtocolError):
        exchange.answer(answer)
    assert exchange.question is question
    server = bearer()
    with pytest.raises(LocalProtocolError):
        server.resolve("alice")
    server.respond(RESPONSE)
    with pytest.raises(LocalProtocolError):
        server.resolve(answer)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\x01",
        b"n,,",
        b"n,,\x01",
        b"p=tls-exporter,,\x01auth=Bearer abc\x01\x01",
        b"x,,\x01auth=Bearer abc\x01\x01",
        b"n,,\x01auth=Bearer abc\x01",
        b"n,,\x01auth=Bearer abc\x01\x01\x01",
        b"n,,\x01auth=Bearer abc\x01auth=Bearer abc\x01\x01",
        b"n,,\x01auth=Bearer abc\x01AUTH=Bearer abc\x01\x01",
        b"n,,\x01auth=Basic abc\x01\x01",
        b"n,,\x01auth=Bearer \x01\x01",
        b"n,,\x01auth=Bearer a b\x01\x01",
        b"n,,\x01auth=Bearer =\x01\x01",
        b"n,,\x01auth=Bearer \xff\x01\x01",
        b"n,,\x01auth=Bearer " + b"a" * 8193 + b"\x01\x01",
        b"n,,\x01port=65536\x01auth=Bearer abc\x01\x01",
        b"n,,\x01port=x\x01auth=Bearer abc\x01\x01",
        b"n,,\x01host=a b\x01auth=Bearer abc\x01\x01",
        b"n,,\x01=x\x01auth=Bearer abc\x01\x01",
        b"n,a=a=b,\x01auth=Bearer abc\x01\x01",
        b"n,a=a\0b,\x01auth=Bearer abc\x01\x01",
        b"n,a=\xff,\x01auth=Bearer abc\x01\x01",
    ],
)
def test_invalid_oauthbearer_response_is_malformed(response: bytes) -> None:
    """RFC 7628 section 3.1."""
    assert bearer().respond(response) is Fault.MALFORMED


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"user=\x01auth=Bearer abc\x01\x01",
        b"auth=Bearer abc\x01user=alice\x01\x01",
        b"user=alice\x01auth=Bearer abc\x01",
        b"user=al\0ice\x01auth=Bearer abc\x01\x01",
        b"user=alice\x01auth=abc\x01\x01",
        b"user=alice\x01auth=Bearer abc\x01\x01\x01",
        b"n,a=alice,\x01auth=Bearer abc\x01\x01",
    ],
)
def test_invalid_xoauth2_response_is_malformed(response: bytes) -> None:
    assert Xoauth2Server(tls=True).respond(response) is Fault.MALFORMED


def test_scheme_is_case_insensitive_and_unknown_keys_are_ignored() -> None:
    """RFC 7235 section 2.1, RFC 7628 section 3.1."""
    question = bearer().respond(b"y,a=a=2Cb=3D,\x01mthd=GET\x01Auth=bearer abc\x01qs=\x01\x01")
    assert question == CheckToken(authorization_identity="a,b=", token=b"abc", mechanism="OAUTHBEARER", tls=True)


def test_rejected_client_sends_dummy_response_and_stores_the_error() -> None:
    """RFC 7628 section 3.2.3: the response is ``AQ==``, and empty in XOAUTH2."""
    for client, dummy in (
        (OauthBearerClient(token=TOKEN), b"AQ=="),
        (Xoauth2Client(token=TOKEN, authorization_identity="alice"), b""),
    ):
        exchange = ClientExchange(client)
        for _ in range(2):
            exchange.begin()
            before = (exchange.satisfied, client.failure)
            assert exchange.respond(base64.b64encode(b'{"status":"invalid_token"}')) == dummy
            assert before == (True, None)
            assert (exchange.satisfied, client.failure) == (False, b'{"status":"invalid_token"}')
            with pytest.raises(Malformed):
                exchange.respond(b"e30=")


@pytest.mark.parametrize(
    "token", [b"", b"s3cret s3cret", b"s3cret\r\nRCPT", b"s3cret\x01", b"s3cret\xff", b"=", b"s3cret" * 1400]
)
def test_client_rejects_invalid_token_without_quoting_it(token: bytes) -> None:
    """architecture.md, invariant 6; and an argument cannot inject key=value pairs."""
    with pytest.raises(LocalProtocolError) as caught:
        OauthBearerClient(token=token)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(LocalProtocolError):
        Xoauth2Client(token=token, authorization_identity="alice")


def test_error_for_a_long_token_gives_the_limit_and_the_reason() -> None:
    """Tokens of some providers grow with the groups of a user."""
    for size in (8_193, 9_100):
        for make in (OauthBearerClient, Xoauth2Client):
            with pytest.raises(LocalProtocolError, match=rf"at most 8192 bytes, not {size}: .*\(RFC 4954"):
                make(token=b"a" * size, authorization_identity="alice")
    assert OauthBearerClient(token=b"a" * 8_192).respond(None)


def test_client_rejects_invalid_user_host_or_port() -> None:
    with pytest.raises(LocalProtocolError):
        Xoauth2Client(token=TOKEN)
    with pytest.raises(LocalProtocolError):
        OauthBearerClient(token=TOKEN, host="a\x01b")
    with pytest.raises(LocalProtocolError):
        OauthBearerClient(token=TOKEN, authorization_identity="a\x01b")
    with pytest.raises(LocalProtocolError, match="port"):
        OauthBearerClient(token=TOKEN, port=65_536)


TOKENS = st.text("abcAB09-._~+/", min_size=1, max_size=8).map(str.encode)
NAMES = st.text("ab,=@. \u00e9", min_size=1, max_size=8)


@given(TOKENS, TOKENS, NAMES)
def test_login_succeeds_if_and_only_if_tokens_match(sent: bytes, kept: bytes, name: str) -> None:
    for known in ({name: sent}, {name: kept}):
        right = known[name] == sent
        ends = [
            log_in(OauthBearerClient(token=sent, authorization_identity=name), bearer(), known),
            log_in(OauthBearerClient(token=sent), bearer(), known),
            log_in(Xoauth2Client(token=sent, authorization_identity=name), Xoauth2Server(tls=True), known),
        ]
        success = Success(authentication_identity=name, authorization_identity=name)
        assert ends == [success if right else Refusal.BAD_CREDENTIALS] * 3
