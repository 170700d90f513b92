"""The addresses of peers: which spellings mean one peer, and which networks it is in.

Knows IP addresses by how grants fold them, so that all counts and lists go by the same address; knows no connection.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

from mailauth import LocalProtocolError
from mailauth.grants import normalize_address

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def key(address: str, ipv6_prefix: int = 128) -> object:
    """The key that *address* is counted under: ``normalize_address()``, or the text itself if it is not an IP."""
    try:
        return normalize_address(address, ipv6_prefix)
    except LocalProtocolError:
        return address


def network_of(address: str) -> object:
    """The network that one owner usually has whole: /24 of IPv4, /48 of IPv6; *address* itself where it is no IP."""
    folded = key(address, 48)
    if isinstance(folded, ipaddress.IPv4Address):
        return ipaddress.IPv4Network((folded, 24), strict=False)
    return folded


def is_within(address: str, networks: Iterable[Network]) -> bool:
    """Whether *address*, as folded, is in one of *networks*.  Raises LocalProtocolError for what is no IP address."""
    folded = normalize_address(address)
    return any(folded in network for network in networks)
