"""A client that gets no session with the next hop, or keeps one for too long, and what it is told."""

from __future__ import annotations

import logging
import math
import smtplib
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from mailauth import ACCEPT, MessageChunk, smtp
from mailauth_io import server
from mailauth_io.server._next_hop_state import NextHopState
from mailauth_io.server._relay import RelayConnection
from mailauth_io.server._session_limiter import RelayClient, SessionLimiter
from mailauth_io.server.smtp_session import _TimedEvents
from tests.io import loops
from tests.io.next_hops import FAR, IN_CLEAR, LOCAL, Double, Fault, logged_in, relaying, said, send, state_of
from tests.io.server_support import PASSWORD, Run, Served, on_both_loops
from tests.waiting import wait_until

pytestmark = on_both_loops

TAKEN_BACK = "451 4.3.2 client too slow while others wait for the next hop, try again later"
BUSY = "451 4.3.2 too many sessions with the next hop, try again later"


def client_from(served: Served, source: str, name: str = "alice", password: str = PASSWORD) -> smtplib.SMTP:
    """Return a client with the address *source* that has logged in as *name*."""
    client = served.smtp(source=source)
    client.login(name, password)
    return client


def begin(client: smtplib.SMTP) -> str:
    """Begin a transaction with a remote recipient; return the reply to it."""
    client.mail("alice@example.test")
    return said(client.rcpt(FAR))


def sessions(served: Served) -> SessionLimiter:
    return state_of(served.ports).sessions


ONE: dict[str, Any] = {"max_sessions": 1, **IN_CLEAR}


def begin_silently(client: smtplib.SMTP, double: Double) -> None:
    """Begin a transaction with a remote recipient, to which the next hop does not reply."""
    before = double.heard.count("Rcpt")
    double.deeds.setdefault(smtp.Rcpt, []).append(Fault.WAIT)
    client.mail("alice@example.test")
    client.putcmd("RCPT", f"TO:<{FAR}>")
    wait_until(lambda: double.heard.count("Rcpt") > before)


def test_client_that_gets_no_session_in_time_gets_451_and_local_mail_is_delivered(run: Run) -> None:
    """A session is not taken back while its client waits for the next hop."""
    double = Double()

    def client(served: Served) -> None:
        first = logged_in(served)
        begin_silently(first, double)
        with client_from(served, "127.0.0.2") as second:
            replies = send(second, FAR, LOCAL, "bill@far.test")
            assert replies[:3] == [BUSY, "250 2.1.5 recipient ok", BUSY]
            assert replies[3].startswith("250")
            assert len(served.mail_of("alice")) == 1
        assert len(sessions(served)) == 1
        double.released = True
        assert said(first.getreply()).startswith("250")
        first.close()

    relaying(run, double, client, timeouts=server.Timeouts(session=0.05), **ONE)
    assert double.connections == 1


def test_one_client_leaves_sessions_for_others(run: Run) -> None:
    """architecture.md, invariant 4: for another account at its address, and for another address in its network."""
    double = Double()

    def client(served: Served) -> None:
        clients = [logged_in(served) for _ in range(4)]
        for each in clients[:3]:
            begin_silently(each, double)
        assert begin(clients[3]) == BUSY
        for other_client in ("127.0.0.2", "alice", PASSWORD), ("127.0.0.1", "bob", "other"):
            with client_from(served, *other_client) as other:
                assert send(other, FAR)[-1].startswith("250")
        double.released = True
        for each in clients:
            each.close()

    relaying(run, double, client, timeouts=server.Timeouts(session=0.05), max_sessions=10, **IN_CLEAR)


def message(client: smtplib.SMTP) -> None:
    client.docmd("DATA")
    client.send(b"Subject: x\r\n\r\n.\r\n")
    client.getreply()


