"""Hashing runs in a limited number of threads, is fair to each address, and has a timeout; on both loops."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from mailauth_io.stores import LOCAL, ClientDisconnected, Hashing, HashingBusy, LoginSource
from tests.io import loops
from tests.io.line_echo import cancel_when_blocked, on_both_loops
from tests.io.time_machine import together

TIMEOUT = 120.0
"""Seconds after which a hanging test fails."""


@on_both_loops
async def test_hashing_runs_in_a_thread(loop: loops.Loop) -> None:
    """Arguments, result and exceptions are passed through."""
    hashing = Hashing()
    result, thread = await hashing.run(LOCAL, lambda one, other: (one + other, threading.get_ident()), 1, 2)
    assert result == 3
    assert thread != threading.get_ident()
    for _ in range(os.cpu_count() or 1):
        with pytest.raises(ZeroDivisionError):
            await hashing.run(LOCAL, divmod, 1, 0)
    assert await hashing.run(LOCAL, len, "x") == 1


class Slow:
    """A hash that runs until *end* is set."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end = threading.Event()

    def __call__(self) -> str:
        self.begun.release()
        assert self.end.wait(TIMEOUT)
        return "done"


@on_both_loops
async def test_login_without_free_thread_in_time_raises_hashing_busy(loop: loops.Loop) -> None:
    """The replies are 454 and [SYS/TEMP].  If a thread is free, a timeout of 0 is enough."""
    hashing = Hashing(threads=1, timeout=0.0)
    slow = Slow()

    async def first() -> None:
        await hashing.run(LOCAL, slow)

    async def second() -> None:
        await loop.in_thread(slow.begun.acquire)
        try:
            with pytest.raises(HashingBusy):
                await hashing.run(LOCAL, len, "x")
        finally:
            slow.end.set()

    assert await hashing.run(LOCAL, len, "x") == 1
    await together(first, second)
    assert await hashing.run(LOCAL, len, "x") == 1


@on_both_loops
async def test_waiting_login_gets_next_free_thread(loop: loops.Loop) -> None:
    hashing = Hashing(threads=2, timeout=TIMEOUT)
    slow = Slow()
    done: list[str] = []

    def login(address: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            done.append(await hashing.run(LoginSource(address=address), slow))

        return run

    async def release() -> None:
        await loop.in_thread(slow.begun.acquire)
        await loop.in_thread(slow.begun.acquire)
        assert not slow.begun.acquire(blocking=False)  # the third login waits
        slow.end.set()

    await together(login("a"), login("b"), login("c"), release)
    assert done == ["done"] * 3


def test_a_cancelled_hash_keeps_its_thread_until_it_ends() -> None:
    """A client that disconnects repeatedly gets no more threads than others.

    Only asyncio cancels a task that waits for a thread; trio waits until the thread has ended.
    """

    async def main() -> None:
        hashing = Hashing(threads=1, timeout=0.0)
        slow = Slow()
        await cancel_when_blocked(lambda: hashing.run(LOCAL, slow), lambda: slow.begun.acquire(blocking=False))
        with pytest.raises(HashingBusy):
            await hashing.run(LOCAL, len, "x")
        hashing._timeout = TIMEOUT
        slow.end.set()
        assert await hashing.run(LOCAL, len, "x") == 1

    loops.named("asyncio").run(main)


def test_one_hashing_works_on_several_event_loops_in_turn() -> None:
    """As in tests, or in a program that starts a new loop."""
    hashing = Hashing()
    for name in ("asyncio", "trio", "asyncio"):

        async def main() -> int:
            return await hashing.run(LOCAL, len, "xx")

        assert loops.named(name).run(main) == 2


def test_default_thread_count_is_number_of_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4}, raising=False)
    assert Hashing()._most == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert Hashing()._most == 3


# The order of the logins.


