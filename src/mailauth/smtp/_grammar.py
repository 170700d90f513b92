"""The words of RFC 5321 section 4.1.2 as values: mailboxes, domains, address literals, paths, xtext.

Codecs only: text in, value out, or Malformed.  Knows no verb, no state and no policy.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs

from .._errors import LocalProtocolError, Malformed

MAXIMUM_LOCAL_PART: Final = 64  # RFC 5321 section 4.5.3.1.1
MAXIMUM_DOMAIN: Final = 255  # section 4.5.3.1.2
MAXIMUM_PATH: Final = 256  # section 4.5.3.1.3, with its angle brackets

# Possessive all through: where one of these fails there is nothing to try again.
ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
DOT_STRING: Final = rf"{ATOM}(?:\.{ATOM})*+"
_LABEL: Final = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*+"
_QUOTED: Final = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_LITERAL: Final = r"\[[!-Z^-~]+\]"

_DOT_STRING: Final = re.compile(DOT_STRING)
_DOMAIN: Final = re.compile(DOMAIN)
_MAILBOX: Final = re.compile(rf"({DOT_STRING}|{_QUOTED})@({DOMAIN}|{_LITERAL})")
_SOURCE_ROUTE: Final = re.compile(rf"@(?:{DOMAIN}|{_LITERAL})(?:,@(?:{DOMAIN}|{_LITERAL}))*:")
_GENERAL_LITERAL: Final = re.compile(r"[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+")
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_TO_QUOTE: Final = re.compile(r'(["\\])')
_PRINTABLE: Final = re.compile(r"[ -~]*")
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_XTEXT_PAIR: Final = re.compile(r"\+([0-9A-F]{2})")
_NOT_XCHAR: Final = re.compile(r"[^!-*,-<>-~]")


@attrs.frozen(slots=False)  # see checked_mailbox()
class Mailbox:
    """An address: ``Local-part@Domain``; str() gives its wire form (RFC 5321 section 4.1.2).

    Raises LocalProtocolError when built from parts that no path could carry.
    """

    local_part: str
    """Its meaning, unquoted; it keeps its case (section 2.4)."""

    domain: str
    """A domain name or an address literal with its brackets, as written; empty only for the bare ``Postmaster``."""

    def __attrs_post_init__(self) -> None:
        if self.domain == "" and self.local_part.lower() == "postmaster":
            return
        try:
            _check_lengths(self.local_part, self.domain)
            if not _PRINTABLE.fullmatch(self.local_part):
                raise Malformed("a local part may hold printable ASCII only")
            check_domain(self.domain)
            _check_path(str(self))
        except Malformed as error:
            raise LocalProtocolError(f"not a mailbox: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Mailbox:
        """``alice@example.test`` or ``"a b"@[192.0.2.1]``, without angle brackets.  Raises Malformed."""
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


def _check_lengths(local_part: str, domain: str) -> None:
    if len(local_part) > MAXIMUM_LOCAL_PART:
        raise Malformed(f"a local part may have {MAXIMUM_LOCAL_PART} octets")
    if len(domain) > MAXIMUM_DOMAIN:
        raise Malformed(f"a domain may have {MAXIMUM_DOMAIN} octets")


def _check_path(inside: str) -> None:
    if len(inside) + 2 > MAXIMUM_PATH:
        raise Malformed(f"a path may have {MAXIMUM_PATH} octets")


def check_domain(text: str) -> None:
    """Raise Malformed unless *text* is a domain name or an address literal (RFC 5321 sections 4.1.2 and 4.1.3)."""
    if not text.startswith("["):
        if len(text) > MAXIMUM_DOMAIN or not _DOMAIN.fullmatch(text):
            raise Malformed("not a domain")
        return
    literal = text[1:-1]
    if not text.endswith("]") or len(text) > MAXIMUM_DOMAIN:
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
    _check_path(inside)  # what is left once the route is stripped
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