ENDS: dict[str, Callable[[smtplib.SMTP], object]] = {
    "RSET": lambda client: client.rset(),
    "EHLO": lambda client: client.ehlo(),
    "message": message,
    "QUIT": lambda client: client.quit(),
    "lost": lambda client: client.close(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_waiting_client_gets_the_session_when_a_transaction_ends(
    run: Run, end: Callable[[smtplib.SMTP], object]
) -> None:
    double = Double()

    def client(served: Served) -> None:
        first = logged_in(served)
        with client_from(served, "127.0.0.2") as second:
            assert begin(first).startswith("250")
            second.mail("alice@example.test")
            second.putcmd("RCPT", f"TO:<{FAR}>")
            wait_until(lambda: sessions(served)._waiters)
            end(first)
            assert said(second.getreply()).startswith("250")
            assert second.rset()[0] == 250
        first.close()

    relaying(run, double, client, **ONE)
    assert double.connections == 2
    assert double.heard[double.heard.index("Quit") + 1] == "Connected"  # one after the other


@pytest.mark.parametrize("deed", [smtp.Reply(550, "5.7.1", "not from you"), smtp.Reply(421, "4.3.2", "no")])
def test_rejected_transaction_needs_no_session(run: Run, deed: smtp.Reply) -> None:
    """The client goes on with its local recipients."""

    def client(served: Served) -> None:
        with logged_in(served) as first, client_from(served, "127.0.0.2") as second:
            assert not begin(first).startswith("250")
            assert send(second, FAR)[-1].startswith("250")
            assert first.rcpt(LOCAL)[0] == 250

    relaying(run, Double(deeds={smtp.Mail: [deed]}), client, **ONE)


def test_idle_connection_is_closed_for_another_session_and_opened_again(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as first, client_from(served, "127.0.0.2") as second:
            for sender in (first, first, second, first):
                assert send(sender, FAR)[-1].startswith("250")
                assert len(sessions(served)) == 1

    relaying(run, double, client, **ONE)
    assert double.connections == 3
    assert double.heard.count("Quit") == 3


SHORT = server.Timeouts(session=2.0)
"""A client has one second for a transaction if others wait, who then have another one to get the session."""


def taking_back(
    run: Run, double: Double, before: Callable[[smtplib.SMTP], object], after: Callable[[Served, smtplib.SMTP], object]
) -> None:
    """A client that keeps the only session after *before* loses it to another one.  Then *after* is called."""

    def client(served: Served) -> None:
        with client_from(served, "127.0.0.2") as second:
            first = logged_in(served)
            before(first)
            assert send(second, FAR)[-1].startswith("250")
            after(served, first)
            assert send(first, FAR, LOCAL)[-1].startswith("250")
            first.quit()
        wait_until(lambda: len(sessions(served)) == 0)

    relaying(run, double, client, timeouts=SHORT, **ONE)


def test_silent_client_loses_its_session_to_another_one_and_gets_451(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Its transaction fails as a whole, nothing is delivered, and its next transaction succeeds."""
    caplog.set_level(logging.INFO)
    double = Double()

    def after(served: Served, first: smtplib.SMTP) -> None:
        assert [said(first.rcpt(each)) for each in ("bill@far.test", LOCAL)] == [TAKEN_BACK, "250 2.1.5 recipient ok"]
        assert said(first.docmd("DATA")) == TAKEN_BACK
        assert first.rset()[0] == 250
        assert served.mail_of("alice") == []
        assert len(double.taken) == 1

    taking_back(run, double, begin, after)
    assert len(double.taken) == 2
    assert "session with next hop taken back" in caplog.text
    assert "next hop failed" not in caplog.text


def test_client_that_stops_sending_content_loses_its_session_and_gets_451_to_the_message(run: Run) -> None:
    double = Double()

    def before(first: smtplib.SMTP) -> None:
        assert begin(first).startswith("250")
        assert first.rcpt(LOCAL)[0] == 250
        assert first.docmd("DATA")[0] == 354
        first.send(b"Subject: x\r\n")

    def after(served: Served, first: smtplib.SMTP) -> None:
        first.send(b"\r\nbody\r\n.\r\n")
        assert said(first.getreply()) == TAKEN_BACK
        assert served.mail_of("alice") == []
        assert len(double.taken) == 1

    taking_back(run, double, before, after)
    assert len(double.taken) == 2


def test_transaction_without_a_recipient_goes_on_after_its_session_was_taken_back(run: Run) -> None:
    """Nothing was promised to the client, so it sees no error."""
    double = Double(deeds={smtp.Rcpt: [smtp.Reply(550, "5.1.1", "unknown")]})

    def after(served: Served, first: smtplib.SMTP) -> None:
        assert said(first.rcpt(FAR)).startswith("250")
        message(first)
        assert [taken.recipients for taken in double.taken] == [(FAR,), (FAR,)]

    taking_back(run, double, begin, after)
    assert len(double.taken) == 3


def test_client_that_pipelines_transactions_gives_way_between_two(run: Run) -> None:
    """It is never seen idle."""

    def client(served: Served) -> None:
        first = logged_in(served)
        with client_from(served, "127.0.0.2") as second:
            assert begin(first).startswith("250")
            second.mail("alice@example.test")
            second.putcmd("RCPT", f"TO:<{FAR}>")
            wait_until(lambda: sessions(served)._waiters)
            first.send(f"RSET\r\nMAIL FROM:<alice@example.test>\r\nRCPT TO:<{FAR}>\r\n".encode())
            assert said(second.getreply()).startswith("250")
            assert second.rset()[0] == 250
            assert [first.getreply()[0] for _ in range(3)] == [250, 250, 250]
        first.close()

    relaying(run, Double(), client, **ONE)


def test_time_of_a_client_is_used_up_by_waits_for_it_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content and recipients add to it; the time in which the next hop or the server works does not count."""
    now = 0.0
    monkeypatch.setattr("mailauth_io.server._relay.current_time", lambda: now)
    events: list[smtp.ServerEvent] = []

    @attrs.define
    class Client:
        seconds: float = 0.0

        async def __anext__(self) -> smtp.ServerEvent:
            nonlocal now
            now += self.seconds
            return events.pop()

    async def main() -> None:
        nonlocal now
        hop = NextHopState(server.NextHop(host="hop.test", port=25, tls_required=False))
        relaying = RelayConnection(hop, host_name="example.test", session="-", clock=lambda: 0.0)
        client: Any = Client()
        timed = _TimedEvents(client, relaying, 500.0)

        async def left_after(seconds: float, event: smtp.ServerEvent) -> float:
            """Return the time left after a wait of *seconds* for *event*, and 100 seconds of work."""
            nonlocal now
            client.seconds = seconds
            events.append(event)
            await anext(timed)
            now += 100.0
            relaying.begin_client_wait()
            return relaying._place.deadline - now if relaying._place else math.nan

        assert math.isnan(await left_after(1.0, smtp.Noop()))  # it has no session
        relaying._place = await hop.sessions.acquire(RelayClient("192.0.2.1"), relaying.close, 1.0)
        relaying._client_seconds = 30.0
        rcpt = smtp.Rcpt(forward_path=smtp.Mailbox.parse(FAR))
        assert await left_after(10.0, smtp.Noop()) == 20.0
        assert await left_after(10.0, rcpt) == 11.0
        assert await left_after(10.0, MessageChunk(data=bytes(1000))) == 3.0
        assert await left_after(10.0, MessageChunk(data=b"x")) == 0.0
        assert await left_after(1.0, MessageChunk(data=bytes(5500))) == 10.0
        assert await left_after(1.0, MessageChunk(data=bytes(50_000))) == 30.0
        hop.sessions.mark_idle(relaying._place)
        due = relaying._place.deadline
        await left_after(1.0, smtp.Noop())
        assert relaying._place.deadline == due

    run(main)


def test_connection_is_not_used_for_another_account(run: Run) -> None:
    """It counts for the account that has opened it."""
    double = Double()
    settings = attrs.evolve(double.settings, starttls=False)

    async def main() -> None:
        async with loops.current().adapter.serve_smtp(double.session, settings, grace=0.1) as listener:
            hop = NextHopState(server.NextHop(host="127.0.0.1", port=listener.port, **IN_CLEAR))
            path = smtp.Mailbox.parse(FAR)
            async with RelayConnection(hop, host_name="example.test", session="-", clock=lambda: 0.0) as relaying:
                for name in "alice", "alice", "bob":
                    mail = smtp.Mail(reverse_path=None)
                    assert await relaying.recipient(mail, path, RelayClient("192.0.2.1", name)) is ACCEPT
                    relaying.end_transaction()
                    assert hop.sessions._held["identity", name] == len(hop.sessions) == 1

    run(main)
    assert double.connections == 2


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Hello, smtp.Mail, smtp.Rcpt, smtp.Data, smtp.MessageComplete])
@pytest.mark.parametrize("fault", [Fault.DIE, Fault.FALL_SILENT])
def test_failed_connection_is_not_counted(run: Run, step: type[object], fault: Fault) -> None:
    timeouts = server.Timeouts(recipient=0.2, data=0.2, final_reply=0.2, quit=0.2)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert any(reply.startswith("451") for reply in send(smtp, FAR))
            assert len(sessions(served)) == 0

    relaying(run, Double(deeds={step: [fault]}), client, timeouts=timeouts, **ONE)
