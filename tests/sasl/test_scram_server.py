"""SCRAM, server side: what it accepts, and that clients cannot see which accounts exist (RFC 5802, RFC 7677)."""

from __future__ import annotations

import base64
import hmac

import pytest

from mailauth import LocalProtocolError
from mailauth.sasl import (
    Challenge,
    Fault,
    FetchScramKeys,
    Refusal,
    ScramDecoy,
    ScramKeys,
    ScramSha1Server,
    ScramSha256Server,
    ServerExchange,
    scram_keys,
)
from tests.sasl.driver import log_in
from tests.sasl.scram_parties import (
    DECOY,
    KEYS,
    SALT,
    client,
    data,
    proof_for,
    server,
)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n,,",
        b"n=user,r=abc",
        b"x,,n=user,r=abc",
        b"n,,n=user",
        b"n,,n=user,r=",
        b"n,,n=,r=abc",
        b"n,,r=abc,n=user",
        b"n,a=,n=user,r=abc",
        b"n,b=bob,n=user,r=abc",
        b"n,,m=x,n=user,r=abc",
        b"n,,n=user,r=abc,m=x",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2cer,r=abc",
        b"n,,n=us\0er,r=abc",
        b"n,,n=us\xffer,r=abc",
        b"n,,n=user,r=a b",
        b"n,,n=user,r=abc,",
        b"n,,n=user,r=abc\n",
        b"p,,n=user,r=abc",
        b"p=,,n=user,r=abc",
        b"p=tls-exporter,,n=user,r=abc",
        "n,,n=\u00ad,r=abc".encode(),
    ],
)
def test_invalid_client_first_message_is_malformed(first: bytes) -> None:
    """RFC 5802 section 7; ``m`` must not be ignored (section 5.1), and ``p`` belongs to the -PLUS forms."""
    assert server().respond(first) is Fault.MALFORMED


def test_unknown_extension_is_ignored() -> None:
    """RFC 5802 section 5.1.  The proof covers it, too."""
    theirs = server()
    assert isinstance(theirs.respond(b"n,,n=user,r=abc,x=more"), FetchScramKeys)
    assert data(theirs.resolve(KEYS)).startswith(b"r=abcserver,")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"server,p=", b"other,p="),
        (b"c=biws,", b"c=biws=,"),
        (b"c=biws,", b""),
        (b",p=", b",p=AAAA"),
        (b",p=", b",m=x,p="),
        (b",p=", b",q="),
        (b"r=", b"s="),
    ],
)
def test_client_final_message_with_invalid_form_or_nonce_is_malformed(old: bytes, new: bytes) -> None:
    """RFC 5802 section 5.1."""
    theirs = server()
    final = proof_for(theirs, client())
    assert old in final
    assert theirs.respond(final.replace(old, new)) is Fault.MALFORMED


def test_altered_client_final_message_fails_the_login() -> None:
    final = proof_for(server(), client())
    for position in range(len(final)):
        for bit in (1, 2, 64):
            theirs = server()
            proof_for(theirs, client())
            changed = final[:position] + bytes([final[position] ^ bit]) + final[position + 1 :]
            assert theirs.respond(changed) in (Refusal.BAD_CREDENTIALS, Fault.MALFORMED)


def test_unknown_identity_fails_like_a_wrong_password() -> None:
    """architecture.md, invariant 6."""
    known = {"user": b"pencil"}
    assert log_in(client("user", b"pen"), server(), known) is Refusal.BAD_CREDENTIALS
    assert log_in(client("nobody"), server(), known) is Refusal.BAD_CREDENTIALS


def test_unknown_identity_gets_a_stable_and_unique_salt() -> None:
    """architecture.md, invariant 6: a salt that changes or is shared would show that there is no account."""

    def salt(name: str, decoy: ScramDecoy) -> bytes:
        theirs = ScramSha256Server(nonce="server", tls=True, decoy=decoy)
        theirs.respond(b"n,,n=%b,r=abc" % name.encode())
        return data(theirs.resolve(None)).split(b",")[1]

    assert salt("nobody", DECOY) == salt("nobody", DECOY)
    assert len({salt("nobody", DECOY), salt("noone", DECOY), salt("nobody", ScramDecoy(key=b"x" * 16))}) == 3
    assert len(base64.b64decode(salt("nobody", DECOY)[2:])) == len(SALT)


