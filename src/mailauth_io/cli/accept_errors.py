"""A shorter log when file descriptors run out.

Each connection uses one descriptor.  When none are left, asyncio and trio pause accepting and retry later, but they log
a traceback for each attempt.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Final

from ..limits import LogLimit

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LOGGERS: Final = ("asyncio", "trio.serve_listeners")


class AcceptErrorFilter(logging.Filter):
    """Replace what a loop logs when it cannot accept a connection by one line, at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines = LogLimit(1, 1, clock)

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            return True
        if not self._lines.admits():
            return False
        record.msg = "cannot accept connections until some are closed: %s"
        record.args = (error.strerror,)
        record.exc_info = record.exc_text = None
        return True


def install_accept_error_filter() -> None:
    """Install the filter for asyncio and trio.  For programs that own the logging configuration."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(AcceptErrorFilter())
