"""Length limits of names and passwords, before and after SASLprep, in every mechanism that uses SASLprep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailauth import LocalProtocolError, Question, sasl

CONTEXT = sasl.Context(
    nonce="0" * 32,
    host_name="mail.example.test",
    tls=True,
    peer_certificate={"serialNumber": "01"},
    scram_decoy=sasl.ScramDecoy(key=bytes(16)),
)
TOKEN = b"\x01auth=Bearer t\x01\x01"

NAMES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "PLAIN": ("PLAIN", lambda name: b"\0" + name + b"\0x"),
    "PLAIN, authorization identity": ("PLAIN", lambda name: name + b"\0alice\0x"),
    "SCRAM": ("SCRAM-SHA-256", lambda name: b"n,,n=" + name + b",r=x"),
    "SCRAM, authorization identity": ("SCRAM-SHA-1", lambda name: b"n,a=" + name + b",n=alice,r=x"),
    "OAUTHBEARER": ("OAUTHBEARER", lambda name: b"n,a=" + name + b"," + TOKEN),
    "XOAUTH2": ("XOAUTH2", lambda name: b"user=" + name + TOKEN),
    "EXTERNAL": ("EXTERNAL", lambda name: name),
}
"""A mechanism, and a function that makes its response for a name."""

GROWING = "\u0149"
"""2 bytes of UTF-8, which NFKC turns into 3."""
SHRINKING = "\uff41"
"""3 bytes of UTF-8, which NFKC turns into 1."""


def step(mechanism: str, response: bytes) -> sasl.Step:
    return sasl.ALL_MECHANISMS.create(mechanism, CONTEXT).respond(response)


@pytest.mark.parametrize(("mechanism", "response"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    ("fits", "too_long"),
    [("x" * 255, "x" * 256), (GROWING * 85, GROWING * 86), (SHRINKING * 85, SHRINKING * 86)],
    ids=["unchanged", "after", "before"],
)
def test_name_limit_is_255_bytes_before_and_after_saslprep(
    mechanism: str, response: Callable[[bytes], bytes], fits: str, too_long: str
) -> None:
    """RFC 4616 section 2: up to and including 255 octets."""
    assert isinstance(step(mechanism, response(fits.encode())), Question)
    assert step(mechanism, response(too_long.encode())) is sasl.Fault.MALFORMED


@pytest.mark.parametrize(
    ("fits", "too_long"),
    [("x" * 1024, "x" * 1025), (GROWING * 341, GROWING * 342), (SHRINKING * 341, SHRINKING * 342)],
    ids=["unchanged", "after", "before"],
)
def test_password_limit_is_1024_bytes_before_and_after_saslprep(fits: str, too_long: str) -> None:
    """The limit applies to the data that is hashed as well as to the data received."""
    assert isinstance(step("PLAIN", b"\0alice\0" + fits.encode()), sasl.CheckPassword)
    assert step("PLAIN", b"\0alice\0" + too_long.encode()) is sasl.Fault.MALFORMED
    makers: list[Callable[[bytes], object]] = [
        lambda password: sasl.ScramSha256Client(authentication_identity="alice", password=password, entropy=bytes(16)),
        lambda password: sasl.ApopClient(authentication_identity="alice", password=password),
        lambda password: sasl.scram_keys(password, b"salt", 4096, "sha256"),
    ]
    for make in makers:
        make(fits.encode())
        with pytest.raises(LocalProtocolError, match="1024 bytes"):
            make(too_long.encode())
