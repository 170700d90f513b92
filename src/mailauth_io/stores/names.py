"""One name for one mailbox: the single function that login, delivery and grants all ask.

Knows the domains served here by being told them; knows no account, so a canonical name may still be nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

NAME_RULE: Final = (
    "write letters, digits, '.', '_' and '-', at most 64, "
    "beginning with a letter or digit, and behind '@' only a domain that is served here"
)
"""The rule in words, for whoever writes a name down."""


def mailbox_name(text: str, domains: Set[str]) -> str | None:
    """The canonical name of the mailbox that *text* means, or None when it can mean none here.

    ``Alice`` and ``alice@EXAMPLE.test`` are both ``alice`` when ``example.test`` is among *domains* (lower case).
    The pattern is matched before the case is folded, so that no letter outside ASCII can fold into one inside.
    """
    name, at, domain = text.rpartition("@")
    if not at:
        name = domain
    elif not (domain.isascii() and domain.lower() in domains):
        return None
    return name.lower() if _NAME.fullmatch(name) else None
