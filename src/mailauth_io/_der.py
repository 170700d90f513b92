"""Just enough of DER (X.690) to walk over a certificate: where the content of an element begins and ends.

Knows no certificate; checks nothing but tags and lengths.
"""

from __future__ import annotations


def element(data: bytes, at: int, *tags: int) -> tuple[int, int]:
    """Where the content of the element at *at* begins and ends.

    Raises ValueError or IndexError when it has none of *tags*, or is cut off.
    """
    if data[at] not in tags:
        raise ValueError("not the element that belongs here")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError("cut off")
    return start, start + length
