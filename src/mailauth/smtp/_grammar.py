"""Mailboxes, domains, address literals, paths and xtext as values (RFC 5321 section 4.1.2).

Non-ASCII forms follow RFC 6531 and RFC 6533.  The functions convert text to values, or raise Malformed.  The caller
checks whether SMTPUTF8 was negotiated.

Mailboxes have a tolerant grammar, which accepts addresses that real systems use: any dots in the local part, any length
that fits into a path, and underscores in the domain.  ``check_strict_mailbox()`` finds these deviations from RFC 5321.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from .._patterns import LazyPattern, TextPattern
from .._unchecked import defaults_in_class
from .._validators import check_type, value_of
from ..errors import LocalProtocolError, Malformed

MAX_LOCAL_PART: Final = 64  # RFC 5321 section 4.5.3.1.1; only the limit of the path applies unless syntax is strict
MAX_DOMAIN: Final = 255  # RFC 5321 section 4.5.3.1.2
MAX_PATH: Final = 256  # RFC 5321 section 4.5.3.1.3, with its angle brackets

# All quantifiers are possessive, since backtracking would never find another match.
ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
DOT_STRING: Final = rf"{ATOM}(?:\.{ATOM})*+"
_LABEL: Final = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*+"
_LITERAL: Final = r"\[[!-Z^-~]+\]"

# UTF8-non-ascii (RFC 6532 section 3.1) without the C1 controls, and without U+2028 and U+2029, which some programs
# treat as line ends.
NON_ASCII: Final = r"\xa0-\u2027\u202a-\ud7ff\ue000-\U0010ffff"
# A label also excludes the three other dots of RFC 3490 section 3.1: a resolver would split the label there.
_IN_LABEL: Final = r"\xa0-\u2027\u202a-\u3001\u3003-\ud7ff\ue000-\uff0d\uff0f-\uff60\uff62-\U0010ffff"
_U_ATOM: Final = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{NON_ASCII}-]++"
_U_DOT_STRING: Final = rf"{_U_ATOM}(?:\.{_U_ATOM})*+"
_U_DOTS_ANYWHERE: Final = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.{NON_ASCII}-]++"
_U_LABEL: Final = rf"[A-Za-z0-9_{_IN_LABEL}]++(?:-++[A-Za-z0-9_{_IN_LABEL}]++)*+"
_U_DOMAIN: Final = rf"{_U_LABEL}(?:\.{_U_LABEL})*+"
_U_QUOTED: Final = rf'"(?:[ !#-\[\]-~{NON_ASCII}]|\\[ -~])*"'

_DOT_STRING: Final = TextPattern(_U_DOT_STRING, NON_ASCII)
_DOMAIN: Final = TextPattern(_U_DOMAIN, _IN_LABEL)
_MAILBOX: Final = TextPattern(rf"({_U_DOTS_ANYWHERE}|{_U_QUOTED})@({_U_DOMAIN}|{_LITERAL})", NON_ASCII, _IN_LABEL)
_PATH: Final = re.compile(r'<(?:[^">]++|"(?:[^"\\]++|\\.)*+")*+>')
_SOURCE_ROUTE: Final = TextPattern(rf"@(?:{_U_DOMAIN}|{_LITERAL})(?:,@(?:{_U_DOMAIN}|{_LITERAL}))*:", _IN_LABEL)
_GENERAL_LITERAL: Final = LazyPattern(r"[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+")
_QUOTED_PAIR: Final = LazyPattern(r"\\(.)")
_TO_QUOTE: Final = LazyPattern(r'(["\\])')
_PRINTABLE: Final = LazyPattern(r"[ -~]*")
_TEXT: Final = LazyPattern(rf"[ -~{NON_ASCII}]*")
_XTEXT: Final = LazyPattern(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_XTEXT_PAIR: Final = LazyPattern(r"\+([0-9A-F]{2})")
_NOT_XCHAR: Final = LazyPattern(r"[^!-*,-<>-~]")
_UNITEXT: Final = TextPattern(rf"(?:[!-*,-<>-\[\]-~{NON_ASCII}]|\\x\{{[0-9A-F]{{2,6}}\}})*", NON_ASCII)
_EMBEDDED: Final = LazyPattern(r"\\x\{([0-9A-F]+)\}")
_NOT_QCHAR: Final = LazyPattern(r"[^!-*,-<>-\[\]-~]")
_EMBEDDED_ASCII: Final = frozenset(" +=\\")
_TO_LOWER: Final = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def fold_domain(domain: str) -> str:
    """Return *domain* in the form in which domains are compared: with its ASCII letters in lower case.

    Converting other characters could yield a different domain.
    """
    return domain.lower() if domain.isascii() else domain.translate(_TO_LOWER)


def _fold_local_part(local_part: str) -> str:
    """Return *local_part* in the form in which local parts are compared: unchanged, except for ``Postmaster``."""
    return "postmaster" if is_postmaster(local_part) else local_part


def is_postmaster(local_part: str) -> bool:
    """Return whether *local_part* is ``postmaster``, in any case (RFC 5321 section 4.5.1)."""
    return local_part.lower() == "postmaster"


@defaults_in_class
@attrs.frozen(slots=False)  # see checked_mailbox()
class Mailbox:
    """An address, ``Local-part@Domain`` (RFC 5321 section 4.1.2).  str() returns it in the grammar of the RFC.

    Mailboxes are compared by their meaning, and sent as they were written (*spelling*).  The case of a domain or an
    address literal does not count, but that of a local part does (RFC 5321 section 2.4), except for ``postmaster``
    (section 4.5.1).  Quotes do not count: ``a..b@example.test``, which many systems accept although the RFC requires
    quotes, is equal to ``"a..b"@example.test``.

    A local part may be as long as the path allows (RFC 5321 section 4.5.3.1.3), and a domain may contain underscores.

    A non-ASCII mailbox is sent in UTF-8 and needs SMTPUTF8 on each hop (RFC 6531 section 3.3).  Non-ASCII characters
    are kept and compared as written: nothing is normalized, and a U-label is not equal to its A-label.

    Raises LocalProtocolError if the parts cannot be sent in a path.

        >>> smtp.Mailbox.parse('"a b"@example.test')
        Mailbox(local_part='a b', domain='example.test')
        >>> smtp.Mailbox("alice", "EXAMPLE.test") in {smtp.Mailbox("alice", "example.test")}
        True
    """

    local_part: str = attrs.field(validator=value_of(str), eq=_fold_local_part)
    """The local part without quotes; its case is kept (RFC 5321 section 2.4)."""

    domain: str = attrs.field(validator=value_of(str), eq=fold_domain)
    """A domain name, or an address literal with its brackets, as written.  Empty only for the bare ``Postmaster``."""

    _unquoted: bool = attrs.field(default=False, init=False, eq=False, repr=False)  # though the grammar requires quotes

    def __attrs_post_init__(self) -> None:
        if self.domain == "" and is_postmaster(self.local_part):
            return
        try:
            if not is_text(self.local_part):
                raise Malformed("local_part must not contain control characters")
            check_domain(self.domain, non_ascii=True)
            _check_path(str(self))
        except Malformed as error:
            raise LocalProtocolError(
                f"invalid mailbox: {error}; pass local_part without quotes, and domain as client.example or [192.0.2.1]"
            ) from None

    @classmethod
    def parse(cls, text: str) -> Mailbox:
        """Parse ``alice@example.test`` or ``"a b"@[192.0.2.1]``, without angle brackets.

        Dots may be anywhere in the local part, although the RFC requires quotes around some of them.

        Raises ValueError if *text* is not a mailbox, and LocalProtocolError if it is not a str.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without types
            raise LocalProtocolError(f"Mailbox.parse() takes a str, not {type(text).__name__}")
        _check_path(text)
        found = _MAILBOX.fullmatch(text)
        if found is None:
            raise Malformed("invalid mailbox; use local-part@domain")
        local_part, domain = found.groups()
        unquoted = False
        if local_part.startswith('"'):
            local_part = _QUOTED_PAIR.compiled.sub(r"\1", local_part[1:-1])
        elif not _DOT_STRING.fullmatch(local_part):
            _check_path(f'"{local_part}"@{domain}')  # so that str() is a valid path too
            unquoted = True
        _check_domain_length(domain)
        if domain.startswith("["):
            check_domain(domain)
        mailbox = checked_mailbox(local_part, domain)
        if unquoted:
            mailbox.__dict__["_unquoted"] = True
        return mailbox

    @property
    def spelling(self) -> str:
        """The mailbox as it is sent: as ``str()`` returns it, but without quotes if ``parse()`` has read it so.

        Systems that use such addresses often do not accept them with quotes.  It is not compared.

            >>> mailbox = smtp.Mailbox.parse("a..b@example.test")
            >>> mailbox.spelling, str(mailbox)
            ('a..b@example.test', '"a..b"@example.test')
        """
        return f"{self.local_part}@{self.domain}" if self._unquoted else str(self)

    def __str__(self) -> str:
        local_part = self.local_part
        if not _DOT_STRING.fullmatch(local_part):
            local_part = '"' + _TO_QUOTE.compiled.sub(r"\\\1", local_part) + '"'
        return f"{local_part}@{self.domain}" if self.domain else local_part