class Hashes:
    """Hash functions that the queue starts, and that the test ends one by one.  The password is wrong by default."""

    def __init__(self, loop: loops.Loop, hashing: Hashing) -> None:
        self.started: list[str] = []
        self.failed: Counter[str] = Counter()
        self.gone: set[str] = set()
        self._loop = loop
        self._hashing = hashing
        self._begun = threading.Semaphore(0)
        self._begun_logins: list[str] = []
        self._go_on = threading.Semaphore(0)
        self._ends = 0

    def source(self, login: str) -> LoginSource:
        """*login* is ``ADDRESS/NUMBER``; the number tells logins apart.  The network is the address before a colon."""
        address = login.partition("/")[0]
        return LoginSource(
            address=address,
            network=address.partition(":")[0],
            failed_recently=lambda: self.failed[address] > 0,
            connected=lambda: login not in self.gone,
            note_failure=lambda: self.failed.update([address]),
        )

    def login(self, login: str, right: bool = False) -> Callable[[], Awaitable[None]]:
        def hash_it() -> bool:
            self.started.append(login)
            self._begun_logins.append(login)
            self._begun.release()
            assert self._go_on.acquire(timeout=TIMEOUT)
            return right

        async def run() -> None:
            try:
                await self._hashing.run(self.source(login), hash_it)
            except HashingBusy as error:
                self.started.append(f"{login} {type(error).__name__}")

        return run

    async def begun(self, number: int) -> None:
        """Wait until *number* more hashes have started."""
        for _ in range(number):
            assert await self._loop.in_thread(lambda: self._begun.acquire(timeout=TIMEOUT))

    async def end(self, number: int) -> None:
        """End hashes until *number* others have started.  The end of one does not always start another."""
        for _ in range(number):
            for _ in range(1000):
                self._go_on.release()
                self._ends += 1
                while self._running not in (0, len(self._begun_logins) - self._ends):
                    await self._loop.sleep(0)  # until it has ended, and another has started if there is one
                wait = 0.05 if self._running == 0 else 0.0  # the next login may not have asked yet
                if await self._loop.in_thread(functools.partial(self._begun.acquire, timeout=wait)):
                    break
            else:
                raise AssertionError("no hash starts any more")

    async def settle(self) -> None:
        """Wait until every login that was given a thread has started, and every hash that may end has ended."""
        while self._go_on.acquire(blocking=False):
            self._ends -= 1
        while self._running != len(self._begun_logins) - self._ends:
            await self._loop.sleep(0)

    @property
    def _running(self) -> int:
        """The number of logins that were given a thread and have not ended."""
        return self._hashing._queues.get()._running.total()

    def end_all(self) -> None:
        self._go_on.release(1000)


@on_both_loops
async def test_login_overtakes_queued_logins_of_attacking_addresses(loop: loops.Loop) -> None:
    """At most threads + 1 hashes start before the hash of an honest login, even if many others wait."""
    for threads in (1, 2, 4):
        for attackers in (1, 10):
            await overtake(Hashes(loop, Hashing(threads=threads, timeout=TIMEOUT)), threads, attackers)


