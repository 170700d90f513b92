"""Calls in threads that are abandoned when their result is no longer awaited, and how they notice it.

This module does not use anyio, because ``mailauth fetch`` does not need it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CallAbandoned(Exception):
    """The call that runs in this thread is no longer awaited: it was cancelled, or has timed out."""


class Call(Generic[*Ts, T]):
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
        _thread.call = self
        try:
            return self._function(*self._args)
        finally:
            _thread.call = None
            self._end()

    @property
    def abandoned(self) -> bool:
        """Whether ``abandon()`` was called."""
        return self._notify is not None

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


class _Thread(threading.local):
    """The call that runs in a thread."""

    call: Call[*tuple[Any, ...], Any] | None = None


_thread: Final = _Thread()


def check_abandoned() -> None:
    """Raise CallAbandoned if the call that runs in this thread is no longer awaited.

    A function that may take long, such as one that reads a file or lists a folder, calls this between its steps.  In
    other threads, such as that of a command, it does nothing.
    """
    call = _thread.call
    if call is not None and call.abandoned:
        raise CallAbandoned
