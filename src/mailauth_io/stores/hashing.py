"""Where passwords are hashed: in one thread for each core, shared fairly between the addresses that log in.

Hashing is the costly part of a login, and an attacker needs no password to ask for it.  So the queue is not first come,
first served: an address holds at most half of the threads, addresses take turns, and while others wait, addresses from
which a login has failed lately get every fourth turn.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar, TypeVarTuple

import attrs

from .. import _loops, _threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TIMEOUT: Final = 10.0
"""Seconds that a login waits for its turn; clients wait for minutes (RFC 5321 section 4.5.3.2)."""

FAILED_TURN: Final = 4
"""Every fourth turn at least belongs to the addresses with a failed login, if any of them waits: a user who mistyped a
password still gets in."""


class HashingBusy(Exception):
    """The turn of a login did not come in time: a temporary failure, the password was not looked at."""


class ClientLeft(HashingBusy):
    """The client closed the connection while its login was queued."""


@attrs.frozen(kw_only=True, eq=False)
class LoginSource:
    """Where a login comes from, as far as its place in the queue depends on that."""

    address: object = None
    """Logins with an equal *address* share one place in the queue: an IPv4 address, or an IPv6 network."""
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
    had_to_wait: bool = False
    """False while it is looked at for the first time.  A client may close its side and wait for the replies: it is
    served when it need not wait, and taken for one that has left otherwise."""


_Waiting: TypeAlias = OrderedDict[object, deque[_Waiter]]
"""The logins that wait, by the address that they come from."""


class _Queue:
    """The threads of one loop, and the logins that wait for one."""

    def __init__(self, most: int) -> None:
        self.threads = _threads.threads(most)
        self._most = most
        self._share = max(1, most // 2)  # of the threads, for one address
        self._running: Counter[object] = Counter()
        # An address is in one of the two, in the order in which the addresses of each take turns.
        self._clean: _Waiting = OrderedDict()
        self._failed: _Waiting = OrderedDict()
        self._turns_since_failed = 0

    def enter(self, waiter: _Waiter) -> None:
        """Queue *waiter*, and start it if a thread is free for it."""
        address = waiter.source.address
        if address in self._clean:
            addresses = self._clean
        elif address in self._failed or waiter.source.failed_lately():
            addresses = self._failed
        else:
            addresses = self._clean
        addresses.setdefault(address, deque()).append(waiter)
        self._start()
        waiter.had_to_wait = not waiter.started

    def leave(self, waiter: _Waiter) -> None:
        """*waiter* waits no longer; the thread that it was given meanwhile, if any, goes to the next one."""
        address = waiter.source.address
        if waiter.started:
            self.release(address)
            return
        for addresses in (self._clean, self._failed):
            waiting = addresses.get(address, ())
            if waiter in waiting:
                addresses[address].remove(waiter)
                if not waiting:
                    del addresses[address]

    def release(self, address: object) -> None:
        """A hash for *address* has ended."""
        self._running[address] -= 1
        if not self._running[address]:
            del self._running[address]
        self._start()

    def _start(self) -> None:
        while self._running.total() < self._most:
            waiter = self._next()
            if waiter is None:
                return
            self._running[waiter.source.address] += 1
            waiter.started = True
            waiter.event.set()

    def _next(self) -> _Waiter | None:
        """The login whose turn it is, taken out of the queue; None when none may start."""
        order: tuple[_Waiting, ...] = (self._clean, self._failed)
        if self._turns_since_failed >= FAILED_TURN - 1:
            order = (self._failed, *order)  # twice: looking at the clean ones may move some to the failed ones
        for addresses in order:
            waiter = self._take(addresses)
            if waiter is not None:
                self._turns_since_failed = 0 if addresses is self._failed else self._turns_since_failed + 1
                return waiter
        return None

    def _take(self, addresses: _Waiting) -> _Waiter | None:
        """The first login of the first address that has one and may use another thread.

        What is passed over on the way is removed, so a login costs no more in a long queue: an address with a failure
        moves to the failed ones, and a client that has left is told so.  Only an address that holds its share of the
        threads stays where it is.
        """
        found: object = None
        taken: _Waiter | None = None
        empty: list[object] = []
        failed: list[object] = []
        for address, waiting in addresses.items():
            while waiting and waiting[0].had_to_wait and not waiting[0].source.connected():
                waiter = waiting.popleft()
                waiter.source.note_failure()
                waiter.left = True
                waiter.event.set()
            if not waiting:
                empty.append(address)
            elif addresses is self._clean and waiting[0].source.failed_lately():
                failed.append(address)
            elif self._running[address] < self._share:
                found, taken = address, waiting.popleft()
                break
        if taken is not None:
            if addresses[found]:
                addresses.move_to_end(found)
            else:
                empty.append(found)
        for address in empty:
            del addresses[address]
        for address in failed:
            self._failed[address] = addresses.pop(address)
        return taken


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

        A *function* that returns False has met a wrong password; this, and a client that leaves before the end, is
        noted as a failure.  Raises HashingBusy when no thread is free in time, ClientLeft when *source* did not wait.
        """
        queue = self._queue
        if queue is None or not queue.threads.at_home:
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
            if result is False or not source.connected():
                source.note_failure()  # before the next turn is given: it may depend on this
            queue.release(source.address)

        return await queue.threads.run(ended, function, *args)
