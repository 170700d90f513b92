"""The lines of LIST and UIDL when messages are deleted."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth import pop3
from mailauth.pop3.content import ListingSender


def listed(maildrop: pop3.MaildropSession) -> list[int]:
    """Return the numbers that LIST sends."""
    sender, data = ListingSender(maildrop, maildrop.scan_listing), b""
    while not sender.ended:
        piece = sender.next_piece()
        assert piece  # work without output could be repeated at no cost for the client
        data += piece
    assert data.endswith(b".\r\n")
    return [int(line.split()[0]) for line in data.splitlines()[:-1]]


def maildrop_of(count: int) -> pop3.MaildropSession:
    messages = tuple(pop3.Message(size=1, unique_id=str(number)) for number in range(count))
    return pop3.MaildropSession(pop3.Maildrop(messages=messages))


@pytest.mark.parametrize("every", [2, 256, 300, 5000])
def test_repeated_listings_after_many_deletions_cost_little(every: int) -> None:
    """architecture.md, invariant 7: a deleted message is passed over once, not at each LIST or UIDL."""
    passed_over = 0

    class Marked(set[int]):
        def __contains__(self, number: object) -> bool:
            nonlocal passed_over
            passed_over += super().__contains__(number)
            return super().__contains__(number)

    maildrop = maildrop_of(4000)
    maildrop.deleted = Marked()
    for number in range(1, 4001):
        if number % every:
            maildrop.delete(number)
    expected = list(range(every, 4001, every))
    for _ in range(10):
        assert listed(maildrop) == expected
    assert passed_over <= 4000 + 10 * (len(expected) + 1)
    maildrop.reset()
    assert listed(maildrop) == list(range(1, 4001))


@given(st.lists(st.integers(0, 12), max_size=40))
def test_a_listing_has_the_messages_that_are_not_deleted(actions: list[int]) -> None:
    """For any order of DELE, LIST and RSET (0)."""
    maildrop, alive = maildrop_of(12), set(range(1, 13))
    for action in actions:
        if action == 0:
            maildrop.reset()
            alive = set(range(1, 13))
        elif action in alive:
            maildrop.delete(action)
            alive.remove(action)
        assert listed(maildrop) == sorted(alive)
