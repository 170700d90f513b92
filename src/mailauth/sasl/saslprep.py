"""SASLprep: the form in which names and passwords are compared (RFC 4013, a profile of stringprep, RFC 3454).

The tables are those of Unicode 3.2, as the RFC requires.  PRECIS (RFC 8265) is a different profile.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property
from typing import Final

from .._errors import Malformed
from . import _saslprep_tables as tables

DEFAULT_LIMIT: Final = 1024
"""Octets of the longest password that a mechanism carries."""


class _Pattern:
    """A regular expression that is compiled at its first use: that takes milliseconds, and most logins are ASCII."""

    def __init__(self, source: str) -> None:
        self._source = source

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self._source)


_SPACES: Final = _Pattern(tables.SPACES)
_DELETED: Final = _Pattern(tables.DELETED)
_PROHIBITED: Final = _Pattern(tables.PROHIBITED)
_UNASSIGNED: Final = _Pattern(f"({tables.UNASSIGNED})")
_RIGHT_TO_LEFT: Final = _Pattern(tables.RIGHT_TO_LEFT)
_LEFT_TO_RIGHT: Final = _Pattern(tables.LEFT_TO_RIGHT)


def saslprep(text: str, *, query: bool = False, limit: int = DEFAULT_LIMIT) -> str:
    """Return *text* in the form in which it is compared.  The result may be empty.

    A *query* (what a client sends to log in) may hold code points that Unicode 3.2 does not assign; a stored string may
    not (RFC 4013 section 2.5).  *limit* is the greatest length in octets of UTF-8, both before and after the
    preparation: NFKC makes 33 octets of the three of U+FDFA, and takes time that grows with the square of a run of
    combining marks.

    Raises Malformed for text that is too long or that SASLprep prohibits; the message shows nothing of *text*.
    """
    _check_length(text, limit)
    if text.isascii() and text.isprintable():
        return text  # nothing in it is mapped, composed or prohibited
    # U+200B is in both tables; mapped to SPACE first, it has the same result here as in libidn.
    mapped = _DELETED.compiled.sub("", _SPACES.compiled.sub(" ", text))
    # A code point that Unicode 3.2 does not assign changes nothing around it.  Python would give it the combining class
    # that it has in a later version, so the result would depend on the version of Python.
    parts = _UNASSIGNED.compiled.split(mapped)
    if len(parts) > 1 and not query:
        raise Malformed("Unicode 3.2 does not know a character of it")
    prepared = "".join([unicodedata.ucd_3_2_0.normalize("NFKC", part) for part in parts])
    _check_length(prepared, limit)
    if _PROHIBITED.compiled.search(prepared):
        raise Malformed("SASLprep prohibits a character of it")
    is_right_to_left = _RIGHT_TO_LEFT.compiled.search
    if is_right_to_left(prepared):  # RFC 3454 section 6
        if _LEFT_TO_RIGHT.compiled.search(prepared):
            raise Malformed("letters of both directions")
        if not (is_right_to_left(prepared[0]) and is_right_to_left(prepared[-1])):
            raise Malformed("text from right to left begins and ends with such letters")
    return prepared


def _check_length(text: str, limit: int) -> None:
    # A lone surrogate is prohibited, but only after this: it must not stop the counting.
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise Malformed(f"it has more than {limit} octets")
