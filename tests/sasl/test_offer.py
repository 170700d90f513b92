"""The mechanisms that a server offers (RFC 4422 section 3.1), with and without MD5."""

from __future__ import annotations

import subprocess
import sys

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import LocalProtocolError, Tls
from mailauth.sasl import (
    ALL_MECHANISMS,
    DEFAULT_MECHANISMS,
    ApopServer,
    Challenge,
    CheckExternal,
    Context,
    CramMd5Server,
    FetchScramKeys,
    Mechanisms,
    PlainServer,
    Refusal,
    ScramDecoy,
    check_offer,
    is_message_id,
    is_possible,
)

CONTEXT = Context(nonce="1896.697170952", host_name="mx.example.test", tls=True)


def test_the_defaults_are_plain_login_and_cram_md5() -> None:
    assert DEFAULT_MECHANISMS.names == ("PLAIN", "LOGIN", "CRAM-MD5")


@pytest.mark.parametrize("name", ["PLAIN", "plain", "PlAiN"])
def test_mechanism_names_are_case_insensitive(name: str) -> None:
    assert name in DEFAULT_MECHANISMS
    assert isinstance(DEFAULT_MECHANISMS.create(name, CONTEXT), PlainServer)


@pytest.mark.parametrize("name", ["", "PLAI", "PLAIN ", "ANONYMOUS", "pla\u0131n"])
def test_create_raises_for_mechanism_not_offered(name: str) -> None:
    """The dotless i becomes I in upper case, but it is not allowed in a mechanism name."""
    assert name not in DEFAULT_MECHANISMS
    with pytest.raises(LocalProtocolError):
        DEFAULT_MECHANISMS.create(name, CONTEXT)


@pytest.mark.parametrize("name", ["", "plain", "A" * 21, "A B", "É", "A\n", "A."])
def test_invalid_mechanism_name_is_rejected(name: str) -> None:
    """RFC 4422 section 3.1."""
    with pytest.raises(LocalProtocolError):
        Mechanisms({name: lambda context: PlainServer(tls=context.tls)})


def test_mechanism_name_of_20_valid_characters_is_accepted() -> None:
    assert Mechanisms({"X-0_" + "A" * 16: lambda context: PlainServer(tls=context.tls)}).names == ("X-0_" + "A" * 16,)


def test_subset_of_mechanisms_keeps_its_order() -> None:
    assert DEFAULT_MECHANISMS.only("login", "PLAIN").names == ("PLAIN", "LOGIN")


def test_mechanisms_are_independent_of_the_mapping_passed() -> None:
    factories = {"PLAIN": lambda context: PlainServer(tls=context.tls)}
    mechanisms = Mechanisms(factories)
    factories.clear()
    assert mechanisms.names == ("PLAIN",)


def test_context_is_passed_to_the_mechanism() -> None:
    for name in DEFAULT_MECHANISMS.names:
        assert DEFAULT_MECHANISMS.create(name, CONTEXT).tls
    step = DEFAULT_MECHANISMS.create("CRAM-MD5", CONTEXT).respond(None)
    assert step == Challenge(b"<1896.697170952@mx.example.test>")


@pytest.mark.parametrize(
    ("host_name", "message_id"),
    [
        ("localhost", b"<1.a@localhost>"),
        ("[192.0.2.1]", b"<1.a@192.0.2.1>"),
        ("[IPv6:2001:db8::1]", b"<1.a@IPv6-2001-db8-1>"),
        ("mx_1.example.test.", b"<1.a@mx-1.example.test>"),
        ("", b"<1.a@localhost>"),
    ],
)
def test_message_id_domain_has_only_letters_digits_dots_and_hyphens(host_name: str, message_id: bytes) -> None:
    """mpop and other clients reject some msg-ids that RFC 5322 allows."""
    assert Context(nonce="1.a", host_name=host_name, tls=False).message_id == message_id


@given(st.text(max_size=30))
def test_every_host_name_gives_a_valid_message_id(host_name: str) -> None:
    assert is_message_id(Context(nonce="1.a", host_name=host_name, tls=False).message_id)


@pytest.mark.parametrize("nonce", ["", ".", "a.", "a..b", "a b", "a@b", "a>", "é", "a\n"])
def test_nonce_invalid_in_a_message_id_is_rejected(nonce: str) -> None:
    with pytest.raises(LocalProtocolError):
        Context(nonce=nonce, host_name="localhost", tls=False)


def test_all_mechanisms_are_listed_strongest_first() -> None:
    assert ALL_MECHANISMS.names == (
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "EXTERNAL",
        "OAUTHBEARER",
        "XOAUTH2",
        "PLAIN",
        "LOGIN",
        "CRAM-MD5",
    )


