"""Trace information (RFC 5321 section 4.4): the header lines that the server adds, counts and removes.

Only the header section of a message is read.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from mailauth import smtp
from mailauth.addresses import normalize_address

from ..stores.content import MessageContent

MAX_RECEIVED: Final = 100
"""The number of ``Received:`` lines above which a mail loop is assumed (RFC 5321 section 6.3)."""

MAX_HEADER: Final = 1_048_576
"""Maximum size of a header section in bytes.  It is searched without interruption, which blocks the event loop.  No RFC
gives a number; Exim has the same default."""

# The literal first byte lets the search skip from line to line.  Folded lines begin with a space or a tab (RFC 5322
# section 2.2.3).  Possessive quantifiers (``*+``) prevent backtracking, so the search is linear in the size of the
# header, even with a million folded lines.
_RECEIVED: Final = re.compile(rb"\n(?i:received)[ \t]*:")
_ENVELOPE: Final = re.compile(rb"\n(?i:return-path|x-envelope-to)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?=\n)")


# In an address literal, a reader that does not know literals could see a comment or the end of the value (RFC 5322
# section 3.2.3).
_SPECIALS: Final = re.compile(r'[()<>@,;\\"]')
_TO_ENCODE: Final = re.compile(rb"[^A-Za-z0-9.:_-]")
_CUT_CODE: Final = re.compile(r"=[0-9A-F]?\Z")
_MAX_HELLO: Final = 64  # characters of a name that is not valid; so that the line stays short


class HeaderTooLong(Exception):
    """The header section is longer than MAX_HEADER bytes."""


def received(*, hello: smtp.Hello, peer: str, host_name: str, protocol: str, queue_id: str, when: float) -> bytes:
    """Return the ``Received:`` line.

    A name in *hello* that is not a domain or an address literal is encoded in a comment.  *when* is in seconds since
    1970 (UTC).
    """
    literal = _literal(peer)
    valid = hello.valid and not _SPECIALS.search(hello.domain)
    client = f"{hello.domain} ({literal})" if valid else f"{literal} (helo={_encoded(hello.domain)})"
    return (
        f"Received: from {client}\r\n\tby {host_name} with {protocol} id {queue_id};\r\n\t{_date(int(when))}\r\n"
    ).encode("ascii")


def protocol_keyword(*, extended: bool, tls: bool, authenticated: bool) -> str:
    """Return the ``with`` keyword: SMTP, ESMTP, ESMTPS, ESMTPA or ESMTPSA (RFC 3848)."""
    return f"ESMTP{'S' if tls else ''}{'A' if authenticated else ''}" if extended else "SMTP"


def end_of_trace(data: bytes) -> bytes:
    """Return what must stand between ``received()`` and the content that begins with *data*: nothing, or an empty line.

    A first line that begins with a space or a tab would continue the ``Received:`` line (RFC 5322 section 2.2.3), so
    that the client could write another protocol or date into it.  With the empty line it is part of the body.
    """
    return b"\r\n" if data[:1] in (b" ", b"\t") else b""


def return_path(reverse_path: str) -> bytes:
    """Return the ``Return-Path:`` line, added at final delivery.

    *reverse_path* is without brackets, and empty for the null reverse-path.
    """
    return f"Return-Path: <{reverse_path}>\r\n".encode("ascii")


def strip_envelope(content: MessageContent) -> int:
    """Remove envelope lines from the header of *content*; return the number of ``Received:`` lines, at most 101.

    ``Return-Path:`` (RFC 5321 section 4.4) and ``X-Envelope-To:`` are only added by this server, at the top; received
    ones would be mistaken for its own.  *content* is sealed and not in use yet.  Raises HeaderTooLong if the header
    section is longer than MAX_HEADER bytes.
    """
    chunks = content.chunks
    start, size, count = _header_section(chunks)
    header = b"\n" + start[:size]
    hops = _count_received(header)
    if hops > MAX_RECEIVED:
        return hops
    clean = _ENVELOPE.sub(b"", header)
    if len(clean) != len(header):
        chunks[:count] = [chunk for chunk in (clean[1:], start[size:]) if chunk]
        content.size -= len(header) - len(clean)
    return hops


def is_refused(content: MessageContent) -> bool:
    """Return whether ``delivery.deliver()`` refuses *content*, which is sealed, for its header section."""
    try:
        start, size, _ = _header_section(content.chunks)
    except HeaderTooLong:
        return True
    return _count_received(b"\n" + start[:size]) > MAX_RECEIVED


def _count_received(header: bytes) -> int:
    """Return the number of ``Received:`` lines in *header*, which begins with a line end, at most 101."""
    count = 0
    for _ in _RECEIVED.finditer(header):
        count += 1
        if count > MAX_RECEIVED:
            break
    return count


def _header_section(chunks: Sequence[bytes]) -> tuple[bytes, int, int]:
    """Return the first chunks joined, the size of the header section in them, and the number of these chunks.

    Raises HeaderTooLong.
    """
    count = 1
    start = chunks[0] if chunks else b""
    # Doubling the number of joined chunks keeps this linear.  One chunk is nearly always enough.
    while (end := _end_of_header(start)) < 0 and count < len(chunks) and len(start) <= MAX_HEADER + 2:
        count *= 2
        start = b"".join(chunks[:count])
    size = len(start) if end < 0 else end
    if size > MAX_HEADER:
        raise HeaderTooLong
    return start, size, count


def _end_of_header(data: bytes) -> int:
    """Return the offset of the empty line after the header section, or -1."""
    if data.startswith(b"\r\n"):
        return 0
    end = data.find(b"\r\n\r\n")
    return end if end < 0 else end + 2


def _encoded(name: str) -> str:
    """Return *name* with ``=XX`` for each byte that is not a letter, a digit, or one of ``.:_-``."""
    data = name.encode("utf-8", "surrogateescape")
    text = _TO_ENCODE.sub(lambda byte: b"=%02X" % byte[0][0], data).decode("ascii")
    return _CUT_CODE.sub("", text[:_MAX_HELLO])


@functools.lru_cache(maxsize=1024)
def _literal(peer: str) -> str:
    """Return an address literal (RFC 5321 section 4.1.3), without the zone, which only has a local meaning."""
    address = normalize_address(peer)
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


@functools.lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))
