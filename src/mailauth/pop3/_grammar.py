"""Parsers and validators for arguments, message numbers, unique-ids and the timestamp of a greeting (RFC 1939, 2449).

The parsers know nothing of ``strict_syntax``: unless it is set, ``normalize()`` prepares the argument for them.
"""

from __future__ import annotations

import re
from typing import Final

from .. import sasl
from .._validators import between, matches
from ..errors import Malformed

_NUMBER: Final = re.compile(rb"[0-9]{1,10}")
_UNIQUE_ID: Final = re.compile(r"[!-~]{1,70}")
_BLANKS: Final = re.compile(rb" {2,}")
_IN_BRACKETS: Final = re.compile(rb"<[^<>]*>")

check_number: Final = between(1, 9_999_999_999)
"""Raise Malformed for an invalid message number (RFC 1939 section 5)."""

check_count: Final = between(0, 9_999_999_999)
"""Raise Malformed for an invalid number of lines of TOP (RFC 1939 section 7)."""

check_unique_id: Final = matches(_UNIQUE_ID, "a unique-id has 1 to 70 characters 0x21 to 0x7E")
"""Raise Malformed for an invalid unique-id (RFC 1939 section 7, UIDL)."""


_WORDS: Final = frozenset({"TOP", "AUTH"})  # their arguments are several words


def normalize(verb: str, argument: bytes) -> bytes:
    """Return *argument* as the grammar requires it: one space between words, no blanks at its beginning and end.

    It must not be called for USER, PASS and APOP: after their one space, everything is data.
    """
    argument = argument.lstrip(b" ").rstrip(b" \t")
    return _BLANKS.sub(b" ", argument) if verb in _WORDS else argument


def parse_number(argument: bytes) -> int:
    """Return the message number in *argument*: 1 to 10 ASCII digits, not 0 (RFC 1939 section 5).  Raises Malformed."""
    number = parse_count(argument)
    if number == 0:
        raise Malformed("message numbers start at 1")
    return number


def parse_count(argument: bytes) -> int:
    """Return the number of lines in *argument*: 1 to 10 ASCII digits (RFC 1939 section 7, TOP).  Raises Malformed."""
    if not _NUMBER.fullmatch(argument):
        raise Malformed("a number of 1 to 10 digits is required")
    return int(argument)


def find_timestamp(greeting: bytes) -> bytes | None:
    """Return the timestamp in *greeting* with its angle brackets; None unless there is exactly one, a strict msg-id.

    A malicious server can recover the password with MD5 collisions in the timestamp (CVE-2007-1558).  They need bytes
    that are not allowed in a msg-id.
    """
    found = _IN_BRACKETS.findall(greeting)
    return found[0] if len(found) == 1 and sasl.is_message_id(found[0]) else None
