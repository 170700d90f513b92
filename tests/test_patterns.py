"""Patterns for text: the one for ASCII accepts the same ASCII text as the complete one."""

import re
from typing import Final

import pytest

from mailauth._patterns import LazyPattern, TextPattern
from mailauth.smtp import _grammar, commands, parameters
from mailauth.smtp._grammar import is_text

PATTERNS: Final = {
    f"{module.__name__}.{name}": pattern
    for module in (_grammar, commands, parameters)
    for name, pattern in vars(module).items()
    if isinstance(pattern, TextPattern)
}
ASCII: Final = [chr(number) for number in range(128)]
VALID: Final = (
    "", "a-b.c", 'a..b@c.example', '"a b\\"c"@[192.0.2.1]', "@a.example,@[IPv6:::1]:b@c", "SIZE=1", "a b", "\\x{2B}b",
)  # fmt: skip


def test_there_are_patterns_for_text() -> None:
    assert len(PATTERNS) == 8


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_for_ascii_and_for_any_text_agree_on_ascii(name: str) -> None:
    pattern = PATTERNS[name]
    complete = re.compile(pattern.source)
    for valid in VALID:
        for position in range(len(valid) + 1):
            for character in ASCII:
                for after in {valid[position:], valid[position + 1 :]}:
                    text = valid[:position] + character + after
                    assert groups(pattern.match(text)) == groups(complete.match(text))
                    assert groups(pattern.fullmatch(text)) == groups(complete.fullmatch(text))


def groups(found: re.Match[str] | None) -> tuple[str | None, ...]:
    return () if found is None else (found.group(), *found.groups())


def test_pattern_accepts_non_ascii_text() -> None:
    pattern = TextPattern(r"[a-z\xe0-\xff]+", r"\xe0-\xff")
    assert pattern.fullmatch("abc")
    assert pattern.fullmatch("\xe9t\xe9")
    assert not pattern.fullmatch("\xdf")


def test_pattern_is_compiled_once() -> None:
    pattern = LazyPattern(rb"a+")
    assert pattern.fullmatch(b"aa")
    assert pattern.compiled is pattern.compiled


def test_is_text_accepts_the_same_ascii_text_as_its_pattern() -> None:
    for character in ASCII:
        assert is_text(f"a{character}b") is (_grammar._TEXT.fullmatch(f"a{character}b") is not None)
    assert is_text("")
