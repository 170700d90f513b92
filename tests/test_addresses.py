"""``grant_key()`` never merges two clients, and ``limit_key()`` never counts one client as several."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

import pytest
from hypothesis import given, strategies as st

from mailauth import LocalProtocolError
from mailauth.addresses import grant_key, is_within, limit_key, limit_network, normalize_address

NAT64: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001:db8:32::/48",
        "2001:db8:56:ff00::/56",
        "2001:db8:64:64::/64",
        "2001:db8:96:96::/96",
        "3fff:32::/32",
        "3fff:4000:ff00::/40",
    )
)
"""One configured NAT64 prefix of each length, and no two of one owner in a /32."""

V4: Final = "192.0.2.33"
PAIRS: Final = {
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
}
"""The examples of RFC 6052 section 2.4."""


def translated(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """Return *address* behind *prefix*, written bit by bit as in the figure of RFC 6052 section 2.2."""
    bits = f"{int(prefix.network_address):0128b}"[: prefix.prefixlen]
    for bit in f"{int(address):032b}":
        if len(bits) == 64 and prefix.prefixlen != 96:
            bits += "0" * 8
        bits += bit
    return IPv6Address(int(bits.ljust(128, "0"), 2))


def form(prefix: str) -> Callable[[IPv4Address], IPv6Address]:
    return lambda address: translated(IPv6Network(prefix), address)


FORMS: Final[tuple[Callable[[IPv4Address], IPv6Address], ...]] = (
    form("::ffff:0:0/96"),
    form("64:ff9b::/96"),
    form("64:ff9b:1::/48"),
    form("64:ff9b:1::/96"),
    form("64:ff9b:1:fffe:1::/96"),
    form("::ffff:0:0:0/96"),
    lambda address: IPv6Address((0x2001_0000_4136_E378_8000_63BF << 32) | (int(address) ^ 0xFFFF_FFFF)),
    *(form(str(prefix)) for prefix in NAT64),
)
"""All forms in which a host with an IPv4 address can appear as an IPv6 peer."""

ipv4 = st.ip_addresses(v=4).filter(lambda address: int(address) != 0)
ipv6 = st.ip_addresses(v=6)
special = st.builds(lambda make, address: make(address), st.sampled_from(FORMS), ipv4)
"""Hypothesis hardly ever generates one of these by itself."""
compatible = st.integers(0, 2**32 - 1).map(IPv6Address)
six_to_four = st.integers(0x2002 << 112, (0x2003 << 112) - 1).map(IPv6Address)
near_a_prefix = st.builds(
    lambda prefix, host: IPv6Address(int(prefix.network_address) ^ host), st.sampled_from(NAT64), st.integers(0, 2**97)
)
link_local = st.builds(
    lambda host, zone: IPv6Address(f"{IPv6Address((0xFE80 << 112) + host)}%{zone}"),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["2", "3", "eth0"]),
)
addresses = st.one_of(ipv4, ipv6, special, compatible, six_to_four, near_a_prefix, link_local)
prefixes = st.integers(1, 128)


def same_client(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, prefix: int) -> bool:
    """The specification of ``grant_key()``: whether one grant may cover both, for *prefix* and ``NAT64``."""
    if isinstance(one, IPv6Address) and one.ipv4_mapped:
        one = one.ipv4_mapped
    if isinstance(other, IPv6Address) and other.ipv4_mapped:
        other = other.ipv4_mapped
    if isinstance(one, IPv4Address) or isinstance(other, IPv4Address):
        return one == other
    whole = (*NAT64, *map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96", "2001::/32")))
    if any(one in network or other in network for network in whole):
        return one == other
    if one in IPv6Network("fe80::/10") and one.scope_id != other.scope_id:
        return False
    if one in IPv6Network("2002::/16") or other in IPv6Network("2002::/16"):
        prefix = max(prefix, 48)
    return other in IPv6Network((int(one), prefix), strict=False)


@given(addresses, addresses, prefixes)
def test_grant_key_never_merges_two_clients(
    one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, prefix: int
) -> None:
    if grant_key(one, prefix, NAT64) == grant_key(other, prefix, NAT64):
        assert same_client(one, other, prefix)


@given(addresses, prefixes)
def test_key_of_the_key_is_never_another_key(address: IPv4Address | IPv6Address, prefix: int) -> None:
    """The first address of a network may itself be the address of a client: it then has the same key, or another."""
    key = grant_key(address, prefix, NAT64)
    assert grant_key(str(key), prefix, NAT64) == key
    assert same_client(key, address, prefix)


@given(special | compatible, special | compatible, prefixes)
def test_addresses_with_an_ipv4_address_inside_share_a_grant_only_if_equal(
    one: IPv6Address, other: IPv6Address, prefix: int
) -> None:
    """With ``--grant-ipv6-prefix 64`` one login behind NAT64 must not open relaying for the IPv4 Internet behind it."""
    assert (grant_key(one, prefix, NAT64) == grant_key(other, prefix, NAT64)) == (one == other)


@given(ipv4, prefixes)
def test_grant_never_covers_a_translated_form_of_its_ipv4_address(address: IPv4Address, prefix: int) -> None:
    """Whoever can send from a /96 could forge any IPv4 address in it.  A mapped address is the same socket."""
    assert grant_key(FORMS[0](address), prefix, NAT64) == grant_key(address, prefix, NAT64) == address
    for make in FORMS[1:]:
        assert grant_key(make(address), prefix, NAT64) == make(address)


@given(st.integers(0, 2**112 - 1), st.integers(0, 2**112 - 1), prefixes)
def test_grant_for_6to4_covers_at_most_one_48(one: int, other: int, prefix: int) -> None:
    first, second = IPv6Address((0x2002 << 112) + one), IPv6Address((0x2002 << 112) + other)
    if grant_key(first, prefix) == grant_key(second, prefix):
        assert one >> 80 == other >> 80
    shared = IPv6Address((0x2002 << 112) + (one >> 80 << 80) + other % 2**80)
    assert (grant_key(first, min(prefix, 48)) == grant_key(shared, min(prefix, 48))) is True


@pytest.mark.parametrize(
    ("one", "other", "prefix"),
    [
        ("2001:db8:64:64::", "2001:db8:64:65::1", 63),
        ("2001:db8:96:96::", "2001:db8:96:96:1::", 64),  # a NAT64 /96 inside the /64 of other hosts
        ("2001::", "2001:db8::1", 16),
        ("::", "::1:0:0:0:1", 64),
        ("64:ff9b::", "64:ff9b::1:0:0:1", 64),
        ("2002::", "2003::1", 15),
    ],
)
def test_network_does_not_take_the_key_of_its_first_address(one: str, other: str, prefix: int) -> None:
    assert grant_key(one, prefix, NAT64) != grant_key(other, prefix, NAT64)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201%eth0", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
        ("64:ff9b:1:2:3::4", "64:ff9b:1:2:3::4"),
        ("64:ff9b:2::1", "64:ff9b:2::"),  # next to it
        ("::ffff:0:192.0.2.1", "::ffff:0:c000:201"),
        ("::192.0.2.1", "::c000:201"),
        ("::1", "::1"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        ("2001:1::1", "2001:1::"),
        ("2002:c000:201:5::1", "2002:c000:201:5::"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ("2001:db8:1:2:3::4%eth0", "2001:db8:1:2::"),
        ("fe80::1:2%eth0", "fe80::%eth0"),
        ("fe80::1:2", "fe80::"),
    ],
)
def test_grant_key_with_prefix_64(address: str, key: str) -> None:
    assert grant_key(address, 64) == grant_key(ipaddress.ip_address(address), 64) == ipaddress.ip_address(key)


# Limits


@given(ipv4, prefixes)
def test_limit_key_counts_every_form_of_an_ipv4_address_as_one(address: IPv4Address, prefix: int) -> None:
    for make in FORMS:
        assert limit_key(str(make(address)), prefix, NAT64) == limit_key(str(address), prefix, NAT64) == address


@given(addresses, addresses, prefixes)
def test_limit_key_never_counts_a_network_of_one_client_twice(
    one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, prefix: int
) -> None:
    """All addresses that share the first bits of a native address have its key; of 6to4 all that share a /48."""
    key = limit_key(one, prefix, NAT64)
    if isinstance(key, IPv6Address):
        length = 48 if one in IPv6Network("2002::/16") else prefix
        network = IPv6Network((int(one), length), strict=False)
        neighbour = IPv6Address(int(network.network_address) | int(other) & int(network.hostmask))
        if isinstance(limit_key(neighbour, prefix, NAT64), IPv6Address) and (
            (neighbour in IPv6Network("2002::/16")) == (one in IPv6Network("2002::/16"))
        ):
            assert limit_key(neighbour, prefix, NAT64) == key


@given(addresses, addresses, prefixes)
def test_grants_of_one_key_and_limits_of_one_key_are_of_one_network(
    one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, prefix: int
) -> None:
    """The hashing queue serves networks round robin, so an address must not be in two of them."""
    if limit_key(one, prefix, NAT64) == limit_key(other, prefix, NAT64):
        assert limit_network(limit_key(one, prefix, NAT64)) == limit_network(limit_key(other, prefix, NAT64))


@pytest.mark.parametrize(
    ("address", "key", "network"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.0/24"),
        ("64:ff9b::192.0.2.1", "192.0.2.1", "192.0.2.0/24"),
        ("64:ff9b:1:c000:2:100::", "192.0.2.1", "192.0.2.0/24"),  # RFC 6052 section 2.2, PL = 48
        ("64:ff9b:1:7::192.0.2.1", "192.0.2.1", "192.0.2.0/24"),
        ("::ffff:0:192.0.2.1", "192.0.2.1", "192.0.2.0/24"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45", "192.0.2.0/24"),  # RFC 4380 section 4
        ("2002:c000:201:5::1", "2002:c000:201::", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::", "2001:db8:1::/48"),
        ("2001:db8:1:2:3::4%eth0", "2001:db8:1:2::", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::", "fe80::/48"),
        ("::1", "::", "::/48"),
        ("::192.0.2.1", "::", "::/48"),
    ],
)
def test_limit_key_and_its_network(address: str, key: str, network: str) -> None:
    assert limit_key(address) == limit_key(ipaddress.ip_address(address)) == ipaddress.ip_address(key)
    assert limit_network(limit_key(address)) == ipaddress.ip_network(network)


@pytest.mark.parametrize(("prefix", "address"), PAIRS.items())
def test_configured_nat64_prefix_counts_the_ipv4_address_inside(prefix: str, address: str) -> None:
    """The table of RFC 6052 section 2.4.  A longer prefix wins over a shorter one that contains it."""
    configured = [IPv6Network("2001:db8::/32"), IPv6Network(prefix)]
    assert limit_key(address, nat64_prefixes=configured) == IPv4Address(V4)
    assert translated(IPv6Network(prefix), IPv4Address(V4)) == IPv6Address(address)
    assert grant_key(address, 32, configured) == IPv6Address(address)


@pytest.mark.parametrize("name", ["", "@", "/run/mail.sock", "a pipe", "192.0.2.256", "::1%", "localhost"])
def test_peer_without_an_ip_address_has_itself_as_limit_key_and_no_grant_key(name: str) -> None:
    assert limit_key(name) == limit_network(limit_key(name)) == name
    with pytest.raises(LocalProtocolError, match="invalid IP address"):
        grant_key(name)


@pytest.mark.parametrize("length", [*range(1, 32), 33, 47, 65, 95, 97, 128])
def test_nat64_prefix_of_other_length_is_rejected(length: int) -> None:
    wrong = [IPv6Network((0, length))]
    for call in (grant_key, limit_key):
        with pytest.raises(LocalProtocolError, match=r"use a prefix length of 32, 40, 48, 56, 64 or 96"):
            call("::1", nat64_prefixes=wrong)


@given(addresses)
def test_normalized_address_has_no_zone_and_is_not_mapped(address: IPv4Address | IPv6Address) -> None:
    normal = normalize_address(address)
    assert "%" not in str(normal)
    assert not (isinstance(normal, IPv6Address) and normal.ipv4_mapped)
    assert is_within(address, [ipaddress.ip_network(normal)])
