"""SCRAM (RFC 5802, RFC 7677, RFC 9266)."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import assume, given, settings, strategies as st

from mailauth import LocalProtocolError
from mailauth._errors import Malformed
from mailauth.sasl import (
    Authorize,
    Challenge,
    ClientExchange,
    Fault,
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
    ServerExchange,
    Step,
    Success,
    saslprep,
    scram_keys,
)
from tests.sasl.driver import log_in

DECOY = ScramDecoy(key=b"a key that nobody knows")
ENTROPY = b"e" * 32
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = scram_keys(b"pencil", SALT, 4096)
BINDING = b"what the TLS layer exported"


class Rfc5802Client(ScramSha1Client):
    """With the nonce of the example."""

    def _make_nonce(self) -> bytes:
        return b"fyko+d2lbbFgONRv9qkxdawL"


class Rfc7677Client(ScramSha256Client):
    """With the nonce of the example."""

    def _make_nonce(self) -> bytes:
        return b"rOprNGfwEbeRWgbNEkqO"


def server(*, plus_offered: bool = False) -> ScramSha256Server:
    return ScramSha256Server(nonce="server", tls=True, decoy=DECOY, plus_offered=plus_offered)


def plus_server() -> ScramSha256PlusServer:
    bindings = {"tls-exporter": BINDING}
    return ScramSha256PlusServer(nonce="server", tls=True, decoy=DECOY, channel_bindings=bindings)


def client(name: str = "user", password: bytes = b"pencil", *, acting_as: str = "") -> ScramSha256Client:
    return ScramSha256Client(
        authentication_identity=name, password=password, entropy=ENTROPY, authorization_identity=acting_as
    )


def plus_client(
    binding: str = "tls-exporter", data: bytes = BINDING, password: bytes = b"pencil"
) -> ScramSha256PlusClient:
    return ScramSha256PlusClient(
        authentication_identity="user",
        password=password,
        entropy=ENTROPY,
        channel_binding=binding,
        binding_data=data,
    )


def octets(step: Step) -> bytes:
    assert isinstance(step, Challenge)
    return step.octets


# -- vectors ---------------------------------------------------------------------------------------------------------


def test_the_example_of_rfc_5802() -> None:
    """Section 5."""
    ours = Rfc5802Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY)
    theirs = ScramSha1Server(nonce="3rfcNHYJY1ZVvWVs7j", tls=True, decoy=DECOY)
    first = ours.respond(None)
    assert first == b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    assert theirs.respond(first) == FetchScramKeys(
        authentication_identity="user", hash_name="sha1", mechanism="SCRAM-SHA-1", tls=True
    )
    challenge = theirs.resolve(scram_keys(b"pencil", base64.b64decode("QSXCR+Q6sek8bf92"), 4096, "sha1"))
    assert octets(challenge) == b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
    final = ours.respond(octets(challenge))
    assert final == b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    assert theirs.respond(final) == Success(authentication_identity="user", octets=b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")
    assert ours.respond(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=") == b""
    assert ours.satisfied


def test_the_example_of_rfc_7677() -> None:
    """Section 3."""
    ours = Rfc7677Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY)
    theirs = ScramSha256Server(nonce="%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", tls=True, decoy=DECOY)
    first = ours.respond(None)
    assert first == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert isinstance(theirs.respond(first), FetchScramKeys)
    challenge = theirs.resolve(KEYS)
    assert octets(challenge) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = ours.respond(octets(challenge))
    assert final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert theirs.respond(final) == Success(authentication_identity="user", octets=signature)
    assert ours.respond(signature) == b""
    assert ours.satisfied


def test_keys_are_made_of_the_password_as_the_rfc_says() -> None:
    """RFC 5802 section 3."""
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    assert KEYS.stored_key == hashlib.sha256(client_key).digest()
    assert KEYS.server_key == hmac.digest(salted, b"Server Key", "sha256")
    assert (KEYS.salt, KEYS.iterations) == (SALT, 4096)
    assert scram_keys("I\u00adX".encode(), SALT, 4096) == scram_keys(b"IX", SALT, 4096)


def test_keys_are_those_that_doveadm_pw_writes() -> None:
    """``doveadm pw -s SCRAM-SHA-256 -p wonderland``, of Dovecot 2.3: iterations, salt, StoredKey, ServerKey."""
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
def test_keys_of_too_little_work_or_another_hash_are_not_made(iterations: int, hash_name: str) -> None:
    """RFC 5802 section 5.1, RFC 7677 section 4."""
    with pytest.raises(LocalProtocolError):
        scram_keys(b"pencil", SALT, iterations, hash_name)


# -- on the wire -----------------------------------------------------------------------------------------------------


def test_the_proof_of_the_server_is_a_challenge_and_the_answer_to_it_is_empty() -> None:
    """RFC 4954 section 4: 235 carries no octets."""
    ours, theirs = ClientExchange(client()), ServerExchange(server())
    assert isinstance(theirs.begin(ours.begin()), FetchScramKeys)
    challenge = octets(theirs.answer(KEYS))
    proof = octets(theirs.receive(ours.respond(base64.b64encode(challenge))))
    assert proof.startswith(b"v=")
    before = ours.satisfied
    assert ours.respond(base64.b64encode(proof)) == b""
    assert (before, ours.satisfied) == (False, True)
    assert theirs.receive(b"") == Success(authentication_identity="user", authorization_identity="user")


def test_an_authorization_identity_equal_to_the_other_counts_as_empty() -> None:
    """mutt sends ``n,a=alice,``."""
    ours = client(acting_as="user")
    assert ours.respond(None).startswith(b"n,a=user,n=user,r=")
    assert log_in(ours, server(), {"user": b"pencil"}) == Success(
        authentication_identity="user", authorization_identity="user"
    )


def test_acting_as_another_is_asked_before_the_server_proves_itself() -> None:
    """RFC 4422 section 3.4.1."""
    ours, theirs = ClientExchange(client(acting_as="bob")), ServerExchange(server())
    theirs.begin(ours.begin())
    question = theirs.receive(ours.respond(base64.b64encode(octets(theirs.answer(KEYS)))))
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


def test_names_are_prepared_on_both_sides() -> None:
    """RFC 5802 section 5.1: the client should, the server must."""
    assert b"n=IX," in client("I\u00adX").respond(None)
    question = server().respond("n,,n=I\u00adX,r=abc".encode())
    assert isinstance(question, FetchScramKeys)
    assert question.authentication_identity == "IX"


def test_each_exchange_has_a_nonce_of_its_own() -> None:
    """RFC 5802 section 5.1."""
    ours = client()
    firsts = {ours.respond(None) for _ in range(5)} | {
        ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=b"f" * 32).respond(None)
    }
    assert len(firsts) == 6


# -- the server ------------------------------------------------------------------------------------------------------


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
def test_a_first_message_of_another_form_is_malformed(first: bytes) -> None:
    """RFC 5802 section 7; ``m`` is what must not be passed over (section 5.1), and ``p`` is for -PLUS."""
    assert server().respond(first) is Fault.MALFORMED


def test_an_unknown_extension_is_passed_over() -> None:
    """RFC 5802 section 5.1; it is part of what is signed all the same."""
    theirs = server()
    assert isinstance(theirs.respond(b"n,,n=user,r=abc,x=more"), FetchScramKeys)
    assert octets(theirs.resolve(KEYS)).startswith(b"r=abcserver,")


def proof_for(theirs: ScramSha256Server, ours: ScramSha256Client | ScramSha256PlusClient) -> bytes:
    assert isinstance(theirs.respond(ours.respond(None)), FetchScramKeys)
    return ours.respond(octets(theirs.resolve(KEYS)))


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
def test_a_final_message_of_another_form_or_nonce_is_malformed(old: bytes, new: bytes) -> None:
    """RFC 5802 section 5.1."""
    theirs = server()
    final = proof_for(theirs, client())
    assert old in final
    assert theirs.respond(final.replace(old, new)) is Fault.MALFORMED


def test_whatever_is_changed_in_the_final_message_is_no_login() -> None:
    final = proof_for(server(), client())
    for position in range(len(final)):
        for bit in (1, 2, 64):
            theirs = server()
            proof_for(theirs, client())
            changed = final[:position] + bytes([final[position] ^ bit]) + final[position + 1 :]
            assert theirs.respond(changed) in (Refusal.BAD_CREDENTIALS, Fault.MALFORMED)


def test_an_unknown_identity_is_told_like_a_wrong_password() -> None:
    """House rule 5."""
    known = {"user": b"pencil"}
    assert log_in(client("user", b"pen"), server(), known) is Refusal.BAD_CREDENTIALS
    assert log_in(client("nobody"), server(), known) is Refusal.BAD_CREDENTIALS


def test_an_unknown_identity_shows_the_same_salt_each_time_and_one_of_its_own() -> None:
    """House rule 5: neither a changing nor a common salt may tell who has no account."""

    def salt(name: str, decoy: ScramDecoy) -> bytes:
        theirs = ScramSha256Server(nonce="server", tls=True, decoy=decoy)
        theirs.respond(b"n,,n=%b,r=abc" % name.encode())
        return octets(theirs.resolve(None)).split(b",")[1]

    assert salt("nobody", DECOY) == salt("nobody", DECOY)
    assert len({salt("nobody", DECOY), salt("noone", DECOY), salt("nobody", ScramDecoy(key=b"x" * 16))}) == 3
    assert len(base64.b64decode(salt("nobody", DECOY)[2:])) == len(SALT)


def test_the_decoy_looks_as_the_settings_say() -> None:
    decoy = ScramDecoy(key=b"k" * 16, iterations=10_000, salt_size=8)
    theirs = ScramSha1Server(nonce="server", tls=True, decoy=decoy)
    theirs.respond(b"n,,n=nobody,r=abc")
    _, salt, iterations = octets(theirs.resolve(None)).split(b",")
    assert (len(base64.b64decode(salt[2:])), iterations) == (8, b"i=10000")


def test_an_unknown_identity_costs_the_same_computations(monkeypatch: pytest.MonkeyPatch) -> None:
    """House rule 5: the same calls, whether the identity exists or not."""
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
        final = ours.respond(octets(theirs.resolve(answer)))
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


def test_the_keys_of_the_decoy_log_nobody_in() -> None:
    """Even who knows them, as only the server does, is refused."""
    theirs = server()
    theirs.respond(b"n,,n=nobody,r=abc")
    first = octets(theirs.resolve(None))
    keys = DECOY.keys("nobody", "sha256")
    unproved = b"c=biws,r=abcserver"
    signature = hmac.digest(keys.stored_key, b"n=nobody,r=abc," + first + b"," + unproved, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(keys.server_key, signature, strict=True)))
    assert theirs.respond(unproved + b",p=" + proof) is Refusal.BAD_CREDENTIALS


@pytest.mark.parametrize("answer", [b"secret", "user", True, scram_keys(b"pencil", SALT, 4096, "sha1")])
def test_an_answer_of_another_kind_or_hash_leaves_the_question_open(answer: object) -> None:
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
def test_keys_that_cannot_be_good_are_refused(salt: bytes, iterations: int, stored: bytes, server_key: bytes) -> None:
    """RFC 5802 section 5.1: 4,096 iterations at least."""
    with pytest.raises(LocalProtocolError):
        ScramKeys(salt=salt, iterations=iterations, stored_key=stored, server_key=server_key)


@pytest.mark.parametrize(
    ("key", "iterations", "salt_size"), [(b"short", 4096, 16), (b"k" * 16, 4095, 16), (b"k" * 16, 4096, 0)]
)
def test_a_decoy_that_gives_itself_away_is_refused(key: bytes, iterations: int, salt_size: int) -> None:
    with pytest.raises(LocalProtocolError):
        ScramDecoy(key=key, iterations=iterations, salt_size=salt_size)


# -- the client ------------------------------------------------------------------------------------------------------


def challenged(challenge: bytes) -> ScramSha256Client:
    """A client that has sent ``r=NONCE``; *challenge* says NONCE where that nonce goes."""
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
        b"e=unknown-user",
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ],
)
def test_a_client_refuses_a_challenge_that_is_not_safe(challenge: bytes) -> None:
    """RFC 5802 section 5.1: the nonce must extend ours, ``m`` must fail; the cost has a floor and a ceiling."""
    with pytest.raises(Malformed):
        challenged(challenge)


def test_a_client_computes_as_much_as_it_was_told_to() -> None:
    ours = ScramSha256Client(
        authentication_identity="user", password=b"pencil", entropy=ENTROPY, maximum_iterations=4096
    )
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
        b"e=invalid-proof",
        b"r=abc",
        b"m=x,v=AAAA",
    ],
)
def test_a_client_believes_no_server_that_does_not_know_the_password(final: bytes) -> None:
    """RFC 5802 section 5: the client must verify the signature."""
    ours = challenged(b"r=NONCEserver,s=c2FsdA==,i=4096")
    with pytest.raises(Malformed):
        ours.respond(final)
    assert not ours.satisfied


def test_a_client_starts_anew_and_says_no_more_than_three_things() -> None:
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
def test_what_cannot_be_prepared_is_refused_before_it_is_sent(name: str, password: bytes) -> None:
    """RFC 5802 sections 2.2 and 5.1."""
    with pytest.raises(LocalProtocolError):
        client(name, password)
    if name == "user":
        with pytest.raises(LocalProtocolError):
            scram_keys(password, SALT, 4096)


def test_little_entropy_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=b"little")


# -- channel binding -------------------------------------------------------------------------------------------------


def test_the_plus_form_binds_the_login_to_the_channel() -> None:
    """RFC 5802 section 6, RFC 9266."""
    ours, theirs = plus_client(), plus_server()
    assert ours.respond(None).startswith(b"p=tls-exporter,,n=user,r=")
    assert log_in(ours, theirs, {"user": b"pencil"}) == Success(
        authentication_identity="user", authorization_identity="user"
    )


def test_another_channel_is_no_login() -> None:
    """Somebody stands between: the data of the two ends differ."""
    ours = plus_client(data=b"what another TLS layer exported")
    assert log_in(ours, plus_server(), {"user": b"pencil"}) is Refusal.BAD_CREDENTIALS


def test_a_binding_that_the_connection_has_not_is_refused() -> None:
    assert plus_server().respond(plus_client("tls-unique").respond(None)) is Fault.MALFORMED


@pytest.mark.parametrize("flag", [b"n", b"y"])
def test_the_plus_form_without_a_binding_is_refused(flag: bytes) -> None:
    """RFC 5802 section 6."""
    assert plus_server().respond(flag + b",,n=user,r=abc") is Fault.MALFORMED


def test_a_client_that_was_not_shown_the_plus_form_is_refused_where_it_was_offered() -> None:
    """RFC 5802 section 6: ``y`` against an offer of -PLUS is the sign of a downgrade."""
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, could_bind=True)
    first = ours.respond(None)
    assert first.startswith(b"y,,")
    assert server(plus_offered=True).respond(first) is Refusal.BAD_CREDENTIALS
    assert isinstance(log_in(ours, server(), {"user": b"pencil"}), Success)


def test_a_client_that_cannot_bind_is_taken_beside_the_plus_form() -> None:
    assert isinstance(log_in(client(), server(plus_offered=True), {"user": b"pencil"}), Success)


def test_a_flag_that_was_changed_on_the_way_is_no_login() -> None:
    """RFC 5802 section 6: the header comes again under the proof, so ``y`` cannot be made ``n``."""
    ours = ScramSha256Client(authentication_identity="user", password=b"pencil", entropy=ENTROPY, could_bind=True)
    theirs = server(plus_offered=True)
    theirs.respond(b"n" + ours.respond(None)[1:])
    final = ours.respond(octets(theirs.resolve(KEYS)))
    assert theirs.respond(final) is Refusal.BAD_CREDENTIALS


# -- both sides ------------------------------------------------------------------------------------------------------


PASSWORDS = st.text("ae\u00e9\u0301\u00ad\u00aa\u00a0 =,", min_size=1, max_size=3)


@settings(max_examples=50)
@given(PASSWORDS, PASSWORDS, st.booleans())
def test_a_login_succeeds_exactly_when_the_secrets_agree(sent: str, kept: str, same: bool) -> None:
    """All four mechanisms; two spellings that SASLprep makes one are one."""
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
