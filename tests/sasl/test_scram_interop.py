"""SCRAM against scramp, another implementation, as client and as server (RFC 5802, RFC 7677)."""

from __future__ import annotations

import pytest
import scramp
from scramp.core import ScramServer as TheirServer

from mailauth.sasl import (
    Challenge,
    FetchScramKeys,
    Refusal,
    ScramDecoy,
    ScramKeys,
    ScramSha1Client,
    ScramSha1PlusClient,
    ScramSha1PlusServer,
    ScramSha1Server,
    ScramSha256Client,
    ScramSha256PlusClient,
    ScramSha256PlusServer,
    ScramSha256Server,
    Success,
    scram_keys,
)

SALT = b"sixteen octets.."
DECOY = ScramDecoy(key=b"a key that nobody knows")
BINDING = ("tls-server-end-point", b"a digest of the certificate")
MECHANISMS = ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"]
PASSWORDS = ["pencil", "I\u00adX", "\u00aa\u2168", "p\u00e4ss w\u00f6rd", "=2C,"]


def keys(mechanism: str, password: str) -> ScramKeys:
    return scram_keys(password.encode(), SALT, 4096, "sha256" if "256" in mechanism else "sha1")


def our_client(
    mechanism: str, password: str
) -> ScramSha1Client | ScramSha256Client | ScramSha1PlusClient | ScramSha256PlusClient:
    data, entropy, (binding, binding_data) = password.encode(), b"e" * 32, BINDING
    match mechanism:
        case "SCRAM-SHA-1":
            return ScramSha1Client(authentication_identity="user", password=data, entropy=entropy)
        case "SCRAM-SHA-256":
            return ScramSha256Client(authentication_identity="user", password=data, entropy=entropy)
    make = ScramSha1PlusClient if mechanism == "SCRAM-SHA-1-PLUS" else ScramSha256PlusClient
    return make(
        authentication_identity="user",
        password=data,
        entropy=entropy,
        channel_binding=binding,
        binding_data=binding_data,
    )


def our_server(mechanism: str) -> ScramSha1Server | ScramSha256Server:
    makes = (ScramSha1Server, ScramSha256Server, ScramSha1PlusServer, ScramSha256PlusServer)
    (make,) = (make for make in makes if make.name == mechanism)
    return make(nonce="server", tls=True, decoy=DECOY, channel_bindings=dict([BINDING]))


def their_binding(mechanism: str) -> tuple[str, bytes] | None:
    return BINDING if mechanism.endswith("-PLUS") else None


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_scramp_client_logs_in_to_server(mechanism: str, password: str) -> None:
    theirs = scramp.ScramClient([mechanism], "user", password, channel_binding=their_binding(mechanism))
    ours = our_server(mechanism)
    question = ours.respond(theirs.get_client_first().encode())
    assert isinstance(question, FetchScramKeys)
    challenge = ours.resolve(keys(mechanism, password))
    assert isinstance(challenge, Challenge)
    theirs.set_server_first(challenge.data.decode())
    success = ours.respond(theirs.get_client_final().encode())
    assert isinstance(success, Success)
    theirs.set_server_final(success.data.decode())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_scramp_client_with_wrong_password_is_rejected(mechanism: str) -> None:
    theirs = scramp.ScramClient([mechanism], "user", "pencil", channel_binding=their_binding(mechanism))
    ours = our_server(mechanism)
    ours.respond(theirs.get_client_first().encode())
    challenge = ours.resolve(keys(mechanism, "pen"))
    assert isinstance(challenge, Challenge)
    theirs.set_server_first(challenge.data.decode())
    assert ours.respond(theirs.get_client_final().encode()) is Refusal.BAD_CREDENTIALS


def their_server(mechanism: str, password: str) -> TheirServer:
    maker = scramp.ScramMechanism(mechanism)
    known = {"user": maker.make_auth_info(password, iteration_count=4096, salt=SALT)}
    return maker.make_server(known.__getitem__, channel_binding=their_binding(mechanism))


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_client_logs_in_to_scramp_server(mechanism: str, password: str) -> None:
    theirs, ours = their_server(mechanism, password), our_client(mechanism, password)
    theirs.set_client_first(ours.respond(None).decode())
    theirs.set_client_final(ours.respond(theirs.get_server_first().encode()).decode())
    assert ours.respond(theirs.get_server_final().encode()) == b""
    assert ours.satisfied


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_client_with_wrong_password_is_rejected_by_scramp_server(mechanism: str) -> None:
    theirs, ours = their_server(mechanism, "pencil"), our_client(mechanism, "pen")
    theirs.set_client_first(ours.respond(None).decode())
    final = ours.respond(theirs.get_server_first().encode()).decode()
    with pytest.raises(scramp.ScramException):
        theirs.set_client_final(final)
    assert ours.respond(theirs.get_server_final().encode()) == b""  # the error message has no answer of its own
    assert not ours.satisfied


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_scram_keys_match_scramp(mechanism: str, password: str) -> None:
    salt, stored_key, server_key, iterations = scramp.ScramMechanism(mechanism).make_auth_info(
        password, iteration_count=4096, salt=SALT
    )
    ours = keys(mechanism, password)
    assert (ours.salt, ours.iterations, ours.stored_key, ours.server_key) == (salt, iterations, stored_key, server_key)
