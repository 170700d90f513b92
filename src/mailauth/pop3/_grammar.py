"""The words of POP3 as values: message numbers, unique-ids, the timestamp in a greeting (RFC 1939, RFC 2449 section 3).

Codecs only: octets in, value out, or Malformed.  Knows no verb, no state and no message.
"""

from __future__ import annotations

import re
from typing import Final

from .. import sasl
from .._errors import Malformed
from .._validators import between, matches

_NUMBER: Final = re.compile(rb"[0-9]{1,10}")
_UNIQUE_ID: Final = re.compile(r"[!-~]{1,70}")
_IN_BRACKETS: Final = re.compile(rb"<[^<>]*>")

check_number: Final = between(1, 9_999_999_999)
"""Raises Malformed for a number that no message has (RFC 1939 section 5)."""

check_count: Final = between(0, 9_999_999_999)
"""Raises Malformed for a number of lines that TOP cannot ask for."""

check_unique_id: Final = matches(_UNIQUE_ID, "a unique-id has 1 to 70 characters 0x21 to 0x7E")
"""Raises Malformed (RFC 1939 section 7, UIDL)."""


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


def find_timestamp(greeting: bytes) -> bytes | None:
    """The timestamp in a greeting, brackets included; None for none, for several, and for what is no strict msg-id.

    Octets that collide under MD5 fit into no msg-id, and with them a false server steals a password (CVE-2007-1558).
    """
    found = _IN_BRACKETS.findall(greeting)
    return found[0] if len(found) == 1 and sasl.is_message_id(found[0]) else None
