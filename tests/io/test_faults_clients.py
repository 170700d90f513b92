"""Clients that half-close or reset at every moment of a session: 250 alone means stored, and the next one is served."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from mailauth_io import server, stores
from tests.io.gone_clients import POP3, SMTP, TEXT, Moment, at_every_moment, come, ends_of_sessions, reset
from tests.io.line_echo import read_all
from tests.io.server_support import PATIENCE, Run, Served, accounts, meet, on_both_loops


def bear(run: Run, moment: Moment, client: Callable[[Served], None], stored: set[int]) -> None:
    """Let *client* at a server and wait for the end of its session; then as many messages as *stored* are there.

    The next session is served, the maildrop is free, and the memory is given back.
    """
    budget = stores.Budget()
    kept = server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), budget=budget
    )

    def whole(served: Served) -> None:
        if moment.protocol == "pop3":
            with served.smtp() as smtp:
                smtp.sendmail("far@far.test", ["alice@example.test"], TEXT)
        with ends_of_sessions() as ends:
            client(served)
            assert ends.acquire(timeout=PATIENCE)
        session = served.log_in()
        count = session.stat()[0]
        assert count in stored
        for number in range(count):
            session.dele(number + 1)
        session.quit()
        assert budget.free == budget.octets

    meet(run, whole, kept=kept, legacy=True)


@on_both_loops
@at_every_moment(smtp=SMTP, pop3=POP3)
def test_a_client_that_half_closes_hears_what_it_asked_for(run: Run, moment: Moment) -> None:
    """Whole lines are obeyed, half a line never is (RFC 5321 section 4.1.1.10, RFC 1939 section 3)."""

    def client(served: Served) -> None:
        with come(served, moment) as connection:
            connection.shutdown(socket.SHUT_WR)
            heard = read_all(connection)
        replies = heard.splitlines(keepends=True) if moment.protocol == "smtp" else said_by_pop3(heard)
        assert [reply[: len(begins)] for reply, begins in zip(replies, moment.hears, strict=True)] == [*moment.hears]

    bear(run, moment, client, {moment.stored})


def said_by_pop3(heard: bytes) -> list[bytes]:
    """The replies; of a message that comes with one of them every line is there."""
    replies = []
    while heard:
        reply, _, heard = heard.partition(b"\r\n")
        replies.append(reply)
        if reply == b"+OK message follows":
            text, dot, heard = heard.partition(b"\r\n.\r\n")
            whole = dot != b"" and text.endswith(TEXT.replace(b"\r\n..", b"\r\n...")[:-2])
            assert whole
    return replies


@on_both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize("way", [socket.socket.close, reset])
@at_every_moment(smtp=SMTP, pop3=POP3)
def test_of_a_client_that_is_gone_nothing_is_kept_but_what_it_finished(
    run: Run, moment: Moment, way: Callable[[socket.socket], None], tls: bool
) -> None:
    """What it finished may be lost with it, by a reset, or not: it was told nothing."""

    def client(served: Served) -> None:
        way(come(served, moment, tls=tls))

    bear(run, moment, client, {moment.stored, 1 if moment.protocol == "pop3" else 0})
