"""SASLprep's generated tables, compared with the functions of the standard library's ``stringprep``."""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from mailauth.errors import Malformed
from mailauth.sasl import saslprep
from tools.make_saslprep_tables import TARGET, is_prohibited, module_text

REFUSED = "refused"
PLANE = 0x10000


def by_character(text: str, *, query: bool) -> str:
    """Return *text* prepared character by character (RFC 4013 section 2), or REFUSED if it is prohibited."""
    mapped = ""
    for character in text:
        if stringprep.in_table_c12(character):
            mapped += " "
        elif not stringprep.in_table_b1(character):
            mapped += character
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(is_prohibited(character) for character in prepared):
        return REFUSED
    if not query and any(stringprep.in_table_a1(character) for character in prepared):
        return REFUSED
    if any(stringprep.in_table_d1(character) for character in prepared):
        if any(stringprep.in_table_d2(character) for character in prepared):
            return REFUSED
        if not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])):
            return REFUSED
    return prepared


def ours(text: str, *, query: bool) -> str:
    try:
        return saslprep(text, query=query)
    except Malformed:
        return REFUSED


def test_generated_tables_are_up_to_date() -> None:
    """If this fails, run tools/make_saslprep_tables.py."""
    assert TARGET.read_text(encoding="ascii") == module_text()


BLOCKS = {
    **{f"plane {plane}": range(plane * PLANE, (plane + 1) * PLANE) for plane in (0, 1, 2, 14)},
    # Unassigned or private use, except the last two code points of each plane.
    "the others": [
        *range(3 * PLANE, 17 * PLANE, 17),
        *(plane * PLANE + last for plane in range(3, 17) for last in (0xFFFE, 0xFFFF)),
    ],
}


@pytest.mark.parametrize("code_points", BLOCKS.values(), ids=BLOCKS)
def test_code_points_match_the_stringprep_reference(code_points: Iterable[int]) -> None:
    """RFC 4013 section 2, as a query and as a stored string."""
    differ = [
        hex(code_point)
        for code_point in code_points
        for query in (True, False)
        if ours(chr(code_point), query=query) != by_character(chr(code_point), query=query)
    ]
    assert differ == []


ASSIGNED = st.characters(exclude_categories=["Cs"]).filter(lambda character: not stringprep.in_table_a1(character))
MARKS = st.sampled_from([chr(mark) for mark in range(0x300, 0x34F)])
RIGHT_TO_LEFT = st.characters(min_codepoint=0x5D0, max_codepoint=0x64A)


@given(
    st.text(ASSIGNED | MARKS | RIGHT_TO_LEFT | st.sampled_from("a1 \u200b\u00ad\ufdfa\uac00\u1100\u1161"), max_size=8)
)
def test_text_matches_the_stringprep_reference(text: str) -> None:
    """Composition, the order of combining marks and the bidirectional check are covered, too."""
    for query in (True, False):
        assert ours(text, query=query) == by_character(text, query=query)
