"""Message content in memory, and the memory budget."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth_io.stores import Budget, BudgetExceeded, MessageContent
from mailauth_io.stores.content import OVERHEAD, PIECE, ContentReader


@given(st.lists(st.binary(max_size=9) | st.integers(4090, 70_000).map(bytes), max_size=20))
def test_chunks_say_what_was_appended(appended: list[bytes]) -> None:
    content = MessageContent(Budget())
    for data in [*appended, b"\r\n"]:
        content.append(data)
    content.seal()
    assert b"".join(content.chunks) == b"".join(appended) + b"\r\n"
    assert content.size == sum(map(len, appended)) + 2


def test_single_bytes_do_not_cost_an_object_each() -> None:
    content = MessageContent(Budget())
    for _ in range(2 * PIECE):
        content.append(b"x")
    content.seal()
    assert len(content.chunks) <= 3


@pytest.mark.parametrize("data", [b"x", b"x\r", b"x\n", b"x" * 5000])
def test_a_last_line_without_crlf_gets_one(data: bytes) -> None:
    content = MessageContent.of(data, Budget())
    assert b"".join(content.chunks) == data + b"\r\n"
    assert content.size == len(data) + 2


def test_crlf_cut_between_two_chunks_is_one_line_end() -> None:
    content = MessageContent(Budget())
    content.append(b"x" * 5000 + b"\r")
    content.append(b"\n")
    content.seal()
    assert content.size == 5002


def test_an_empty_message_stays_empty() -> None:
    assert MessageContent.of(b"", Budget()).chunks == []


def test_the_budget_is_given_back_when_the_last_holder_lets_go() -> None:
    budget = Budget(10_000)
    content = MessageContent.of(b"x" * 998 + b"\r\n", budget)
    content.keep()
    content.release()
    assert budget.free == 10_000 - 1000 - OVERHEAD
    content.release()
    assert budget.free == 10_000


def test_what_does_not_fit_is_refused_and_what_came_before_is_given_back() -> None:
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


def test_a_reader_knows_which_piece_is_the_last() -> None:
    reader = ContentReader(iter([b"one", b"two"]))
    pieces = [reader.read(), reader.read()]
    assert [(piece.data, piece.last) for piece in pieces] == [(b"one", False), (b"two", True)]
    assert reader.offset == 6


def test_a_message_of_no_bytes_is_one_empty_last_piece() -> None:
    piece = ContentReader(iter(())).read()
    assert (piece.data, piece.last) == (b"", True)