def test_each_mechanism_is_created_with_its_name_and_context() -> None:
    context = attrs.evolve(
        CONTEXT,
        channel_bindings={"tls-exporter": b"x"},
        peer_certificate={"serialNumber": "01"},
        scram_decoy=ScramDecoy(key=b"k" * 16),
    )
    for name in ALL_MECHANISMS.names:
        made = ALL_MECHANISMS.create(name, context)
        assert (made.name, made.tls) == (name, True)
    plus = ALL_MECHANISMS.create("SCRAM-SHA-1-PLUS", context)
    assert isinstance(plus.respond(b"p=tls-exporter,,n=tim,r=abc"), FetchScramKeys)
    assert isinstance(ALL_MECHANISMS.create("EXTERNAL", context).respond(b""), CheckExternal)


@pytest.mark.parametrize("name", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_scram_rejects_flag_y_only_if_plus_mechanism_is_offered(name: str) -> None:
    """RFC 5802 section 6."""
    context = attrs.evolve(CONTEXT, scram_decoy=ScramDecoy(key=b"k" * 16))
    first = b"y,,n=tim,r=abc"
    assert isinstance(ALL_MECHANISMS.create(name, context).respond(first), FetchScramKeys)
    beside = attrs.evolve(context, offered=frozenset({f"{name}-PLUS"}))
    assert ALL_MECHANISMS.create(name, beside).respond(first) is Refusal.BAD_CREDENTIALS


def test_scram_without_decoy_is_rejected() -> None:
    """It would show which accounts exist (architecture.md, invariant 6)."""
    check_offer(ALL_MECHANISMS, ScramDecoy(key=b"k" * 16))
    check_offer(DEFAULT_MECHANISMS, None)
    for name in ALL_MECHANISMS.names[:4]:
        with pytest.raises(LocalProtocolError):
            check_offer(ALL_MECHANISMS.only(name), None)
        with pytest.raises(LocalProtocolError):
            ALL_MECHANISMS.create(name, CONTEXT)


@pytest.mark.parametrize(
    ("tls", "impossible"),
    [
        (None, {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "EXTERNAL"}),
        (Tls(version="TLSv1.3"), {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "EXTERNAL"}),
        (Tls(version="TLSv1.3", channel_bindings={"tls-exporter": b"x"}), {"EXTERNAL"}),
        (Tls(version="TLSv1.3", peer_certificate={"serialNumber": "01"}), {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"}),
    ],
)
def test_is_possible_depends_on_channel_binding_and_certificate(tls: Tls | None, impossible: set[str]) -> None:
    """The -PLUS forms need channel binding data, EXTERNAL a certificate."""
    assert {name for name in ALL_MECHANISMS.names if not is_possible(name, tls)} == impossible


WITHOUT_MD5 = """
import hashlib, hmac
def missing(*arguments, **keywords):
    raise ValueError("[digital envelope routines] unsupported")
hashlib.md5 = hmac.digest = missing
from mailauth import LocalProtocolError, sasl
print(*sasl.DEFAULT_MECHANISMS.names)
print("CRAM-MD5" in sasl.ALL_MECHANISMS)
for make in (
    lambda: sasl.CramMd5Server(challenge=b"<a@b>", tls=True),
    lambda: sasl.ApopServer(timestamp=b"<a@b>", tls=True),
    lambda: sasl.CramMd5Client(authentication_identity="tim", password=b"x"),
    lambda: sasl.ApopClient(authentication_identity="tim", password=b"x"),
):
    try:
        make()
    except LocalProtocolError as error:
        print(error)
"""

MD5_ERROR = "MD5 is not available on this system; use a mechanism other than CRAM-MD5 and APOP"


def test_cram_md5_and_apop_are_unavailable_without_md5() -> None:
    """In FIPS mode, neither the import nor an exchange fails."""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    ran = subprocess.run([sys.executable, "-c", WITHOUT_MD5], capture_output=True, text=True, env=environment)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["PLAIN LOGIN", "False", *[MD5_ERROR] * 4]


def test_longest_host_name_gives_a_valid_timestamp() -> None:
    """RFC 5321 section 4.5.3.1.2: a domain has up to 255 octets.  The nonce may have 100 more."""
    context = Context(nonce="a" * 100, host_name=".".join(["a" * 63] * 4), tls=True)
    ApopServer(timestamp=context.message_id, tls=True)


def test_cram_md5_and_apop_are_available_with_md5() -> None:
    CramMd5Server(challenge=b"<a@b>", tls=True)
    ApopServer(timestamp=b"<a@b>", tls=True)
