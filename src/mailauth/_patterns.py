"""Regular expressions that are compiled when they are first used.

Compiling takes up to 20 milliseconds for ranges of non-ASCII characters, and a program uses few of the patterns.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import AnyStr, Generic


class LazyPattern(Generic[AnyStr]):
    """A regular expression that is compiled when it is first used."""

    def __init__(self, source: AnyStr, flags: int = 0) -> None:
        self._source: AnyStr = source
        self._flags = flags

    @cached_property
    def compiled(self) -> re.Pattern[AnyStr]:
        return re.compile(self._source, self._flags)

    def fullmatch(self, text: AnyStr) -> re.Match[AnyStr] | None:
        return self.compiled.fullmatch(text)


class TextPattern:
    """A regular expression for text that may contain non-ASCII characters: the ranges *non_ascii* in *source*.

    For ASCII text, which most text is, the pattern without these ranges is equivalent, and is compiled fast.
    """

    def __init__(self, source: str, *non_ascii: str) -> None:
        self.source = source
        self._complete = LazyPattern(source)
        for ranges in non_ascii:
            source = source.replace(ranges, "")
        self._ascii = LazyPattern(source)

    def match(self, text: str) -> re.Match[str] | None:
        return (self._ascii if text.isascii() else self._complete).compiled.match(text)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        return (self._ascii if text.isascii() else self._complete).compiled.fullmatch(text)
