"""The words of RFC 5321 section 4.1.2 as values: mailboxes, domains, address literals, paths, xtext; and what RFC 6531
and RFC 6533 add to them beyond ASCII.

Codecs only: text in, value out, or Malformed.  Knows no verb, no state and no policy, nor who agreed to SMTPUTF8.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs

from .._errors import LocalProtocolError, Malformed
from .._validators import value_of

MAX_LOCAL_PART: Final = 64  # RFC 5321 section 4.5.3.1.1
MAX_DOMAIN: Final = 255  # section 4.5.3.1.2
MAX_PATH: Final = 256  # section 4.5.3.1.3, with its angle brackets

# Possessive all through: where one of these fails there is nothing to try again.
ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
DOT_STRING: Final = rf"{ATOM}(?:\.{ATOM})*+"
_LABEL: Final = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*+"
_LITERAL: Final = r"\[[!-Z^-~]+\]"

# UTF8-non-ascii (RFC 6532 section 3.1) less the controls C1, U+2028 and U+2029, which end a line for some.
NON_ASCII: Final = r"\xa0-\u2027\u202a-\ud7ff\ue000-\U0010ffff"
# In a label not the three more dots of RFC 3490 section 3.1: what was read as one label would be looked up as two.
_IN_LABEL: Final = r"\xa0-\u2027\u202a-\u3001\u3003-\ud7ff\ue000-\uff0d\uff0f-\uff60\uff62-\U0010ffff"
_U_ATOM: Final = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{NON_ASCII}-]++"
_U_DOT_STRING: Final = rf"{_U_ATOM}(?:\.{_U_ATOM})*+"
_U_LABEL: Final = rf"[A-Za-z0-9{_IN_LABEL}]++(?:-++[A-Za-z0-9{_IN_LABEL}]++)*+"
_U_DOMAIN: Final = rf"{_U_LABEL}(?:\.{_U_LABEL})*+"
_U_QUOTED: Final = rf'"(?:[ !#-\[\]-~{NON_ASCII}]|\\[ -~])*"'

_DOT_STRING: Final = re.compile(_U_DOT_STRING)
_DOMAIN: Final = re.compile(_U_DOMAIN)
_MAILBOX: Final = re.compile(rf"({_U_DOT_STRING}|{_U_QUOTED})@({_U_DOMAIN}|{_LITERAL})")
_SOURCE_ROUTE: Final = re.compile(rf"@(?:{_U_DOMAIN}|{_LITERAL})(?:,@(?:{_U_DOMAIN}|{_LITERAL}))*:")
_GENERAL_LITERAL: Final = re.compile(r"[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+")
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_TO_QUOTE: Final = re.compile(r'(["\\])')
_PRINTABLE: Final = re.compile(r"[ -~]*")
_TEXT: Final = re.compile(rf"[ -~{NON_ASCII}]*")
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_XTEXT_PAIR: Final = re.compile(r"\+([0-9A-F]{2})")
_NOT_XCHAR: Final = re.compile(r"[^!-*,-<>-~]")
_UNITEXT: Final = re.compile(rf"(?:[!-*,-<>-\[\]-~{NON_ASCII}]|\\x\{{[0-9A-F]{{2,6}}\}})*")
_EMBEDDED: Final = re.compile(r"\\x\{([0-9A-F]+)\}")
_NOT_QCHAR: Final = re.compile(r"[^!-*,-<>-\[\]-~]")
_EMBEDDED_ASCII: Final = frozenset(" +=\\")


@attrs.frozen(slots=False)  # see checked_mailbox()
class Mailbox:
    """An address: ``Local-part@Domain``; str() gives its wire form (RFC 5321 section 4.1.2).

    Beyond ASCII it travels in UTF-8 and needs SMTPUTF8 on each hop (RFC 6531 section 3.3).  It is kept and compared as
    it is written: nothing is normalized, and a U-label is not its A-label.
    Raises LocalProtocolError when built from parts that no path could carry.
    """

    local_part: str = attrs.field(validator=value_of(str))
    """Its meaning, unquoted; it keeps its case (section 2.4)."""

    domain: str = attrs.field(validator=value_of(str))
    """A domain name or an address literal with its brackets, as written; empty only for the bare ``Postmaster``."""

    def __attrs_post_init__(self) -> None:
        if self.domain == "" and self.local_part.lower() == "postmaster":
            return
        try:
            if not is_text(self.local_part):
                raise Malformed("local_part may hold no control characters")
            _check_lengths(self.local_part, self.domain)
            check_domain(self.domain, non_ascii=True)
            _check_path(str(self))
        except Malformed as error:
            raise LocalProtocolError(
                f"not a mailbox: {error}; pass local_part without quotes, and domain as client.example or [192.0.2.1]"
            ) from None

    @classmethod
    def parse(cls, text: str) -> Mailbox:
        """``alice@example.test`` or ``"a b"@[192.0.2.1]``, without angle brackets.

        Raises ValueError for other text, and LocalProtocolError for what is not a str.
        """
        if not isinstance(text, str):
            raise LocalProtocolError(f"Mailbox.parse() takes a str, not {type(text).__name__}")
        _check_path(text)
        found = _MAILBOX.fullmatch(text)
        if found is None:
            raise Malformed("not a mailbox of the form local-part@domain")
        local_part, domain = found.groups()
        if local_part.startswith('"'):
            local_part = _QUOTED_PAIR.sub(r"\1", local_part[1:-1])
        _check_lengths(local_part, domain)
        if domain.startswith("["):
            check_domain(domain)
        return checked_mailbox(local_part, domain)

    def __str__(self) -> str:
        local_part = self.local_part
        if not _DOT_STRING.fullmatch(local_part):
            local_part = '"' + _TO_QUOTE.sub(r"\\\1", local_part) + '"'
        return f"{local_part}@{self.domain}" if self.domain else local_part


def checked_mailbox(local_part: str, domain: str) -> Mailbox:
    """A Mailbox from parts that a grammar has just matched: checking them again would be most of its price."""
    mailbox: Mailbox = Mailbox.__new__(Mailbox)
    fields = mailbox.__dict__
    fields["local_part"] = local_part
    fields["domain"] = domain
    return mailbox


def is_text(text: str) -> bool:
    """Whether *text* is printable ASCII and what lies beyond ASCII without controls: all that a line may hold."""
    return _TEXT.fullmatch(text) is not None


def _data(text: str) -> int:
    """How many *text* has in UTF-8: what a limit counts (RFC 6531 section 3.3)."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _check_lengths(local_part: str, domain: str) -> None:
    if _data(local_part) > MAX_LOCAL_PART:
        raise Malformed(f"a local part may have {MAX_LOCAL_PART} octets")
    if _data(domain) > MAX_DOMAIN:
        raise Malformed(f"a domain may have {MAX_DOMAIN} octets")


