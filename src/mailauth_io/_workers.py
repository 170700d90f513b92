"""Threads for blocking calls, on asyncio and trio: each kind of work has its own limit (architecture.md, invariant 12).

``anyio.to_thread.run_sync`` is not enough.  When a call is abandoned on asyncio, by a cancellation or a timeout, it
releases the limiter although the thread still runs.  A disk or a store that does not respond would then get more and
more threads.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, WouldBlock, fail_after, from_thread, to_thread
from anyio.lowlevel import RunVar, current_token

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """At most *most* threads at a time in each event loop, for one kind of work."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiters: RunVar[CapacityLimiter] = RunVar("workers")

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, timeout: float | None = None) -> T:
        """Run ``function(*args)`` in a thread, and return its result.

        Cancelling the wait does not stop the function.  On trio, a call without *timeout* cannot be cancelled.  With
        *timeout*, in seconds, raises TimeoutError if the function has not ended in time; the wait for a free thread
        counts.  An abandoned function keeps its place among the threads until it ends.
        """
        with fail_after(timeout):
            limiter = self.limiter
            place = object()
            try:
                limiter.acquire_on_behalf_of_nowait(place)  # saves a turn of the event loop
            except WouldBlock:
                await limiter.acquire_on_behalf_of(place)
            return await run_in_thread(
                lambda _: limiter.release_on_behalf_of(place), function, *args, abandon_on_cancel=timeout is not None
            )

    @property
    def limiter(self) -> CapacityLimiter:
        """The limiter for the running event loop."""
        return _limiter(self._limiters, self._most)


FILES: Final = Workers(40)
"""The threads for files: maildrops, outbox and accounts.  Password hashing and each store of grants have their own."""

DNS: Final = Workers(40)
"""The threads that resolve host names."""


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
