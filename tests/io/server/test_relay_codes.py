"""Reply codes of the next hop that the grammar does not allow."""

from __future__ import annotations

import pytest

from mailauth import smtp
from mailauth_io.server._relay_replies import client_reply


@pytest.mark.parametrize(("code", "sent"), [(571, 554), (498, 451), (550, 550)])
def test_unusual_code_of_the_next_hop_is_passed_on_with_a_standard_one(code: int, sent: int) -> None:
    """RFC 5321 section 4.2: with its text and enhanced status code, and by its first digit without one."""
    assert client_reply(smtp.Reply(code, "", "blocked\nhere")).to_wire() == (
        b"%d %d.0.0 blocked here\r\n" % (sent, code // 100)
    )
    assert str(client_reply(smtp.Reply(code, f"{code // 100}.7.1", "x"))) == f"{sent} {code // 100}.7.1 x"
