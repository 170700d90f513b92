"""The canonical name of a mailbox, used by login, delivery and grants alike.

A canonical name is not necessarily the name of an account.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

from .._checks import check_type

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

NAME_RULE: Final = (
    "use up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit; "
    "after '@', use only a domain of this server"
)
"""The rule for names, for error messages."""


def mailbox_name(text: str, domains: Set[str]) -> str | None:
    """Return the canonical name of the mailbox *text*, or None if it is not a valid name on this server.

    ``Alice`` and ``alice@EXAMPLE.test`` both become ``alice`` if ``example.test`` is in *domains* (lower case).  The
    pattern is matched before the name is converted to lower case: the lower case of some non-ASCII characters is ASCII.
    """
    check_type("a mailbox name", text, str)
    check_type("domains", domains, Set, use="frozenset({'example.test'})")  # "in" would find a part of a str
    return canonical_name(text, domains)


def canonical_name(text: str, domains: Set[str]) -> str | None:
    """Return the same as ``mailbox_name()``, which checks its arguments."""
    name, at, domain = text.rpartition("@")
    if not at:
        name = domain
    elif not (domain.isascii() and domain.lower() in domains):
        return None
    return name.lower() if _NAME.fullmatch(name) else None
