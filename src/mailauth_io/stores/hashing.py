"""Where passwords are hashed: in one thread for each core, shared fairly between the addresses that log in.

Hashing is the costly part of a login, and an attacker needs no password to ask for it.  So the queue is not first come,
first served: an address holds at most half of the threads; networks take turns, and in each its addresses; addresses
from which a login has failed lately hold half of the threads together, and get every fourth turn while others wait.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, TypeVar, TypeVarTuple

import attrs

from .. import _loops, _threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TIMEOUT: Final = 10.0
"""Seconds that a login waits for its turn; clients wait for minutes (RFC 5321 section 4.5.3.2)."""

FAILED_TURN: Final = 4
"""Every fourth turn at least belongs to the addresses with a failed login, if any of them waits: a user who mistyped a
password is one of them for a while, and waits with them for a turn."""


class HashingBusy(Exception):
    """The turn of a login did not come in time: a temporary failure, the password was not looked at."""


class ClientLeft(HashingBusy):
    """The client closed the connection while its login was queued."""


@attrs.frozen(kw_only=True, eq=False)
class LoginSource:
    """Where a login comes from, as far as its place in the queue depends on that."""

    address: object = None
    """Logins with an equal *address* share one place in the queue: an IPv4 address, or an IPv6 network."""
    network: object = None
    """Addresses with an equal *network* share the turns of one: the owner of a network has all of its addresses."""
    failed_lately: Callable[[], bool] = lambda: False
    """Whether a login from there has failed in the last minutes."""
    connected: Callable[[], bool] = lambda: True
    """Whether the client still waits for the result."""
    note_failure: Callable[[], None] = lambda: None
    """Called when a login from there turns out to be a failure, before the next turn is given."""


LOCAL: Final = LoginSource()
"""A login that comes from no client: a test, or a program that checks a password."""


@attrs.define(eq=False)
class _Waiter:
    source: LoginSource
    event: _loops.Event
    """Set when *started* or *left* is."""
    started: bool = False
    left: bool = False
    failed: bool = False
    """Whether it was started as one of a failed address."""
    had_to_wait: bool = False
    """False while it is looked at for the first time.  A client may close its side and wait for the replies: it is
    served when it need not wait, and taken for one that has left otherwise."""


class _Turns:
    """Logins that wait.  Networks take turns, and so do the addresses of each, and the logins of each address."""

    def __init__(self) -> None:
        self._networks: OrderedDict[object, OrderedDict[object, deque[_Waiter]]] = OrderedDict()

    def of(self, source: LoginSource) -> deque[_Waiter]:
        """Those from the address of *source*."""
        addresses = self._networks.get(source.network)
        return deque() if addresses is None else addresses.get(source.address, deque())

    def add(self, waiter: _Waiter) -> None:
        addresses = self._networks.setdefault(waiter.source.network, OrderedDict())
        addresses.setdefault(waiter.source.address, deque()).append(waiter)

    def remove(self, waiter: _Waiter) -> None:
        """Take *waiter* out of its place."""
        source = waiter.source
        addresses = self._networks[source.network]
        addresses[source.address].remove(waiter)
        if not addresses[source.address]:
            del addresses[source.address]
        if not addresses:
            del self._networks[source.network]

    def take(self, waiter: _Waiter) -> None:
        """Take *waiter* out for its turn: its address and its network have their next ones after the others."""
        source = waiter.source
        self._networks[source.network].move_to_end(source.address)
        self._networks.move_to_end(source.network)
        self.remove(waiter)

    def heads(self) -> Iterator[_Waiter]:
        """The first login of each address, those of the network whose turn it is first."""
        for addresses in list(self._networks.values()):
            for waiting in list(addresses.values()):
                yield waiting[0]


class _Queue:
    """The threads of one loop, and the logins that wait for one."""

    def __init__(self, most: int) -> None:
        self.threads = _threads.threads(most)
        self._most = most
        self._share = max(1, most // 2)  # of the threads: for one address, and for all failed addresses together
        self._running: Counter[object] = Counter()
        self._running_failed = 0
        # All logins of an address are in one of the two.
        self._clean = _Turns()
        self._failed = _Turns()
        self._turns_since_failed = 0

    def enter(self, waiter: _Waiter) -> None:
        """Queue *waiter*, and start it if a thread is free for it."""
        source = waiter.source
        failed = self._failed.of(source) or (not self._clean.of(source) and source.failed_lately())
        (self._failed if failed else self._clean).add(waiter)
        self._start()
        waiter.had_to_wait = not waiter.started

    def leave(self, waiter: _Waiter) -> None:
        """*waiter* waits no longer; the thread that it was given meanwhile, if any, goes to the next one."""
        if waiter.started:
            self.release(waiter)
            return
        for line in (self._clean, self._failed):
            if waiter in line.of(waiter.source):
                line.remove(waiter)

    def release(self, waiter: _Waiter) -> None:
        """The hash for *waiter* has ended."""
        address = waiter.source.address
        self._running[address] -= 1
        if not self._running[address]:
            del self._running[address]
        self._running_failed -= waiter.failed
        self._start()

    def _start(self) -> None:
        while self._running.total() < self._most:
            waiter = self._next()
            if waiter is None:
                return
            self._running[waiter.source.address] += 1
            self._running_failed += waiter.failed
            waiter.started = True
            waiter.event.set()

    def _next(self) -> _Waiter | None:
        """The login whose turn it is, taken out of the queue; None when none may start."""
        order = [self._clean, self._failed]
        if self._turns_since_failed >= FAILED_TURN - 1:
            order.insert(0, self._failed)  # twice: looking at the clean ones may move some to the failed ones
        for line in order:
            waiter = self._take(line)
            if waiter is not None:
                self._turns_since_failed = 0 if line is self._failed else self._turns_since_failed + 1
                return waiter
        return None

    def _take(self, waiting: _Turns) -> _Waiter | None:
        """The first login of *waiting* whose address may use another thread, taken out of it.

        What is passed over on the way is removed, so a login costs no more in a long queue: an address with a failure
        moves to the failed ones, and a client that has left is told so.  Only an address that holds its share of the
        threads stays where it is.
        """
        failed = waiting is self._failed
        if failed and self._running_failed >= self._share:
            return None
        for first in waiting.heads():
            waiter: _Waiter | None = first
            while waiter is not None and waiter.had_to_wait and not waiter.source.connected():
                waiting.remove(waiter)
                waiter.source.note_failure()
                waiter.left = True
                waiter.event.set()
                waiter = next(iter(waiting.of(first.source)), None)
            if waiter is None:
                continue
            if not failed and waiter.source.failed_lately():
                for other in tuple(waiting.of(waiter.source)):
                    waiting.remove(other)
                    self._failed.add(other)
            elif self._running[waiter.source.address] < self._share:
                waiting.take(waiter)
                waiter.failed = failed
                return waiter
        return None


def _cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


class Hashing:
    """The threads that all accounts of a server share, made when the first password is hashed."""

    def __init__(self, *, threads: int | None = None, timeout: float = TIMEOUT) -> None:
        """*threads* is the number of hashes at a time, one for each core unless given; *timeout* is in seconds."""
        self._most = _cores() if threads is None else threads
        self._timeout = timeout
        self._queue: _Queue | None = None

    async def run(self, source: LoginSource, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """``function(*args)`` in a thread, when it is the turn of *source*.

        A *function* that returns False has met a wrong password.  This is noted as a failure, and so is a client that
        leaves before the end, unless *function* returns True.  Raises HashingBusy when no thread is free in time,
        ClientLeft when *source* did not wait.
        """
        queue = self._queue
        if queue is None or not queue.threads.in_own_loop:
            queue = self._queue = _Queue(self._most)
        loop = _loops.current()
        waiter = _Waiter(source, loop.event())
        queue.enter(waiter)
        try:
            if not waiter.started:
                async with loop.within(self._timeout):
                    await waiter.event.wait()
        except BaseException as error:
            if not source.connected():
                source.note_failure()
            queue.leave(waiter)
            if isinstance(error, TimeoutError):
                raise HashingBusy from None
            raise
        if waiter.left:
            raise ClientLeft

        def ended(result: T | None) -> None:
            if result is False or (result is not True and not source.connected()):
                source.note_failure()  # before the next turn is given: it may depend on this
            queue.release(waiter)

        return await queue.threads.run(ended, function, *args)
