"""Search a record of network traffic for what a passive eavesdropper could read.

It recognizes clear text, base64, TLS records, and the digests of APOP and CRAM-MD5.
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

_BASE64_RUN: Final = re.compile(rb"[A-Za-z0-9+/]{4,}")
_TIMESTAMP: Final = re.compile(rb"<[^<>\s]{1,255}>")
_HELLO: Final = re.compile(rb"\x16\x03[\x00-\x04]..[\x01\x02]", re.DOTALL)  # ClientHello or ServerHello in a record
_CONTENT_TYPES: Final = frozenset({20, 21, 22, 23})  # RFC 8446 section 5.1
_APPLICATION_DATA: Final = 23
_LARGEST_RECORD: Final = 2**14 + 2048  # RFC 5246 section 6.2.3; TLS 1.3 allows less


class Seen(enum.Enum):
    """How a text appears to an eavesdropper."""

    CLEAR = "clear"
    BASE64 = "clear (base64)"
    DIGEST = "digest"
    """Only a digest of it and the server's challenge."""
    TLS = "TLS"
    """Not readable, and the whole record is TLS."""
    NOT_SEEN = "not seen"
    """Not readable, and the record is not all TLS."""


@attrs.frozen(kw_only=True)
class Conversation:
    """The bytes of one TCP connection in each direction."""

    from_client: bytes
    from_server: bytes


def look_for(words: bytes, record: Sequence[Conversation]) -> Seen:
    """Return how *words* appear in the record, ignoring case.  The most readable form counts."""
    wanted = words.lower()
    streams = [data for conversation in record for data in (conversation.from_client, conversation.from_server)]
    if any(wanted in data.lower() for data in streams):
        return Seen.CLEAR
    if any(wanted in token.lower() for data in streams for token in decoded_tokens(data)):
        return Seen.BASE64
    return Seen.TLS if all_in_tls(record) else Seen.NOT_SEEN


def look_for_secret(secret: bytes, record: Sequence[Conversation]) -> Seen:
    """Like ``look_for``, and also search for a digest of *secret* (RFC 1939 section 7, RFC 2195 section 2)."""
    seen = look_for(secret, record)
    if seen in (Seen.TLS, Seen.NOT_SEEN) and any(_holds_digest(secret, conversation) for conversation in record):
        return Seen.DIGEST
    return seen


def decoded_tokens(data: bytes) -> Iterator[bytes]:
    """Yield all possible base64 decodings in *data*: each run of base64 characters, decoded from four offsets.

    A token may start anywhere in a run, so a character before it does not hide it.
    """
    for run in _BASE64_RUN.findall(data):
        for offset in range(4):
            token = run[offset:]
            token = token[: len(token) - (len(token) % 4 == 1)]  # a single extra character encodes no byte
            if token:
                yield binascii.a2b_base64(token + b"=" * (-len(token) % 4))


def _holds_digest(secret: bytes, conversation: Conversation) -> bool:
    from_server = [conversation.from_server, *decoded_tokens(conversation.from_server)]
    from_client = [conversation.from_client, *decoded_tokens(conversation.from_client)]
    for challenge in {found for data in from_server for found in _TIMESTAMP.findall(data)}:
        apop = hashlib.md5(challenge + secret, usedforsecurity=False).hexdigest().encode()
        cram = hmac.new(secret, challenge, "md5").hexdigest().encode()
        if any(apop in data or cram in data for data in from_client):
            return True
    return False


def all_in_tls(record: Sequence[Conversation]) -> bool:
    """Return whether every conversation switched to TLS and stayed in it, and at least one client sent data in TLS."""
    pairs = [
        (_tls_records(conversation.from_client), _tls_records(conversation.from_server)) for conversation in record
    ]
    if not pairs or any(client is None or server is None for client, server in pairs):
        return False
    return any(client and server and _APPLICATION_DATA in client for client, server in pairs)


def _tls_records(data: bytes) -> list[int] | None:
    """Return the content types of the TLS records at the end of *data*.

    Data before the first record is the clear-text part of STARTTLS or STLS.  Returns None if there is no TLS record, or
    if other data follows.
    """
    begins = (found.start() for found in _HELLO.finditer(data))
    position = next((begin for begin in begins if begin == 0 or data[begin - 2 : begin] == b"\r\n"), None)
    if position is None:
        return None
    types: list[int] = []
    while position < len(data):
        header = data[position : position + 5]
        if header[0] not in _CONTENT_TYPES or header[1:2] not in (b"", b"\x03"):
            return None
        length = int.from_bytes(header[3:5], "big")
        if length > _LARGEST_RECORD:
            return None
        types.append(header[0])
        position += 5 + length
    return types
