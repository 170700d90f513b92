"""SASLprep: the one form that names and passwords are compared in (RFC 4013, a profile of stringprep, RFC 3454).

Knows no mechanism.  The tables are those of Unicode 3.2, as the RFC wants them; PRECIS (RFC 8265) is another thing.
"""

from __future__ import annotations

import stringprep
import unicodedata
from typing import Final

from .._errors import Malformed

_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
"""RFC 4013 section 2.3."""


def saslprep(text: str, *, query: bool = False) -> str:
    """*text* in the form in which it is compared; it may come out empty.

    A *query* (what somebody says now) may hold code points that Unicode 3.2 did not know; a stored string may not
    (RFC 4013 section 2.5).  Raises Malformed for what may stand in neither, and its message shows nothing of *text*.
    """
    if text.isascii() and text.isprintable():
        return text  # nothing in there is mapped, composed or prohibited
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for char in prepared:
        if any(prohibits(char) for prohibits in _PROHIBITED):
            raise Malformed("SASLprep prohibits a character of it")
        if not query and stringprep.in_table_a1(char):
            raise Malformed("Unicode 3.2 does not know a character of it")
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """Text with letters written from right to left holds no others, and begins and ends with them (section 2.4)."""
    if any(map(stringprep.in_table_d1, text)):
        if any(map(stringprep.in_table_d2, text)):
            raise Malformed("letters of both directions")
        if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
            raise Malformed("text from right to left begins and ends with such letters")