def _check_path(inside: str) -> None:
    if _data(inside) + 2 > MAX_PATH:
        raise Malformed(f"a path may have {MAX_PATH} octets")


def check_domain(text: str, *, non_ascii: bool = False) -> None:
    """Raise Malformed unless *text* is a domain name or an address literal (RFC 5321 sections 4.1.2 and 4.1.3).

    *non_ascii*: with U-labels, too, whose letters are not held against IDNA (RFC 6531 section 3.3).
    """
    if not text.startswith("["):
        if not _DOMAIN.fullmatch(text) or not (non_ascii or text.isascii()) or _data(text) > MAX_DOMAIN:
            raise Malformed("not a domain")
        return
    literal = text[1:-1]
    if not text.endswith("]") or len(text) > MAX_DOMAIN:
        raise Malformed("not an address literal")
    try:
        if literal[:5].lower() == "ipv6:":
            if "%" in literal:
                raise ValueError
            ipaddress.IPv6Address(literal[5:])
        elif not _GENERAL_LITERAL.fullmatch(literal):
            ipaddress.IPv4Address(literal)
    except ValueError:
        raise Malformed("not an address literal") from None


def split_path(text: str) -> tuple[str, str]:
    """Cut ``<path> parameters`` behind the closing bracket: (path with brackets, the rest).  Raises Malformed."""
    if not text.startswith("<"):
        raise Malformed("a path begins with '<'")
    quoted = False
    position = 1
    while position < len(text):
        octet = text[position]
        if quoted and octet == "\\":
            position += 1
        elif octet == '"':
            quoted = not quoted
        elif octet == ">" and not quoted:
            path, rest = text[: position + 1], text[position + 1 :]
            if rest and not rest.startswith(" "):
                raise Malformed("something follows the path without a blank")
            return path, rest[1:]
        position += 1
    raise Malformed("a path ends with '>'")


def parse_path(path: str) -> tuple[Mailbox, tuple[str, ...]]:
    """``<@relay:alice@example.test>``: its mailbox, and the source route that RFC 5321 appendix C has us ignore."""
    inside = path[1:-1]
    route: tuple[str, ...] = ()
    found = _SOURCE_ROUTE.match(inside)
    if found is not None:
        route = tuple(hop[1:] for hop in found.group()[:-1].split(","))
        inside = inside[found.end() :]
    return Mailbox.parse(inside), route


def decode_xtext(text: str) -> str:
    """RFC 3461 section 4: ``a+2Bb`` is ``a+b``.  Raises Malformed, also when what it hides is not printable ASCII."""
    if not _XTEXT.fullmatch(text):
        raise Malformed("not xtext")
    decoded = _XTEXT_PAIR.sub(lambda pair: chr(int(pair[1], 16)), text)
    if not _PRINTABLE.fullmatch(decoded):
        raise Malformed("xtext hides an octet that is not printable")
    return decoded


def encode_xtext(text: str) -> str:
    """RFC 3461 section 4: everything but the plain characters as ``+XX``.  Raises Malformed unless printable ASCII."""
    if not _PRINTABLE.fullmatch(text):
        raise Malformed("xtext carries printable ASCII only")
    return _NOT_XCHAR.sub(lambda octet: f"+{ord(octet[0]):02X}", text)


def decode_unitext(text: str) -> str:
    """RFC 6533 section 3: ``a\\x{2B}b`` is ``a+b``, and what lies beyond ASCII may stand for itself.

    Raises Malformed, also for what is hidden without need and for a control that is hidden.
    """
    if not _UNITEXT.fullmatch(text):
        raise Malformed("not a utf-8 address")
    decoded = _EMBEDDED.sub(_reveal, text)
    if not is_text(decoded):
        raise Malformed("a utf-8 address hides a control character")
    return decoded


def _reveal(embedded: re.Match[str]) -> str:
    number = int(embedded[1], 16)
    if number > 0x10FFFF or embedded[1] != f"{number:02X}":
        raise Malformed("not a utf-8 address")
    character = chr(number)
    if character.isascii() and character not in _EMBEDDED_ASCII:
        raise Malformed("a utf-8 address hides what it need not")
    return character


def encode_unitext(text: str) -> str:
    """RFC 6533 section 3: in the form that is safe without SMTPUTF8, too.  Raises Malformed for control characters."""
    if not is_text(text):
        raise Malformed("a utf-8 address may hold no control characters")
    return _NOT_QCHAR.sub(lambda character: f"\\x{{{ord(character[0]):02X}}}", text)
