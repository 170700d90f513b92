"""From a command line to a command: the usual lines by one regular expression, all others by the complete path.

Both give equal values (a test holds them together); the first exists for its speed alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from .._errors import Malformed
from ._grammar import DOMAIN, DOT_STRING, MAXIMUM_LOCAL_PART, Mailbox, checked_mailbox
from .commands import Auth, Data, Hello, Help, LineCommand, Mail, Noop, Quit, Rcpt, Rset, StartTls, Vrfy

# Only the keywords ignore case: a pattern that ignores it as a whole takes twice as long.
COMMON: Final = re.compile(
    rf"((?i:MAIL FROM:)<(?:({DOT_STRING})@({DOMAIN}))?>(?:(?i: SIZE=)([0-9]{{1,20}}))?)\r\n"
    rf"|((?i:RCPT TO:)<({DOT_STRING})@({DOMAIN})>)\r\n"
    r"|((?i:DATA))\r\n|((?i:RSET))\r\n|((?i:QUIT))\r\n|((?i:NOOP))\r\n".encode("ascii")
)
_MAIL, _RCPT = 1, 5  # the groups of COMMON that span a whole command
_WITHOUT_ARGUMENT: Final[Mapping[int, Callable[[], LineCommand]]] = {8: Data, 9: Rset, 10: Quit, 11: Noop}
_COMMON_DOMAIN: Final = 180  # octets: under this no limit but the local part's can be passed

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
    kind = found.lastindex  # the outermost group closes last
    if kind == _RCPT:
        mailbox = _mailbox(found[_RCPT + 1], found[_RCPT + 2])
        return None if mailbox is None else Rcpt(forward_path=mailbox)
    if kind == _MAIL:
        size = found[_MAIL + 3]
        octets = None if size is None else int(size)
        if found[_MAIL + 1] is None:
            return Mail(reverse_path=None, size=octets)
        mailbox = _mailbox(found[_MAIL + 1], found[_MAIL + 2])
        return None if mailbox is None else Mail(reverse_path=mailbox, size=octets)
    return _WITHOUT_ARGUMENT[kind or 0]()


def _mailbox(local_part: bytes, domain: bytes) -> Mailbox | None:
    if len(local_part) > MAXIMUM_LOCAL_PART or len(domain) > _COMMON_DOMAIN:
        return None
    return checked_mailbox(str(local_part, "ascii"), str(domain, "ascii"))


def split_line(line: bytes) -> tuple[str, str]:
    """The verb in capitals, and what follows the blank behind it.  Raises Malformed unless all is printable ASCII.

    White space before the CRLF is tolerated (RFC 5321 section 4.1.1).
    """
    line = line.rstrip(b" \t")
    if not line.isascii() or not (text := line.decode("ascii")).isprintable():
        raise Malformed("a command may hold printable ASCII only")
    verb, _, argument = text.partition(" ")
    return verb.upper(), argument
