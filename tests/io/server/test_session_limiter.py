"""The number of sessions with the next hop is limited, and shared fairly between networks, addresses and accounts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest

from mailauth.addresses import limit_key
from mailauth_io import server
from mailauth_io.server._session_limiter import Place, RelayClient, SessionLimiter
from tests.io.interruptions import Interruption, at_every_suspension
from tests.io.server_support import TIMEOUT, Run, on_both_loops

pytestmark = on_both_loops

AT_ONCE = 0.001


def client(address: str, identity: str | None = None) -> RelayClient:
    return RelayClient(limit_key(address), identity)


A, B, C, D = (client(f"192.0.{number}.1") for number in range(4))


async def close_nothing() -> None:
    raise AssertionError("a busy session was closed")


async def take(limiter: SessionLimiter, who: RelayClient) -> Place:
    return await limiter.acquire(who, close_nothing, AT_ONCE)


async def take_all(limiter: SessionLimiter, who: RelayClient) -> int:
    """Acquire as many sessions for *who* as possible; return their number."""
    taken = 0
    while True:
        try:
            await take(limiter, who)
        except TimeoutError:
            return taken
        taken += 1


SHARES = {
    "one account at one address": (20, [client("192.0.2.1", "alice")] * 2, [5, 0]),
    "without an account": (20, [client("192.0.2.1")] * 2, [7, 0]),
    "many addresses of a /24": (20, [client(f"192.0.2.{n}", f"user {n}") for n in range(9)], [5, 3, 1, 1, *[0] * 5]),
    "many /64 of a /48": (20, [client(f"2001:db8:1:{n}::1", f"user {n}") for n in range(9)], [5, 3, 1, 1, *[0] * 5]),
    "many addresses of a /64": (20, [client(f"2001:db8::{n}", "alice") for n in range(1, 9)], [5, *[0] * 7]),
    "many accounts at one address": (20, [client("192.0.2.1", f"user {n}") for n in range(9)], [5, 2, *[0] * 7]),
    "one account at many networks": (20, [client(f"192.0.{n}.1", "alice") for n in range(9)], [5, 3, 1, 1, *[0] * 5]),
    "many networks": (20, [client(f"192.0.{n}.1", f"user {n}") for n in range(9)], [5, 4, 3, 2, 2, 1, 1, 1, 1]),
    "few sessions": (4, [client(f"192.0.{n}.1", f"user {n}") for n in range(5)], [1, 1, 1, 1, 0]),
    "two sessions": (2, [client(f"192.0.{n}.1", f"user {n}") for n in range(3)], [1, 1, 0]),
    "one session": (1, [A, B], [1, 0]),
}


@pytest.mark.parametrize(("most", "clients", "shares"), SHARES.values(), ids=SHARES)
def test_clients_get_sessions_while_fewer_are_held_than_free(
    run: Run, most: int, clients: list[RelayClient], shares: list[int]
) -> None:
    async def main() -> None:
        limiter = SessionLimiter(most)
        assert [await take_all(limiter, who) for who in clients] == shares
        assert len(limiter) == sum(shares)

    run(main)


OTHERS = {
    "another account at its address": client("192.0.2.1", "bob"),
    "another address in its network": client("192.0.2.2", "bob"),
    "its account in another network": client("198.51.100.1", "alice"),
    "its account at another address in its network": client("192.0.2.2", "alice"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_client_leaves_sessions_to_every_other(run: Run, other: RelayClient) -> None:
    """architecture.md, invariant 4.  With fewer than ten sessions, it may leave none to clients that it resembles."""

    async def main() -> None:
        for most in range(10, 41):
            limiter = SessionLimiter(most)
            await take_all(limiter, client("192.0.2.1", "alice"))
            assert await take_all(limiter, other) > 0

    run(main)


def test_network_leaves_half_of_the_sessions(run: Run) -> None:
    async def main() -> None:
        for most in range(2, 41):
            limiter = SessionLimiter(most)
            for number in range(10):
                await take_all(limiter, client(f"192.0.2.{number % 5}", f"user {number}"))
            assert len(limiter) <= (most + 1) // 2
            assert await take_all(limiter, client("198.51.100.1", "carol")) > 0

    run(main)


def test_mail_loop_has_at_most_eight_of_20_sessions(run: Run) -> None:
    """All but the first come from the address of the next hop, perhaps without an account."""

    async def main() -> None:
        for looping in client("198.51.100.1"), client("198.51.100.1", "relay"), client("192.0.2.1"):
            limiter = SessionLimiter(20)
            await take(limiter, client("192.0.2.1", "alice"))
            await take_all(limiter, looping)
            assert len(limiter) <= 8

    run(main)


def test_keys_of_a_client(run: Run) -> None:
    assert client("64:ff9b::192.0.2.1", "alice") == client("192.0.2.1", "alice")
    assert client("192.0.2.1").keys == {("network", "192.0.2.0/24"), ("address", "192.0.2.1")}
    assert client("2001:db8:1:2::3").keys == {("network", "2001:db8:1::/48"), ("address", "2001:db8:1:2::")}
    assert client("/run/socket", "/run/socket").keys == {
        (kind, "/run/socket") for kind in ("network", "address", "identity")
    }


async def turns(limiter: SessionLimiter, held: Place, clients: dict[str, RelayClient], names: str) -> str:
    """Let clients wait in the order of *names*, then release *held*; return the order in which they are served."""
    order: list[str] = []

    async def wait(name: str) -> None:
        place = await limiter.acquire(clients[name], close_nothing, TIMEOUT)
        order.append(name)
        await anyio.sleep(0)
        limiter.release(place)

    async with anyio.create_task_group() as tasks:
        for number, name in enumerate(names, 1):
            tasks.start_soon(wait, name)
            while len(limiter._waiters) < number:
                await anyio.sleep(0)
        limiter.release(held)
    assert len(limiter) == 0
    assert (limiter._waiters, limiter._held) == ({}, {})
    return "".join(order)


TURNS = {
    "addresses": ({"a": A, "b": B, "c": C}, "aaabbc", "abcaba"),
    "networks": ({"a": client("198.51.100.1"), "b": client("198.51.100.2"), "c": C}, "abaabc", "acbaba"),
    "accounts": (
        {"a": client("198.51.100.1", "x"), "b": client("203.0.113.1", "x"), "c": client("192.0.2.1", "z")},
        "abaabc",
        "acbaba",
    ),
    "accounts at one address": (
        {"a": client("198.51.100.1", "x"), "b": client("198.51.100.1", "y"), "c": client("192.0.2.1", "z")},
        "aaabc",
        "acbaa",
    ),
}


@pytest.mark.parametrize(("clients", "names", "order"), TURNS.values(), ids=TURNS)
def test_waiting_clients_take_turns(run: Run, clients: dict[str, RelayClient], names: str, order: str) -> None:
    async def main() -> str:
        limiter = SessionLimiter(1)
        return await turns(limiter, await take(limiter, D), clients, names)

    assert run(main) == order


def test_client_that_comes_again_waits_for_its_turn(run: Run) -> None:
    """Otherwise it could be the first each time, while others wait longer."""

    async def main() -> None:
        limiter = SessionLimiter(1)
        order: list[str] = []

        async def wait(name: str, who: RelayClient, times: int) -> None:
            for _ in range(times):
                place = await limiter.acquire(who, close_nothing, TIMEOUT)
                order.append(name)
                await anyio.sleep(0)
                limiter.release(place)

        held = await take(limiter, D)
        async with anyio.create_task_group() as tasks:
            for number, arguments in enumerate((("b", B, 3), ("a", A, 1), ("a", A, 1), ("a", A, 1)), 1):
                tasks.start_soon(wait, *arguments)
                while len(limiter._waiters) < number:
                    await anyio.sleep(0)
            limiter.release(held)
        assert "".join(order) == "bababa"

    run(main)


def test_client_without_a_turn_is_first_and_few_turns_are_remembered(run: Run) -> None:
    """A client that comes while others have waited for longer, but had a session before."""

    async def main() -> str:
        limiter = SessionLimiter(1)
        for number in range(2000):
            limiter.release(await take(limiter, client(f"10.{number // 250}.{number % 250}.1", f"user {number}")))
        assert len(limiter._turns) == 1024
        for who in A, B:
            limiter.release(await take(limiter, who))
        return await turns(limiter, await take(limiter, D), {"a": A, "b": B, "c": C}, "bbac")

    assert run(main) == "cabb"


@attrs.define(eq=False)
class Session:
    """A session that may be closed."""

    limiter: SessionLimiter
    closed: bool = False
    place: Place = attrs.field(init=False)

    async def close(self) -> None:
        try:
            await anyio.sleep(0)
        finally:
            self.closed = True
            self.limiter.release(self.place)

    @classmethod
    async def open(cls, limiter: SessionLimiter, who: RelayClient) -> Session:
        session = cls(limiter)
        session.place = await limiter.acquire(who, session.close, AT_ONCE)
        return session


async def idle_sessions(limiter: SessionLimiter, *clients: RelayClient) -> list[Session]:
    found = []
    for who in clients:
        found.append(await Session.open(limiter, who))
        limiter.mark_idle(found[-1].place)
    return found


def closed(sessions: list[Session]) -> list[bool]:
    return [each.closed for each in sessions]


def test_own_idle_session_is_closed_before_the_oldest_one(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(3)
        found = await idle_sessions(limiter, B, A, C)
        await limiter.acquire(A, close_nothing, TIMEOUT)
        assert closed(found) == [False, True, False]
        await limiter.acquire(D, close_nothing, TIMEOUT)
        assert closed(found) == [True, True, False]
        assert len(limiter) == 3

    run(main)


def test_idle_sessions_of_others_are_not_closed_if_that_would_not_help(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(5)
        await take_all(limiter, A)
        found = await idle_sessions(limiter, B, C)
        assert len(limiter) == 4
        with pytest.raises(TimeoutError):
            await take(limiter, A)
        assert closed(found) == [False, False]

    run(main)


def test_idle_sessions_are_closed_when_they_help_after_another_session_has_ended(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(5)
        places = [await take(limiter, each) for each in (A, A, B)]
        found = await idle_sessions(limiter, C, D)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limiter.acquire, A, close_nothing, TIMEOUT)
            while not limiter._waiters:
                await anyio.sleep(0)
            assert closed(found) == [False, False]
            limiter.release(places[0])
        assert len(limiter) == 5 - sum(closed(found))

    run(main)


def test_session_that_becomes_idle_is_closed_for_a_waiting_client(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(1)
        (session,) = await idle_sessions(limiter, A)
        limiter.mark_busy(session.place)
        assert not limiter.is_wanted(session.place)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limiter.acquire, B, close_nothing, TIMEOUT)
            while not limiter._waiters:
                await anyio.sleep(0)
            assert not session.closed
            assert limiter.is_wanted(session.place)
            limiter.mark_idle(session.place)
        assert session.closed
        assert len(limiter) == 1

    run(main)


def test_session_is_closed_that_has_been_due_for_the_longest_time_unless_one_is_idle(run: Run) -> None:
    async def main() -> None:
        limiter = SessionLimiter(4)
        found = [await Session.open(limiter, each) for each in (A, B, C, D)]
        for session, due in zip(found, (-2.0, -3.0, math.inf, math.inf), strict=True):
            limiter.mark_waiting(session.place, anyio.current_time() + due)
        limiter.mark_idle(found[3].place)
        for expected in 3, 1, 0:
            await limiter.acquire(client(f"198.51.10{expected}.1"), close_nothing, TIMEOUT)
            assert found[expected].closed
        assert closed(found) == [True, True, False, True]

    run(main)


@pytest.mark.parametrize("late", [False, True])
def test_session_is_closed_when_its_deadline_has_passed(run: Run, late: bool) -> None:
    """Also if the deadline is set after the other client has begun to wait."""

    async def main() -> None:
        limiter = SessionLimiter(1)
        session = await Session.open(limiter, A)
        async with anyio.create_task_group() as tasks:
            if not late:
                limiter.mark_waiting(session.place, anyio.current_time() + 0.01)
            tasks.start_soon(limiter.acquire, B, close_nothing, TIMEOUT)
            while not limiter._waiters:
                await anyio.sleep(0)
            assert not session.closed
            if late:
                limiter.mark_waiting(session.place, anyio.current_time() + 0.01)
        assert session.closed
        assert len(limiter) == 1

    run(main)


async def cancelled_wait(limiter: SessionLimiter, meanwhile: Callable[[], object]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.acquire, B, close_nothing, TIMEOUT)
        while not limiter._waiters:
            await anyio.sleep(0)
        tasks.cancel_scope.cancel()
        meanwhile()


def test_cancelled_wait_leaves_nothing(run: Run) -> None:
    """Also if a session was free in the same moment."""

    async def main() -> None:
        limiter = SessionLimiter(1)
        place = await take(limiter, A)
        await cancelled_wait(limiter, lambda: None)
        assert (len(limiter), limiter._waiters) == (1, {})
        await cancelled_wait(limiter, lambda: limiter.release(place))
        assert (len(limiter), limiter._waiters, limiter._held) == (0, {}, {})

    run(main)


@pytest.mark.parametrize("state", ["busy", "idle", "due", "soon due"])
def test_wait_that_is_cancelled_anywhere_leaves_nothing(run: Run, state: str) -> None:
    async def scenario(interruption: Interruption) -> None:
        limiter = SessionLimiter(1)
        session = await Session.open(limiter, A)
        if state == "idle":
            limiter.mark_idle(session.place)
        elif state != "busy":
            limiter.mark_waiting(session.place, anyio.current_time() + (0.001 if state == "soon due" else -1.0))

        async def other() -> None:
            await anyio.sleep(0)
            if state == "busy":
                limiter.release(session.place)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            place = await interruption.run(lambda: limiter.acquire(B, close_nothing, TIMEOUT))
        assert (place is None) <= interruption.happened
        if place is not None:
            limiter.release(place)
        elif state != "busy" and not session.closed:
            limiter.release(session.place)
        assert (len(limiter), limiter._waiters, limiter._held) == (0, {}, {})

    async def main() -> None:
        assert await at_every_suspension(scenario) >= 1

    run(main)


@pytest.mark.parametrize("value", [0, -1, True, "20", 1.5, None])
def test_invalid_number_of_sessions_is_an_error(run: Run, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_sessions"):
        server.NextHop(host="hop.test", port=25, tls_required=False, max_sessions=value)


def test_one_client_leaves_places_in_the_queue_to_others(run: Run) -> None:
    """All that wait are examined when a session ends.  Over the limit, a client is not kept waiting."""

    async def main() -> None:
        limiter = SessionLimiter(1)
        place = await limiter.acquire(A, close_nothing, TIMEOUT)
        refused: list[RelayClient] = []

        async def wait(who: RelayClient) -> None:
            try:
                limiter.release(await limiter.acquire(who, close_nothing, TIMEOUT))
            except TimeoutError:
                refused.append(who)

        async with anyio.create_task_group() as tasks:

            async def queue(number: int, who: RelayClient) -> None:
                """Let *number* clients wait, or be refused."""
                known = len(limiter._waiters) + len(refused)
                for _ in range(number):
                    tasks.start_soon(wait, who)
                while len(limiter._waiters) + len(refused) < known + number:
                    await anyio.lowlevel.checkpoint()

            await queue(60, client("192.0.2.1", "alice"))
            assert (len(limiter._waiters), len(refused)) == (50, 10)
            for other in (*OTHERS.values(), B):
                await queue(1, other)
            assert (len(limiter._waiters), len(refused)) == (55, 10)
            limiter.release(place)
        assert (len(limiter), len(limiter._waiters), len(limiter._waiting)) == (0, 0, 0)

    run(main)
