"""SCRAM (RFC 5802, RFC 7677, RFC 9266)."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import assume, given, settings, strategies as st

from mailauth import LocalProtocolError
from mailauth.sasl import (
    Authorize,
    ClientExchange,
    FetchScramKeys,
    Refusal,
    ScramKeys,
    ScramSha1Client,
    ScramSha1PlusClient,
    ScramSha1PlusServer,
    ScramSha1Server,
    ScramSha256Client,
    ScramSha256Server,
    ServerExchange,
    Success,
    saslprep,
    scram_keys,
)
from tests.sasl.driver import log_in
from tests.sasl.scram_parties import (
    BINDING,
    DECOY,
    ENTROPY,
    KEYS,
    SALT,
    Rfc5802Client,
    Rfc7677Client,
    client,
    data,
    plus_client,
    plus_server,
    server,
)

# Test vectors


def test_rfc_5802_example() -> None:
    """Section 5."""
    ours = Rfc5802Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY)
    theirs = ScramSha1Server(nonce="3rfcNHYJY1ZVvWVs7j", tls=True, decoy=DECOY)
    first = ours.respond(None)
    assert first == b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    assert theirs.respond(first) == FetchScramKeys(
        authentication_identity="user", hash_name="sha1", mechanism="SCRAM-SHA-1", tls=True
    )
    challenge = theirs.resolve(scram_keys(b"pencil", base64.b64decode("QSXCR+Q6sek8bf92"), 4096, "sha1"))
    assert data(challenge) == b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
    final = ours.respond(data(challenge))
    assert final == b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    assert theirs.respond(final) == Success(authentication_identity="user", data=b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")
    assert ours.respond(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=") == b""
    assert ours.satisfied


def test_rfc_7677_example() -> None:
    """Section 3."""
    ours = Rfc7677Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY)
    theirs = ScramSha256Server(nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", tls=True, decoy=DECOY)
    first = ours.respond(None)
    assert first == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert isinstance(theirs.respond(first), FetchScramKeys)
    challenge = theirs.resolve(KEYS)
    assert data(challenge) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = ours.respond(data(challenge))
    assert final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert theirs.respond(final) == Success(authentication_identity="user", data=signature)
    assert ours.respond(signature) == b""
    assert ours.satisfied


def test_keys_are_derived_from_the_password_as_in_rfc_5802() -> None:
    """RFC 5802 section 3."""
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    assert KEYS.stored_key == hashlib.sha256(client_key).digest()
    assert KEYS.server_key == hmac.digest(salted, b"Server Key", "sha256")
    assert (KEYS.salt, KEYS.iterations) == (SALT, 4096)
    assert scram_keys("I\u00adX".encode(), SALT, 4096) == scram_keys(b"IX", SALT, 4096)


def test_keys_match_the_output_of_doveadm_pw() -> None:
    """``doveadm pw -s SCRAM-SHA-256 -p wonderland`` of Dovecot 2.3: iterations, salt, StoredKey, ServerKey."""
    written = (
        "4096,926ckpMBu1ke+KNdWIDqMA==,TkrpdI378IFRaczYGnwHzBopW1lRsdgm+dUV+N1dYMo=,"
        "ifSI8xL9VnQ6dUYpqnG2RSHGifXH/vz/CYBoXuGWtsg="
    )
    iterations, salt, stored_key, server_key = written.split(",")
    assert scram_keys(b"wonderland", base64.b64decode(salt), int(iterations)) == ScramKeys(
        salt=base64.b64decode(salt),
        iterations=4096,
        stored_key=base64.b64decode(stored_key),
        server_key=base64.b64decode(server_key),
    )


@pytest.mark.parametrize(("iterations", "hash_name"), [(0, "sha256"), (4095, "sha256"), (4096, "md5"), (4096, "nope")])
def test_scram_keys_rejects_low_iteration_count_or_unsupported_hash(iterations: int, hash_name: str) -> None:
    """RFC 5802 section 5.1, RFC 7677 section 4."""
    with pytest.raises(LocalProtocolError):
        scram_keys(b"pencil", SALT, iterations, hash_name)


# Messages


def test_server_signature_is_a_challenge_with_empty_response() -> None:
    """RFC 4954 section 4: 235 cannot carry data."""
    ours, theirs = ClientExchange(client()), ServerExchange(server())
    assert isinstance(theirs.begin(ours.begin()), FetchScramKeys)
    challenge = data(theirs.answer(KEYS))
    proof = data(theirs.receive(ours.respond(base64.b64encode(challenge))))
    assert proof.startswith(b"v=")
    before = ours.satisfied
    assert ours.respond(base64.b64encode(proof)) == b""
    assert (before, ours.satisfied) == (False, True)
    assert theirs.receive(b"") == Success(authentication_identity="user", authorization_identity="user")


def test_authorization_identity_of_the_same_user_needs_no_authorization() -> None:
    """mutt sends ``n,a=alice,``."""
    ours = client(acting_as="user")
    assert ours.respond(None).startswith(b"n,a=user,n=user,r=")
    assert log_in(ours, server(), {"user": b"pencil"}) == Success(
        authentication_identity="user", authorization_identity="user"
    )


def test_authorize_question_precedes_the_server_signature() -> None:
    """RFC 4422 section 3.4.1."""
    ours, theirs = ClientExchange(client(acting_as="bob")), ServerExchange(server())
    theirs.begin(ours.begin())
    question = theirs.receive(ours.respond(base64.b64encode(data(theirs.answer(KEYS)))))
    assert question == Authorize(
        authentication_identity="user", authorization_identity="bob", mechanism="SCRAM-SHA-256", tls=True
    )
    assert theirs.answer(Refusal.NOT_AUTHORIZED) is Refusal.NOT_AUTHORIZED
    assert not ours.satisfied


@pytest.mark.parametrize("name", ["a,b", "a=b", "=2C", "a=,=b,", "a b", "\u00e9t\u00e9"])
def test_commas_and_equals_signs_in_names_are_escaped(name: str) -> None:
    """RFC 5802 section 5.1."""
    ours = client(name)
    first = ours.respond(None)
    assert first.count(b",") == 3
    question = server().respond(first)
    assert isinstance(question, FetchScramKeys)
    assert question.authentication_identity == name
    assert log_in(ours, server(), {name: b"pencil"}) == Success(
        authentication_identity=name, authorization_identity=name
    )


def test_client_and_server_apply_saslprep_to_names() -> None:
    """RFC 5802 section 5.1: the client SHOULD prepare, the server MUST."""
    assert b"n=IX," in client("I\u00adX").respond(None)
    question = server().respond("n,,n=I\u00adX,r=abc".encode())
    assert isinstance(question, FetchScramKeys)
    assert question.authentication_identity == "IX"


def test_each_exchange_uses_a_new_client_nonce() -> None:
    """RFC 5802 section 5.1."""
    ours = client()
    firsts = {ours.respond(None) for _ in range(5)} | {
        ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=b"f" * 32).respond(None)
    }
    assert len(firsts) == 6


# Client against server


PASSWORDS = st.text("ae\u00e9\u0301\u00ad\u00aa\u00a0 =,", min_size=1, max_size=3)


@settings(max_examples=50)
@given(PASSWORDS, PASSWORDS, st.booleans())
def test_login_succeeds_if_and_only_if_passwords_match(sent: str, kept: str, same: bool) -> None:
    """For all four mechanisms.  Two passwords that are the same after SASLprep count as the same."""
    kept = sent if same else kept
    assume(saslprep(sent) and saslprep(kept))
    known = {"user": kept.encode()}
    password, bindings = sent.encode(), {"tls-exporter": BINDING}
    ends = [
        log_in(
            ScramSha1Client(authentication_identity="user", password=password, entropy=ENTROPY),
            ScramSha1Server(nonce="server", tls=True, decoy=DECOY),
            known,
        ),
        log_in(client(password=password), server(), known),
        log_in(
            ScramSha1PlusClient(
                authentication_identity="user",
                password=password,
                entropy=ENTROPY,
                channel_binding="tls-exporter",
                binding_data=BINDING,
            ),
            ScramSha1PlusServer(nonce="server", tls=True, decoy=DECOY, channel_bindings=bindings),
            known,
        ),
        log_in(plus_client(password=password), plus_server(), known),
    ]
    success = Success(authentication_identity="user", authorization_identity="user")
    assert ends == [success if saslprep(sent) == saslprep(kept) else Refusal.BAD_CREDENTIALS] * 4
