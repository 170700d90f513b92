"""EXTERNAL (RFC 4422 appendix A)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, LocalProtocolError
from mailauth.errors import Malformed
from mailauth.sasl import (
    Authorize,
    Challenge,
    CheckExternal,
    ClientExchange,
    ExternalClient,
    ExternalServer,
    Fault,
    Refusal,
    ServerExchange,
    Success,
)
from tests.sasl.driver import log_in

CERTIFICATE: Mapping[str, object] = {"serialNumber": "01", "subject": ((("commonName", "alice"),),)}


def server() -> ExternalServer:
    return ExternalServer(peer_certificate=CERTIFICATE, tls=True)


def test_empty_authorization_identity_becomes_the_certificate_identity() -> None:
    """Appendix A.1: an empty initial response is ``=`` on the wire."""
    client = ClientExchange(ExternalClient())
    exchange = ServerExchange(server())
    assert client.begin() == b"="
    assert exchange.begin(b"=") == CheckExternal(
        authorization_identity="", peer_certificate=CERTIFICATE, mechanism="EXTERNAL", tls=True
    )
    assert exchange.answer("alice") == Success(authentication_identity="alice", authorization_identity="alice")
    assert exchange.authentication_identity == "alice"
    assert client.satisfied


def test_challenge_is_empty_without_initial_response() -> None:
    """Appendix A.1."""
    exchange = ServerExchange(server())
    assert exchange.begin(None) == Challenge(b"")
    assert isinstance(exchange.receive(b""), CheckExternal)


def test_rfc_4422_example() -> None:
    """Appendix A.3: the client asks to act as ``fred@example.com``."""
    client = ExternalClient(authorization_identity="fred@example.com")
    exchange = ServerExchange(server())
    question = exchange.begin(ClientExchange(client).begin())
    assert isinstance(question, CheckExternal)
    assert question.authorization_identity == "fred@example.com"
    assert exchange.answer("alice") == Authorize(
        authentication_identity="alice",
        authorization_identity="fred@example.com",
        mechanism="EXTERNAL",
        tls=True,
    )
    assert exchange.answer(ACCEPT) == Success(
        authentication_identity="alice", authorization_identity="fred@example.com"
    )


@pytest.mark.parametrize("certificate", [None, {}])
def test_response_without_certificate_fails_without_a_question(certificate: Mapping[str, object] | None) -> None:
    assert ExternalServer(peer_certificate=certificate, tls=True).respond(b"alice") is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize("response", [b"al\0ice", b"\xff", b"a\nb", b"x" * 256, "\u00ad".encode()])
def test_invalid_response_is_malformed(response: bytes) -> None:
    """Appendix A.2: UTF-8 without NUL."""
    assert server().respond(response) is Fault.MALFORMED


@pytest.mark.parametrize("answer", [ACCEPT, None, "", b"alice"])
def test_invalid_answer_raises_and_leaves_question_open(answer: object) -> None:
    exchange = ServerExchange(server())
    question = exchange.begin(b"=")
    with pytest.raises(LocalProtocolError):
        exchange.answer(answer)
    assert exchange.question is question
    asked = server()
    with pytest.raises(LocalProtocolError):
        asked.resolve("alice")
    asked.respond(b"")
    with pytest.raises(LocalProtocolError):
        asked.resolve(answer)


def test_unavailable_answer_fails_as_temporary() -> None:
    exchange = ServerExchange(server())
    question = exchange.begin(b"=")
    assert isinstance(question, CheckExternal)
    assert exchange.answer(question.unavailable) is Refusal.TEMPORARY


def test_client_rejects_a_challenge_after_its_response() -> None:
    client = ExternalClient(authorization_identity="alice")
    for _ in range(2):
        assert client.respond(None) == b"alice"
        with pytest.raises(Malformed):
            client.respond(b"")


def test_client_rejects_invalid_authorization_identity() -> None:
    with pytest.raises(LocalProtocolError):
        ExternalClient(authorization_identity="a\0b")


@given(st.integers(0, 3), st.integers(0, 3))
def test_login_succeeds_if_and_only_if_certificate_matches(shown: int, known: int) -> None:
    theirs = ExternalServer(peer_certificate={"serialNumber": shown}, tls=True)
    success = Success(authentication_identity="alice", authorization_identity="alice")
    end = log_in(ExternalClient(), theirs, {"alice": str(known).encode()})
    assert end == (success if shown == known else Refusal.BAD_CREDENTIALS)
