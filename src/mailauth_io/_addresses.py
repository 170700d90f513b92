"""IP addresses of peers: normalized keys for counters, and a test whether an address is in a network.

Addresses are normalized as for grants, so that all counters and lists use the same key for the same peer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

from mailauth import LocalProtocolError
from mailauth.grants import normalize_address

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def key(address: str, ipv6_prefix: int = 128) -> object:
    """Return the key for counting *address*: normalized, or *address* itself if it is not an IP address."""
    try:
        return normalize_address(address, ipv6_prefix)
    except LocalProtocolError:
        return address


def network_of(address: str) -> object:
    """Return the network of *address* that usually has one owner: /24 for IPv4, /48 for IPv6.

    If *address* is not an IP address, it is returned unchanged.
    """
    network = key(address, 48)
    if isinstance(network, ipaddress.IPv4Address):
        return ipaddress.IPv4Network((network, 24), strict=False)
    return network


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Return whether *address*, normalized, is in one of *networks*.

    Raises LocalProtocolError if *address* is not an IP address.
    """
    normalized = normalize_address(address)
    return any(normalized in network for network in networks)
