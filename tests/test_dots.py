"""Dot-stuffing and the end of content (RFC 5321 section 4.5.2)."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, strategies as st

from mailauth._dots import Stuffer, Unstuffer
from mailauth._lines import LineBuffer

PIECES = st.lists(st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"a", b"..", b"\r\n.", b"\0", b"text"]), max_size=12)
CLEAN_PIECES = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"..", b"\r\n.", b"\r\n.\r\n", b"text"]), max_size=12)


def cut(data: bytes, choices: st.DataObject) -> list[bytes]:
    places = sorted(choices.draw(st.sets(st.integers(0, len(data)), max_size=6)) | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def stuff(pieces: list[bytes]) -> bytes:
    stuffer = Stuffer()
    return b"".join(map(stuffer.stuff, pieces)) + stuffer.end()


def unstuff(pieces: list[bytes]) -> tuple[bytes, bool, bool, bytes]:
    """Return (content, whether it ended, whether it was clean, the rest of the input) after *pieces*."""
    buffer, unstuffer = LineBuffer(), Unstuffer()
    content = b""
    for piece in filter(None, pieces):
        buffer.feed(piece)
        while not unstuffer.ended and (chunk := unstuffer.take(buffer)):
            content += chunk
        if not unstuffer.ended:
            assert len(buffer) <= 4
    buffer.gather()
    return content, unstuffer.ended, unstuffer.clean, buffer.data[buffer.offset :]


def content_of(data: bytes) -> tuple[bytes, bytes] | None:
    """The reference implementation: return (content, the rest), or None without an end."""
    found = re.search(rb"(?:^|\r\n)\.\r\n", data, re.DOTALL)
    if found is None:
        return None
    stuffed = data[: found.start()] + (b"" if found.start() == 0 and data.startswith(b".\r\n") else b"\r\n")
    return re.sub(rb"(^|\r\n)\.", rb"\1", stuffed), data[found.end() :]


@given(PIECES, PIECES, st.data())
def test_content_ends_at_crlf_dot_crlf_at_any_split(
    head: list[bytes], tail: list[bytes], choices: st.DataObject
) -> None:
    """RFC 5321 section 4.1.1.4: only CRLF.CRLF ends content."""
    data = b"".join(head) + b"\r\n.\r\n" + b"".join(tail)
    content, ended, clean, rest = unstuff(cut(data, choices))
    assert ended
    assert (content, rest) == content_of(data)
    assert clean == (re.search(rb"\r(?!\n)|(?<!\r)\n|\0", content) is None)


@given(PIECES, st.data())
def test_content_without_end_is_returned_except_at_most_four_bytes(pieces: list[bytes], choices: st.DataObject) -> None:
    data = b"".join(pieces).replace(b"\r\n.\r\n", b"")
    if content_of(data) is not None:
        return
    content, ended, _, rest = unstuff(cut(data, choices))
    assert not ended
    whole = content_of(data + b"\r\n.\r\n")
    assert whole is not None
    assert whole[0].startswith(content)
    assert len(rest) <= 4


@given(CLEAN_PIECES, st.data())
def test_unstuffing_restores_the_stuffed_content(pieces: list[bytes], choices: st.DataObject) -> None:
    """RFC 5321 section 4.5.2, with a CRLF added at the end if it is missing (section 4.1.1.4)."""
    data = b"".join(pieces)
    wire = stuff(cut(data, choices))
    assert wire == stuff([data])
    content, ended, clean, rest = unstuff(cut(wire, choices))
    assert (ended, clean, rest) == (True, True, b"")
    assert content == (data if data.endswith(b"\r\n") or not data else data + b"\r\n")


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.b\r\n", b"a\r\n..b\r\n.\r\n"),
        (b"a\r\n.\r\n.\r\nb", b"a\r\n..\r\n..\r\nb\r\n.\r\n"),
        (b"\r\n", b"\r\n.\r\n"),
    ],
)
def test_dots_at_the_beginning_of_lines_are_doubled(content: bytes, wire: bytes) -> None:
    """RFC 5321 section 4.5.2, in one piece and byte by byte."""
    assert stuff([content]) == wire
    assert stuff([content[n : n + 1] for n in range(len(content))]) == wire


def test_empty_chunks_change_nothing() -> None:
    assert stuff([b"", b"a\r\n", b"", b".", b""]) == b"a\r\n..\r\n.\r\n"
