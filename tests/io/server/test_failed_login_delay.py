"""The delay before a failed login is answered depends only on the failures from the same address."""

from __future__ import annotations

import pytest

from mailauth.addresses import limit_key, limit_network
from mailauth_io.server._failed_logins import MEMORY, FailedLogins


def test_delay_doubles_with_each_failure_up_to_the_maximum() -> None:
    """A single typing mistake causes no delay, and no delay exceeds the maximum."""
    table = FailedLogins(longest=2.0)
    assert [table.delay("192.0.2.1", 0.0) for _ in range(7)] == [0.0, 0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert table.delay("192.0.2.2", 0.0) == 0.0
    shorter = FailedLogins(longest=0.8)
    assert [shorter.delay("192.0.2.1", 0.0) for _ in range(5)] == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8])


def test_failures_are_recorded_with_zero_delay() -> None:
    """The queue for password hashing uses them."""
    table = FailedLogins(longest=0)
    assert {table.delay("192.0.2.1", 0.0) for _ in range(7)} == {0.0}
    assert table.failed_recently("192.0.2.1", 0.0)


def test_a_failure_is_recent_for_ten_minutes() -> None:
    """Counted by address, or by IPv6 network; both ``note()`` and ``delay()`` record it."""
    table = FailedLogins()
    assert not table.failed_recently("192.0.2.1", 0.0)
    table.delay("192.0.2.1", 0.0)
    table.note("2001:db8::1", 100.0)
    assert table.failed_recently("192.0.2.1", 599.0)
    assert table.failed_recently("::ffff:192.0.2.1", 599.0)
    assert not table.failed_recently("192.0.2.1", 600.0)
    assert not table.failed_recently("192.0.2.2", 0.0)
    assert table.failed_recently("2001:db8::ffff", 699.0)
    assert not table.failed_recently("2001:db8::ffff", 700.0)


def test_noted_failures_do_not_increase_the_delay() -> None:
    table = FailedLogins(longest=2.0)
    for _ in range(5):
        table.note("192.0.2.1", 0.0)
    assert [table.delay("192.0.2.1", 0.0) for _ in range(3)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1", True),
        ("", "", True),
    ],
)
def test_ipv6_64_and_ipv4_mapped_addresses_count_as_one_address(one: str, other: str, same: bool) -> None:
    """RFC 4291 section 2.5.4: all addresses of a /64 usually belong to one client."""
    table = FailedLogins()
    table.delay(one, 0.0)
    assert (table.delay(other, 0.0) > 0) == same


def test_failures_expire_after_a_period_without_failures() -> None:
    """Each failure prolongs the memory of the earlier ones."""
    table = FailedLogins()
    for now in (0.0, MEMORY - 1, 2 * MEMORY - 3):
        table.delay("192.0.2.1", now)
    assert table.delay("192.0.2.1", 3 * MEMORY - 4) == 1.0
    table.delay("192.0.2.2", 4 * MEMORY)
    assert len(table) == 1
    assert table.delay("192.0.2.1", 4 * MEMORY) == 0.0


def test_table_is_bounded_and_evicts_address_with_the_oldest_failure() -> None:
    """architecture.md, invariant 4.  Addresses that fail once do not displace one that keeps failing."""
    table = FailedLogins(max_addresses=3)
    for number in range(100):
        table.delay("192.0.2.1", 0.0)
        table.delay(f"198.51.100.{number}", 0.0)
        assert len(table) <= 3
    assert table.delay("192.0.2.1", 0.0) == 2.0
    assert table.delay("198.51.100.1", 0.0) == 0.0


def test_one_network_removes_only_its_own_addresses() -> None:
    """The owner of an IPv6 /48 has 65,536 networks of 64 bits.  Its own oldest is removed."""
    table = FailedLogins()
    for address in ("192.0.2.1", "2001:db8:2::1"):
        for _ in range(5):
            table.delay(address, 0.0)
    for number in range(20_000):
        table.note(f"2001:db8:1:{number:x}::1", 1.0)
        assert len(table) <= 2 + 256
    assert table.failed_recently("2001:db8:1:4e1f::1", 1.0)
    assert not table.failed_recently("2001:db8:1::1", 1.0)
    assert table.delay("192.0.2.1", 1.0) == table.delay("2001:db8:2::1", 1.0) == 2.0
    table.note("198.51.100.1", MEMORY + 2.0)
    assert len(table) == len(table._networks) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "::ffff:192.0.2.7", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:1:1::1", "2001:db8:1:ffff::2", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("a pipe", "a pipe", True),
        ("a pipe", "another", False),
    ],
)
def test_networks_group_addresses_by_ipv4_24_and_ipv6_48(one: str, other: str, same: bool) -> None:
    """An IPv4 /24 or an IPv6 /48 usually belongs to one owner."""
    assert (limit_network(limit_key(one)) == limit_network(limit_key(other))) == same
