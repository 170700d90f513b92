"""The grant table: each documented rule, and a comparison with a simple model."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mailauth import LocalProtocolError
from mailauth.addresses import grant_key
from mailauth.grants import Grant, GrantTable

HERE = "192.0.2.1"
ELSEWHERE = "192.0.2.2"


def table(**settings: Any) -> GrantTable:
    return GrantTable(lifetime=100, **settings)


def who(grants: GrantTable, address: str, now: float = 0) -> str | None:
    found = grants.find(address, now)
    return found.identity if found else None


# Grants


def test_grant_has_address_identity_and_expiry_of_login_plus_lifetime() -> None:
    grants = table()
    made = grants.grant(HERE, "alice", now=7)
    assert made == Grant(HERE, "alice", 107)
    assert (made.address, made.identity, made.expires) == (ipaddress.IPv4Address(HERE), "alice", 107)
    assert grants.find(HERE, now=7) == made
    assert repr(made) == "Grant(address='192.0.2.1', identity='alice', expires=107)"


def test_address_without_a_login_is_not_permitted() -> None:
    """Not even 127.0.0.0/8."""
    grants = table()
    grants.grant(HERE, "alice", now=0)
    for address in (ELSEWHERE, "127.0.0.1", "::1", "0.0.0.0"):
        assert not grants.permits(address, now=0)


def test_a_new_login_replaces_the_grant() -> None:
    grants = table()
    grants.grant(HERE, "alice", now=0)
    grants.grant(HERE, "alice", now=60)
    assert len(grants) == 1
    assert grants.permits(HERE, now=159)
    assert not grants.permits(HERE, now=160)


def test_address_is_permitted_while_any_of_its_grants_is_valid() -> None:
    grants = table()
    grants.grant(HERE, "alice", now=0)
    grants.grant(HERE, "bob", now=50)
    assert len(grants) == 2
    assert [who(grants, HERE, now) for now in (99, 100, 149, 150)] == ["bob", "bob", "bob", None]


def test_find_returns_the_identity_of_the_latest_login() -> None:
    grants = table()
    for name in ("alice", "bob", "alice"):
        grants.grant(HERE, name, now=0)
    assert who(grants, HERE) == "alice"


def test_revoking_an_identity_keeps_others_at_the_same_address() -> None:
    grants = table()
    for name in ("alice", "bob"):
        grants.grant(HERE, name, now=0)
    grants.grant(ELSEWHERE, "bob", now=0)
    assert grants.revoke_identity("bob") == 2
    assert who(grants, HERE) == "alice"
    assert who(grants, ELSEWHERE) is None
    assert len(grants) == 1


# Bounds


def test_seventeenth_identity_at_an_address_evicts_the_oldest() -> None:
    grants = table()
    for number in range(17):
        grants.grant(HERE, f"user{number}", now=number)
    assert len(grants) == 16
    assert grants.revoke_identity("user0") == 0
    assert grants.revoke_identity("user1") == 1


def test_limit_of_one_identity_per_address_keeps_the_latest() -> None:
    grants = table(identities_per_address=1)
    grants.grant(HERE, "alice", now=0)
    grants.grant(HERE, "bob", now=0)
    assert who(grants, HERE) == "bob"
    assert len(grants) == 1


def test_an_identity_over_its_number_of_addresses_loses_its_oldest_grant() -> None:
    """One account can neither fill the table nor evict the grants of others."""
    grants = table(addresses_per_identity=3)
    grants.grant(HERE, "bob", now=0)
    for number in range(10):
        grants.grant(f"198.51.100.{number}", "alice", now=number)
        grants.grant("198.51.100.0", "alice", now=number)  # a renewed grant is the latest
    assert [str(each.address) for each in grants.active(9)] == [
        HERE, "198.51.100.8", "198.51.100.9", "198.51.100.0",
    ]  # fmt: skip
    assert grants.revoke_identity("alice") == 3
    assert len(grants) == 1


def test_an_identity_has_at_most_1000_grants_by_default() -> None:
    grants = table()
    for number in range(1_001):
        grants.grant(ipaddress.IPv4Address(number), "alice", now=0)
    assert len(grants) == 1_000
    assert not grants.permits("0.0.0.0", now=0)


def test_grant_over_max_grants_evicts_from_the_identity_that_has_the_most() -> None:
    grants = table(max_grants=5)
    for number, name in enumerate(("bob", "alice", "carol", "alice", "alice", "dave", "alice", "erin")):
        grants.grant(f"192.0.2.{number}", name, now=number)
    assert [each.identity for each in grants.active(7)] == ["bob", "carol", "dave", "alice", "erin"]
    assert not grants.permits("192.0.2.4", now=7)
    grants.grant("192.0.2.8", "frank", now=8)  # each identity has one: the oldest of all is evicted
    assert [each.identity for each in grants.active(8)] == ["carol", "dave", "alice", "erin", "frank"]


def test_grant_over_max_grants_evicts_the_oldest_login() -> None:
    grants = table(max_grants=3)
    grants.grant("192.0.2.1", "alice", now=0)
    grants.grant("192.0.2.2", "bob", now=1)
    grants.grant("192.0.2.3", "carol", now=2)
    grants.grant("192.0.2.1", "alice", now=3)  # now the latest login
    grants.grant("192.0.2.4", "dave", now=4)
    assert len(grants) == 3
    assert [who(grants, f"192.0.2.{number}", now=4) for number in (1, 2, 3, 4)] == ["alice", None, "carol", "dave"]


def test_repeated_logins_keep_memory_bounded() -> None:
    """architecture.md, invariant 4: replaced grants must not accumulate."""
    grants = table()
    for now in range(1_000):
        grants.grant(HERE, "alice", now=now / 1000)
        grants.grant(ELSEWHERE, "alice", now=now / 1000)
        grants.revoke_address(ELSEWHERE)
        assert len(grants._order) <= 2 * len(grants) + 65
    assert len(grants) == 1


@pytest.mark.parametrize(
    "lifetime", [-1.0, math.nan, math.inf, 31_536_001, pytest.param(10**400, id="huge"), True, None, "1800"]
)
def test_lifetime_outside_0_seconds_to_a_year_is_rejected(lifetime: float) -> None:
    """A grant that never expires would make an open relay."""
    with pytest.raises(LocalProtocolError):
        GrantTable(lifetime=lifetime)


@pytest.mark.parametrize(
    "settings",
    [
        {"ipv6_prefix": 0},
        {"ipv6_prefix": 129},
        {"nat64_prefixes": [ipaddress.IPv6Network("2001:db8::/49")]},
        {"nat64_prefixes": "::/96"},
        {"identities_per_address": 0},
        {"addresses_per_identity": 0},
        {"max_grants": 0},
    ],
)
def test_settings_out_of_range_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        table(**settings)


# Addresses


@pytest.mark.parametrize(
    "spelling", ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:192.0.2.1", "::ffff:c000:201", "0:0:0:0:0:ffff:c000:201%eth0"]
)
def test_ipv4_mapped_address_equals_the_ipv4_address(spelling: str) -> None:
    for granted, asked in ((spelling, HERE), (HERE, spelling)):
        grants = table(ipv6_prefix=1)
        grants.grant(granted, "alice", now=0)
        assert grants.permits(asked, now=0)
        assert not grants.permits(ELSEWHERE, now=0)
        assert grants.find(asked, now=0) == Grant(HERE, "alice", 100)


@pytest.mark.parametrize("spelling", ["2001:db8::1", "2001:DB8:0::1", "2001:db8::1%eth0", "2001:db8:0:0:0:0:0:1%2"])
def test_ipv6_spelling_and_zone_of_a_global_address_are_ignored(spelling: str) -> None:
    grants = table()
    grants.grant(spelling, "alice", now=0)
    assert grants.permits("2001:db8::1", now=0)
    assert grants.permits("2001:db8::1%lo", now=0)
    assert str(grants.grant(spelling, "alice", now=0).address) == "2001:db8::1"


@pytest.mark.parametrize("prefix", [128, 64, 1])
def test_link_local_address_keeps_its_zone(prefix: int) -> None:
    """The host with the same address on another link is another client (RFC 4007 section 4)."""
    grants = table(ipv6_prefix=prefix)
    made = grants.grant("FE80:0::1%2", "alice", now=0)
    assert grants.permits("fe80::1%2", now=0)
    assert grants.find("fe80::1%2", now=0) == made
    assert grants.active(0, "fe80::1%2") == grants.active(0) == [made]
    for other in ("fe80::1%3", "fe80::1", "fe80::1%eth0"):
        assert not grants.permits(other, now=0)
    assert grants.revoke_address("fe80::1%2") == 1
    assert len(grants) == 0


def test_ipv6_prefix_permits_exactly_its_network() -> None:
    grants = table(ipv6_prefix=64)
    grants.grant("2001:db8:0:1:2::3", "alice", now=0)
    assert grants.permits("2001:db8:0:1:ffff::", now=0)
    assert not grants.permits("2001:db8:0:2:2::3", now=0)
    assert str(grants.grant("2001:db8:0:1:2::3", "alice", now=0).address) == "2001:db8:0:1::"


def test_ipv6_prefix_defaults_to_128() -> None:
    grants = table()
    grants.grant("2001:db8::2", "alice", now=0)
    assert not grants.permits("2001:db8::3", now=0)


def test_the_prefix_is_never_applied_to_ipv4() -> None:
    grants = table(ipv6_prefix=8)
    grants.grant(HERE, "alice", now=0)
    assert not grants.permits(ELSEWHERE, now=0)


def test_ipv4_address_differs_from_ipv6_address_of_equal_value() -> None:
    grants = table()
    grants.grant("0.0.0.1", "alice", now=0)
    assert not grants.permits("::1", now=0)
    assert not grants.permits("::0.0.0.1", now=0)


@pytest.mark.parametrize("text", [HERE, "10.255.0.1", "2001:db8::1", "::ffff:192.0.2.9"])
def test_address_text_and_ipaddress_object_are_equivalent(text: str) -> None:
    value = ipaddress.ip_address(text)
    for granted, asked in ((text, value), (value, text)):
        grants = table()
        grants.grant(granted, "alice", now=0)
        assert grants.permits(asked, now=0)


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "192.0.2", "192.0.2.1.1", "192.0.2.256", "192.0.2.01", "192.0.2.+1", "192.0.2. 1", "192.0.2.1%e",
     "192.0.2.1\n", "192.0.2.\u0661", "fe80::1% ", "fe80::1%a b", "fe80::1%a\n",
     "[::1]", "::1::", "1:2:3", "::fffff", "192.0.2.1:25", "::1%", "192.0.2.0/24"],
)  # fmt: skip
def test_invalid_address_is_rejected(text: str) -> None:
    grants = table()
    for call in (
        grant_key,
        grants.revoke_address,
        lambda address: grants.find(address, 0),
        lambda address: Grant(address, "a", 0),
    ):
        with pytest.raises(LocalProtocolError):
            call(text)
    with pytest.raises(LocalProtocolError):
        grants.grant(text, "alice", now=0)
    assert len(grants) == 0


@pytest.mark.parametrize(
    ("address", "prefix", "folded"),
    [("::ffff:192.0.2.1", 8, HERE), ("fe80::1%eth0", 128, "fe80::1%eth0"), ("2001:db8:0:1:2::3", 64, "2001:db8:0:1::")],
)
def test_grant_key_matches_the_grant_table(address: str, prefix: int, folded: str) -> None:
    assert grant_key(address, prefix) == ipaddress.ip_address(folded)
    assert table(ipv6_prefix=prefix).grant(address, "alice", now=0).address == grant_key(address, prefix)
    for wrong in (0, 129):
        with pytest.raises(LocalProtocolError):
            grant_key(address, wrong)


def test_grant_with_an_empty_identity_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        table().grant(HERE, "", now=0)


# Time


def test_lookups_do_not_extend_a_grant() -> None:
    """A lookup, as for each message sent, does not change the expiry."""
    grants = table()
    grants.grant(HERE, "alice", now=0)
    for now in range(100):
        assert grants.permits(HERE, now=now)
    assert not grants.permits(HERE, now=100)


def test_expired_grant_is_ignored_by_lookup_and_removed_by_expire() -> None:
    grants = table()
    grants.grant(HERE, "alice", now=0)
    assert not grants.permits(HERE, now=100)
    assert len(grants) == 1
    assert grants.expire(now=99.9) == 0
    assert grants.expire(now=100) == 1
    assert len(grants) == 0
    assert grants.expire(now=100) == 0


def test_expire_keeps_renewed_grants() -> None:
    grants = table()
    grants.grant(HERE, "alice", now=0)
    grants.grant(HERE, "bob", now=0)
    grants.grant(HERE, "alice", now=50)
    assert grants.expire(now=100) == 1
    assert who(grants, HERE, now=100) == "alice"


def test_zero_lifetime_permits_nothing() -> None:
    grants = GrantTable(lifetime=0)
    made = grants.grant(HERE, "alice", now=5)
    assert made.expires == 5
    assert not grants.permits(HERE, now=5)
    assert len(grants) == 0


# Revocation


def test_revoke_address_revokes_all_its_identities() -> None:
    grants = table()
    for name in ("alice", "bob"):
        grants.grant(HERE, name, now=0)
    grants.grant(ELSEWHERE, "bob", now=0)
    assert grants.revoke_address("::ffff:" + HERE) == 2
    assert not grants.permits(HERE, now=0)
    assert who(grants, ELSEWHERE) == "bob"
    assert grants.revoke_address(HERE) == 0


def test_revoke_identity_accepts_several_identities() -> None:
    grants = table()
    for number, name in enumerate(("alice", "bob", "carol")):
        grants.grant(f"192.0.2.{number}", name, now=0)
    assert grants.revoke_identity("alice", "carol", "nobody") == 2
    assert [who(grants, f"192.0.2.{number}") for number in range(3)] == [None, "bob", None]


def test_login_after_revocation_creates_a_new_grant() -> None:
    grants = table()
    grants.grant(HERE, "alice", now=0)
    grants.revoke_identity("alice")
    grants.grant(HERE, "alice", now=0)
    assert who(grants, HERE) == "alice"
    assert grants.revoke_identity("alice") == 1


def test_revocation_with_until_keeps_later_logins() -> None:
    """If a process notices a changed password late, there may be logins with the new password already."""
    grants = table()
    grants.grant(HERE, "alice", now=0)
    grants.grant(ELSEWHERE, "alice", now=50)
    assert grants.revoke_identity("alice", until=149) == 1
    assert [who(grants, address, now=50) for address in (HERE, ELSEWHERE)] == [None, "alice"]


def test_grant_is_immutable() -> None:
    made = table().grant(HERE, "alice", now=0)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.__setattr__("expires", 1e9)


# The model

ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fe80::1%a", "fe80::1", "fe80::2:1", "::"])
NAMES = st.sampled_from(["alice", "bob", "carol", "dave"])
FOLDED = {
    "10.0.0.1": "a",
    "::ffff:10.0.0.1": "a",
    "10.0.0.2": "b",
    "fe80::1%a": "c",
    "fe80::1": "d",
    "fe80::2:1": "d",  # the first 64 bits are the same
    "::": "e",
}


class Model(RuleBasedStateMachine):
    """A list of (address, identity, expires), the oldest login first, with linear search."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = GrantTable(
            lifetime=10, ipv6_prefix=64, identities_per_address=3, addresses_per_identity=3, max_grants=6
        )
        self.logins: list[tuple[str, str, float]] = []

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(address=ADDRESSES, identity=NAMES)
    def log_in(self, address: str, identity: str) -> None:
        self.table.grant(address, identity, self.now)
        place = FOLDED[address]
        self.logins = [login for login in self.logins if login[:2] != (place, identity)]
        there = [login for login in self.logins if login[0] == place]
        if len(there) == 3:
            self.logins.remove(there[0])
        same = [login for login in self.logins if login[1] == identity]
        if len(same) == 3:
            self.logins.remove(same[0])
        self.logins.append((place, identity, self.now + 10))
        if len(self.logins) == 7:
            self.logins.remove(self.evicted())

    def evicted(self) -> tuple[str, str, float]:
        """Return the login that the table has evicted, which must be one that the rule allows."""
        place_of = {grant_key(address, 64): place for address, place in FOLDED.items()}
        left = [(place_of[grant.address], grant.identity, grant.expires) for grant in self.table.active(-1)]
        (gone,) = [login for login in self.logins if login not in left]
        counts = Counter(login[1] for login in self.logins)
        assert counts[gone[1]] == max(counts.values())
        assert gone == next(login for login in self.logins if counts[gone[1]] == 1 or login[1] == gone[1])
        return gone

    @rule(identity=NAMES)
    def revoke_identity(self, identity: str) -> None:
        left = [login for login in self.logins if login[1] != identity]
        assert self.table.revoke_identity(identity) == len(self.logins) - len(left)
        self.logins = left

    @rule(identity=NAMES, age=st.integers(0, 12))
    def revoke_identity_late(self, identity: str, age: int) -> None:
        until = self.now + 10 - age
        left = [login for login in self.logins if login[1] != identity or login[2] > until]
        assert self.table.revoke_identity(identity, until=until) == len(self.logins) - len(left)
        self.logins = left

    @rule(address=ADDRESSES)
    def revoke_address(self, address: str) -> None:
        left = [login for login in self.logins if login[0] != FOLDED[address]]
        assert self.table.revoke_address(address) == len(self.logins) - len(left)
        self.logins = left

    @rule()
    def sweep(self) -> None:
        left = [login for login in self.logins if login[2] > self.now]
        assert self.table.expire(self.now) == len(self.logins) - len(left)
        self.logins = left

    @invariant()
    def agrees(self) -> None:
        assert len(self.table) == len(self.logins)
        for address, place in FOLDED.items():
            active = [login for login in self.logins if login[0] == place and login[2] > self.now]
            found = self.table.find(address, self.now)
            assert (found and (found.identity, found.expires)) == (active[-1][1:] if active else None)
            assert self.table.permits(address, self.now) is bool(active)
            assert [(each.identity, each.expires) for each in self.table.active(self.now, address)] == [
                login[1:] for login in active
            ]
        assert [(each.identity, each.expires) for each in self.table.active(self.now)] == [
            login[1:] for login in self.logins if login[2] > self.now
        ]


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40)
