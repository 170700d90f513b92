"""``sasl.password_mechanisms``: the strongest mechanism that the server offers for a name and a password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

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
