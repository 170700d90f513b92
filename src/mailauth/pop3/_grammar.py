"""The words of POP3 as values: message numbers, unique-ids, the timestamp in a greeting (RFC 1939, RFC 2449 section 3).

Codecs only: octets in, value out, or Malformed.  Knows no verb, no state and no message.
"""

from __future__ import annotations

import re
from typing import Final

from .. import sasl
from .._errors import LocalProtocolError, Malformed

_NUMBER: Final = re.compile(rb"[0-9]{1,10}")
_UNIQUE_ID: Final = re.compile(r"[!-~]{1,70}")
_IN_BRACKETS: Final = re.compile(rb"<[^<>]*>")


def parse_number(argument: bytes) -> int:
    """A message number: ASCII digits, 1 or more (RFC 1939 section 5).  Raises Malformed."""
    number = parse_count(argument)
    if number == 0:
        raise Malformed("message numbers begin at 1")
    return number


def parse_count(argument: bytes) -> int:
    """A number of lines: ASCII digits, 0 or more (RFC 1939 section 7, TOP).  Raises Malformed."""
    if not _NUMBER.fullmatch(argument):
        raise Malformed("a number is 1 to 10 digits")
    return int(argument)


def check_number(number: int | None) -> None:
    """Raise LocalProtocolError for what is no message number; None is none at all."""
    if number is not None and not 0 < number < 10_000_000_000:
        raise LocalProtocolError(f"{number} is no message number")


def is_unique_id(text: str) -> bool:
    """1 to 70 characters of 0x21 to 0x7E (RFC 1939 section 7, UIDL)."""
    return _UNIQUE_ID.fullmatch(text) is not None


def find_timestamp(greeting: bytes) -> bytes | None:
    """The timestamp in a greeting, brackets included; None for none, for several, and for what is no strict msg-id.

    Octets that collide under MD5 fit into no msg-id, and with them a false server steals a password (CVE-2007-1558).
    """
    found = _IN_BRACKETS.findall(greeting)
    return found[0] if len(found) == 1 and sasl.is_message_id(found[0]) else None
