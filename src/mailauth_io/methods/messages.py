"""Create test messages, and compare them with what was delivered."""

from __future__ import annotations

import re
import secrets
from typing import Final

_TRACE: Final = re.compile(rb"(?:Return-Path|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.IGNORECASE)
_WITH: Final = re.compile(rb"\swith\s+([A-Za-z0-9]+)")
_AUTHENTICATED: Final = frozenset({b"ESMTPA", b"ESMTPSA"})  # RFC 3848


def make_message(subject: str, passage: str) -> bytes:
    """Return a message that contains *passage*, dots, trailing spaces, 8-bit characters and a line of 998 bytes."""
    lines = [
        f"Subject: {subject}",
        f"Message-ID: <{secrets.token_hex(8)}@remote.test>",
        "",
        passage,
        ".",
        "..",
        ".a leading dot, and trailing spaces   ",
        "\tGr\u00fc\u00dfe, \u00e0 bient\u00f4t",
        "x" * 998,
        "",
        ".",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8")


def below_trace(data: bytes) -> bytes:
    """Return a stored message without its trace fields (RFC 5321 section 4.4)."""
    return data[_length_of_trace(data) :]


def submitted_authenticated(data: bytes) -> bool:
    """Return whether the trace fields of a stored message show SMTP authentication (ESMTPA or ESMTPSA)."""
    keyword = _WITH.search(data[: _length_of_trace(data)])
    return keyword is not None and keyword[1].upper() in _AUTHENTICATED


def _length_of_trace(data: bytes) -> int:
    position = 0
    while field := _TRACE.match(data, position):
        position = field.end()
    return position
