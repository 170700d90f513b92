"""Base64 as both AUTH commands use it (RFC 4954 section 4, RFC 5034 section 4): one spelling and no other.

Codec only: knows neither ``*`` nor ``=``, which are words of the exchange.
"""

from __future__ import annotations

import binascii

from .._errors import Malformed


def encode_base64(data: bytes) -> bytes:
    """*data* as one line of base64, without a line end; nothing for nothing."""
    return binascii.b2a_base64(data, newline=False)


def decode_base64(line: bytes) -> bytes:
    """The octets that encode_base64() makes *line* of.  Raises Malformed for everything else.

    Stray characters, an inner ``=``, missing padding and loose bits behind the end (RFC 4648 section 3.5) are all
    refused: what a lenient decoder skips is a place to hide octets in.
    """
    try:
        data = binascii.a2b_base64(line)
    except binascii.Error:
        raise Malformed("not base64") from None
    if encode_base64(data) != line:
        raise Malformed("not base64")
    return data
