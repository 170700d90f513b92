"""Threads for blocking calls, on asyncio and trio: each kind of work has its own limit (architecture.md, invariant 12).

``anyio.to_thread.run_sync`` is not enough.  When a call is abandoned on asyncio, by a cancellation or a timeout, it
releases the limiter although the thread still runs.  A disk or a store that does not respond would then get more and
more threads.
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, Event, from_thread, move_on_after, to_thread
from anyio.lowlevel import RunVar, current_token

from ._calls import Call

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Admission:
    """Decides which call gets the next thread, in one event loop.  See ``Workers``."""

    def __init__(self, most: int, share: int) -> None:
        self.most = most
        self.running = 0
        """The calls that have a thread."""
        self._share = share
        self._by_key: dict[Hashable, int] = {}  # the calls that have a thread; no entries with 0
        # The calls that wait, by key and source; no empty ones.  The source whose turn is next comes first.
        self._queues: dict[Hashable, OrderedDict[Hashable, OrderedDict[Event, None]]] = {}
        # The keys with a queue that may get a thread, in turn: without a running call, and with some.
        self._first: OrderedDict[Hashable, None] = OrderedDict()
        self._further: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of keys in use."""
        return len(self._by_key.keys() | self._queues.keys())

    @property
    def waiting(self) -> int:
        """The calls that wait for a thread."""
        return sum(len(calls) for sources in self._queues.values() for calls in sources.values())

    async def acquire(self, key: Hashable, source: Hashable) -> None:
        admitted = Event()
        self._queues.setdefault(key, OrderedDict()).setdefault(source, OrderedDict())[admitted] = None
        self._enter(key)
        self._admit()
        if admitted.is_set():
            return  # without a turn of the event loop
        try:
            await admitted.wait()
        except BaseException:
            if admitted.is_set():
                self.release(key)
            else:
                self._leave_queue(key, source, admitted)
            raise

    def release(self, key: Hashable) -> None:
        self.running -= 1
        self._by_key[key] -= 1
        if not self._by_key[key]:
            del self._by_key[key]
        self._enter(key)
        self._admit()

    def _admit(self) -> None:
        while self.running < self.most:
            if self._first:
                key, _ = self._first.popitem(last=False)
            elif self._further and self.running - len(self._by_key) < self.most // 2:
                key, _ = self._further.popitem(last=False)
            else:
                return
            sources = self._queues[key]
            source, calls = next(iter(sources.items()))
            sources.move_to_end(source)
            admitted = next(iter(calls))
            self.running += 1
            self._by_key[key] = self._by_key.get(key, 0) + 1
            self._leave_queue(key, source, admitted)
            admitted.set()

    def _leave_queue(self, key: Hashable, source: Hashable, call: Event) -> None:
        sources = self._queues[key]
        del sources[source][call]
        if not sources[source]:
            del sources[source]
        if not sources:
            del self._queues[key]
        self._enter(key)

    def _enter(self, key: Hashable) -> None:
        """Put *key* at the end of the line that it belongs to now, if any, unless it is there already."""
        running = self._by_key.get(key, 0)
        is_waiting = key in self._queues
        for line, belongs in (
            (self._first, is_waiting and not running),
            (self._further, is_waiting and 0 < running < self._share),
        ):
            if belongs:
                line.setdefault(key)
            else:
                line.pop(key, None)


