"""The events that the server logs during a test."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from mailauth_io.logs import Event
from mailauth_io.server._log import LOGGER


@contextlib.contextmanager
def logged(level: int = logging.INFO) -> Iterator[list[Event]]:
    """Yield the list of the events of *level* and above, to which each is added when it is logged."""
    events: list[Event] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.msg, Event):
                events.append(record.msg)

    watch, before = Watch(), LOGGER.level
    LOGGER.addHandler(watch)
    LOGGER.setLevel(level)
    try:
        yield events
    finally:
        LOGGER.setLevel(before)
        LOGGER.removeHandler(watch)
