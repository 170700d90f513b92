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
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, WouldBlock, from_thread, move_on_after, to_thread
from anyio.lowlevel import RunVar, current_token

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """At most *most* threads at a time in each event loop, for one kind of work.

    Calls with the same *key*, such as those for one maildrop, have at most *share* of them: a disk that does not
    respond leaves the others to the other maildrops.  *timeout* is that of each call, in seconds.
    """

    def __init__(self, most: int, *, share: int | None = None, timeout: float | None = None) -> None:
        self._most = most
        self._share = most if share is None else share
        self._timeout = timeout
        self._limiters: RunVar[CapacityLimiter] = RunVar("workers")
        self._shares: RunVar[dict[Hashable, CapacityLimiter]] = RunVar("shares")

    async def run(
        self, function: Callable[[*Ts], T], *args: *Ts, key: Hashable = None, timeout: float | None = None
    ) -> T:
        """Run ``function(*args)`` in a thread, and return its result.

        Cancelling the wait does not stop the function: it is abandoned, and keeps its place among the threads until it
        ends.  So it is if it has not ended after *timeout* seconds, which replaces that of the Workers; then raises
        TimeoutError.  The wait for a free thread counts.
        """
        with move_on_after(self._timeout if timeout is None else timeout):
            place = object()
            await self._acquire(place, key)
            return await run_in_thread(lambda _: self._release(place, key), function, *args, abandon_on_cancel=True)
        raise TimeoutError(errno.ETIMEDOUT, "no answer in time")

    async def _acquire(self, place: object, key: Hashable) -> None:
        if key is None:
            return await _acquire(self.limiter, place)
        await _acquire(self._limiter_of(key), place)
        try:
            await _acquire(self.limiter, place)
        except BaseException:
            self._release_share(place, key)
            raise

    def _release(self, place: object, key: Hashable) -> None:
        self.limiter.release_on_behalf_of(place)
        if key is not None:
            self._release_share(place, key)

    def _limiter_of(self, key: Hashable) -> CapacityLimiter:
        shares = self._shares.get(None)
        if shares is None:
            self._shares.set(shares := {})
        return shares.setdefault(key, CapacityLimiter(self._share))

    def _release_share(self, place: object, key: Hashable) -> None:
        shares = self._shares.get()
        limiter = shares[key]
        limiter.release_on_behalf_of(place)
        if not (limiter.borrowed_tokens or limiter.statistics().tasks_waiting):
            del shares[key]

    @property
    def limiter(self) -> CapacityLimiter:
        """The limiter for the running event loop."""
        return _limiter(self._limiters, self._most)


async def _acquire(limiter: CapacityLimiter, place: object) -> None:
    try:
        limiter.acquire_on_behalf_of_nowait(place)  # saves a turn of the event loop
    except WouldBlock:
        await limiter.acquire_on_behalf_of(place)


FILES: Final = Workers(40, share=8, timeout=120.0)
"""The threads for files: maildrops, outbox and accounts.  The key is the maildrop, the outbox, or the file of the
accounts.  Password hashing and each store of grants have their own threads.

The timeout leaves room for a Maildir with 100,000 messages.  A client of SMTP waits ten minutes for the reply (RFC 5321
section 4.5.3.2.6)."""

DNS: Final = Workers(40)
"""The threads that resolve host names."""


class Cleanup:
    """Runs functions that block, one after another, in a daemon thread.  Nobody waits for them.

    For functions that must be called when a task is cancelled, in the event loop, such as the removal of a file that is
    not needed any more.
    """

    MOST: Final = 10_000
    """Functions that may wait.  More are dropped: what they would remove stays."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, function: Callable[[], object]) -> None:
        """Run *function*, which raises nothing, soon."""
        with self._lock:
            if self._queue.qsize() < self.MOST:
                self._queue.put(function)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mailauth cleanup", daemon=True)
                self._thread.start()

    def finish(self, timeout: float) -> None:
        """Wait until all functions that were added have ended, at most *timeout* seconds."""
        ended = threading.Event()
        if self._thread is not None:
            self._queue.put(ended.set)
            ended.wait(timeout)

    def _run(self) -> None:
        while True:
            self._queue.get()()


CLEANUP: Final = Cleanup()


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
    call = _Call(function, args)
    token = current_token()

    def ended_later() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            from_thread.run_sync(ended, None, token=token)

    result = None
    try:
        result = await to_thread.run_sync(
            call.run, abandon_on_cancel=abandon_on_cancel, limiter=_limiter(_unlimited, math.inf)
        )
        return result
    finally:
        if not call.abandon(ended_later):
            ended(result)


class _Call(Generic[*Ts, T]):
    """A call in a thread, which the task that waits for it may abandon."""

    def __init__(self, function: Callable[[*Ts], T], args: tuple[*Ts]) -> None:
        self._function = function
        self._args = args
        self._lock = threading.Lock()
        self._running = False
        self._notify: Callable[[], None] | None = None

    def run(self) -> T:
        """Call the function, in the thread."""
        self._start()
        try:
            return self._function(*self._args)
        finally:
            self._end()

    def _start(self) -> None:
        with self._lock:
            if self._notify is not None:
                raise RuntimeError("abandoned before it was started")  # the waiter is gone, so this is dropped
            self._running = True

    def _end(self) -> None:
        with self._lock:
            self._running = False
            notify = self._notify
        if notify is not None:
            # In a daemon thread, because it waits for the event loop, which may end at this moment.
            threading.Thread(target=notify, daemon=True).start()

    def abandon(self, notify: Callable[[], None]) -> bool:
        """If the function is running, call *notify* in a thread when it has ended, and return True.

        Otherwise return False; the function will not be started any more.
        """
        with self._lock:
            self._notify = notify
            return self._running


_unlimited: Final[RunVar[CapacityLimiter]] = RunVar("unlimited")


def _limiter(limiters: RunVar[CapacityLimiter], most: float) -> CapacityLimiter:
    """Return the limiter of the running event loop, which is made on first use."""
    limiter = limiters.get(None)
    if limiter is None:
        limiters.set(limiter := CapacityLimiter(most))
    return limiter