async def overtake(hashes: Hashes, threads: int, attackers: int) -> None:
    async def attacked() -> None:
        await hashes.begun(min(threads, attackers * max(1, threads // 2)))
        await hashes.end(2 * attackers)  # after this, each address has a failed login
        await log_in(1)
        hashes.end_all()

    async def log_in(number: int) -> None:
        """Log in users one after the other, each when the previous one has got a thread."""
        await hashes.settle()
        user, before = f"user {number}", len(hashes.started)

        async def until_started() -> None:
            while user not in hashes.started:
                await hashes.end(1)
            assert hashes.started.index(user) - before <= threads + 1, hashes.started[before:]
            if number < 5:
                await log_in(number + 1)
            hashes.end_all()

        await together(hashes.login(user, right=True), until_started)

    each = 40 if attackers == 1 else 8
    attack = [hashes.login(f"attacker {address}/{number}") for number in range(each) for address in range(attackers)]
    await together(*attack, attacked)


@on_both_loops
async def test_an_address_holds_at_most_half_of_the_threads(loop: loops.Loop) -> None:
    """A login from another address starts at once, before any hash has ended."""
    hashes = Hashes(loop, Hashing(threads=4, timeout=TIMEOUT))

    async def other() -> None:
        await hashes.begun(2)
        await together(hashes.login("b"), look)

    async def look() -> None:
        await hashes.begun(1)
        assert [login[0] for login in sorted(hashes.started)] == ["a", "a", "b"]
        hashes.end_all()

    await together(*(hashes.login(f"a/{number}") for number in range(9)), other)
    assert len(hashes.started) == 10


@on_both_loops
async def test_addresses_are_served_round_robin(loop: loops.Loop) -> None:
    """Addresses are served round robin, not logins."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))
    logins = [hashes.login(name, right=True) for name in ("a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "c/0")]

    async def end() -> None:
        await hashes.begun(1)
        await hashes.end(6)
        hashes.end_all()

    await together(*logins, end)
    first, others = hashes.started[0][0], [login[0] for login in hashes.started[1:]]
    assert sorted(hashes.started) == ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "c/0"]
    assert set(others[:3]) | {first} == {"a", "b", "c"}  # trio starts tasks in any order
    assert others[-1] == "a"


@on_both_loops
async def test_an_address_with_a_failed_login_gets_every_fourth_turn(loop: loops.Loop) -> None:
    """A user who has mistyped a password is not blocked by many other logins."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))
    hashes.failed["mistyped"] = 1

    async def rush() -> None:
        await hashes.begun(1)
        await together(*(hashes.login(f"user {n}", right=True) for n in range(20)), hashes.login("mistyped", True), end)

    async def end() -> None:
        await hashes.end(5)
        hashes.end_all()

    await together(hashes.login("first", True), rush)
    assert hashes.started.index("mistyped") <= 4


@on_both_loops
async def test_client_disconnected_in_queue_gets_no_thread_and_has_failed(loop: loops.Loop) -> None:
    """It counts as a failed login.  Otherwise requesting hashes and disconnecting would cost the client nothing."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))

    async def leave() -> None:
        await hashes.begun(1)
        await together(hashes.login("b/0"), hashes.login("b/1"), end)

    async def end() -> None:
        hashes.gone.add("b/0")
        await hashes.end(1)
        hashes.end_all()

    await together(hashes.login("a", right=True), leave)
    assert sorted(hashes.started) == ["a", "b/0 ClientDisconnected", "b/1"]
    assert hashes.failed == {"b": 2}


@on_both_loops
async def test_disconnect_during_hash_of_wrong_password_counts_as_failure(
    loop: loops.Loop,
) -> None:
    """With the right password it has not failed: a client that pipes a session into a socket half-closes it early."""
    for right in (False, True):
        hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))

        async def leave(hashes: Hashes = hashes) -> None:
            await hashes.begun(1)
            hashes.gone.add("a")
            hashes.end_all()

        await together(hashes.login("a", right=right), leave)
        assert hashes.failed == ({} if right else {"a": 1})


@on_both_loops
async def test_disconnect_during_scram_key_derivation_counts_as_failure(loop: loops.Loop) -> None:
    """The derivation of SCRAM keys does not show whether the password is right."""
    hashing = Hashing(threads=1, timeout=TIMEOUT)
    failed: list[bool] = []
    for leaves in ([], ["left"]):
        source = LoginSource(connected=partial(operator.not_, leaves), note_failure=lambda: failed.append(True))
        assert await hashing.run(source, bytes, 3) == b"\0\0\0"
    assert failed == [True]


@on_both_loops
async def test_addresses_with_failed_logins_share_at_most_half_of_the_threads(loop: loops.Loop) -> None:
    """The number of such addresses does not matter.  Another login starts at once, before any hash has ended."""
    hashes = Hashes(loop, Hashing(threads=4, timeout=TIMEOUT))
    hashes.failed.update(f"attacker {address}" for address in range(10))

    async def user() -> None:
        await hashes.begun(2)
        await together(hashes.login("user 1", right=True), hashes.login("user 2", right=True), look)

    async def look() -> None:
        await hashes.begun(2)
        assert sorted(hashes.started[2:]) == ["user 1", "user 2"]
        hashes.end_all()

    await together(*(hashes.login(f"attacker {address}/{n}") for n in range(3) for address in range(10)), user)
    assert len(hashes.started) == 32


@on_both_loops
async def test_networks_and_their_addresses_are_served_round_robin(loop: loops.Loop) -> None:
    """The owner of a network can use many addresses, each without a failed login so far."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))
    attack = [hashes.login(f"attacker:{number}", right=True) for number in range(50)]

    async def attacked() -> None:
        await hashes.begun(1)
        await hashes.end(3)
        await hashes.settle()
        before = len(hashes.started)
        await together(hashes.login("user:1", right=True), hashes.login("user:2", right=True), until_started)
        for user in ("user:1", "user:2"):
            assert hashes.started.index(user) - before <= 4

    async def until_started() -> None:
        while not {"user:1", "user:2"} <= set(hashes.started):
            await hashes.end(1)
        hashes.end_all()

    await together(*attack, attacked)
    assert len(hashes.started) == 52


@on_both_loops
async def test_disconnect_before_queue_timeout_counts_as_failure(loop: loops.Loop) -> None:
    """The login is refused because the server is busy.  A client that stays connected has not failed."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=0.0))

    async def late() -> None:
        await hashes.begun(1)
        hashes.gone.add("b")
        await together(hashes.login("b"), hashes.login("c"))
        hashes.end_all()

    await together(hashes.login("a", right=True), late)
    assert sorted(hashes.started) == ["a", "b HashingBusy", "c HashingBusy"]
    assert hashes.failed == {"b": 1}


@on_both_loops
async def test_half_closed_client_is_served_if_a_thread_is_free(loop: loops.Loop) -> None:
    """It may still read: a client that pipes a session into a socket half-closes it at once."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))
    hashes.gone.add("a")
    hashes.end_all()
    await hashes.login("a", right=True)()
    assert hashes.started == ["a"]


def test_client_disconnected_is_subclass_of_hashing_busy() -> None:
    """Code that handles HashingBusy handles ClientDisconnected too."""
    assert issubclass(ClientDisconnected, HashingBusy)


@on_both_loops
async def test_failure_is_counted_before_next_login_is_chosen(loop: loops.Loop) -> None:
    """Otherwise the address that has just failed would be served once more before a waiting user."""
    hashes = Hashes(loop, Hashing(threads=1, timeout=TIMEOUT))

    async def next_of_a() -> None:
        await hashes.begun(1)
        await together(hashes.login("a/1"), user)

    async def user() -> None:
        await together(hashes.login("b", right=True), end)

    async def end() -> None:
        await hashes.end(2)
        hashes.end_all()

    await together(hashes.login("a/0"), next_of_a)
    assert hashes.started == ["a/0", "b", "a/1"]
