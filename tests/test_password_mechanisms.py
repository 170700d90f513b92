"""``sasl.password_mechanisms``: the strongest mechanism that the server offers for a name and a password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import pytest

from mailauth import LocalProtocolError, Tls, pop3, sasl, smtp
from tests.test_login_properties import BARE, BOUND, DECOY, ENTROPY, PASSWORD, Protocol, Wire

STRONGEST_FIRST: Final = (
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "APOP",
    "PLAIN",
    "LOGIN",
    "USER",
)
IN_SMTP: Final = tuple(name for name in STRONGEST_FIRST if name not in {"APOP", "USER"})
Offering: TypeAlias = Callable[[tuple[str, ...]], Protocol]


def smtp_offering(names: tuple[str, ...]) -> Protocol:
    settings = smtp.ServerSettings(
        mechanisms=sasl.ALL_MECHANISMS.only(*names),
        mechanisms_without_tls=frozenset(names),
        scram_decoy=DECOY,
    )
    return Protocol(
        "smtp",
        lambda tls: smtp.ServerConnection(settings, entropy=ENTROPY, tls=tls),
        lambda tls: smtp.ClientConnection(tls=tls),
        smtp.Hello(domain="client.example"),
    )


def pop3_offering(names: tuple[str, ...]) -> Protocol:
    settings = pop3.ServerSettings(
        mechanisms=pop3.ALL_MECHANISMS.only(*names),
        mechanisms_without_tls=frozenset(names),
        scram_decoy=DECOY,
    )
    return Protocol(
        "pop3",
        lambda tls: pop3.ServerConnection(settings, entropy=ENTROPY, tls=tls),
        lambda tls: pop3.ClientConnection(tls=tls),
        pop3.Capa(),
    )


def log_in(protocol: Protocol, tls: Tls | None) -> Wire:
    return Wire(protocol, tls, {sasl.FetchSecret: PASSWORD}).log_in(*password_mechanisms(tls))


def password_mechanisms(tls: Tls | None, *, clear_text: bool = False) -> tuple[sasl.ClientMechanism, ...]:
    return sasl.password_mechanisms("alice", PASSWORD, entropy=ENTROPY, tls=tls, clear_text=clear_text)


SHRINKING: Final = [
    *((smtp_offering, IN_SMTP[weaker:]) for weaker in range(len(IN_SMTP))),
    *((pop3_offering, STRONGEST_FIRST[weaker:]) for weaker in range(len(STRONGEST_FIRST))),
]


@pytest.mark.parametrize(("offering", "offered"), SHRINKING)
def test_strongest_offered_mechanism_is_chosen_with_tls(offering: Offering, offered: tuple[str, ...]) -> None:
    """RFC 4954 section 4, RFC 5034 section 4: the client chooses.  Inside TLS, APOP comes after all others."""
    wire = log_in(offering(offered), BOUND)
    expected = next(name for name in offered if name != "APOP")
    assert wire.succeeded
    assert sasl.Authenticated(mechanism=expected, identity="alice") in wire.noticed


@pytest.mark.parametrize(
    ("offering", "offered", "expected"),
    [
        (smtp_offering, ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN"), "SCRAM-SHA-256"),
        (smtp_offering, ("PLAIN", "CRAM-MD5"), "CRAM-MD5"),
        (pop3_offering, ("USER", "PLAIN", "APOP"), "APOP"),
        (pop3_offering, ("USER", "APOP", "CRAM-MD5"), "CRAM-MD5"),
    ],
)
def test_mechanism_that_hides_the_password_is_chosen_without_tls(
    offering: Offering, offered: tuple[str, ...], expected: str
) -> None:
    """RFC 8314 section 3: a mechanism that an eavesdropper could read is not chosen."""
    wire = log_in(offering(offered), None)
    assert sasl.Authenticated(mechanism=expected, identity="alice") in wire.noticed


@pytest.mark.parametrize("offering", [smtp_offering, pop3_offering])
def test_password_is_sent_in_plaintext_only_if_clear_text_is_set(offering: Offering) -> None:
    """architecture.md, invariant 3: nothing is sent if the server offers nothing better."""
    wire = Wire(offering(("PLAIN",)), None)
    with pytest.raises(LocalProtocolError, match="does not offer"):
        wire.log_in(*password_mechanisms(None))
    assert len(wire.from_client) == 1
    wire.client.authenticate(*password_mechanisms(None, clear_text=True))
    assert wire.run().succeeded


def test_gs2_flag_reports_whether_the_client_supports_channel_binding() -> None:
    """RFC 5802 section 6: y if the server did not offer -PLUS, n without channel binding data."""
    for tls, flag in ((BOUND, b"y,,"), (BARE, b"n,,")):
        wire = log_in(smtp_offering(("SCRAM-SHA-256",)), tls)
        assert wire.succeeded
        assert sasl.decode_base64(wire.from_client[1].split()[2]).startswith(flag)


def test_mechanisms_that_need_md5_are_omitted_without_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system in FIPS mode."""
    monkeypatch.setattr("mailauth.sasl._password_mechanisms.MD5_AVAILABLE", False)
    chosen = [mechanism.name for mechanism in password_mechanisms(BOUND)]
    assert chosen == [name for name in STRONGEST_FIRST if name not in {"CRAM-MD5", "APOP"}]


def test_repr_does_not_contain_the_password() -> None:
    """architecture.md, invariant 6."""
    assert PASSWORD.decode() not in repr(password_mechanisms(BOUND))


# A name or password that not every mechanism can carry


def names(password: bytes, tls: Tls | None, **options: Any) -> list[str]:
    found = sasl.password_mechanisms("alice", password, entropy=ENTROPY, tls=tls, **options)
    return list(dict.fromkeys(mechanism.name for mechanism in found))


