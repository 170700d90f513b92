"""The messages that travel, and how to tell on arrival whether they came through whole.

Knows message content and trace fields; knows no wire and no step.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

_TRACE: Final = re.compile(rb"(?:Return-Path|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.IGNORECASE)
_WITH: Final = re.compile(rb"\swith\s+([A-Za-z0-9]+)")
_AUTHENTICATED: Final = frozenset({b"ESMTPA", b"ESMTPSA"})  # RFC 3848


def make_message(subject: str, passage: str) -> bytes:
    """A message with *passage* in it that is hard to pass on: dots, blanks at line ends, 8-bit octets, a long line."""
    lines = [
        f"Subject: {subject}",
        f"Message-ID: <{secrets.token_hex(8)}@elsewhere.test>",
        "",
        passage,
        ".",
        "..",
        ".a dot in front, and a tail of blanks   ",
        "\tGr\u00fc\u00dfe, \u00e0 bient\u00f4t",
        "x" * 998,
        "",
        ".",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8")


def below_trace(data: bytes) -> bytes:
    """A stored message without the trace fields on top of it (RFC 5321 section 4.4)."""
    return data[_length_of_trace(data) :]


def submitted_authenticated(data: bytes) -> bool:
    """Whether the trace on top of a stored message says that its client was authenticated by SMTP."""
    keyword = _WITH.search(data[: _length_of_trace(data)])
    return keyword is not None and keyword[1].upper() in _AUTHENTICATED


def _length_of_trace(data: bytes) -> int:
    position = 0
    while field := _TRACE.match(data, position):
        position = field.end()
    return position