def test_decoy_uses_configured_iterations_and_salt_size() -> None:
    decoy = ScramDecoy(key=b"k" * 16, iterations=10_000, salt_size=8)
    theirs = ScramSha1Server(nonce="server", tls=True, decoy=decoy)
    theirs.respond(b"n,,n=nobody,r=abc")
    _, salt, iterations = data(theirs.resolve(None)).split(b",")
    assert (len(base64.b64decode(salt[2:])), iterations) == (8, b"i=10000")


def test_unknown_identity_makes_the_same_hmac_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """architecture.md, invariant 6: the same calls, whether the identity exists or not."""
    calls: list[str] = []
    real_digest, real_compare = hmac.digest, hmac.compare_digest

    def digest(key: bytes, msg: bytes, name: str) -> bytes:
        calls.append(name)
        return real_digest(key, msg, name)

    def compare(a: bytes, b: bytes) -> bool:
        calls.append("compare")
        return real_compare(a, b)

    seen = []
    for answer in (KEYS, None):
        theirs, ours = server(), client("user", b"wrong")
        theirs.respond(ours.respond(None))
        final = ours.respond(data(theirs.resolve(answer)))
        theirs = server()
        theirs.respond(client("user", b"wrong").respond(None))
        with monkeypatch.context() as patched:
            patched.setattr(hmac, "digest", digest)
            patched.setattr(hmac, "compare_digest", compare)
            theirs.resolve(answer)
            assert theirs.respond(final) is Refusal.BAD_CREDENTIALS
        seen.append(tuple(calls))
        calls.clear()
    assert seen[0] == seen[1]
    assert "compare" in seen[0]


def test_proof_made_from_decoy_keys_is_rejected() -> None:
    """A client that knew them would be refused, too; only the server knows them."""
    theirs = server()
    theirs.respond(b"n,,n=nobody,r=abc")
    first = data(theirs.resolve(None))
    keys = DECOY.keys("nobody", "sha256")
    unproved = b"c=biws,r=abcserver"
    signature = hmac.digest(keys.stored_key, b"n=nobody,r=abc," + first + b"," + unproved, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(keys.server_key, signature, strict=True)))
    assert theirs.respond(unproved + b",p=" + proof) is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize("answer", [b"secret", "user", True, scram_keys(b"pencil", SALT, 4096, "sha1")])
def test_invalid_answer_raises_and_leaves_question_open(answer: object) -> None:
    exchange = ServerExchange(server())
    question = exchange.begin(base64.b64encode(b"n,,n=user,r=abc"))
    with pytest.raises(LocalProtocolError):
        exchange.answer(answer)
    assert exchange.question is question
    assert isinstance(exchange.answer(KEYS), Challenge)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refusal_ends_the_login(refusal: Refusal) -> None:
    theirs = server()
    theirs.respond(b"n,,n=user,r=abc")
    assert theirs.resolve(refusal) is refusal


@pytest.mark.parametrize(
    ("salt", "iterations", "stored", "server_key"),
    [
        (b"", 4096, bytes(32), bytes(32)),
        (b"salt", 4095, bytes(32), bytes(32)),
        (b"salt", 4096, bytes(32), bytes(20)),
        (b"salt", 4096, bytes(16), bytes(16)),
    ],
)
def test_invalid_scram_keys_are_rejected(salt: bytes, iterations: int, stored: bytes, server_key: bytes) -> None:
    """RFC 5802 section 5.1: at least 4,096 iterations."""
    with pytest.raises(LocalProtocolError):
        ScramKeys(salt=salt, iterations=iterations, stored_key=stored, server_key=server_key)


@pytest.mark.parametrize(
    ("key", "iterations", "salt_size"), [(b"short", 4096, 16), (b"k" * 16, 4095, 16), (b"k" * 16, 4096, 0)]
)
def test_invalid_decoy_settings_are_rejected(key: bytes, iterations: int, salt_size: int) -> None:
    with pytest.raises(LocalProtocolError):
        ScramDecoy(key=key, iterations=iterations, salt_size=salt_size)
