"""Line framing, and the check of line ends (RFC 5321 section 2.3.8)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from mailauth._lines import LineBuffer, LineEnds, LineTooLong

LIMIT = 12
TOO_LONG = "too long"
OCTETS = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"bc", b"x" * 9, b"y" * 20]), max_size=12).map(b"".join)


def take_all(buffer: LineBuffer) -> list[bytes | str]:
    taken: list[bytes | str] = []
    while True:
        try:
            line = buffer.take_line(LIMIT)
        except LineTooLong:
            taken.append(TOO_LONG)
            continue
        if line is None:
            return taken
        taken.append(line)


def model(data: bytes) -> list[bytes | str]:
    whole = data.split(b"\r\n")[:-1]
    return [line if len(line) + 2 <= LIMIT else TOO_LONG for line in whole]


@given(OCTETS, st.data())
def test_lines_are_split_only_at_crlf_for_any_input_chunks(data: bytes, choices: st.DataObject) -> None:
    """RFC 5321 section 2.3.8: only CRLF ends a line, however the input is split."""
    buffer = LineBuffer()
    taken: list[bytes | str] = []
    start = 0
    while start < len(data):
        end = choices.draw(st.integers(start + 1, len(data)))
        buffer.feed(data[start:end])
        if choices.draw(st.booleans()):
            taken += take_all(buffer)
            assert len(buffer) <= LIMIT
        start = end
    assert taken + take_all(buffer) == model(data)


def test_line_one_byte_over_the_limit_is_too_long() -> None:
    """RFC 5321 section 4.5.3.1.4: the length includes the CRLF."""
    buffer = LineBuffer()
    buffer.feed(b"a" * (LIMIT - 2) + b"\r\n" + b"b" * (LIMIT - 1) + b"\r\n" + b"c\r\n")
    assert take_all(buffer) == [b"a" * (LIMIT - 2), TOO_LONG, b"c"]


def test_unterminated_line_is_dropped_and_reported_once_at_its_end() -> None:
    """architecture.md, invariant 4: every buffer is bounded."""
    buffer = LineBuffer()
    for _ in range(100):
        buffer.feed(b"z" * 1_000)
        assert take_all(buffer) == []
        assert len(buffer) <= 1
    assert buffer.dropping
    buffer.feed(b"\r")
    assert take_all(buffer) == []
    buffer.feed(b"\nnext\r\n")
    assert take_all(buffer) == [TOO_LONG, b"next"]
    assert not buffer.dropping


def test_data_consumed_by_a_fast_path_is_not_returned_again() -> None:
    buffer = LineBuffer()
    buffer.feed(b"one\r\ntwo")
    assert buffer.take_line(LIMIT) == b"one"
    assert buffer.take_line(LIMIT) is None
    buffer.offset += 2  # as a fast path does
    buffer.feed(b"\r")
    assert buffer.take_line(LIMIT) is None
    buffer.feed(b"\n")
    assert buffer.take_line(LIMIT) == b"o"
    assert buffer.used_up


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=6))
def test_length_and_clear_return_the_number_of_unread_bytes(pieces: list[bytes]) -> None:
    buffer = LineBuffer()
    for piece in pieces:
        buffer.feed(piece)
    size = sum(map(len, pieces))
    assert len(buffer) == size
    buffer.gather()
    assert len(buffer) == size
    assert buffer.clear() == size
    assert len(buffer) == 0
    assert buffer.used_up


def test_empty_data_marks_the_buffer_as_ended() -> None:
    buffer = LineBuffer()
    buffer.feed(b"half a li")
    buffer.feed(b"")
    assert buffer.ended
    assert buffer.take_line(LIMIT) is None


@given(OCTETS, st.data())
def test_bare_cr_lf_and_nul_are_detected_at_any_split(data: bytes, choices: st.DataObject) -> None:
    """RFC 5321 section 2.3.8: CR and LF must only be sent together."""
    data += choices.draw(st.sampled_from([b"", b"\0", b"\xff\x85"])) + b"."
    ends = LineEnds()
    clean = True
    start = 0
    while start < len(data):
        end = choices.draw(st.integers(start + 1, len(data)))
        clean = ends.watch(data[start:end])
        start = end
    assert clean == (re.search(rb"\r(?!\n)|(?<!\r)\n|\0", data) is None)


@pytest.mark.parametrize("data", [b"a\rb", b"a\nb", b"a\0b"])
def test_detected_line_end_fault_persists(data: bytes) -> None:
    ends = LineEnds()
    ends.watch(data)
    assert not ends.watch(b"clean\r\n")