def checked_mailbox(local_part: str, domain: str) -> Mailbox:
    """Return a Mailbox from parts that the parser has already validated.

    Validating them again would take most of the time.
    """
    mailbox: Mailbox = Mailbox.__new__(Mailbox)
    fields = mailbox.__dict__
    fields["local_part"] = local_part
    fields["domain"] = domain
    return mailbox


def is_text(text: str) -> bool:
    """Return whether *text* contains only printable ASCII and non-ASCII characters, and no control characters."""
    return text.isprintable() if text.isascii() else _TEXT.fullmatch(text) is not None


def _utf8_length(text: str) -> int:
    """Return the length of *text* in bytes of UTF-8, to which the limits apply (RFC 6531 section 3.3)."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check_strict_mailbox(mailbox: Mailbox) -> None:
    """Raise Malformed if *mailbox* was written in a way that the grammar of RFC 5321 does not allow."""
    if _utf8_length(mailbox.local_part) > MAX_LOCAL_PART:
        raise Malformed(f"local part is longer than {MAX_LOCAL_PART} bytes")
    if mailbox.spelling != str(mailbox):
        raise Malformed("local part with misplaced dots must be quoted")
    if mailbox.domain:
        check_strict_domain(mailbox.domain)


def check_strict_domain(domain: str) -> None:
    """Raise Malformed if *domain*, which is valid otherwise, is a name with underscores."""
    if "_" in domain and not domain.startswith("["):
        raise Malformed("domain must not contain underscores")


def _check_domain_length(domain: str) -> None:
    if _utf8_length(domain) > MAX_DOMAIN:
        raise Malformed(f"domain is longer than {MAX_DOMAIN} bytes")


def _check_path(inside: str) -> None:
    if _utf8_length(inside) + 2 > MAX_PATH:
        raise Malformed(f"path is longer than {MAX_PATH} bytes")


def check_domain(text: str, *, non_ascii: bool = False) -> None:
    """Raise Malformed unless *text* is a domain name or an address literal (RFC 5321 sections 4.1.2 and 4.1.3).

    Underscores are accepted in a name, since real host names contain them.  If *non_ascii* is true, U-labels are also
    accepted.  They are not checked against IDNA (RFC 6531 section 3.3).
    """
    if not text.startswith("["):
        if not _DOMAIN.fullmatch(text) or not (non_ascii or text.isascii()) or _utf8_length(text) > MAX_DOMAIN:
            raise Malformed("invalid domain")
        return
    literal = text[1:-1]
    if not text.endswith("]") or len(text) > MAX_DOMAIN:
        raise Malformed("invalid address literal")
    import ipaddress  # literals are rare, and importing it takes 2 milliseconds

    try:
        if literal[:5].lower() == "ipv6:":
            if "%" in literal:
                raise ValueError
            ipaddress.IPv6Address(literal[5:])
        elif not _GENERAL_LITERAL.fullmatch(literal):
            ipaddress.IPv4Address(literal)
    except ValueError:
        raise Malformed("invalid address literal") from None


def split_path(text: str) -> tuple[str, str]:
    """Split ``<path> parameters``: return the path with its brackets, and the parameters.

    Raises Malformed if the path, or the space after it, is missing.
    """
    found = _PATH.match(text)
    if found is None:
        raise Malformed("a path must end with '>'" if text.startswith("<") else "a path must begin with '<'")
    rest = text[found.end() :]
    if rest and not rest.startswith(" "):
        raise Malformed("a space must follow the path")
    return found.group(), rest[1:]


def parse_path(path: str) -> tuple[Mailbox, tuple[str, ...]]:
    """Parse ``<@relay:alice@example.test>``: return its mailbox and its source route.

    The source route should be ignored (RFC 5321 appendix C).  Raises Malformed if the mailbox or the route is invalid.
    """
    inside = path[1:-1]
    route: tuple[str, ...] = ()
    found = _SOURCE_ROUTE.match(inside)
    if found is not None:
        route = tuple(hop[1:] for hop in found.group()[:-1].split(","))
        for host in route:
            check_domain(host, non_ascii=True)
        inside = inside[found.end() :]
    return Mailbox.parse(inside), route


def decode_xtext(text: str) -> str:
    """Decode xtext: ``a+2Bb`` is ``a+b`` (RFC 3461 section 4).

    Raises Malformed if *text* is not xtext, or if an encoded character is not printable ASCII.
    """
    check_type("text", str, text)
    if not _XTEXT.fullmatch(text):
        raise Malformed("invalid xtext")
    decoded = _XTEXT_PAIR.compiled.sub(lambda pair: chr(int(pair[1], 16)), text)
    if not _PRINTABLE.fullmatch(decoded):
        raise Malformed("xtext encodes a character that is not printable ASCII")
    return decoded


def encode_xtext(text: str) -> str:
    """Encode *text* as xtext, with ``+XX`` for special characters (RFC 3461 section 4).

    Raises Malformed unless *text* is printable ASCII.
    """
    check_type("text", str, text)
    if not _PRINTABLE.fullmatch(text):
        raise Malformed("xtext must be printable ASCII")
    return _NOT_XCHAR.compiled.sub(lambda character: f"+{ord(character[0]):02X}", text)


def decode_unitext(text: str) -> str:
    """Decode an address of type ``utf-8``: ``a\\x{2B}b`` is ``a+b`` (RFC 6533 section 3).

    Non-ASCII characters may be encoded or not.  Raises Malformed for an invalid address, for an encoded control
    character, and for a character that is encoded without need.
    """
    if not _UNITEXT.fullmatch(text):
        raise Malformed("invalid utf-8 address")
    decoded = _EMBEDDED.compiled.sub(_decode_character, text)
    if not is_text(decoded):
        raise Malformed("utf-8 address encodes a control character")
    return decoded


def _decode_character(embedded: re.Match[str]) -> str:
    number = int(embedded[1], 16)
    if number > 0x10FFFF or embedded[1] != f"{number:02X}":
        raise Malformed("invalid utf-8 address")
    character = chr(number)
    if character.isascii() and character not in _EMBEDDED_ASCII:
        raise Malformed("utf-8 address encodes a character that must not be encoded")
    return character


def encode_unitext(text: str) -> str:
    """Encode *text* as an address of type ``utf-8``, in ASCII (RFC 6533 section 3).

    This form is also valid without SMTPUTF8.  Raises Malformed if *text* contains control characters.
    """
    if not is_text(text):
        raise Malformed("utf-8 address must not contain control characters")
    return _NOT_QCHAR.compiled.sub(lambda character: f"\\x{{{ord(character[0]):02X}}}", text)
