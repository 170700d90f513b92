"""SASLprep compared with libidn, the library that GNU SASL prepares names and passwords with.

Skipped if it is not installed; an error with MAILAUTH_INTEROP=require.
"""

from __future__ import annotations

import ctypes
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import pytest

from mailauth.errors import Malformed
from mailauth.sasl import saslprep
from tests.interop.client_config import missing

Prepare = Callable[[str, bool], str | None]

STRINGPREP_OK = 0
NO_UNASSIGNED = 4  # of Stringprep_profile_flags: for a stored string
SIZE = 4096


@pytest.fixture(scope="module")
def libidn() -> Prepare:
    """Run ``stringprep()`` with the profile SASLprep; return the prepared text, or None if it is rejected."""
    try:
        library = ctypes.CDLL("libidn.so.12")
    except OSError:
        missing("libidn12")
    stringprep = library.stringprep
    stringprep.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    profile = ctypes.addressof(ctypes.c_char.in_dll(library, "stringprep_saslprep"))
    buffer = ctypes.create_string_buffer(SIZE)

    def prepare(text: str, query: bool) -> str | None:
        buffer.value = text.encode("utf-8")
        if stringprep(buffer, SIZE, 0 if query else NO_UNASSIGNED, profile) != STRINGPREP_OK:
            return None
        return buffer.value.decode("utf-8")

    return prepare


def ours(text: str, query: bool) -> str | None:
    try:
        return saslprep(text, query=query)
    except Malformed:
        return None


def differences(libidn: Prepare, texts: Iterable[str]) -> list[str]:
    return [ascii(text) for text in texts for query in (True, False) if ours(text, query) != libidn(text, query)]


def is_in_c_string(code_point: int) -> bool:
    """Characters except NUL and surrogates."""
    return code_point != 0 and not 0xD800 <= code_point < 0xE000


@pytest.mark.parametrize("plane", [0, 1, 2, 14])
def test_saslprep_of_every_code_point_equals_libidn(libidn: Prepare, plane: int) -> None:
    """As a query string and as a stored string."""
    code_points = range(plane * 0x10000, (plane + 1) * 0x10000)
    assert differences(libidn, map(chr, filter(is_in_c_string, code_points))) == []


def some_texts(seed: int) -> Iterator[str]:
    """Two to six characters: letters of many scripts and combining marks, also from later versions of Unicode."""
    characters = [chr(code_point) for code_point in filter(is_in_c_string, range(0x30000))]
    marks = [character for character in characters if unicodedata.combining(character)]
    low = characters[:0x3100]
    choice = random.Random(seed)
    for _ in range(10_000):
        yield "".join(choice.choice(choice.choice((characters, marks, low, low))) for _ in range(choice.randint(2, 6)))


@pytest.mark.parametrize("seed", range(2))
def test_saslprep_of_random_texts_equals_libidn(libidn: Prepare, seed: int) -> None:
    """Composition, the order of marks, deleted characters, and the direction of letters."""
    assert differences(libidn, some_texts(seed)) == []


@pytest.mark.parametrize(
    "text", ["I\u00adX", "a\u200bb", "\u200b", "\u0627\u0031", "\ufdfa", "a\u0300\u0323", "\u0007"]
)
def test_saslprep_of_special_cases_equals_libidn(libidn: Prepare, text: str) -> None:
    assert differences(libidn, [text]) == []
