"""Trace information: the lines that a server puts on top of a message, and those of others that it reads or removes.

Knows RFC 5321 section 4.4 and header lines; looks at nothing behind the header section, and writes only checked text.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from mailauth.grants import normalize_address

from ..stores.content import MessageContent

MAX_RECEIVED: Final = 100
"""``Received:`` lines above which a message is taken to run in circles (RFC 5321 section 6.3)."""

MAX_HEADER: Final = 1_048_576
"""Octets of a header section.  It is looked through in one go, and everybody waits meanwhile.  No RFC names a number;
Exim has the same one."""

# A literal first octet lets the search skip from line to line.  Folded lines begin with a blank or a tab (RFC 5322
# section 2.2.3).  Nothing is tried twice (``*+``): a header of a million folds costs what its octets cost.
_RECEIVED: Final = re.compile(rb"\n(?i:received)[ \t]*:")
_ENVELOPE: Final = re.compile(rb"\n(?i:return-path|x-envelope-to)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?=\n)")


class HeaderTooLong(Exception):
    """The header section has more than MAX_HEADER octets."""


def received(*, hello: str, peer: str, host_name: str, protocol: str, queue_id: str, when: float) -> bytes:
    """The ``Received:`` line with its line ends.  *hello* is a domain the core checked, *when* seconds since 1970."""
    return (
        f"Received: from {hello} ({_literal(peer)})\r\n"
        f"\tby {host_name} with {protocol} id {queue_id};\r\n"
        f"\t{_date(int(when))}\r\n"
    ).encode("ascii")


def protocol_keyword(*, extended: bool, tls: bool, authenticated: bool) -> str:
    """The ``with`` keyword: SMTP, ESMTP, ESMTPS, ESMTPA or ESMTPSA (RFC 3848)."""
    return f"ESMTP{'S' if tls else ''}{'A' if authenticated else ''}" if extended else "SMTP"


def return_path(reverse_path: str) -> bytes:
    """The line that final delivery puts on top; *reverse_path* without brackets, empty for the null one."""
    return f"Return-Path: <{reverse_path}>\r\n".encode("ascii")


def strip_envelope(content: MessageContent) -> int:
    """Remove the envelope that a message claims to have; return how many ``Received:`` lines it has, at most 101.

    ``Return-Path:`` (RFC 5321 section 4.4) and ``X-Envelope-To:`` are only ever written here, on top; one that arrived
    would be read as ours.  *content* is sealed and nobody else's yet.  Raises HeaderTooLong.
    """
    chunks = content.chunks
    count = 1
    start = chunks[0] if chunks else b""
    # Joining twice as many chunks each time keeps this linear, and one chunk is nearly always enough.
    while (end := _end_of_header(start)) < 0 and count < len(chunks) and len(start) <= MAX_HEADER + 2:
        count *= 2
        start = b"".join(chunks[:count])
    size = len(start) if end < 0 else end
    if size > MAX_HEADER:
        raise HeaderTooLong
    header = b"\n" + start[:size]
    hops = 0
    for _ in _RECEIVED.finditer(header):
        hops += 1
        if hops > MAX_RECEIVED:
            return hops
    clean = _ENVELOPE.sub(b"", header)
    if len(clean) != len(header):
        chunks[:count] = [chunk for chunk in (clean[1:], start[size:]) if chunk]
        content.size -= len(header) - len(clean)
    return hops


def _end_of_header(data: bytes) -> int:
    """Where the empty line begins; -1 when there is none."""
    if data.startswith(b"\r\n"):
        return 0
    end = data.find(b"\r\n\r\n")
    return end if end < 0 else end + 2


@functools.lru_cache(maxsize=1024)
def _literal(peer: str) -> str:
    """An address literal (RFC 5321 section 4.1.3), without the zone, which means nothing elsewhere."""
    address = normalize_address(peer)
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


@functools.lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))
