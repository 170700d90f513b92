"""File descriptors: raise the process limit, and shorten the log when descriptors run out.

Each connection uses one descriptor.  When none are left, asyncio and trio pause accepting and retry later, but they log
a traceback for each attempt.
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
    """Raise the soft limit of open files to the hard limit.  Do nothing if the system has no limit or refuses."""
    try:
        import resource
    except ImportError:  # not available on every system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class AcceptErrorFilter(logging.Filter):
    """Replace what a loop logs when it cannot accept a connection by one line, at most once a minute."""

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
        record.msg = "cannot accept connections until some are closed: %s"
        record.args = (error.strerror,)
        record.exc_info = record.exc_text = None
        return True


def install_accept_error_filter() -> None:
    """Install the filter for asyncio and trio.  For programs that own the logging configuration."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(AcceptErrorFilter())