class Workers:
    """At most *most* threads at a time in each event loop, for one kind of work.

    Calls with the same *key*, such as those for one maildrop, have at most *share* of them.  Only half of the threads
    are for the second and each further call of any key: a few maildrops whose disk does not respond leave the other
    half to the first calls of others.  Keys are served in turn, and so are the sources of the calls with one key, such
    as the addresses of a network.
    """

    def __init__(self, most: int, *, share: int | None = None, timeout: float | None = None) -> None:
        self._most = most
        self._share = most if share is None else share
        self.timeout = timeout
        """The seconds that a call may take, the wait for a free thread included.  None: any time."""
        self._admissions: RunVar[_Admission] = RunVar("workers")

    async def run(
        self,
        function: Callable[[*Ts], T],
        *args: *Ts,
        key: Hashable = None,
        source: Hashable = None,
        timeout: float | None = None,
    ) -> T:
        """Run ``function(*args)`` in a thread, and return its result.

        Cancelling the wait does not stop the function, unless it calls ``check_abandoned()``: it is abandoned, and
        keeps its place among the threads until it ends.  So it is if it has not ended after *timeout* seconds, which
        replaces that of the Workers; then raises TimeoutError.  A call without *key* has a key of its own.
        """
        with move_on_after(self.timeout if timeout is None else timeout):
            admission, counted = self.admission, object() if key is None else key
            await admission.acquire(counted, source)
            return await run_in_thread(lambda _: admission.release(counted), function, *args, abandon_on_cancel=True)
        raise TimeoutError(errno.ETIMEDOUT, "no answer in time")

    @property
    def admission(self) -> _Admission:
        """What decides in the running event loop."""
        admission = self._admissions.get(None)
        if admission is None:
            self._admissions.set(admission := _Admission(self._most, self._share))
        return admission


FILES: Final = Workers(40, share=8, timeout=120.0)
"""The threads for files: maildrops, outbox and accounts.  The key is the maildrop, the outbox, or the file of the
accounts.  Password hashing and each store of grants have their own threads.

The timeout leaves room for a Maildir with 100,000 messages.  A client of SMTP waits ten minutes for the reply (RFC 5321
section 4.5.3.2.6)."""

DNS: Final = Workers(40)
"""The threads that resolve host names."""


class Cleanup:
    """Runs functions that block in daemon threads, in the order in which they were added.  Nobody waits for them.

    For functions that must be called when a task is cancelled, in the event loop, such as the removal of a file that is
    not needed any more.  There are up to *threads* threads; another one starts if all of them are busy.  If more than
    *most* functions wait, further ones are dropped.
    """

    def __init__(self, threads: int = 1, most: float = math.inf) -> None:
        self._most_threads = threads
        self._most = most
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._threads = 0
        self._unfinished = 0  # functions that wait or run

    def add(self, function: Callable[[], object]) -> None:
        """Run *function*, which raises nothing, soon."""
        with self._changed:
            if self._queue.qsize() >= self._most:
                return
            self._queue.put(function)
            self._unfinished += 1
            if self._threads < min(self._unfinished, self._most_threads):
                self._threads += 1
                threading.Thread(target=self._run, name="mailauth cleanup", daemon=True).start()

    def finish(self, timeout: float) -> None:
        """Wait until all functions that were added have ended, at most *timeout* seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished == 0, timeout)

    def _run(self) -> None:
        while True:
            self._queue.get()()
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()


CLEANUP: Final = Cleanup(most=10_000)
"""The thread that removes files.  A file whose removal is dropped stays."""

UNLOCKING: Final = Cleanup(threads=1000)
"""The threads that close the locks of maildrops, and the files of messages.  Each one on a disk that does not respond
keeps one thread.  None is dropped, since a lock that is not closed keeps its maildrop locked; a session adds two."""


async def run_in_thread(
    ended: Callable[[T | None], object],
    function: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
) -> T:
    """Run ``function(*args)`` in a thread without a limit, and return its result.

    *ended* is called once, in the event loop, when the function has ended or will not be started.  Its argument is the
    result, or None if *function* raised or its result is no longer awaited.  *abandon_on_cancel* as for anyio; on
    asyncio, a cancellation of the task itself abandons the function in any case.
    """
    call = Call(function, args)
    token = current_token()

    def ended_later() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            from_thread.run_sync(ended, None, token=token)

    result = None
    try:
        result = await to_thread.run_sync(call.run, abandon_on_cancel=abandon_on_cancel, limiter=_no_limit())
        return result
    finally:
        if not call.abandon(ended_later):
            ended(result)


_unlimited: Final[RunVar[CapacityLimiter]] = RunVar("unlimited")


def _no_limit() -> CapacityLimiter:
    """Return the limiter of the running event loop that limits nothing, made on first use."""
    limiter = _unlimited.get(None)
    if limiter is None:
        _unlimited.set(limiter := CapacityLimiter(math.inf))
    return limiter
