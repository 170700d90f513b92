"""The number of concurrent sessions with the next hop is limited, and shared fairly between client addresses."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Callable
from typing import Any

import anyio
import attrs
import pytest

from mailauth import smtp
from mailauth_io import server
from mailauth_io.server import SessionLimiter
from tests.io.next_hops import FAR, IN_CLEAR, LOCAL, Double, Fault, logged_in, relaying, said, send
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, on_both_loops

pytestmark = on_both_loops

BUSY = "451 4.3.2 too many sessions with the next hop, try again later"
AT_ONCE = 0.001


async def take_all(limiter: SessionLimiter, client: str) -> int:
    """Acquire as many sessions for *client* as possible; return their number."""
    taken = 0
    while True:
        try:
            await limiter.acquire(client, AT_ONCE)
        except TimeoutError:
            return taken
        taken += 1


@pytest.mark.parametrize(
    ("most", "shares"), [(20, [10, 5, 3, 1, 1, 0]), (4, [2, 1, 1, 0]), (2, [1, 1, 0]), (1, [1, 0])]
)
def test_client_may_have_as_many_sessions_as_it_leaves_free(run: Run, most: int, shares: list[int]) -> None:
    async def main() -> None:
        limiter = SessionLimiter(most)
        assert [await take_all(limiter, f"client {number}") for number in range(len(shares))] == shares
        assert len(limiter) == most
        limiter.release("client 0")
        assert await take_all(limiter, "last") == 1

    run(main)


def test_waiting_clients_take_turns(run: Run) -> None:
    order: list[str] = []

    async def main() -> None:
        limiter = SessionLimiter(1)
        await limiter.acquire("x", AT_ONCE)

        async def wait(client: str) -> None:
            await limiter.acquire(client, TIMEOUT)
            order.append(client)
            limiter.release(client)

        async with anyio.create_task_group() as tasks:
            for number, client in enumerate(("a", "a", "a", "b", "b", "c"), 1):
                tasks.start_soon(wait, client)
                while sum(map(len, limiter._waiters.values())) < number:
                    await anyio.sleep(0)
            limiter.release("x")
        assert len(limiter) == 0

    run(main)
    assert order == ["a", "b", "c", "a", "b", "a"]


@attrs.define(eq=False)
class Idle:
    """A session that may be closed."""

    limiter: SessionLimiter
    client: str
    closed: bool = False

    async def close(self) -> None:
        await anyio.sleep(0)
        self.closed = True
        self.limiter.release(self.client)


async def idle_sessions(limiter: SessionLimiter, *clients: str) -> list[Idle]:
    found = []
    for client in clients:
        await limiter.acquire(client, AT_ONCE)
        found.append(Idle(limiter, client))
        limiter.mark_idle(found[-1].close, client)
    return found


def test_own_idle_session_is_closed_before_the_oldest_one(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(3)
        found = await idle_sessions(limiter, "b", "a", "c")
        await limiter.acquire("a", TIMEOUT)
        assert [each.closed for each in found] == [False, True, False]
        await limiter.acquire("d", TIMEOUT)
        assert [each.closed for each in found] == [True, True, False]
        assert len(limiter) == 3

    run(main)


def test_idle_sessions_of_others_are_not_closed_if_that_would_not_help(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(4)
        await limiter.acquire("a", AT_ONCE)
        await limiter.acquire("a", AT_ONCE)
        found = await idle_sessions(limiter, "b", "c")
        with pytest.raises(TimeoutError):
            await limiter.acquire("a", AT_ONCE)
        assert [each.closed for each in found] == [False, False]

    run(main)


def test_idle_sessions_are_closed_when_they_help_after_another_session_has_ended(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(5)
        for client in ("a", "a", "b"):
            await limiter.acquire(client, AT_ONCE)
        found = await idle_sessions(limiter, "c", "d")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limiter.acquire, "a", TIMEOUT)
            while not limiter._waiters:
                await anyio.sleep(0)
            limiter.release("b")
        assert [each.closed for each in found] == [True, True]
        assert len(limiter) == 3

    run(main)


def test_session_that_becomes_idle_is_closed_for_a_waiting_client(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(1)
        (session,) = await idle_sessions(limiter, "a")
        limiter.mark_busy(session.close)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limiter.acquire, "b", TIMEOUT)
            while not limiter._waiters:
                await anyio.sleep(0)
            assert not session.closed
            limiter.mark_idle(session.close, "a")
        assert session.closed
        assert len(limiter) == 1

    run(main)


def test_cancelled_wait_leaves_nothing(run: Run) -> None:
    """Also if a session was free in the same moment."""

    async def main() -> None:
        for released in (False, True):
            limiter = SessionLimiter(1)
            await limiter.acquire("a", AT_ONCE)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(limiter.acquire, "b", TIMEOUT)
                while not limiter._waiters:
                    await anyio.sleep(0)
                tasks.cancel_scope.cancel()
                if released:
                    limiter.release("a")
            assert len(limiter) == (not released)
            assert not limiter._waiters

    run(main)


# The server


def client_from(served: Served, source: str) -> smtplib.SMTP:
    """Return a client with the address *source* that has logged in."""
    client = served.smtp(source=source)
    client.login("alice", PASSWORD)
    return client


def begin(client: smtplib.SMTP) -> str:
    """Begin a transaction with a remote recipient; return the reply to it."""
    client.mail("alice@example.test")
    return said(client.rcpt(FAR))


def sessions(served: Served) -> SessionLimiter:
    hop = served.stores.outbox
    assert isinstance(hop, server.NextHop)
    return hop.sessions


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


ONE: dict[str, Any] = {"max_sessions": 1, **IN_CLEAR}


def test_client_that_gets_no_session_in_time_gets_451_and_local_mail_is_delivered(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as first, client_from(served, "127.0.0.2") as second:
            assert begin(first).startswith("250")
            replies = send(second, FAR, LOCAL, "bill@far.test")
            assert replies[:3] == [BUSY, "250 2.1.5 recipient ok", BUSY]
            assert replies[3].startswith("250")
            assert len(served.mail_of("alice")) == 1
            first.rset()
            wait_until(lambda: send(second, FAR)[-1].startswith("250"))  # closing the idle session may take longer

    relaying(run, double, client, timeouts=server.Timeouts(session=0.05), **ONE)
    assert double.connections == 2


def test_one_address_leaves_sessions_for_others(run: Run) -> None:
    """architecture.md, invariant 4."""

    def client(served: Served) -> None:
        clients = [logged_in(served) for _ in range(3)]
        assert [begin(each)[:9] for each in clients] == ["250 2.1.5", "250 2.1.5", "451 4.3.2"]
        with client_from(served, "127.0.0.2") as other:
            assert send(other, FAR)[-1].startswith("250")
        for each in clients:
            each.close()

    relaying(run, Double(), client, timeouts=server.Timeouts(session=0.05), max_sessions=4, **IN_CLEAR)


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


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Hello, smtp.Mail, smtp.Rcpt, smtp.Data, smtp.MessageComplete])
@pytest.mark.parametrize("fault", [Fault.DIE, Fault.FALL_SILENT])
def test_failed_connection_is_not_counted(run: Run, step: type[object], fault: Fault) -> None:
    timeouts = server.Timeouts(recipient=0.2, data=0.2, final_reply=0.2, quit=0.2)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert any(reply.startswith("451") for reply in send(smtp, FAR))
            assert len(sessions(served)) == 0

    relaying(run, Double(deeds={step: [fault]}), client, timeouts=timeouts, **ONE)


@pytest.mark.parametrize("value", [0, -1, True, "20", 1.5, None])
def test_invalid_number_of_sessions_is_an_error(run: Run, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_sessions"):
        SessionLimiter(value)
    with pytest.raises((TypeError, ValueError), match="max_sessions"):
        server.NextHop(host="hop.test", port=25, tls_required=False, max_sessions=value)
