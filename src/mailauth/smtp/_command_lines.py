"""From a command line to a command: the usual lines by one regular expression, all others by the complete path.

Both give equal values (a test holds them together); the first exists for its speed alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from .._errors import Malformed
from ._grammar import DOMAIN, DOT_STRING, MAX_LOCAL_PART, Mailbox, is_text
from .commands import Auth, Bdat, Data, Hello, Help, LineCommand, Mail, Noop, Quit, Rcpt, Rset, StartTls, Vrfy, of_read

C = TypeVar("C")

# Only the keywords ignore case: a pattern that ignores it as a whole takes twice as long.
COMMON: Final = re.compile(
    rf"((?i:MAIL FROM:)<(?:({DOT_STRING})@({DOMAIN}))?>(?:(?i: SIZE=)([0-9]{{1,20}}))?)\r\n"
    rf"|((?i:RCPT TO:)<({DOT_STRING})@({DOMAIN})>)\r\n"
    r"|((?i:DATA))\r\n|((?i:RSET))\r\n|((?i:QUIT))\r\n|((?i:NOOP))\r\n".encode("ascii")
)
COMMON_MAIL: Final = 1  # the groups that span a whole command; the parts of MAIL are 2 to 4, those of RCPT 6 and 7
COMMON_RCPT: Final = 5
COMMON_DATA: Final = 8
_WITHOUT_ARGUMENT: Final[Mapping[int, Callable[[], LineCommand]]] = {COMMON_DATA: Data, 9: Rset, 10: Quit, 11: Noop}
_new: Final = object.__new__
_COMMON_DOMAIN: Final = 180  # octets: under this no limit but the local part's can be passed

PARSERS: Final[Mapping[str, Callable[[str], LineCommand]]] = {
    "EHLO": partial(Hello.parse, extended=True),
    "HELO": partial(Hello.parse, extended=False),
    "LHLO": partial(Hello.parse, lmtp=True),
    "STARTTLS": StartTls.parse,
    "AUTH": Auth.parse,
    "MAIL": Mail.parse,
    "RCPT": Rcpt.parse,
    "DATA": Data.parse,
    "BDAT": Bdat.parse,
    "RSET": Rset.parse,
    "NOOP": Noop.parse,
    "VRFY": Vrfy.parse,
    "HELP": Help.parse,
    "QUIT": Quit.parse,
}


_WITH_MAILBOX: Final = frozenset({"MAIL", "RCPT", "VRFY"})
"""The commands in which a mailbox may stand (RFC 6531 section 3.2)."""


def from_common(found: re.Match[bytes]) -> LineCommand | None:
    """The command that COMMON matched; None when the complete path must look at it."""
    kind = found.lastindex  # the outermost group closes last
    if kind == COMMON_RCPT:
        return common_rcpt(found)
    if kind == COMMON_MAIL:
        size = None if found[4] is None else int(found[4])
        if found[2] is None:
            return of_read(Mail, reverse_path=None, size=size)
        mail = common_mail(found)
        return mail if mail is None or size is None else of_read(Mail, reverse_path=mail.reverse_path, size=size)
    return _WITHOUT_ARGUMENT[kind or 0]()


def common_mail(found: re.Match[bytes]) -> Mail | None:
    """MAIL with nothing but its path, which is not the null one; None for a path that may be too long."""
    return _with_path(found, 2, Mail, "reverse_path")


def common_rcpt(found: re.Match[bytes]) -> Rcpt | None:
    """As common_mail."""
    return _with_path(found, 6, Rcpt, "forward_path")


def _with_path(found: re.Match[bytes], group: int, kind: type[C], field: str) -> C | None:
    """A frozen class sets its fields one by one through object.__setattr__: what a server makes of nearly each line it
    reads is made at half that price."""
    local_part: bytes = found[group]
    domain: bytes = found[group + 1]
    if len(local_part) > MAX_LOCAL_PART or len(domain) > _COMMON_DOMAIN:
        return None
    mailbox = _new(Mailbox)
    fields = mailbox.__dict__
    fields["local_part"] = local_part.decode()  # ASCII, as COMMON says; to name it would cost as much again
    fields["domain"] = domain.decode()
    command = _new(kind)
    command.__dict__[field] = mailbox
    return command


def split_line(line: bytes, *, smtputf8: bool = False) -> tuple[str, str]:
    """The verb in capitals, and what follows the blank behind it.

    Raises Malformed unless all is printable ASCII.  *smtputf8*: where a mailbox may stand, or UTF-8 without controls.
    """
    try:
        text = line.decode("utf-8" if smtputf8 else "ascii")
    except UnicodeDecodeError:
        raise Malformed("a command may hold printable ASCII only") from None
    verb, _, argument = text.partition(" ")
    if not is_text(text) or not (text.isascii() or (verb.isascii() and verb.upper() in _WITH_MAILBOX)):
        raise Malformed("a command may hold printable ASCII only")
    return verb.upper(), argument
