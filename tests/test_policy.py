"""The relay policy: each documented rule."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, LocalProtocolError
from mailauth.grants import UNAVAILABLE, Grant, Lookup
from mailauth.policy import Decision, Reason, RelayPolicy
from mailauth.smtp._grammar import Mailbox
from mailauth.smtp.replies import Reply

POLICY = RelayPolicy(domains=frozenset({"example.test", "Other.Example.TEST", "[192.0.2.1]"}))
GRANT = Grant("192.0.2.9", "alice", 100.0)
LOCAL = Mailbox("bob", "example.test")
REMOTE = Mailbox("bob", "elsewhere.test")


@pytest.mark.parametrize("identity", [None, "carol"])
@pytest.mark.parametrize("grant", [None, GRANT, UNAVAILABLE])
def test_local_recipient_is_accepted_from_any_client(identity: str | None, grant: Lookup) -> None:
    """Even while the grant store is unavailable."""
    decision = POLICY.decide(LOCAL, identity=identity, grant=grant)
    assert decision == Decision(verdict=ACCEPT, reason=Reason.LOCAL, identity=identity)


@pytest.mark.parametrize("grant", [None, GRANT, UNAVAILABLE])
def test_authenticated_identity_may_relay(grant: Lookup) -> None:
    decision = POLICY.decide(REMOTE, identity="carol", grant=grant)
    assert decision == Decision(verdict=ACCEPT, reason=Reason.IDENTITY, identity="carol")


def test_grant_permits_relay_with_the_identity_of_the_login() -> None:
    decision = POLICY.decide(REMOTE, identity=None, grant=GRANT)
    assert decision == Decision(verdict=ACCEPT, reason=Reason.GRANT, identity="alice")


def test_relay_without_identity_or_grant_is_550() -> None:
    """RFC 3463 section 3.8: X.7.1, delivery not authorized."""
    decision = POLICY.decide(REMOTE, identity=None, grant=None)
    assert (decision.reason, decision.identity) == (Reason.NO_GRANT, None)
    assert isinstance(decision.verdict, Reply)
    assert (decision.verdict.code, decision.verdict.enhanced_status_code) == (550, "5.7.1")
    assert "authentication required" in decision.verdict.text


def test_relay_with_unavailable_grant_store_is_451() -> None:
    """550 would bounce the mail, and ACCEPT would make an open relay."""
    decision = POLICY.decide(REMOTE, identity=None, grant=UNAVAILABLE)
    assert (decision.reason, decision.identity) == (Reason.UNAVAILABLE, None)
    assert isinstance(decision.verdict, Reply)
    assert (decision.verdict.code, decision.verdict.enhanced_status_code) == (451, "4.7.1")


@pytest.mark.parametrize("domain", ["example.test", "EXAMPLE.test", "other.example.test", "[192.0.2.1]"])
def test_local_domains_are_case_insensitive(domain: str) -> None:
    assert POLICY.is_local(Mailbox("bob", domain))


def test_non_ascii_domains_are_compared_without_normalization() -> None:
    """RFC 6531 section 3.2: ASCII letters are compared without case; a U-label and its A-label are separate entries."""
    policy = RelayPolicy(domains=frozenset({"Bücher.Example", "kelvin.test"}))
    assert policy.is_local(Mailbox("bob", "bücher.eXample"))
    assert policy.is_local(Mailbox("bøb", "bücher.example"))
    for domain in ("BÜcher.example", "bu\N{COMBINING DIAERESIS}cher.example", "xn--bcher-kva.example"):
        assert not policy.is_local(Mailbox("bob", domain))
    assert not policy.is_local(Mailbox("bob", "\N{KELVIN SIGN}elvin.test"))  # str.lower() turns it into an ASCII k


@pytest.mark.parametrize(
    "domain", ["xexample.test", "sub.example.test", "example.test.evil.test", "test", "192.0.2.1", "[192.0.2.2]"]
)
def test_similar_domain_is_not_local(domain: str) -> None:
    assert not POLICY.is_local(Mailbox("bob", domain))


@pytest.mark.parametrize("local_part", ["bob%evil.test", "evil.test!bob", "bob@evil.test", "%", "!", "@", "bob%"])
def test_local_part_with_a_route_is_never_local(local_part: str) -> None:
    """Another mailer might deliver ``bob%evil.test@example.test`` to evil.test."""
    path = Mailbox(local_part, "example.test")
    assert POLICY.decide(path, identity=None, grant=None).reason is Reason.NO_GRANT
    assert POLICY.decide(path, identity=None, grant=GRANT).reason is Reason.GRANT
    assert POLICY.decide(path, identity="carol", grant=None).reason is Reason.IDENTITY


@pytest.mark.parametrize(
    "text", ['"bob@evil.test"@example.test', '"bob\\@evil.test"@example.test', '"a%b"@example.test']
)
def test_quoted_local_part_with_a_route_is_not_local(text: str) -> None:
    assert not POLICY.is_local(Mailbox.parse(text))


@pytest.mark.parametrize("local_part", ["Postmaster", "postmaster", "POSTMASTER"])
def test_the_bare_postmaster_is_local(local_part: str) -> None:
    """RFC 5321 section 4.5.1."""
    assert POLICY.decide(Mailbox(local_part, ""), identity=None, grant=None).reason is Reason.LOCAL


def test_without_domains_no_recipient_is_local() -> None:
    policy = RelayPolicy(domains=frozenset())
    for recipient in (LOCAL, Mailbox("Postmaster", "")):
        assert policy.decide(recipient, identity=None, grant=None).reason is Reason.NO_GRANT
        assert policy.decide(recipient, identity="alice", grant=None).reason is Reason.IDENTITY


@pytest.mark.parametrize("reverse_path", [None, LOCAL, REMOTE])
def test_reverse_path_does_not_permit_relay(reverse_path: Mailbox | None) -> None:
    """Anyone can forge it."""
    assert POLICY.decide(REMOTE, identity=None, grant=None, reverse_path=reverse_path).reason is Reason.NO_GRANT


@pytest.mark.parametrize("domain", ["", "exa mple.test", "@example.test", "[192.0.2.999]", "*"])
def test_invalid_domain_is_rejected_by_the_constructor(domain: str) -> None:
    with pytest.raises(LocalProtocolError):
        RelayPolicy(domains=frozenset({domain}))


def test_single_string_as_domains_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        RelayPolicy(domains="example.test")


@given(
    st.text("abé%!@.", min_size=1, max_size=8),
    st.sampled_from(["example.test", "elsewhere.test"]),
    st.sampled_from([None, "carol"]),
    st.sampled_from([None, GRANT, UNAVAILABLE]),
)
def test_relay_requires_an_identity_or_a_grant(
    local_part: str, domain: str, identity: str | None, grant: Lookup
) -> None:
    """An accepted recipient is local and without a route, or an identity is responsible for the message."""
    try:
        path = Mailbox(local_part, domain)
    except LocalProtocolError:
        return
    decision = POLICY.decide(path, identity=identity, grant=grant)
    if decision.verdict is ACCEPT and decision.identity is None:
        assert domain == "example.test"
        assert not set("%!@") & set(local_part)
    if decision.reason is not Reason.LOCAL:
        assert (decision.verdict is ACCEPT) == (decision.identity is not None)