@pytest.mark.parametrize(
    ("password", "left_out"),
    [
        ("\U0001f642".encode(), {"SCRAM", "APOP"}),
        ("\u0221".encode(), {"SCRAM", "APOP"}),  # assigned in Unicode 4.0
        (b"won\tderland", {"SCRAM"}),
        (b"gr\xfcn", {"SCRAM", "PLAIN"}),
        ("\ufdfa".encode() * 100, {"SCRAM", "APOP"}),  # too long after SASLprep
    ],
)
def test_mechanisms_that_cannot_carry_the_password_are_left_out(password: bytes, left_out: set[str]) -> None:
    expected = [name for name in STRONGEST_FIRST if name.split("-")[0] not in left_out]
    assert names(password, BOUND) == expected
    without_tls = [name for name in expected if not name.endswith("-PLUS")]
    assert names(password, None, clear_text=True) == without_tls
    assert names(password, None) == [name for name in without_tls if name not in ("PLAIN", "LOGIN", "USER")]


@pytest.mark.parametrize("password", [b"", b"a\0b", b"a\rb", b"a\nb", b"x" * 1025])
@pytest.mark.parametrize("tls", [None, BARE, BOUND])
def test_password_that_no_mechanism_can_carry_is_an_error(password: bytes, tls: Tls | None) -> None:
    with pytest.raises(LocalProtocolError, match="password cannot be sent"):
        names(password, tls, clear_text=True)


def test_without_tls_only_mechanisms_that_show_the_password_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailauth.sasl._password_mechanisms.MD5_AVAILABLE", False)
    emoji = "\U0001f642".encode()
    for clear_text in (False, True):
        with pytest.raises(
            LocalProtocolError, match=r"Unicode 3\.2 does not assign; PLAIN, LOGIN and USER would show it"
        ):
            names(emoji, None, clear_text=clear_text)
    assert names(emoji, BARE) == ["PLAIN", "LOGIN", "USER"]


@pytest.mark.parametrize("entropy", [b"", bytes(15), "x" * 32, None])
def test_invalid_entropy_is_an_error_and_leaves_no_mechanism_out(entropy: Any) -> None:
    with pytest.raises(LocalProtocolError, match="entropy"):
        sasl.password_mechanisms("alice", PASSWORD, entropy=entropy, tls=BOUND)


# Channel binding

SEVERAL: Final = {"tls-unique": b"finished", "tls-server-end-point": b"digest", "other": b"?"}


def bindings(version: str) -> list[str]:
    tls = Tls(version=version, channel_bindings=SEVERAL)
    return [
        mechanism.channel_binding
        for mechanism in sasl.password_mechanisms("alice", PASSWORD, entropy=ENTROPY, tls=tls)
        if isinstance(mechanism, sasl.ScramSha256PlusClient)
    ]


def test_bindings_are_in_the_order_of_preference() -> None:
    """RFC 5802 section 6.1: ``tls-unique`` is the default.  TLS 1.3 does not define it (RFC 9266 section 2)."""
    assert bindings("TLSv1.2") == ["tls-unique", "tls-server-end-point"]
    assert bindings("TLSv1.3") == ["tls-server-end-point", "tls-unique"]


def flags(channel_binding: sasl.ChannelBinding, tls: Tls | None) -> dict[str, bytes]:
    """Return the first GS2 flag of each mechanism of SCRAM."""
    found: dict[str, bytes] = {}
    for mechanism in sasl.password_mechanisms(
        "alice", PASSWORD, entropy=ENTROPY, tls=tls, channel_binding=channel_binding
    ):
        if mechanism.name.startswith("SCRAM-"):
            found.setdefault(mechanism.name, mechanism.respond(None)[:1])
    return found


def test_channel_binding_none_sends_flag_n() -> None:
    """``y`` beside an offered -PLUS form reads as a downgrade (RFC 5802 section 6)."""
    assert flags("none", BOUND) == {"SCRAM-SHA-256": b"n", "SCRAM-SHA-1": b"n"}
    assert flags("prefer", BOUND) == {
        "SCRAM-SHA-256-PLUS": b"p", "SCRAM-SHA-1-PLUS": b"p", "SCRAM-SHA-256": b"y", "SCRAM-SHA-1": b"y",
    }  # fmt: skip
    assert flags("prefer", BARE) == flags("none", BARE) == {"SCRAM-SHA-256": b"n", "SCRAM-SHA-1": b"n"}


def test_channel_binding_require_leaves_only_plus() -> None:
    assert names(PASSWORD, BOUND, channel_binding="require") == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"]
    for tls in (None, BARE):
        with pytest.raises(LocalProtocolError, match="needs TLS with channel binding data"):
            names(PASSWORD, tls, channel_binding="require")
    with pytest.raises(LocalProtocolError, match=r"Unicode 3\.2"):
        names("\U0001f642".encode(), BOUND, channel_binding="require")


def test_unknown_channel_binding_is_an_error() -> None:
    with pytest.raises(LocalProtocolError, match=r"require.*prefer.*none"):
        names(PASSWORD, BOUND, channel_binding="tls-unique")


@pytest.mark.parametrize("offering", [smtp_offering, pop3_offering])
def test_channel_binding_none_logs_in_at_a_server_that_offers_plus(offering: Offering) -> None:
    found = sasl.password_mechanisms("alice", PASSWORD, entropy=ENTROPY, tls=BOUND, channel_binding="none")
    wire = Wire(offering(("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")), BOUND, {}).log_in(*found)
    assert wire.succeeded
