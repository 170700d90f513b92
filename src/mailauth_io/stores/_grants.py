"""What the stores of grants have in common: the value that a list of them is made of, and what is wrong with a store.

Knows no store.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs

TIMEOUT: Final = 2.0
"""Seconds that a store outside of this process has for an answer; then it counts as one that cannot tell."""

SWEPT_AT_ONCE: Final = 100
"""How many grants that are over leave a shared store at each login, at most: none of them holds it up for long."""


class GrantsError(Exception):
    """These grants cannot be kept or asked; the text is one sentence for whoever named the store, without a secret."""


@attrs.frozen(kw_only=True)
class ActiveGrant:
    """A grant as a store shows it."""

    address: IPv4Address | IPv6Address
    """As folded (``mailauth.grants.normalize_address``)."""

    identity: str

    remaining: float
    """Seconds."""
