"""From a command line to a command: the usual lines by one regular expression, all others by the complete path.

Both give equal values (a test holds them together); the first exists for its speed alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from .._errors import Malformed
from ._grammar import DOMAIN, DOT_STRING, MAXIMUM_LOCAL_PART, checked_mailbox
from .commands import Auth, Data, Hello, Help, LineCommand, Mail, Noop, Quit, Rcpt, Rset, StartTls, Vrfy

COMMON: Final = re.compile(
    rf"""(?:
        (MAIL\ FROM:<(?:({DOT_STRING})@({DOMAIN}))?>(?:\ SIZE=([0-9]{{1,20}}))?)
      | (RCPT\ TO:<({DOT_STRING})@({DOMAIN})>)
      | (DATA) | (RSET) | (QUIT) | (NOOP)
    )\r\n""".replace("#", r"\#").encode("ascii"),
    re.VERBOSE | re.IGNORECASE,
)
_COMMON_PATH: Final = 200  # octets of both parts: under this no limit but the local part's can be passed

PARSERS: Final[Mapping[str, Callable[[str], LineCommand]]] = {
    "EHLO": partial(Hello.parse, extended=True),
    "HELO": partial(Hello.parse, extended=False),
    "STARTTLS": StartTls.parse,
    "AUTH": Auth.parse,
    "MAIL": Mail.parse,
    "RCPT": Rcpt.parse,
    "DATA": Data.parse,
    "RSET": Rset.parse,
    "NOOP": Noop.parse,
    "VRFY": Vrfy.parse,
    "HELP": Help.parse,
    "QUIT": Quit.parse,
}


def from_common(found: re.Match[bytes]) -> LineCommand | None:
    """The command that COMMON matched; None when the complete path must look at it."""
    match found.lastindex:  # the outermost group closes last
        case 1:
            local_part, domain, size = found.group(2, 3, 4)
            if local_part is None:
                return Mail(reverse_path=None, size=None if size is None else int(size))
            if len(local_part) > MAXIMUM_LOCAL_PART or len(domain) > _COMMON_PATH:
                return None
            mailbox = checked_mailbox(local_part.decode("ascii"), domain.decode("ascii"))
            return Mail(reverse_path=mailbox, size=None if size is None else int(size))
        case 5:
            local_part, domain = found.group(6, 7)
            if len(local_part) > MAXIMUM_LOCAL_PART or len(domain) > _COMMON_PATH:
                return None
            return Rcpt(forward_path=checked_mailbox(local_part.decode("ascii"), domain.decode("ascii")))
        case 8:
            return Data()
        case 9:
            return Rset()
        case 10:
            return Quit()
        case _:
            return Noop()


def split_line(line: bytes) -> tuple[str, str]:
    """The verb in capitals, and what follows the blank behind it.  Raises Malformed unless all is printable ASCII."""
    if not line.isascii() or not (text := line.decode("ascii")).isprintable():
        raise Malformed("a command may hold printable ASCII only")
    verb, _, argument = text.partition(" ")
    return verb.upper(), argument
