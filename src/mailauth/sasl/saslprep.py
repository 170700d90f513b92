"""SASLprep: the preparation of names and passwords for comparison (RFC 4013, a profile of stringprep, RFC 3454).

The tables are those of Unicode 3.2, as the RFC requires.  PRECIS (RFC 8265) is a different profile.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from .._patterns import LazyPattern
from .._validators import check_integer, check_type
from ..errors import Malformed
from . import _saslprep_tables as tables

DEFAULT_LIMIT: Final = 1024
"""Maximum bytes of a password that a mechanism accepts."""


_SPACES: Final = LazyPattern(tables.SPACES)
_DELETED: Final = LazyPattern(tables.DELETED)
_PROHIBITED: Final = LazyPattern(tables.PROHIBITED)
_UNASSIGNED: Final = LazyPattern(f"({tables.UNASSIGNED})")
_RIGHT_TO_LEFT: Final = LazyPattern(tables.RIGHT_TO_LEFT)
_LEFT_TO_RIGHT: Final = LazyPattern(tables.LEFT_TO_RIGHT)


def saslprep(text: str, *, query: bool = False, limit: int = DEFAULT_LIMIT) -> str:
    """Return *text* in the form in which it is compared.  The result may be empty.

    A *query* (what a client sends to log in) may contain code points that Unicode 3.2 does not assign; a stored string
    must not (RFC 4013 section 2.5).  *limit* is the maximum length in bytes of UTF-8, both before and after the
    preparation: NFKC turns the 3 bytes of U+FDFA into 33, and its time is quadratic in the length of a run of combining
    marks.

    Raises Malformed for text that is too long or that SASLprep prohibits.  The error text does not contain any of
    *text*.
    """
    check_type("text", str, text)
    check_integer("limit", limit, 0)
    _check_length(text, limit)
    if text.isascii() and text.isprintable():
        return text  # nothing to map, compose or prohibit
    # U+200B is in both tables.  Spaces are mapped first, so that the result is the same as that of libidn.
    mapped = _DELETED.compiled.sub("", _SPACES.compiled.sub(" ", text))
    # A code point that Unicode 3.2 does not assign must not affect the characters around it.  normalize() would use the
    # combining class of a later Unicode version, and the result would depend on the version of Python.
    parts = _UNASSIGNED.compiled.split(mapped)
    if len(parts) > 1 and not query:
        raise Malformed("it contains a character that Unicode 3.2 does not assign")
    prepared = "".join([unicodedata.ucd_3_2_0.normalize("NFKC", part) for part in parts])
    _check_length(prepared, limit)
    if _PROHIBITED.compiled.search(prepared):
        raise Malformed("it contains a character that SASLprep prohibits")
    is_right_to_left = _RIGHT_TO_LEFT.compiled.search
    if is_right_to_left(prepared):  # RFC 3454 section 6
        if _LEFT_TO_RIGHT.compiled.search(prepared):
            raise Malformed("it contains characters of both writing directions")
        if not (is_right_to_left(prepared[0]) and is_right_to_left(prepared[-1])):
            raise Malformed("text with right-to-left characters must begin and end with one")
    return prepared


def is_prepared(data: bytes) -> bool:
    """Return whether *data* is printable ASCII: ``saslprep()`` has nothing to map, compose or prohibit in it."""
    return data.isascii() and data.decode("ascii").isprintable()


def _check_length(text: str, limit: int) -> None:
    # A lone surrogate must not raise UnicodeEncodeError here.  It is prohibited, which is checked later.
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise Malformed(f"it is longer than {limit} bytes")
