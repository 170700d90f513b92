"""Parse command lines, for the server and for ``ServerSettings.parse_command()``.

Both call ``split_line()``, then ``parse_argument()`` with the row of the verb.  The fast path of the server reads the
same from the common lines; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .. import sasl
from .._server import parse_error_text
from ..errors import LocalProtocolError, Malformed
from ..events import Command
from ._grammar import normalize

if TYPE_CHECKING:
    from .verbs import Verb

_LONG_COMMANDS: Final = (b"AUTH ", b"PASS ")
"""The commands that carry a token or a password."""

_DATA_FOLLOWS: Final = frozenset({"USER", "PASS", "APOP"})
"""The commands in which everything after the one space is data (RFC 1939 section 7)."""


def login_line_limit(begin: bytes, limit: int, *, strict: bool) -> int:
    """Return the maximum bytes, with CRLF, of a line before the login: *limit* for most commands.

    The line begins with *begin*, of which five bytes are examined.
    """
    return max(limit, sasl.MAX_LINE) if not strict and begin[:5].upper() in _LONG_COMMANDS else limit


def split_line(line: bytes, *, strict: bool) -> tuple[str, bytes | None]:
    """Return the verb in upper case, and the bytes after the first space; None without a space.

    Unless *strict*, tabs after a verb without an argument are removed.
    """
    word, blank, argument = line.partition(b" ")
    verb = word.upper().decode("latin-1")
    if not strict and verb.endswith("\t") and not argument.strip(b" \t"):
        verb = verb.rstrip("\t")
    return verb, argument if blank else None


def parse_argument(row: Verb[Any], argument: bytes | None, *, strict: bool) -> Command:
    """Return the command of *row* with *argument*, which is from ``split_line()``.

    Raises Malformed, with a text for the reply, for each error of the parser that is a fault of the client.
    """
    try:
        if argument is None:
            argument = b""
        elif row.name not in _DATA_FOLLOWS:
            if strict:
                if not argument:
                    raise Malformed("no space may follow a verb without an argument")
            elif not row.secret or row.name == "AUTH":
                argument = normalize(row.name, argument)
        command: Command = row.parse(argument)
    except (ValueError, LocalProtocolError) as error:
        raise Malformed(parse_error_text(error)) from None  # the error may quote a secret
    return command
