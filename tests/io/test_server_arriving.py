"""How much content one address may have on its way in, counted over all of its sessions."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth_io.server._arriving import Arriving
from mailauth_io.stores import Full

ADDRESSES = ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")


def test_an_address_holds_its_share_and_no_more() -> None:
    """House rule 4.  What is refused is not counted; spellings of one address, and neighbours in a /64, are one."""
    arriving = Arriving(100)
    arriving.take("192.0.2.1", 60)
    with pytest.raises(Full):
        arriving.take("::ffff:192.0.2.1", 41)
    arriving.take("192.0.2.1", 40)
    arriving.take("2001:db8::1", 100)
    with pytest.raises(Full):
        arriving.take("2001:db8::2", 1)
    arriving.take("2001:db8:0:1::1", 1)


@given(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 60))))
def test_nothing_is_kept_of_an_address_that_holds_nothing(messages: list[tuple[str, int]]) -> None:
    """The table is as long as there are addresses with content under way."""
    arriving = Arriving(100)
    taken = []
    for address, octets in messages:
        try:
            arriving.take(address, octets)
        except Full:
            continue
        taken.append((address, octets))
    for address, octets in taken:
        arriving.give_back(address, octets)
    assert len(arriving) == 0
