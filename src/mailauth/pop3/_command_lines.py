"""Parse command lines: the parser of each verb, and one regular expression for the most common lines.

The regular expression exists only for speed.  A test checks that both return equal commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from .commands import (
    Apop,
    Auth,
    Capa,
    Dele,
    LineCommand,
    List,
    Noop,
    Pass,
    Quit,
    Retrieve,
    Rset,
    Stat,
    Stls,
    Uidl,
    User,
    Utf8,
    checked_list,
    checked_retrieve,
)

COMMON: Final = re.compile(
    rb"(?:RETR ([1-9][0-9]{0,9})|DELE ([1-9][0-9]{0,9})|(STAT)|(NOOP)|(QUIT)|LIST ([1-9][0-9]{0,9}))\r\n", re.IGNORECASE
)

COMMON_RETR: Final = 1
COMMON_STAT: Final = 3
COMMON_QUIT: Final = 5
COMMON_LIST: Final = 6
"""The groups of COMMON for the number of RETR, for STAT, for QUIT, and for the number of LIST."""

PARSERS: Final[Mapping[bytes, Callable[[bytes], LineCommand]]] = {
    b"CAPA": Capa.parse,
    b"STLS": Stls.parse,
    b"UTF8": Utf8.parse,
    b"USER": User.parse,
    b"PASS": Pass.parse,
    b"APOP": Apop.parse,
    b"AUTH": Auth.parse,
    b"STAT": Stat.parse,
    b"LIST": List.parse,
    b"UIDL": Uidl.parse,
    b"RETR": Retrieve.parse,
    b"TOP": Retrieve.parse_top,
    b"DELE": Dele.parse,
    b"NOOP": Noop.parse,
    b"RSET": Rset.parse,
    b"QUIT": Quit.parse,
}


STAT: Final = Stat()
_NOOP: Final = Noop()
QUIT: Final = Quit()


def from_common(found: re.Match[bytes]) -> Retrieve | Dele | Stat | Noop | Quit | List:
    """Return the command that COMMON matched."""
    index = found.lastindex
    if index == COMMON_RETR:
        return checked_retrieve(int(found[1]))
    if index == 2:
        return Dele(number=int(found[2]))
    if index == COMMON_LIST:
        return checked_list(int(found[6]))
    return STAT if index == COMMON_STAT else _NOOP if index == 4 else QUIT
