"""Password hashing in one thread per core, shared fairly between client addresses (architecture.md, invariant 5).

Hashing is the expensive part of a login, and a client can cause it without a valid password.  So the queue is not first
come, first served:

* One address uses at most half of the threads.
* Networks are served round robin, and so are the addresses of each network.
* Addresses with a recent failed login use at most half of the threads together, and get every fourth free thread while
  other addresses wait.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, TypeVar, TypeVarTuple

import attrs
from anyio import Event, fail_after
from anyio.lowlevel import RunVar

from .._checks import check_function, check_hashable, check_integer, check_number, field
from .._workers import run_in_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TIMEOUT: Final = 10.0
"""Maximum seconds that a login waits for a thread.  Clients wait for minutes (RFC 5321 section 4.5.3.2)."""

FAILED_SHARE: Final = 4
"""At least every fourth free thread goes to an address with a recent failed login, if one waits.

A user who has mistyped a password has such an address for a while, and must still be able to log in.
"""


class HashingBusy(Exception):
    """No thread was free in time.  This is a temporary failure: the password was not checked.

    For example:

        try:
            valid = await hashing.run(stores.LOCAL, credential.check, password)
        except stores.HashingBusy:
            connection.answer(question, sasl.Refusal.TEMPORARY)
    """


class ClientDisconnected(HashingBusy):
    """The client closed the connection while its login was queued.

    For example:

        try:
            valid = await hashing.run(source, credential.check, password)
        except stores.ClientDisconnected:
            return
    """


@attrs.frozen(kw_only=True, eq=False)
class LoginSource:
    """The origin of a login, which determines its position in the queue.  Raises TypeError for a wrong value.

    For example:

        key = addresses.limit_key(peer.address)
        source = stores.LoginSource(address=key, network=addresses.limit_network(key), connected=lambda: not closed)
        valid = await authenticator.check_password("alice", password, source)
    """

    address: object = attrs.field(default=None, validator=field(check_hashable))
    """The ``mailauth.addresses.limit_key``.  Logins with an equal *address* share one position in the queue."""
    network: object = attrs.field(default=None, validator=field(check_hashable))
    """The ``mailauth.addresses.limit_network``.  Addresses with an equal *network* share one turn, since one owner may
    control the whole network."""
    failed_recently: Callable[[], bool] = attrs.field(default=lambda: False, validator=field(check_function))
    """Returns whether a login from this address has failed in the last minutes."""
    connected: Callable[[], bool] = attrs.field(default=lambda: True, validator=field(check_function))
    """Returns whether the client is still connected."""
    note_failure: Callable[[], None] = attrs.field(default=lambda: None, validator=field(check_function))
    """Called when a login from this address has failed, before the next login is started."""


LOCAL: Final = LoginSource()
"""A login without a client: a test, or a program that checks a password."""


@attrs.define(eq=False)
class _Waiter:
    source: LoginSource
    event: Event = attrs.field(factory=Event, init=False)
    """Set when *started* or *left* becomes True."""
    started: bool = False
    """Whether it has been given a thread."""
    left: bool = False
    """Whether its client has disconnected."""
    failed: bool = False
    """Whether it was started from the queue of the addresses with a failed login."""
    had_to_wait: bool = False
    """Whether no thread was free at once.

    A client may close its sending side and wait for the replies.  Its login is run if a thread is free at once;
    otherwise the client is treated as disconnected.
    """


class _RoundRobin:
    """Queued logins: round robin over networks and over the addresses of each, first come first served per address."""

    def __init__(self) -> None:
        self._networks: OrderedDict[object, OrderedDict[object, deque[_Waiter]]] = OrderedDict()

    def of(self, source: LoginSource) -> deque[_Waiter]:
        """Return the queued logins from the address of *source*."""
        addresses = self._networks.get(source.network)
        return deque() if addresses is None else addresses.get(source.address, deque())

    def add(self, waiter: _Waiter) -> None:
        addresses = self._networks.setdefault(waiter.source.network, OrderedDict())
        addresses.setdefault(waiter.source.address, deque()).append(waiter)

    def remove(self, waiter: _Waiter) -> None:
        """Remove *waiter* from the queue."""
        source = waiter.source
        addresses = self._networks[source.network]
        addresses[source.address].remove(waiter)
        if not addresses[source.address]:
            del addresses[source.address]
        if not addresses:
            del self._networks[source.network]

    def take(self, waiter: _Waiter) -> None:
        """Remove *waiter*, which is started, and move its address and its network to the end of the queue."""
        source = waiter.source
        self._networks[source.network].move_to_end(source.address)
        self._networks.move_to_end(source.network)
        self.remove(waiter)

    def heads(self) -> Iterator[_Waiter]:
        """Yield the first login of each address, in the order in which they are served."""
        for addresses in list(self._networks.values()):
            for waiting in list(addresses.values()):
                yield waiting[0]


class _Queue:
    """The threads of one event loop, and the logins that wait for them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._share = max(1, most // 2)  # threads for one address, and for all addresses with a failed login together
        self._running: Counter[object] = Counter()
        self._running_failed = 0
        # All logins of an address are in the same queue.
        self._clean = _RoundRobin()
        self._failed = _RoundRobin()
        self._turns_since_failed = 0

    def add(self, waiter: _Waiter) -> None:
        """Queue *waiter*, and start it if it may use a free thread."""
        source = waiter.source
        failed = self._failed.of(source) or (not self._clean.of(source) and source.failed_recently())
        (self._failed if failed else self._clean).add(waiter)
        self._start()
        waiter.had_to_wait = not waiter.started

    def remove(self, waiter: _Waiter) -> None:
        """Remove *waiter*.  If it has been given a thread, the thread goes to the next login."""
        if waiter.started:
            self.release(waiter)
            return
        for waiting in (self._clean, self._failed):
            if waiter in waiting.of(waiter.source):
                waiting.remove(waiter)

    def release(self, waiter: _Waiter) -> None:
        """Free the thread of *waiter*, and start the next login."""
        source = waiter.source
        self._running[source.address] -= 1
        if not self._running[source.address]:
            del self._running[source.address]
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
        """Remove and return the next login; None if none may start."""
        order = [self._clean, self._failed]
        if self._turns_since_failed >= FAILED_SHARE - 1:
            order.insert(0, self._failed)  # tried twice, since _take(self._clean) may move logins to self._failed
        for waiting in order:
            waiter = self._take(waiting)
            if waiter is not None:
                self._turns_since_failed = 0 if waiting is self._failed else self._turns_since_failed + 1
                return waiter
        return None

    def _take(self, waiting: _RoundRobin) -> _Waiter | None:
        """Remove and return the first login of *waiting* whose address may use another thread.

        Most logins that are skipped are removed, so that the cost of a login does not grow with the queue.  An address
        with a new failure moves to the other queue, and the login of a disconnected client is marked *left*.  Only an
        address that already uses its share of the threads keeps its position.
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
            if not failed and waiter.source.failed_recently():
                for other in tuple(waiting.of(waiter.source)):
                    waiting.remove(other)
                    self._failed.add(other)
            elif self._running[waiter.source.address] < self._share:
                waiting.take(waiter)
                waiter.failed = failed
                return waiter
        return None


def _cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


class Hashing:
    """The hashing threads, shared by all accounts of a server and created when the first password is hashed.

    For example:

        hashing = stores.Hashing(threads=2, timeout=5.0)
        valid = await hashing.run(source, credential.check, password)
    """

    def __init__(self, *, threads: int | None = None, timeout: float = TIMEOUT) -> None:
        """*threads* is the number of concurrent hashes, by default one per core.  *timeout* is in seconds.

        Raises TypeError or ValueError for an invalid argument.
        """
        check_integer("threads", threads, 1, optional=True)
        check_number("timeout", timeout, zero=True)
        self._most = _cores() if threads is None else threads
        self._timeout = timeout
        self._queues: RunVar[_Queue] = RunVar("hashing")

    async def run(self, source: LoginSource, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``function(*args)`` in a thread when *source* is next in the queue, and return its result.

        False means a wrong password.  It counts as a failed login, and so does a disconnect before the end, unless the
        result is True.  Raises HashingBusy if no thread is free in time, and ClientDisconnected if the client
        disconnected while its login was queued.
        """
        queue = self._queues.get(None)
        if queue is None:
            self._queues.set(queue := _Queue(self._most))
        waiter = _Waiter(source)
        queue.add(waiter)
        try:
            if not waiter.started:
                with fail_after(self._timeout):
                    await waiter.event.wait()
        except BaseException as error:
            if not source.connected():
                source.note_failure()
            queue.remove(waiter)
            if isinstance(error, TimeoutError):
                raise HashingBusy from None
            raise
        if waiter.left:
            raise ClientDisconnected

        def ended(result: T | None) -> None:
            if result is False or (result is not True and not source.connected()):
                source.note_failure()  # before release(), which chooses the next login
            queue.release(waiter)

        return await run_in_thread(ended, function, *args)
