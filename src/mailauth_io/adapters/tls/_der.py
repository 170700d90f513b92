"""The part of DER (X.690) that is needed to find the fields of a certificate.

Only tags and lengths are checked.
"""

from __future__ import annotations


def element(data: bytes, at: int, *tags: int) -> tuple[int, int]:
    """Return the start and the end of the content of the element at offset *at*.

    Raises ValueError or IndexError if its tag is not in *tags*, or it is truncated.
    """
    if data[at] not in tags:
        raise ValueError("unexpected tag")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError("truncated element")
    return start, start + length
