"""SCRAM, client side: which servers it accepts, and what it refuses to send (RFC 5802, RFC 7677)."""

from __future__ import annotations

import pytest

from mailauth import LocalProtocolError
from mailauth.errors import Malformed
from mailauth.sasl import (
    ScramSha256Client,
    Success,
    scram_keys,
)
from tests.sasl.driver import log_in
from tests.sasl.scram_parties import (
    ENTROPY,
    SALT,
    client,
    server,
)


def challenged(challenge: bytes) -> ScramSha256Client:
    """Return a client that has received *challenge*, in which NONCE is replaced by the client's nonce."""
    ours = client()
    nonce = ours.respond(None).rpartition(b"r=")[2]
    ours.respond(challenge.replace(b"NONCE", nonce))
    return ours


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=NONCE,s=c2FsdA==,i=4096",
        b"r=other,s=c2FsdA==,i=4096",
        b"r=xNONCEserver,s=c2FsdA==,i=4096",
        b"r=NONCEserver,s=c2FsdA==,i=4095",
        b"r=NONCEserver,s=c2FsdA==,i=1",
        b"r=NONCEserver,s=c2FsdA==,i=0",
        b"r=NONCEserver,s=c2FsdA==,i=-4096",
        b"r=NONCEserver,s=c2FsdA==,i=600001",
        b"r=NONCEserver,s=c2FsdA==,i=99999999999999999999",
        b"r=NONCEserver,s=c2FsdA==,i=",
        b"r=NONCEserver,s=,i=4096",
        b"r=NONCEserver,s=c2FsdA,i=4096",
        b"m=x,r=NONCEserver,s=c2FsdA==,i=4096",
        b"r=NONCEserver,s=c2FsdA==,i=4096,m=x",
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ],
)
def test_client_rejects_invalid_or_unsafe_server_first_message(challenge: bytes) -> None:
    """RFC 5802 section 5.1: the nonce must extend the client's, and ``m`` must fail; the iterations are limited."""
    with pytest.raises(Malformed):
        challenged(challenge)


def test_max_iterations_limits_the_iteration_count() -> None:
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, max_iterations=4096)
    nonce = ours.respond(None).rpartition(b"r=")[2]
    with pytest.raises(Malformed):
        ours.respond(b"r=%bx,s=c2FsdA==,i=4097" % nonce)
    assert ours.respond(b"r=%bx,s=c2FsdA==,i=4096,x=passed-over" % nonce).startswith(b"c=biws,r=")


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"v=",
        b"v=AAAA",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        b"r=abc",
        b"m=x,v=AAAA",
    ],
)
def test_client_rejects_invalid_server_final_message(final: bytes) -> None:
    """RFC 5802 section 5: the client must verify the signature."""
    ours = challenged(b"r=NONCEserver,s=c2FsdA==,i=4096")
    with pytest.raises(Malformed):
        ours.respond(final)
    assert not ours.satisfied


@pytest.mark.parametrize("error", [b"e=channel-binding-not-supported", b"e=invalid-proof", b"e=other-error"])
def test_client_answers_an_error_message_and_is_not_satisfied(error: bytes) -> None:
    """RFC 5802 section 7, server-error.  It is the server that refuses the login; its reply follows."""
    ours = client()
    first = ours.respond(None)
    assert ours.respond(error) == b""
    assert not ours.satisfied
    with pytest.raises(Malformed):
        ours.respond(b"r=%bx,s=c2FsdA==,i=4096" % first.rpartition(b"r=")[2])
    final = challenged(b"r=NONCEserver,s=c2FsdA==,i=4096")
    assert final.respond(error) == b""
    assert not final.satisfied
    with pytest.raises(Malformed):
        final.respond(error)


def test_client_is_reusable_and_rejects_messages_out_of_sequence() -> None:
    ours = client()
    for _ in range(2):
        assert log_in(ours, server(), {"user": b"pencil"}) == Success(
            authentication_identity="user", authorization_identity="user"
        )
        assert ours.satisfied
        with pytest.raises(Malformed):
            ours.respond(b"v=AAAA")
    with pytest.raises(Malformed):
        client().respond(b"r=abc,s=c2FsdA==,i=4096")


@pytest.mark.parametrize(("name", "password"), [("\u00ad", b"pencil"), ("user", "\u0221".encode()), ("user", b"\xff")])
def test_client_rejects_name_or_password_invalid_for_saslprep(name: str, password: bytes) -> None:
    """RFC 5802 sections 2.2 and 5.1."""
    with pytest.raises(LocalProtocolError):
        client(name, password)
    if name == "user":
        with pytest.raises(LocalProtocolError):
            scram_keys(password, SALT, 4096)


def test_short_entropy_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=b"little")
