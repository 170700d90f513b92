"""Daemon threads for blocking calls on asyncio, for code that runs without anyio; with it, see ``_workers``.

In the executor of the event loop, a few calls that block, such as lookups of names whose servers do not respond, would
stop all other work there (architecture.md, invariant 12), and the loop and the interpreter would wait for them when
they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class DaemonThreads:
    """At most *most* threads at a time in each event loop, for one kind of work."""

    def __init__(self, most: int, name: str) -> None:
        self.most = most
        self._name = name
        self._free: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def run(self, function: Callable[[], T]) -> T:
        """Call *function* in a thread, and return its result.

        When the caller is cancelled, the call is abandoned, and keeps its place until it ends.  Raises OSError if the
        system has no more threads.
        """
        loop = asyncio.get_running_loop()
        free = self._free.setdefault(loop, asyncio.Semaphore(self.most))
        result: asyncio.Future[T] = loop.create_future()

        def end(deliver: Callable[[], None]) -> None:
            free.release()
            if not result.done():  # otherwise it is abandoned
                deliver()

        def run() -> None:
            try:
                deliver = partial(result.set_result, function())
            except Exception as error:  # raised where the call is awaited
                deliver = partial(result.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(end, deliver)

        await free.acquire()
        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError:
            free.release()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        return await result


LOOKUPS: Final = DaemonThreads(40, "mailauth lookup")
"""The threads that look up host names.  trio has the same number for all blocking calls."""

FILES: Final = DaemonThreads(40, "mailauth files")
"""The threads that read files."""
