"""The rule for the login that may follow a refused one."""

from __future__ import annotations

import secrets
from typing import Final

import pytest

from mailauth import LocalProtocolError, sasl
from mailauth.sasl import mechanisms_after_refusal

ENTROPY: Final = secrets.token_bytes(32)


def unbound(make: type[sasl.ScramSha256Client | sasl.ScramSha1Client]) -> sasl.ClientMechanism:
    return make(authentication_identity="alice", password=b"wonderland", entropy=ENTROPY)


def bound(
    make: type[sasl.ScramSha256PlusClient | sasl.ScramSha1PlusClient], channel_binding: str
) -> sasl.ClientMechanism:
    return make(
        authentication_identity="alice",
        password=b"wonderland",
        entropy=ENTROPY,
        channel_binding=channel_binding,
        binding_data=b"data of " + channel_binding.encode(),
    )


PLUS_UNIQUE: Final = bound(sasl.ScramSha256PlusClient, "tls-unique")
PLUS_END_POINT: Final = bound(sasl.ScramSha256PlusClient, "tls-server-end-point")
PLUS_SHA_1: Final = bound(sasl.ScramSha1PlusClient, "tls-server-end-point")
SCRAM: Final = unbound(sasl.ScramSha256Client)
CRAM: Final = sasl.CramMd5Client(authentication_identity="alice", password=b"wonderland")
PLAIN: Final = sasl.PlainClient(authentication_identity="alice", password=b"wonderland")
LOGIN: Final = sasl.LoginClient(authentication_identity="alice", password=b"wonderland")
ALL: Final = (PLUS_UNIQUE, PLUS_END_POINT, PLUS_SHA_1, SCRAM, CRAM, PLAIN, LOGIN)

SAYS_NOTHING_ABOUT_THE_MECHANISM: Final = [
    421, 432, 454, 451, 500, 502, 503, 521, 530, 538, 550, 554, "SYS/TEMP", "SYS/PERM", "IN-USE", "LOGIN-DELAY", "X",
]  # fmt: skip


@pytest.mark.parametrize("code", [504, 534, 535, "", "AUTH"])
def test_weaker_mechanisms_follow_a_refused_mechanism_or_refused_credentials(code: int | str) -> None:
    assert mechanisms_after_refusal(ALL, SCRAM, code, weaker=True) == (CRAM, PLAIN, LOGIN)
    assert mechanisms_after_refusal(ALL, CRAM, code, weaker=True) == (PLAIN, LOGIN)
    assert mechanisms_after_refusal(ALL, LOGIN, code, weaker=True) == ()


@pytest.mark.parametrize("code", [504, 534, 535, "", "AUTH"])
def test_nothing_weaker_follows_unless_the_caller_allows_it(code: int | str) -> None:
    assert mechanisms_after_refusal(ALL, SCRAM, code, weaker=False) == ()
    assert mechanisms_after_refusal(ALL, PLAIN, code, weaker=False) == ()


@pytest.mark.parametrize("weaker", [False, True])
@pytest.mark.parametrize("refused", ALL)
@pytest.mark.parametrize("code", SAYS_NOTHING_ABOUT_THE_MECHANISM)
def test_nothing_follows_another_reply(code: int | str, refused: sasl.ClientMechanism, weaker: bool) -> None:
    """454, 432, 421: the same login may succeed later; the others say nothing about the mechanism."""
    assert mechanisms_after_refusal(ALL, refused, code, weaker=weaker) == ()


@pytest.mark.parametrize("code", [501, 504, 535, "", "AUTH"])
def test_plus_follows_with_another_channel_binding(code: int | str) -> None:
    """It is not weaker.  Servers reply 501 or 535 to a channel binding that they do not have."""
    assert mechanisms_after_refusal(ALL, PLUS_UNIQUE, code, weaker=False) == (PLUS_END_POINT,)
    same = (PLUS_UNIQUE, bound(sasl.ScramSha256PlusClient, "tls-unique"))
    assert mechanisms_after_refusal(same, same[0], code, weaker=True) == ()


@pytest.mark.parametrize("code", [501, 504, 534, 535, "", "AUTH"])
@pytest.mark.parametrize("weaker", [False, True])
def test_nothing_without_channel_binding_follows_a_refused_plus(code: int | str, weaker: bool) -> None:
    """RFC 5802 section 6: the refusal may come from a man in the middle, who cannot relay a bound login."""
    for refused in (PLUS_UNIQUE, PLUS_END_POINT, PLUS_SHA_1):
        following = mechanisms_after_refusal(ALL, refused, code, weaker=weaker)
        assert all(mechanism.name.endswith("-PLUS") for mechanism in following)


def test_weaker_plus_follows_only_if_the_caller_allows_it() -> None:
    assert mechanisms_after_refusal(ALL, PLUS_END_POINT, 535, weaker=True) == (PLUS_SHA_1,)
    assert mechanisms_after_refusal(ALL, PLUS_END_POINT, 535, weaker=False) == ()


def test_malformed_reply_to_a_login_without_binding_permits_nothing() -> None:
    assert mechanisms_after_refusal(ALL, SCRAM, 501, weaker=True) == ()


def test_at_most_two_logins_follow_on_a_connection() -> None:
    assert mechanisms_after_refusal(ALL, CRAM, 535, weaker=True, refusals=2) == (PLAIN, LOGIN)
    assert mechanisms_after_refusal(ALL, PLAIN, 535, weaker=True, refusals=3) == ()


def test_only_the_mechanisms_of_the_caller_follow() -> None:
    """The caller's policy has chosen them, for example none that shows the password without TLS."""
    assert mechanisms_after_refusal((SCRAM, CRAM), SCRAM, 535, weaker=True) == (CRAM,)
    assert mechanisms_after_refusal((CRAM, PLAIN), SCRAM, 535, weaker=True) == ()


@pytest.mark.parametrize("refusals", [0, -1, "1", True])
def test_invalid_number_of_refusals_is_an_error(refusals: int) -> None:
    with pytest.raises(LocalProtocolError, match="refusals"):
        mechanisms_after_refusal(ALL, SCRAM, 535, weaker=True, refusals=refusals)
