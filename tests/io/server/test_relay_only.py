"""A server without local delivery: it relays all mail, also that for its own domains and for the postmaster."""

from __future__ import annotations

from typing import Any

import pytest

from mailauth_io import server
from tests.io.next_hops import CONTENT, FAR, IN_CLEAR, LOCAL, Double, relaying, send
from tests.io.server_support import PASSWORD, Run, Served, meet, on_both_loops

RECIPIENTS = (LOCAL, "unknown@example.org", "Postmaster", "postmaster@EXAMPLE.test", FAR)
RELAY_ONLY: dict[str, Any] = {"local_delivery": False, "postmaster": None}


@on_both_loops
def test_every_recipient_is_relayed_and_nothing_is_stored(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            smtp.login(LOCAL, PASSWORD)  # the domains are still those of login names
            assert [reply[:3] for reply in send(smtp, *RECIPIENTS)] == ["250"] * 6
        (message,) = served.outbox.messages
        assert message.envelope.recipients == RECIPIENTS
        assert message.data.endswith(CONTENT)
        assert served.mail_of("alice") == []

    meet(run, client, **RELAY_ONLY)


@on_both_loops
def test_no_recipient_is_accepted_without_a_login(run: Run) -> None:
    """Otherwise a device that has not logged in would believe that its mail was sent."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert [reply[:9] for reply in send(smtp, *RECIPIENTS)[:5]] == ["550 5.7.1"] * 5
        served.log_in(name="alice").quit()  # a grant
        with served.smtp() as smtp:
            assert [reply[:3] for reply in send(smtp, *RECIPIENTS)[:5]] == ["250"] * 5

    meet(run, client, **RELAY_ONLY)


@on_both_loops
def test_bare_postmaster_is_relayed_to_the_next_hop(run: Run) -> None:
    """RFC 5321 section 4.5.1: ``RCPT TO:<Postmaster>`` is also valid at the next hop."""
    double = Double()

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            assert send(smtp, "postmaster")[-1][:3] == "250"

    relaying(run, double, client, local_delivery=False, **IN_CLEAR)
    (taken,) = double.taken
    assert taken.recipients == ("postmaster",)


def test_postmaster_and_no_local_delivery_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="postmaster needs local_delivery=True"):
        server.Config(smtp=0, postmaster="alice", local_delivery=False)
