"""Message content in memory, and the memory budget."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth_io._line_ends import PIECE
from mailauth_io.stores import Budget, BudgetExceeded, MessageContent
from mailauth_io.stores.content import OVERHEAD, ContentReader


@given(st.lists(st.binary(max_size=9) | st.integers(4090, 70_000).map(bytes), max_size=20))
def test_chunks_equal_the_appended_data(appended: list[bytes]) -> None:
    content = MessageContent(Budget())
    for data in [*appended, b"\r\n"]:
        content.append(data)
    content.seal()
    assert b"".join(content.chunks) == b"".join(appended) + b"\r\n"
    assert content.size == sum(map(len, appended)) + 2


def test_single_bytes_are_merged_into_few_chunks() -> None:
    content = MessageContent(Budget())
    for _ in range(2 * PIECE):
        content.append(b"x")
    content.seal()
    assert len(content.chunks) <= 3


@pytest.mark.parametrize("data", [b"x", b"x\r", b"x\n", b"x" * 5000])
def test_missing_final_crlf_is_added(data: bytes) -> None:
    content = MessageContent.of(data, Budget())
    assert b"".join(content.chunks) == data + b"\r\n"
    assert content.size == len(data) + 2


def test_crlf_split_between_chunks_is_one_line_end() -> None:
    content = MessageContent(Budget())
    content.append(b"x" * 5000 + b"\r")
    content.append(b"\n")
    content.seal()
    assert content.size == 5002


def test_an_empty_message_stays_empty() -> None:
    assert MessageContent.of(b"", Budget()).chunks == []


def test_budget_is_released_by_the_last_holder() -> None:
    budget = Budget(10_000)
    content = MessageContent.of(b"x" * 998 + b"\r\n", budget)
    content.keep()
    content.release()
    assert budget.free == 10_000 - 1000 - OVERHEAD
    content.release()
    assert budget.free == 10_000


def test_content_over_the_budget_is_rejected_and_released() -> None:
    budget = Budget(OVERHEAD + 10)
    content = MessageContent(budget)
    content.append(b"x" * 10)
    with pytest.raises(BudgetExceeded):
        content.append(b"x")
    with pytest.raises(BudgetExceeded):
        MessageContent(budget)
    content.release()
    assert budget.free == budget.size
    with pytest.raises(BudgetExceeded):
        MessageContent.of(b"x" * 11, budget)
    assert budget.free == budget.size


def test_reader_marks_the_last_piece() -> None:
    reader = ContentReader(iter([b"one", b"two"]))
    pieces = [reader.read(), reader.read()]
    assert [(piece.data, piece.last) for piece in pieces] == [(b"one", False), (b"two", True)]
    assert reader.offset == 6


def test_empty_content_is_read_as_one_empty_last_piece() -> None:
    piece = ContentReader(iter(())).read()
    assert (piece.data, piece.last) == (b"", True)
