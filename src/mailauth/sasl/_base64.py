"""Strict base64, as the AUTH commands of SMTP and POP3 use it (RFC 4954 section 4, RFC 5034 section 4).

The exchange, not this module, handles ``*`` (cancel) and ``=`` (empty initial response).
"""

from __future__ import annotations

import binascii

from .._validators import check_type
from ..errors import Malformed


def encode_base64(data: bytes) -> bytes:
    """Return *data* as one line of base64 without a line end.  Empty data gives an empty line."""
    check_type("data", bytes, data)
    return binascii.b2a_base64(data, newline=False)


def decode_base64(line: bytes) -> bytes:
    """Return the bytes that *line* encodes.  Raises Malformed for a line that encode_base64() would not return.

    These are lines with other characters, an inner ``=``, missing padding, or non-zero bits after the last byte (RFC
    4648 section 3.5).  A decoder that ignores such errors allows a client to hide data.
    """
    check_type("line", bytes, line)
    try:
        data = binascii.a2b_base64(line)
    except binascii.Error:
        raise Malformed("invalid base64") from None
    if binascii.b2a_base64(data, newline=False) != line:
        raise Malformed("invalid base64")
    return data
