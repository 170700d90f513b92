"""Parse command lines: the common forms with one regular expression, all others with the full parsers.

Both give equal values for the same line; a test compares them.  The regular expression exists only for speed.

The full parsers know nothing of ``strict_syntax``: unless it is set, ``normalize()`` prepares the line for them, and if
it is set, ``check_strict()`` examines what they return.  The server and ``ServerSettings.parse_command()`` both call
``split_line()``, then ``parse_argument()`` with the row of the verb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .._server import parse_error_text
from .._unchecked import new
from ..errors import LocalProtocolError, Malformed
from ..events import Command
from ._grammar import (
    DOMAIN,
    DOT_STRING,
    MAX_DOMAIN,
    MAX_LOCAL_PART,
    Mailbox,
    check_strict_domain,
    check_strict_mailbox,
    is_text,
    split_path,
)
from .commands import (
    HOST_NAME,
    Data,
    Hello,
    LineCommand,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    is_client_name,
)
from .parameters import Body

if TYPE_CHECKING:
    from .verbs import Verb

# Only the keywords ignore case: a pattern that ignores case everywhere takes twice as long.
COMMON: Final = re.compile(
    rf"((?i:MAIL FROM:)<(?:({DOT_STRING})@({DOMAIN}))?>"
    r"(?:(?i: SIZE=)([0-9]{1,20}))?(?:(?i: BODY=)(7BIT|8BITMIME))?(?:(?i: SIZE=)([0-9]{1,20}))?)\r\n"
    rf"|((?i:RCPT TO:)<({DOT_STRING})@({DOMAIN})>)\r\n"
    r"|((?i:DATA))\r\n|((?i:RSET))\r\n|((?i:QUIT))\r\n|((?i:NOOP))\r\n"
    rf"|((?i:EHLO) ({HOST_NAME}))\r\n".encode("ascii")
)
COMMON_MAIL: Final = 1  # the groups that match a whole command; 2 to 6 are the parts of MAIL, 8 and 9 of RCPT
COMMON_RCPT: Final = 7
COMMON_DATA: Final = 10
_WITHOUT_ARGUMENT: Final[Mapping[int, Callable[[], LineCommand]]] = {COMMON_DATA: Data, 11: Rset, 12: Quit, 13: Noop}
_COMMON_EHLO: Final = 14
_BODIES: Final[Mapping[bytes, Body]] = {b"7BIT": Body.SEVEN_BIT, b"8BITMIME": Body.EIGHT_BIT_MIME}
_COMMON_DOMAIN: Final = 180  # bytes: a shorter domain exceeds no limit, nor does its path

_WITH_MAILBOX: Final = frozenset({b"MAIL", b"RCPT", b"VRFY"})
"""The commands whose argument may contain a mailbox (RFC 6531 section 3.2)."""

_WITH_NAME: Final = frozenset({b"EHLO", b"HELO", b"LHLO"})
_WITH_PATH: Final = frozenset({("MAIL", "FROM"), ("RCPT", "TO")})
_OF_WORDS: Final = frozenset({"AUTH", "BDAT"})
_NOT_IN_BARE_PATH: Final = re.compile(r'[<>"\\,:]')


def from_common(found: re.Match[bytes]) -> LineCommand | None:
    """Return the command that COMMON matched, or None if the full parser must handle the line."""
    kind = found.lastindex  # the outermost group is the last one to close
    if kind == COMMON_RCPT:
        return common_rcpt(found)
    if kind == COMMON_MAIL:
        return common_mail(found)
    if kind == _COMMON_EHLO:
        domain: bytes = found[15]
        return Hello.parse(domain.decode()) if len(domain) <= MAX_DOMAIN else None
    return _WITHOUT_ARGUMENT[kind or 0]()


def common_mail(found: re.Match[bytes]) -> Mail | None:
    """Return MAIL with its SIZE and BODY, or None if the full parser must handle the line."""
    local_part, domain, size, body, other_size = found.group(2, 3, 4, 5, 6)
    path = None if local_part is None else _common_mailbox(local_part, domain)
    if (path is None and local_part is not None) or (size is not None and other_size is not None):
        return None
    mail = new(Mail)
    fields = mail.__dict__
    fields["reverse_path"] = path
    if size is not None:
        fields["size"] = int(size)
    elif other_size is not None:
        fields["size"] = int(other_size)
    if body is not None:
        fields["body"] = _BODIES[body]
    return mail


def common_rcpt(found: re.Match[bytes]) -> Rcpt | None:
    """Return RCPT without parameters, or None if the path may be too long."""
    path = _common_mailbox(found[8], found[9])
    if path is None:
        return None
    rcpt = new(Rcpt)
    rcpt.__dict__["forward_path"] = path
    return rcpt


def _common_mailbox(local_part: bytes, domain: bytes) -> Mailbox | None:
    """Build the mailbox of a path, or return None if the path may be too long.

    The constructor of a frozen class sets each field with object.__setattr__.  Filling __dict__ costs half as much, and
    nearly every line that a server reads has a mailbox.
    """
    # The full parser accepts a longer local part, unless syntax is strict.
    if len(local_part) > MAX_LOCAL_PART or len(domain) > _COMMON_DOMAIN:
        return None
    mailbox = new(Mailbox)
    fields = mailbox.__dict__
    fields["local_part"] = local_part.decode()  # ASCII, because COMMON matched; naming the codec would double the cost
    fields["domain"] = domain.decode()
    return mailbox


def split_line(line: bytes, *, smtputf8: bool = False, strict: bool = False) -> tuple[str, str]:
    """Return the verb in upper case, and the text after the first space.

    Raises Malformed unless *line* is printable ASCII.  With *smtputf8*, a command whose argument may contain a mailbox
    may also contain UTF-8 without control characters.  Unless *strict*, blanks at the end are removed, and the name of
    a client may have any encoding; bytes that are not UTF-8 become surrogates.
    """
    if not strict:
        line = line.rstrip(b" \t")
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        text = _decode_non_ascii(line, smtputf8=smtputf8, strict=strict)
    else:
        if not is_text(text):
            raise Malformed("a command must be printable ASCII")
    verb, _, argument = text.partition(" ")
    return verb.upper(), argument


def _decode_non_ascii(line: bytes, *, smtputf8: bool, strict: bool) -> str:
    verb, _, argument = line.partition(b" ")
    verb = verb.upper()
    if verb in _WITH_NAME and not strict:
        text = argument.decode("utf-8", "surrogateescape")
        if is_client_name(text.strip(" ")):
            return f"{verb.decode('ascii')} {text}"
    elif verb in _WITH_MAILBOX and smtputf8:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("a command must be valid UTF-8") from None
        if is_text(text):
            return text
    raise Malformed("a command must be printable ASCII")


def parse_argument(row: Verb[Any], argument: str, line: bytes, *, strict: bool) -> Command:
    """Return the command of *row* whose *argument* ``split_line()`` has found in *line*.

    Raises Malformed, with a text for the reply, for each error of the parser that is a fault of the client.
    """
    try:
        if not strict:
            command: Command = row.parse(normalize(row.name, argument))
            return command
        if line.endswith(b" "):
            raise Malformed("trailing space not allowed")
        command = row.parse(argument)
        check_strict(command)
    except (ValueError, LocalProtocolError) as error:
        raise Malformed(parse_error_text(error)) from None  # the error may quote a secret
    return command


def normalize(verb: str, argument: str) -> str:
    """Return *argument* as the grammar requires it, if only blanks or the missing brackets of a path deviate from it.

    Blanks are spaces after the verb, after the colon of MAIL and RCPT, and between words.  Those in a path or in a text
    are kept.  A path without brackets is accepted if nothing in it could be read as more than one path.  Text that does
    not deviate is returned unchanged.  The caller has removed the blanks at the end of the line.

    Raises Malformed if the path has no end.
    """
    argument = argument.lstrip(" ")
    if verb in _OF_WORDS:
        return " ".join(_words(argument)) if "  " in argument else argument
    if verb == "VRFY":
        name, _, keyword = argument.rpartition(" ")
        return f"{name.rstrip(' ')} {keyword}" if name and keyword.upper() == "SMTPUTF8" else argument
    keyword, colon, rest = argument.partition(":")
    if not colon or (verb, keyword.upper()) not in _WITH_PATH:
        return argument
    rest = rest.lstrip(" ")
    if rest.startswith("<"):
        path, rest = split_path(rest)
    else:
        path, _, rest = rest.partition(" ")
        if not path or _NOT_IN_BARE_PATH.search(path):
            return argument
        path = f"<{path}>"
    return " ".join((f"{keyword}:{path}", *_words(rest)))


def _words(text: str) -> list[str]:
    return [word for word in text.split(" ") if word]  # split() would also split at other white space


def check_strict(command: Command) -> None:
    """Raise Malformed if the value of a field of *command* is accepted only without ``strict_syntax``."""
    if isinstance(command, Hello):
        if not command.valid:
            raise Malformed("invalid domain or address literal")
    elif isinstance(command, Mail | Rcpt):
        path = command.reverse_path if isinstance(command, Mail) else command.forward_path
        if path is not None:
            check_strict_mailbox(path)
        for host in command.source_route:
            check_strict_domain(host)
