"""Threads for blocking calls: each kind of work has its own, and an abandoned call keeps its place until it ends."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from mailauth_io import server, stores
from mailauth_io._calls import CallAbandoned, check_abandoned
from mailauth_io._maildir import MaildirPath
from mailauth_io._workers import DNS, FILES, Cleanup, Workers
from mailauth_io.server import _next_hop_session, _relay
from mailauth_io.server._next_hop_state import NextHopState
from mailauth_io.stores import Hashing, LoginSource, maildir_maildrops, sqlite_grants
from mailauth_io.stores._bounded_executor import THREADS
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import RedisGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests.io import loops
from tests.io.line_echo import cancel_when_blocked, on_both_loops
from tests.io.time_machine import together

TIMEOUT = 60.0
"""Seconds after which a hanging test fails."""


class Gate:
    """A function that blocks its thread until the gate is opened."""

    def __init__(self) -> None:
        self.entered = 0
        self._open = threading.Event()

    def __call__(self, *_: object, **__: object) -> None:
        self.entered += 1
        assert self._open.wait(TIMEOUT)

    def open(self) -> None:
        self._open.set()

    async def reached(self, number: int) -> None:
        """Wait until *number* threads have entered."""
        while self.entered < number:
            await checkpoint()


@on_both_loops
async def test_blocking_call_runs_in_a_thread(loop: loops.Loop) -> None:
    """Arguments and results are passed on; an exception is raised unchanged, and frees the thread."""
    workers = Workers(1)
    for timeout in (None, TIMEOUT):
        ran = await workers.run(lambda a, b: (a + b, threading.get_ident()), 1, 2, timeout=timeout)
        assert ran != (3, threading.get_ident())
        assert ran[0] == 3
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 1, 0, timeout=timeout)
    assert workers.admission.running == 0


@on_both_loops
async def test_number_of_threads_is_limited(loop: loops.Loop) -> None:
    workers, gate = Workers(2), Gate()

    async def work() -> None:
        await workers.run(gate)

    async def look() -> None:
        await gate.reached(2)
        while workers.admission.waiting < 3:
            await checkpoint()
        assert gate.entered == 2
        gate.open()

    await together(work, work, work, work, work, look)
    assert gate.entered == 5


@on_both_loops
async def test_a_call_that_has_timed_out_keeps_its_thread_until_it_ends(loop: loops.Loop) -> None:
    """A store that never responds holds at most the allowed number of threads."""
    workers, gate = Workers(1), Gate()
    while not gate.entered:  # the timeout may expire before the thread has started
        with pytest.raises(TimeoutError):
            await workers.run(gate, timeout=0.01)
    with pytest.raises(TimeoutError):
        await workers.run(gate, timeout=0.01)
    assert gate.entered == 1
    gate.open()
    assert await workers.run(len, "x", timeout=TIMEOUT) == 1


@on_both_loops
async def test_a_cancelled_call_keeps_its_thread_until_it_ends(loop: loops.Loop) -> None:
    """The task ends at once, although the function still runs."""
    workers, gate = Workers(1), Gate()
    for number in (0, 1):  # the second one is cancelled while it waits for a thread
        await cancel_when_blocked(lambda: workers.run(gate), lambda: gate.entered == 1)
        assert (workers.admission.running, gate.entered) == (1, 1), number
    gate.open()
    assert await workers.run(len, "x") == 1


@on_both_loops
async def test_calls_with_one_key_leave_threads_to_others(loop: loops.Loop) -> None:
    """A maildrop whose disk does not respond has a share of the threads, also after its calls have timed out."""
    workers, gate = Workers(6, share=2, timeout=TIMEOUT), Gate()

    async def abandon() -> None:
        with pytest.raises(TimeoutError, match="no answer in time"):
            await workers.run(gate, key="alice", timeout=0.01)

    while gate.entered < 2:  # the timeout may expire before the thread has started
        await abandon()
    await together(*(9 * [abandon]))
    assert (gate.entered, workers.admission.running) == (2, 2)
    assert await workers.run(len, "x", key="bob") == 1
    assert await workers.run(len, "x") == 1
    gate.open()
    assert await workers.run(len, "x", key="alice") == 1
    while workers.admission.running:
        await checkpoint()
    assert len(workers.admission) == 0  # nothing is kept for a maildrop that is not in use


@on_both_loops
async def test_keys_whose_calls_hang_leave_threads_to_others(loop: loops.Loop) -> None:
    """Together they have one thread each, and half of all threads for their further calls."""
    workers, gate, healthy = Workers(14, share=4, timeout=TIMEOUT), Gate(), Gate()
    hanging = [f"hanging {number}" for number in range(5)]  # with their shares alone, all 14 threads

    async def hang(key: str) -> None:
        await workers.run(gate, key=key)

    async def work() -> None:
        await gate.reached(12)
        await workers.run(healthy, key="healthy")

    async def look() -> None:
        await gate.reached(12)
        assert await workers.run(len, "x", key="new") == 1
        assert await workers.run(len, "x") == 1
        await healthy.reached(1)
        while workers.admission.waiting < 45 - 12 + 1:  # the second healthy call too
            await checkpoint()
        assert (gate.entered, healthy.entered, workers.admission.running) == (12, 1, 13)
        healthy.open()  # the second call is now the first of its key
        await healthy.reached(2)
        gate.open()

    await together(*(partial(hang, key) for key in 9 * hanging), work, work, look)
    assert (gate.entered, workers.admission.running, len(workers.admission)) == (45, 0, 0)


@on_both_loops
async def test_each_key_has_its_turn(loop: loops.Loop) -> None:
    """Keys take turns, whatever number of calls each has, and also if it makes more of them all the time."""
    workers, gate, ran = Workers(1), Gate(), list[str]()

    async def block() -> None:
        await workers.run(gate)

    async def call(number: int, key: str) -> None:
        await gate.reached(1)
        while workers.admission.waiting < number:  # trio starts tasks in any order
            await checkpoint()
        await workers.run(ran.append, key, key=key)

    async def go_on() -> None:
        while workers.admission.waiting < 6:
            await checkpoint()
        gate.open()

    await together(block, *(partial(call, number, key) for number, key in enumerate("aaabca")), go_on)
    assert "".join(ran) == "abcaaa"


@on_both_loops
async def test_calls_with_one_key_are_served_in_turn_by_source(loop: loops.Loop) -> None:
    """Many deliveries to a maildrop do not delay the session of its owner."""
    workers, gate, ran = Workers(1), Gate(), list[str]()

    async def call(number: int, source: str) -> None:
        await gate.reached(1)
        while workers.admission.waiting < number:  # trio starts tasks in any order
            await checkpoint()
        await workers.run(ran.append, source, key="alice", source=source)

    async def go_on() -> None:
        while workers.admission.waiting < 6:
            await checkpoint()
        gate.open()

    async def block() -> None:
        await workers.run(gate, key="alice", source="d")

    await together(block, *(partial(call, number, source) for number, source in enumerate("dddsds")), go_on)
    assert "".join(ran) == "dsdsdd"
    assert (workers.admission.waiting, len(workers.admission)) == (0, 0)


@on_both_loops
async def test_function_that_checks_it_ends_when_its_call_is_abandoned(loop: loops.Loop) -> None:
    """After a timeout and after a cancellation.  Without a call, nothing happens."""
    check_abandoned()
    workers, gate = Workers(1), Gate()
    reasons: list[type[BaseException]] = []

    def endless() -> None:
        gate()
        try:
            while True:
                check_abandoned()
        except BaseException as error:
            reasons.append(type(error))
            raise

    gate.open()
    while not gate.entered:  # the timeout may expire before the thread has started
        with pytest.raises(TimeoutError):
            await workers.run(endless, timeout=0.01)
    assert await workers.run(len, "x") == 1  # after the first call has ended
    await cancel_when_blocked(lambda: workers.run(endless), lambda: gate.entered == 2)
    assert await workers.run(len, "x") == 1
    assert reasons == [CallAbandoned, CallAbandoned]


def test_cleanup_with_several_threads_starts_one_more_if_all_are_busy() -> None:
    cleanup, gate, ran = Cleanup(threads=3), Gate(), threading.Event()
    cleanup.add(gate)
    cleanup.add(gate)
    cleanup.add(ran.set)
    assert ran.wait(TIMEOUT)
    cleanup.add(gate)
    ran.clear()
    cleanup.add(ran.set)
    while gate.entered < 3:
        pass
    assert not ran.is_set()
    gate.open()
    assert ran.wait(TIMEOUT)
    cleanup.finish(TIMEOUT)
    assert cleanup._threads == 3


def test_cleanup_runs_functions_in_order_and_never_waits() -> None:
    cleanup, gate = Cleanup(most=100), Gate()
    ran: list[int] = []
    cleanup.add(gate)
    for number in range(109):
        cleanup.add(partial(ran.append, number))
    cleanup.finish(0.01)
    assert ran == []
    gate.open()
    cleanup.finish(TIMEOUT)
    assert ran == list(range(len(ran)))
    assert len(ran) in (99, 100)  # the thread may have taken the first function already


def test_call_of_ended_event_loop_does_not_block_other_loops() -> None:
    """The call ends after the loop, which nobody can tell any more.  The next loop has threads of its own."""
    workers, gate = Workers(1), Gate()

    async def abandon() -> None:
        await cancel_when_blocked(lambda: workers.run(gate), lambda: gate.entered == 1)

    async def work() -> None:
        assert await workers.run(len, "x") == 1

    loops.named("asyncio").run(abandon)
    for name in ("asyncio", "trio"):
        loops.named(name).run(work)
    gate.open()
    loops.named("asyncio").run(work)


# Each kind of work has its own threads.  A test blocks all threads of one kind, and does work of another.


class Kind:
    """One kind of blocking work: how to block all of its threads, and how to do a little of it."""

    most: int

    def block(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        """Return what blocks one thread."""
        raise NotImplementedError

    async def work(self) -> None:
        """Do a piece of work in a thread.  Called before the threads of another kind are blocked, and after."""
        raise NotImplementedError

    def close(self) -> None:
        pass


class Files(Kind):
    most = 40

    def __init__(self, directory: Path) -> None:
        self._maildrops = stores.MaildirMaildrops(directory)
        self._names = (f"user{number}" for number in itertools.count())

    def block(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        def blocked(path: MaildirPath) -> None:
            gate()
            raise FileNotFoundError

        monkeypatch.setattr(MaildirPath, "make", blocked)
        maildrops = self._maildrops

        async def one() -> None:
            with pytest.raises(FileNotFoundError):
                await maildrops.open(next(self._names))

        return one

    async def work(self) -> None:
        opened = await self._maildrops.open(next(self._names))
        assert isinstance(opened, maildir_maildrops._Opened)
        opened.close()


class Hashes(Kind):
    most = 2

    def __init__(self) -> None:
        self._hashing = Hashing(threads=self.most, timeout=TIMEOUT)
        self._addresses = itertools.count()

    def block(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        async def one() -> None:
            await self._hashing.run(LoginSource(address=next(self._addresses)), gate)

        return one

    async def work(self) -> None:
        assert await self._hashing.run(stores.LOCAL, len, "x") == 1


class Names(Kind):
    """DNS: the names of next hops."""

    most = 40

    def block(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        def resolve(host: str, port: int) -> list[str]:
            gate()
            raise socket.gaierror(socket.EAI_NONAME, "no answer")

        monkeypatch.setattr(_next_hop_session, "resolve", resolve)

        async def one() -> None:
            assert await self._check(25) == "no answer"

        return one

    async def work(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        assert await self._check(port) is not None  # connection refused

    @staticmethod
    async def _check(port: int) -> str | None:
        hop = server.NextHop(
            host="localhost", port=port, tls_required=False, timeouts=server.Timeouts(recipient=TIMEOUT, check=TIMEOUT)
        )
        return await _relay.check_next_hop(NextHopState(hop), "mail.test")


class Sqlite(Kind):
    most = THREADS

    def __init__(self, directory: Path) -> None:
        self._grants = SqliteGrants(directory / "grants")
        self._networks = itertools.count()
        self._grants._executor._timeout = TIMEOUT

    def block(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        def connect(path: Path, settings: stores.GrantSettings) -> object:
            gate()
            raise OSError("no answer")

        self._grants.close()
        monkeypatch.setattr(sqlite_grants, "_connect", connect)

        async def one() -> None:
            with pytest.raises(OSError, match="no answer"):
                await self._grants.find(f"10.0.{next(self._networks)}.1")  # a network does not get all threads

        return one

    async def work(self) -> None:
        assert await self._grants.find("192.0.2.1") is None

    def close(self) -> None:
        self._grants.close()


class Redis(Kind):
    """Redis, with its scripts replaced by a function, since a server is not needed to use threads."""

    most = THREADS

    def __init__(self) -> None:
        self._grants = RedisGrants(RedisAddress(path="/nonexistent/redis"))
        self._networks = itertools.count()
        self._grants._executor._timeout = TIMEOUT
        self._grants._find_script = lambda **_: None  # type: ignore[assignment]  # a script is a callable object

    def block(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        self._grants._find_script = gate  # type: ignore[assignment]  # as above

        async def one() -> None:
            assert await self._grants.find(f"10.0.{next(self._networks)}.1") is None

        return one

    async def work(self) -> None:
        assert await self._grants.find("192.0.2.1") is None

    def close(self) -> None:
        self._grants.close()


KINDS = ("files", "hashes", "names", "sqlite", "redis")


def kind(name: str, directory: Path) -> Kind:
    match name:
        case "files":
            return Files(directory)
        case "hashes":
            return Hashes()
        case "names":
            return Names()
        case "sqlite":
            return Sqlite(directory)
        case _:
            return Redis()


@pytest.mark.parametrize(("blocked", "other"), [*itertools.permutations(KINDS, 2)])
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_blocked_work_of_one_kind_does_not_delay_another_kind(
    loop: str, blocked: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """architecture.md, invariant 12."""
    stuck, free, gate = kind(blocked, tmp_path), kind(other, tmp_path), Gate()

    async def main() -> None:
        await free.work()
        one = stuck.block(gate, monkeypatch)

        async def go_on() -> None:
            try:
                await gate.reached(stuck.most)
                with anyio.fail_after(TIMEOUT / 2):
                    await free.work()
            finally:
                gate.open()

        await together(*((stuck.most + 1) * [one]), go_on)

    try:
        loops.named(loop).run(main)
    finally:
        stuck.close()
        free.close()
    assert gate.entered >= stuck.most


def test_thread_limits_in_test_equal_server_limits() -> None:
    async def main() -> None:
        assert FILES.admission.most == Files.most
        assert DNS.admission.most == Names.most

    loops.named("asyncio").run(main)
