"""What counts as one address: the keys of all tables that are kept by address.

``grant_key()`` never merges two clients: a grant must not let a second client relay.  ``limit_key()`` never lets one
client count as many: a client must not get a limit twice.  So they differ where one client has many addresses, or where
the address of a client can be written in several ways.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias, cast

from ._validators import check_integer
from .errors import LocalProtocolError

__all__ = [
    "LOOPBACK",
    "Address",
    "Network",
    "grant_key",
    "is_within",
    "limit_key",
    "limit_network",
    "normalize_address",
]

Address: TypeAlias = str | IPv4Address | IPv6Address
"""An IP address: text without brackets or port, or an ``ipaddress`` object, which is faster, above all for IPv6."""

Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
"""The addresses of the host itself (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3), for ``is_within()``."""

NumericKey: TypeAlias = int | IPv6Address
"""A grant key as a number of 128 bits, which takes a third of the memory of an address object; an IPv4 address has the
number of its IPv4-mapped address.  An address with a zone is kept as an object."""

ALL_BITS: Final = (1 << 128) - 1
_32_BITS: Final = (1 << 32) - 1
_NETWORK_48: Final = ALL_BITS >> 80 << 80
_NETWORK_10: Final = ALL_BITS >> 118 << 118

_MAPPED: Final = 0xFFFF << 32
_1ST: Final[Mapping[str, int]] = {str(octet): octet << 24 | _MAPPED for octet in range(256)}
_2ND: Final[Mapping[str, int]] = {str(octet): octet << 16 for octet in range(256)}
_3RD: Final[Mapping[str, int]] = {str(octet): octet << 8 for octet in range(256)}
_4TH: Final[Mapping[str, int]] = {str(octet): octet for octet in range(256)}

_ZONE: Final = re.compile(r"[!-$&-~]{1,64}")

_NAT64_LENGTHS: Final = (32, 40, 48, 56, 64, 96)
"""The prefix lengths of RFC 6052 section 2.2."""


def _is_mapped(number: int) -> bool:
    """::ffff:0:0/96, an IPv4 socket seen through IPv6 (RFC 4291 section 2.5.5.2)."""
    return number >> 32 == 0xFFFF


def _is_compatible(number: int) -> bool:
    """::/96, IPv4-compatible (RFC 4291 section 2.5.5.1), ``::`` and ``::1``."""
    return number >> 32 == 0


def _is_well_known_nat64(number: int) -> bool:
    """64:ff9b::/96 (RFC 6052 section 2.1)."""
    return number >> 32 == 0x0064_FF9B << 64


def _is_local_nat64(number: int) -> bool:
    """64:ff9b:1::/48 (RFC 8215)."""
    return number >> 80 == 0x0064_FF9B_0001


def _is_siit(number: int) -> bool:
    """::ffff:0:0:0/96, IPv4-translated (RFC 2765 section 2.1)."""
    return number >> 32 == 0xFFFF_0000


def _is_teredo(number: int) -> bool:
    """2001::/32 (RFC 4380 section 2.6)."""
    return number >> 96 == 0x2001_0000


def _is_6to4(number: int) -> bool:
    """2002::/16: each IPv4 address has a /48 (RFC 3056 section 2)."""
    return number >> 112 == 0x2002


def _is_link_local(number: int) -> bool:
    """fe80::/10 (RFC 4291 section 2.5.6)."""
    return number >> 118 == 0xFE80 >> 6


def _is_kept_whole(number: int, nat64_prefixes: Iterable[IPv6Network]) -> bool:
    """Return whether *number* is in a network in which neighbouring addresses belong to different clients."""
    return (
        _is_compatible(number)
        or _is_well_known_nat64(number)
        or _is_local_nat64(number)
        or _is_siit(number)
        or _is_teredo(number)
        or any(_contains(prefix, number) for prefix in nat64_prefixes)
    )


def _contains(network: IPv6Network, number: int) -> bool:
    return (number ^ int(network.network_address)) >> (128 - network.prefixlen) == 0


def _parse(address: Address) -> int | IPv6Address:
    """Return the number of *address*, or the object if it has a zone.  Raises LocalProtocolError."""
    if isinstance(address, str):
        if ":" not in address:
            try:
                a, b, c, d = address.split(".")
                return _1ST[a] | _2ND[b] | _3RD[c] | _4TH[d]  # takes a sixth of the time of ipaddress
            except (KeyError, ValueError):
                raise LocalProtocolError(f"invalid IP address {address!r}; use one such as 192.0.2.1") from None
        try:
            address = IPv6Address(address)
            if address.scope_id is not None and not _ZONE.fullmatch(address.scope_id):
                raise ValueError
        except ValueError:
            raise LocalProtocolError(f"invalid IP address {address!r}; use one such as 192.0.2.1") from None
    elif not isinstance(address, (IPv4Address, IPv6Address)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LocalProtocolError(
            f"address must be a str, an IPv4Address or an IPv6Address, not {type(address).__name__}; use '192.0.2.1'"
        )
    if isinstance(address, IPv4Address):
        return int(address) | _MAPPED
    return int(address) if address.scope_id is None else address


def to_address(key: NumericKey) -> IPv4Address | IPv6Address:
    """Return the address of a numeric key."""
    if not isinstance(key, int):
        return key
    return IPv4Address(key & _32_BITS) if _is_mapped(key) else IPv6Address(key)


def prefix_mask(ipv6_prefix: int) -> int:
    """Return the mask of a prefix length.  Raises LocalProtocolError."""
    check_integer("ipv6_prefix", ipv6_prefix, 1, 128)
    return ALL_BITS >> 128 - ipv6_prefix << 128 - ipv6_prefix


def nat64_tuple(prefixes: object) -> tuple[IPv6Network, ...]:
    """Return *prefixes*, the longest first.  Raises LocalProtocolError unless RFC 6052 section 2.2 allows them all."""
    if isinstance(prefixes, (str, bytes)) or not isinstance(prefixes, Collection):
        raise LocalProtocolError(
            f"nat64_prefixes must be a collection, not {type(prefixes).__name__};"
            " use (ipaddress.IPv6Network('2001:db8:64::/96'),)"
        )
    found = cast("Collection[IPv6Network]", prefixes)
    for prefix in cast("Collection[object]", prefixes):
        if not isinstance(prefix, IPv6Network):
            raise LocalProtocolError(
                f"each of nat64_prefixes must be an IPv6Network, not {type(prefix).__name__};"
                " use ipaddress.IPv6Network('2001:db8:64::/96')"
            )
        if prefix.prefixlen not in _NAT64_LENGTHS:
            raise LocalProtocolError(
                f"nat64_prefixes contains {prefix}; use a prefix length of 32, 40, 48, 56, 64 or 96"
                " (RFC 6052 section 2.2)"
            )
    return tuple(sorted(found, key=lambda prefix: -prefix.prefixlen))


def numeric_grant_key(address: Address, mask: int, nat64_prefixes: tuple[IPv6Network, ...]) -> NumericKey:
    """Return ``grant_key()`` as a number, for settings that are checked."""
    found = _parse(address)
    if isinstance(found, int):
        return _numeric_grant_key(found, mask, nat64_prefixes)
    number = int(found)
    if not _is_link_local(number):  # the zone of a global address means nothing (RFC 4007 section 6)
        return _numeric_grant_key(number, mask, nat64_prefixes)
    return IPv6Address(f"{IPv6Address(number & (mask | _NETWORK_10))}%{found.scope_id}")


def _numeric_grant_key(number: int, mask: int, nat64_prefixes: tuple[IPv6Network, ...]) -> int:
    if _is_mapped(number):
        return number
    network = number & (mask | _NETWORK_48 if _is_6to4(number) else mask)
    if network == number or _is_kept_whole(number, nat64_prefixes):
        return number
    # The first address of the network may be one that is kept whole, that is, the key of another client.
    if _is_kept_whole(network, nat64_prefixes) or (_is_6to4(network) and not _is_6to4(number)):
        return number
    return network


def grant_key(
    address: Address, ipv6_prefix: int = 128, nat64_prefixes: Collection[IPv6Network] = ()
) -> IPv4Address | IPv6Address:
    """Return the key of *address* in every grant store: the addresses that one grant covers have the same key.

    An IPv4-mapped address has the key of its IPv4 address: it is the same socket.  Of any other IPv6 address the first
    *ipv6_prefix* bits count, except that

    - an address that contains an IPv4 address counts as a whole.  These are the addresses of NAT64 (64:ff9b::/96,
      64:ff9b:1::/48 and *nat64_prefixes*), SIIT (::ffff:0:0:0/96), Teredo (2001::/32) and ::/96.  Its neighbours
      belong to other clients, and it never has the key of the IPv4 address, since it could be forged;
    - of a 6to4 address (2002::/16) at least 48 bits count;
    - a link-local address (fe80::/10) keeps its zone: each link has its own addresses.

    Raises LocalProtocolError for an invalid address, prefix length or NAT64 prefix.

        >>> addresses.grant_key("::ffff:192.0.2.1")
        IPv4Address('192.0.2.1')
        >>> addresses.grant_key("2001:db8::1", 64), addresses.grant_key("64:ff9b::192.0.2.1", 64)
        (IPv6Address('2001:db8::'), IPv6Address('64:ff9b::c000:201'))
    """
    return to_address(numeric_grant_key(address, prefix_mask(ipv6_prefix), nat64_tuple(nat64_prefixes)))


def limit_key(
    address: Address, ipv6_prefix: int = 64, nat64_prefixes: Collection[IPv6Network] = ()
) -> IPv4Address | IPv6Address | str:
    """Return the key of *address* in every table that counts or limits by address.

    The forms in which one IPv4 host can appear have the key of its IPv4 address: IPv4-mapped, NAT64 (64:ff9b::/96,
    64:ff9b:1::/48 and *nat64_prefixes*), SIIT (::ffff:0:0:0/96), and Teredo (2001::/32, the address of the client).  A
    6to4 address (2002::/16) counts by its /48.  Of any other IPv6 address the first *ipv6_prefix* bits count: with 64,
    all addresses of one subnet (RFC 4291 section 2.5.4).  A zone is removed.

    In 64:ff9b:1::/48 the IPv4 address is read from the last 32 bits (a /96 prefix) or, if the last 40 bits are 0, from
    after the 48 bits (RFC 6052 section 2.2).  Name prefixes of other lengths in *nat64_prefixes*.

    A text that is not an IP address, such as the path of a Unix socket, is returned unchanged.  Raises
    LocalProtocolError for an invalid prefix length or NAT64 prefix, or if *address* is not a str or an address.

        >>> addresses.limit_key("64:ff9b::192.0.2.1"), addresses.limit_key("2001:db8::1")
        (IPv4Address('192.0.2.1'), IPv6Address('2001:db8::'))
    """
    mask, prefixes = prefix_mask(ipv6_prefix), nat64_tuple(nat64_prefixes)
    try:
        number = int(_parse(address))
    except LocalProtocolError:
        if isinstance(address, str):
            return address
        raise
    inside = _inner_ipv4(number, prefixes)
    if inside is not None:
        return IPv4Address(inside)
    return IPv6Address(number & (_NETWORK_48 if _is_6to4(number) else mask))


def _inner_ipv4(number: int, nat64_prefixes: tuple[IPv6Network, ...]) -> int | None:
    """Return the IPv4 address of the client with the IPv6 address *number*, or None if it contains none."""
    if _is_mapped(number):
        return number & _32_BITS
    for prefix in nat64_prefixes:
        if _contains(prefix, number):
            return _translated(number, prefix.prefixlen)
    if _is_well_known_nat64(number) or _is_siit(number):
        return number & _32_BITS
    if _is_local_nat64(number):
        return _translated(number, 96 if number & (1 << 40) - 1 else 48)
    if _is_teredo(number):
        return ~number & _32_BITS  # its bits are inverted (RFC 4380 section 4)
    return None


def _translated(number: int, prefix_length: int) -> int:
    """Return the IPv4 address after a NAT64 prefix (RFC 6052 section 2.2).  Bits 64 to 71 are not part of it."""
    if prefix_length == 96:
        return number & _32_BITS
    without_bits_64_to_71 = number >> 64 << 56 | number & (1 << 56) - 1
    return without_bits_64_to_71 >> 88 - prefix_length & _32_BITS


def limit_network(key: IPv4Address | IPv6Address | str) -> Network | str:
    """Return the network of a ``limit_key()`` that usually has one owner: /24 for IPv4, /48 for IPv6.

    A 6to4 network belongs to the network of its IPv4 address.  A text that is not an IP address is returned unchanged.

        >>> addresses.limit_network(addresses.limit_key("2001:db8:1:2::3"))
        IPv6Network('2001:db8:1::/48')
    """
    if isinstance(key, str):
        return key
    if isinstance(key, IPv6Address):
        if not _is_6to4(int(key)):
            return IPv6Network((int(key) & _NETWORK_48, 48))
        key = IPv4Address(int(key) >> 80 & _32_BITS)
    return IPv4Network((int(key) & ~0xFF, 24))


def normalize_address(address: Address) -> IPv4Address | IPv6Address:
    """Return *address* as it is shown, and compared with networks: IPv4-mapped as IPv4, and without a zone.

    Do not use it as a key; see ``grant_key()`` and ``limit_key()``.  Raises LocalProtocolError for an invalid address.

        >>> addresses.normalize_address("::ffff:192.0.2.1"), addresses.normalize_address("fe80::1%eth0")
        (IPv4Address('192.0.2.1'), IPv6Address('fe80::1'))
    """
    return to_address(int(_parse(address)))


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Return whether *address*, normalized, is in one of *networks*.

    Raises LocalProtocolError if *address* is not an IP address.

        >>> addresses.is_within("::ffff:192.0.2.1", [ipaddress.ip_network("192.0.2.0/24")])
        True
    """
    normalized = normalize_address(address)
    return any(normalized in network for network in networks)
