"""SASLprep (RFC 4013)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from mailauth.errors import Malformed
from mailauth.sasl import _fields, saslprep
from mailauth.sasl.saslprep import is_prepared


@pytest.mark.parametrize(
    ("given_text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
    ],
    ids=["soft hyphen", "no change", "case kept", "NFKC of ISO 8859-1", "NFKC"],
)
def test_rfc_4013_valid_examples(given_text: str, prepared: str) -> None:
    """RFC 4013 section 3, numbers 1 to 5."""
    assert saslprep(given_text) == prepared
    assert saslprep(given_text, query=True) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031"], ids=["prohibited character", "bidirectional check"])
def test_rfc_4013_rejected_examples(text: str) -> None:
    """RFC 4013 section 3, numbers 6 and 7."""
    for query in (False, True):
        with pytest.raises(Malformed):
            saslprep(text, query=query)


@pytest.mark.parametrize("space", ["\u00a0", "\u1680", "\u2003", "\u202f", "\u205f", "\u3000"])
def test_non_ascii_space_is_mapped_to_space(space: str) -> None:
    """Section 2.1: the non-ASCII spaces (stringprep table C.1.2)."""
    assert saslprep(f"a{space}b") == "a b"


def test_zero_width_space_is_mapped_to_space() -> None:
    """Section 2.1: U+200B is in both tables; C.1.2 is applied first, as in libidn."""
    assert saslprep("a\u200bb") == "a b"
    assert saslprep("\u200b") == " "


@pytest.mark.parametrize("nothing", ["\u00ad", "\u034f", "\u180b", "\u200c", "\u200d", "\u2060", "\ufe0f", "\ufeff"])
def test_characters_commonly_mapped_to_nothing_are_removed(nothing: str) -> None:
    """Section 2.1: stringprep table B.1.  The result may be empty."""
    assert saslprep(f"a{nothing}b") == "ab"
    assert saslprep(nothing) == ""


@pytest.mark.parametrize("char", "\0 \x7f \x80 \u06dd \ue000 \ufdd0 \ud800 \ufffd \u2ff0 \u200e \U000e0041".split(" "))
def test_prohibited_character_is_rejected(char: str) -> None:
    """Section 2.3: at least one character of each table from C.2.1 to C.9."""
    with pytest.raises(Malformed):
        saslprep(f"a{char}b", query=True)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("\u0627\u0628", True),
        ("\u0627\u00311\u0628", True),
        ("\u0627a\u0628", False),
        ("1\u0627", False),
        ("\u0627 ", False),
        ("abc1", True),
    ],
)
def test_bidirectional_text_follows_rfc_3454_section_6(text: str, fine: bool) -> None:
    """Section 2.4, RFC 3454 section 6."""
    if fine:
        assert saslprep(text) == text
    else:
        with pytest.raises(Malformed):
            saslprep(text)


def test_unassigned_code_points_are_accepted_only_in_queries() -> None:
    """Section 2.5."""
    assert saslprep("\u0221", query=True) == "\u0221"
    with pytest.raises(Malformed):
        saslprep("\u0221")


def test_unassigned_code_point_does_not_affect_adjacent_text() -> None:
    """RFC 3454 section 7: in Unicode 3.2 it is not a combining mark, even if it is one in a later version."""
    later_mark = "\ua66f"  # of class 230 since Unicode 5.1
    assert saslprep(f"a{later_mark}\u0323", query=True) == f"a{later_mark}\u0323"
    assert saslprep(f"a\u0301\u0323{later_mark}e\u0301", query=True) == f"\u1ea1\u0301{later_mark}\xe9"


LIGATURE = "\ufdfa"
"""3 bytes of UTF-8, which NFKC turns into 33: the largest growth of any character."""


@pytest.mark.parametrize("text", ["x" * 1024, "\xe4" * 512, LIGATURE * 15 + " " + LIGATURE * 16])
def test_text_limit_is_1024_bytes(text: str) -> None:
    """In UTF-8, before and after preparation."""
    saslprep(text, query=True)
    with pytest.raises(Malformed, match="1024 bytes"):
        saslprep(text + "x", query=True)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("\u00ad" * 200, 255),  # would be empty after preparation
        ("\u00c5" * 128, 255),
        (LIGATURE * 8, 255),
        (LIGATURE * 341, 1024),
        (LIGATURE * 50 + "\u0007", 1024),
        ("x" * 9 + "\u0007", 9),
        ("\ud800" * 4, 9),
    ],
)
def test_length_error_takes_precedence_over_other_errors(text: str, limit: int) -> None:
    """The length before preparation bounds the work of NFKC, the length after it all later work."""
    with pytest.raises(Malformed, match=f"{limit} bytes"):
        saslprep(text, query=True, limit=limit)


def test_unicode_3_2_tables_are_used() -> None:
    """RFC 3454 section 1: later changes, such as those of corrigendum 5, do not apply."""
    assert saslprep("\U0001d7ce", query=True) == "0"  # in Unicode 3.2
    assert saslprep("\U0001f12e", query=True) == "\U0001f12e"  # "WZ" with current NFKC


@given(st.text(max_size=20), st.booleans())
def test_saslprep_is_idempotent(text: str, query: bool) -> None:
    """Preparing a string twice changes nothing.  No text raises anything but Malformed."""
    try:
        prepared = saslprep(text, query=query)
    except Malformed:
        return
    assert saslprep(prepared, query=query) == prepared


@given(st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=20))
def test_printable_ascii_is_unchanged_and_other_ascii_is_rejected(text: str) -> None:
    if text.isprintable():
        assert saslprep(text) == text
    else:
        with pytest.raises(Malformed):
            saslprep(text)


def test_exception_does_not_quote_the_text() -> None:
    """architecture.md, invariant 6: the text may be a password."""
    with pytest.raises(Malformed) as caught:
        saslprep("hunter2\u0007")
    assert "hunter2" not in str(caught.value)


# Bytes at and beyond the limits of length, and pieces that each check is about.
DATA = st.lists(
    st.sampled_from([b"a", b" ", b"~", b"\x7f", b"\0", b"\n", b"\xc2\xad", b"\xff", b"x" * 254, b"x" * 1_023]),
    max_size=3,
)


@given(DATA.map(b"".join), st.booleans())
def test_prepared_bytes_are_accepted_as_the_complete_preparation_accepts_them(data: bytes, query: bool) -> None:
    """The short way for printable ASCII is left out for comparison."""

    def result(prepare: Callable[[], object]) -> object:
        try:
            return prepare()
        except Malformed:
            return None

    for prepare in (lambda: _fields.prepare_identity(data), lambda: _fields.prepare_password(data, query=query)):
        found = result(prepare)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_fields, "is_prepared", lambda data: False)
            assert result(prepare) == found


@pytest.mark.parametrize("number", range(256))
def test_prepared_bytes_are_printable_ascii(number: int) -> None:
    assert is_prepared(bytes([number])) is (32 <= number < 127)
