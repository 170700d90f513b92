"""Stored passwords: those written by ``doveadm pw`` and by mailauth are read, and no secret is in a repr or error."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, strategies as st

from mailauth import sasl
from mailauth_io.stores import CredentialError, Proof, write_credential
from mailauth_io.stores.credentials import Credential, HashesMissing, Plain, prepared, read_credential

PASSWORD = b"open sesame"

# Written by Dovecot 2.3 for this password.
DOVEADM = {
    "PLAIN": "{PLAIN}open sesame",
    "SHA512-CRYPT": "{SHA512-CRYPT}$6$EQCfPuX1r/IA.1aF"
    "$L5/wbtqfcq8wv5dpcyh9GboCeB50uYqE8/9PvnQ9.FRmPWc48ciqGR5roZ.dMAGLBCD09jBiUf7OXBDJ5E0Qh0",
    "SHA256-CRYPT": "{SHA256-CRYPT}$5$0Tkhvj7Sl4Zb8QYf$5A6nBOm9X.Rp8QkArC6A/QYG26Khdy7u7MUyDPC2KZ.",
    "BLF-CRYPT": "{BLF-CRYPT}$2y$05$wQy/3Oy/wVrzX/bYBv.m8.KNe8n9cH7lPzt.EqwsaAUEDrvC5O3Ei",
    "ARGON2ID": "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$gr6J3YuH+DgcmF255rXZ5g"
    "$dPL1RkNMjJLd736ftDnl1K7WH70LJHOMH+62o5MZAso",
    "SCRAM-SHA-256": "{SCRAM-SHA-256}4096,gJVL7taCzaJ6otp6IqW1bA==,"
    "A3qyjA0TTfMXQAfaOarrvh9uwVZ9pV4WSo4JnYAjBGE=,yPVnXBbRQ1LxPSANIh/X4fSYS+QtX7gYhP8kS6xsAsE=",
    "CRYPT": "{CRYPT}$2y$05$wQy/3Oy/wVrzX/bYBv.m8.KNe8n9cH7lPzt.EqwsaAUEDrvC5O3Ei",
}
KINDS = {
    "PLAIN": "{PLAIN}",
    "SHA512-CRYPT": "{SHA512-CRYPT} with rounds=5000",
    "SHA256-CRYPT": "{SHA256-CRYPT} with rounds=5000",
    "BLF-CRYPT": "{BLF-CRYPT} with rounds=5",
    "ARGON2ID": "{ARGON2ID} with rounds=3, memory_cost=65536, parallelism=1",
    "SCRAM-SHA-256": "{SCRAM-SHA-256} with 4096 iterations",
    "CRYPT": "{CRYPT} with rounds=5",
}
WRITTEN = ("PLAIN", "SCRAM-SHA-256", "ARGON2ID", "BLF-CRYPT", "SHA512-CRYPT")


def read(field: str) -> Credential:
    return read_credential(field.encode())


@pytest.mark.parametrize("scheme", DOVEADM)
def test_credentials_written_by_doveadm_are_checked(scheme: str) -> None:
    """The scheme name is case-insensitive, as in Dovecot."""
    credential = read(DOVEADM[scheme])
    assert credential.check(PASSWORD)
    assert not credential.check(b"open poppy")
    assert not credential.check(b"")
    assert credential.kind == KINDS[scheme]
    assert read(DOVEADM[scheme].replace(scheme, scheme.lower(), 1)) == credential


@pytest.mark.parametrize("name", ["CLEAR", "CLEARTEXT", "clear", "ClearText"])
def test_other_names_of_plain_are_read(name: str) -> None:
    """Dovecot reads them, and files of other programs have them."""
    credential = read(f"{{{name}}}open sesame")
    assert credential == read("{PLAIN}open sesame")
    assert credential.kind == "{PLAIN}"
    assert credential.check(PASSWORD)
    assert Proof.SECRET in credential.proofs
    with pytest.raises(CredentialError, match="has no password"):
        read(f"{{{name}}}")


@pytest.mark.parametrize("name", ["CLEARTXT", "CLEAR-TEXT", "CLEAR.B64", "PLAINTEXT", "PLAIN-MD5", " CLEAR"])
def test_similar_names_of_schemes_are_unknown(name: str) -> None:
    with pytest.raises(CredentialError):
        read(f"{{{name}}}open sesame")


@pytest.mark.parametrize("scheme", DOVEADM)
def test_repr_contains_no_stored_value(scheme: str) -> None:
    """architecture.md, invariant 6: no password, no hash, and no part of one."""
    shown = repr(read(DOVEADM[scheme]))
    stored = DOVEADM[scheme].partition("}")[2]
    for piece in ("sesame", stored, *stored.replace(",", "$").split("$")[-2:]):
        assert piece not in shown


def test_proofs_depend_on_the_scheme() -> None:
    """A hash supports only password checks, SCRAM keys support SCRAM too, and a plain password supports all proofs."""
    assert read(DOVEADM["ARGON2ID"]).proofs == {Proof.PASSWORD}
    assert read(DOVEADM["SCRAM-SHA-256"]).proofs == {Proof.PASSWORD, Proof.SCRAM_SHA_256}
    assert read(DOVEADM["PLAIN"]).proofs == {Proof.PASSWORD, Proof.SECRET, Proof.SCRAM_SHA_1, Proof.SCRAM_SHA_256}


@pytest.mark.parametrize("scheme", DOVEADM)
@pytest.mark.parametrize("password", [b"a\0b", b"\xff\xfe", b"x" * 5000])
def test_check_returns_false_for_nul_invalid_utf8_and_long_passwords(scheme: str, password: bytes) -> None:
    """No exception is raised."""
    assert read(DOVEADM[scheme]).check(password) is False


def test_bcrypt_uses_only_the_first_72_bytes() -> None:
    """A longer password that works with Dovecot works here."""
    credential = read(write_credential("BLF-CRYPT", b"x" * 72))
    assert credential.check(b"x" * 80)
    assert not credential.check(b"x" * 71)


def test_scram_keys_of_a_plain_password_are_derived() -> None:
    credential = read(DOVEADM["PLAIN"])
    assert isinstance(credential, Plain)
    assert credential.scram_keys("sha256") is None
    keys = credential.derive("sha256", b"a salt", 4096)
    assert keys == sasl.scram_keys(PASSWORD, b"a salt", 4096)
    assert credential.derive("sha1", b"a salt", 4096) not in (None, keys)


def test_stored_scram_keys_equal_the_derived_keys() -> None:
    credential = read(DOVEADM["SCRAM-SHA-256"])
    keys = credential.scram_keys("sha256")
    assert keys is not None
    assert keys == sasl.scram_keys(PASSWORD, keys.salt, 4096)
    assert credential.scram_keys("sha1") is None
    assert read(DOVEADM["ARGON2ID"]).scram_keys("sha256") is None


@pytest.mark.parametrize("scheme", WRITTEN)
def test_written_credential_can_be_read_and_checked(scheme: str) -> None:
    """Passwords are compared after SASLprep (RFC 4013), which replaces a ligature with its letters."""
    field = write_credential(scheme, "o\ufb03ce".encode())
    assert field.startswith(f"{{{scheme}}}")
    credential = read(field)
    typed = prepared("o\ufb03ce".encode())
    assert typed is not None
    assert credential.check(typed)
    assert credential.check(b"office")
    assert not credential.check(b"offices")


def test_written_credentials_are_salted() -> None:
    assert len({write_credential(scheme, PASSWORD) for scheme in WRITTEN for _ in range(2)}) == 9


@pytest.mark.parametrize(
    ("scheme", "password", "message"),
    [
        *((scheme, b"", "1 to 1024 bytes") for scheme in WRITTEN),
        *((scheme, b"hunter\xff", "not valid UTF-8") for scheme in WRITTEN),
        ("PLAIN", b"hunter\0", "NUL"),
        ("PLAIN", b"hunter\n", "newline"),
        ("ARGON2ID", b"hunter" * 200, "1 to 1024 bytes"),
        ("PLAIN", b"hunter:2", "colon"),
        ("BLF-CRYPT", b"hunter" * 20, "72 bytes"),
        ("SCRAM-SHA-256", "hunter\u0221".encode(), "RFC 4013"),
        ("PLAIN", "hunter\U0001f642".encode(), "SCRAM does not allow"),
        *((scheme, b"hunter\r", "control character, such as CR") for scheme in WRITTEN),
        *((scheme, b"hunter\t2", "control character") for scheme in WRITTEN),
        *((scheme, "hunter\x85".encode(), "control character") for scheme in WRITTEN),
        *((scheme, "hunter\u200e".encode(), "SASLprep prohibits") for scheme in WRITTEN),
        *((scheme, "hunter\u0627".encode(), "both writing directions") for scheme in WRITTEN),
    ],
)
def test_unsupported_password_is_rejected_without_quoting_it(scheme: str, password: bytes, message: str) -> None:
    with pytest.raises(CredentialError, match=message) as caught:
        write_credential(scheme, password)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("scheme", [scheme for scheme in WRITTEN if scheme not in ("PLAIN", "SCRAM-SHA-256")])
def test_password_with_an_emoji_can_be_hashed(scheme: str) -> None:
    """Accounts with a hash use PLAIN, LOGIN and USER, and each of them can carry it."""
    password = "hunter\U0001f642".encode()
    assert read(write_credential(scheme, password)).check(password)


def test_error_without_libpass_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """PLAIN and SCRAM-SHA-256 do not need it."""
    for module in [name for name in sys.modules if name == "passlib" or name.startswith("passlib.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "passlib", None)
    with pytest.raises(HashesMissing, match=r"mailauth\[hashes\]"):
        read(DOVEADM["ARGON2ID"])
    with pytest.raises(HashesMissing, match=r"mailauth\[hashes\]"):
        write_credential("BLF-CRYPT", PASSWORD)
    for scheme in ("PLAIN", "SCRAM-SHA-256"):
        assert read(DOVEADM[scheme]).check(PASSWORD)
        assert read(write_credential(scheme, PASSWORD)).check(PASSWORD)


@given(st.sampled_from(sorted(DOVEADM)), st.binary(max_size=80))
def test_arbitrary_field_is_a_credential_or_raises_credential_error(scheme: str, rest: bytes) -> None:
    """Only CredentialError is raised, and it does not quote the field."""
    message = ""
    try:
        kind = read_credential(f"{{{scheme}}}".encode() + rest).kind
    except CredentialError as error:
        message, kind = str(error), ""
    invalid = f"has an invalid {{{scheme}}} value; create a new one with mailauth passwd"
    assert kind.startswith(f"{{{scheme}}}") or message in (invalid, "has no password; set one")


def test_password_length_is_limited_before_and_after_saslprep() -> None:
    """The limit applies after SASLprep too, which turns U+FDFA into 18 characters, and removes others."""
    assert prepared(b"x" * 1024) == b"x" * 1024
    assert prepared(b"x" * 1025) is None
    assert prepared(b"\xff" * 1024) == b"\xff" * 1024
    assert (
        prepared("\ufdfa".encode() * 31)
        == "\u0635\u0644\u0649 \u0627\u0644\u0644\u0647 \u0639\u0644\u064a\u0647 \u0648\u0633\u0644\u0645".encode() * 31
    )
    assert prepared("\ufdfa".encode() * 32) is None
    for nothing in (b"", "\u00ad".encode(), b"a\0b"):
        assert prepared(nothing) is None
    with pytest.raises(CredentialError, match="1 to 1024"):
        write_credential("PLAIN", "\ufdfa".encode() * 32)
