"""File descriptors, which every connection needs one of: as many as the system allows, and few words when they run out.

Both loops pause accepting when there are none left, and go on by themselves; they tell each try with a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable
from typing import Final

from ..limits import QUIET_SECONDS

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LOGGERS: Final = ("asyncio", "trio.serve_listeners")


def raise_limit() -> None:
    """Raise this process's own limit as far as it may; where there is none, or it is refused, all stays as it is."""
    try:
        import resource
    except ImportError:  # not on every system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class AcceptErrorFilter(logging.Filter):
    """Turns what a loop logs when it cannot accept into one sentence, and no more than one a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._quiet_until = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            return True
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_SECONDS
        record.msg = "cannot accept connections, and will when some have ended: %s"
        record.args = (error.strerror,)
        record.exc_info = record.exc_text = None
        return True


def install_accept_error_filter() -> None:
    """Have both loops say it in few words from now on: for a program whose log is its own."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(AcceptErrorFilter())
