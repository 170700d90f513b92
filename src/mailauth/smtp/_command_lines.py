"""Parse command lines: the common forms with one regular expression, all others with the full parsers.

Both give equal values for the same line; a test compares them.  The regular expression exists only for speed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from .._unchecked import new
from ..errors import Malformed
from ._grammar import DOMAIN, DOT_STRING, MAX_LOCAL_PART, Mailbox, is_text
from .commands import (
    Data,
    LineCommand,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    from_parsed,
)
from .parameters import Body

C = TypeVar("C")

# Only the keywords ignore case: a pattern that ignores case everywhere takes twice as long.
COMMON: Final = re.compile(
    rf"((?i:MAIL FROM:)<(?:({DOT_STRING})@({DOMAIN}))?>"
    r"(?:(?i: SIZE=)([0-9]{1,20}))?(?:(?i: BODY=)(7BIT|8BITMIME))?(?:(?i: SIZE=)([0-9]{1,20}))?)\r\n"
    rf"|((?i:RCPT TO:)<({DOT_STRING})@({DOMAIN})>)\r\n"
    r"|((?i:DATA))\r\n|((?i:RSET))\r\n|((?i:QUIT))\r\n|((?i:NOOP))\r\n".encode("ascii")
)
COMMON_MAIL: Final = 1  # the groups that match a whole command; 2 to 6 are the parts of MAIL, 8 and 9 of RCPT
COMMON_RCPT: Final = 7
COMMON_DATA: Final = 10
_WITHOUT_ARGUMENT: Final[Mapping[int, Callable[[], LineCommand]]] = {COMMON_DATA: Data, 11: Rset, 12: Quit, 13: Noop}
_COMMON_DOMAIN: Final = 180  # bytes: a shorter domain exceeds no limit, nor does its path

_WITH_MAILBOX: Final = frozenset({"MAIL", "RCPT", "VRFY"})
"""The commands whose argument may contain a mailbox (RFC 6531 section 3.2)."""


def from_common(found: re.Match[bytes]) -> LineCommand | None:
    """Return the command that COMMON matched, or None if the full parser must handle the line."""
    kind = found.lastindex  # the outermost group is the last one to close
    if kind == COMMON_RCPT:
        return common_rcpt(found)
    if kind == COMMON_MAIL:
        return common_mail(found)
    return _WITHOUT_ARGUMENT[kind or 0]()


def common_mail(found: re.Match[bytes]) -> Mail | None:
    """Return MAIL with its SIZE and BODY, or None if the full parser must handle the line."""
    mail = from_parsed(Mail, reverse_path=None) if found[2] is None else _with_path(found, 2, Mail, "reverse_path")
    size, body, other_size = found.group(4, 5, 6)
    if mail is None or (size is not None and other_size is not None):
        return None
    fields = mail.__dict__
    if size is not None:
        fields["size"] = int(size)
    elif other_size is not None:
        fields["size"] = int(other_size)
    if body is not None:
        fields["body"] = Body.EIGHT_BIT_MIME if body == b"8BITMIME" else Body.SEVEN_BIT
    return mail


def common_rcpt(found: re.Match[bytes]) -> Rcpt | None:
    """Return RCPT without parameters, or None if the path may be too long."""
    return _with_path(found, 8, Rcpt, "forward_path")


def _with_path(found: re.Match[bytes], group: int, kind: type[C], field: str) -> C | None:
    """Build a command from its path, or return None if the path may be too long.

    The constructor of a frozen class sets each field with object.__setattr__.  Filling __dict__ costs half as much, and
    nearly every line that a server reads becomes such a command.
    """
    local_part: bytes = found[group]
    domain: bytes = found[group + 1]
    if len(local_part) > MAX_LOCAL_PART or len(domain) > _COMMON_DOMAIN:
        return None
    mailbox = new(Mailbox)
    fields = mailbox.__dict__
    fields["local_part"] = local_part.decode()  # ASCII, because COMMON matched; naming the codec would double the cost
    fields["domain"] = domain.decode()
    command = new(kind)
    command.__dict__[field] = mailbox
    return command


def split_line(line: bytes, *, smtputf8: bool = False) -> tuple[str, str]:
    """Return the verb in upper case, and the text after the first space.

    Raises Malformed unless *line* is printable ASCII.  With *smtputf8*, a command whose argument may contain a mailbox
    may also contain UTF-8 without control characters.
    """
    try:
        text = line.decode("utf-8" if smtputf8 else "ascii")
    except UnicodeDecodeError:
        raise Malformed("a command must be printable ASCII") from None
    verb, _, argument = text.partition(" ")
    if not is_text(text) or not (text.isascii() or (verb.isascii() and verb.upper() in _WITH_MAILBOX)):
        raise Malformed("a command must be printable ASCII")
    return verb.upper(), argument
