"""Writes log lines in a thread, so that a pipe without a reader, or a disk that does not respond, delays nothing else.

``logging.handlers.QueueHandler`` with a bounded queue would print a traceback for each line that does not fit, and
``QueueListener.stop()`` waits without a limit.
"""

from __future__ import annotations

import copy
import logging
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Final

__all__ = [
    "FLUSH_TIMEOUT",
    "MAX_BACKLOG",
    "BackgroundHandler",
]

MAX_BACKLOG: Final = 4 * 1024 * 1024
"""Maximum bytes of lines that wait to be written.  Further lines are dropped and counted."""

FLUSH_TIMEOUT: Final = 1.0
"""Maximum seconds that the end of the process waits for the remaining lines."""

_PIPE_BUF: Final = 4096
"""Bytes that the system writes to a pipe at once, not mixed with the lines of other processes (pipe(7))."""


class BackgroundHandler(logging.Handler):
    """A handler that formats each record at once, and writes the lines to a file descriptor in a daemon thread.

    ``emit()`` never waits for the file.  A line that does not fit into the backlog, or cannot be written, is dropped.
    When lines can be written again, the record that *dropped* returns for their number is written in their place.
    """

    def __init__(self, descriptor: int, dropped: Callable[[int], logging.LogRecord]) -> None:
        """Raises OSError if *descriptor* is not open.  It is duplicated, so the caller may close it."""
        super().__init__()
        self._descriptor = os.dup(descriptor)
        self._record_dropped = dropped
        self._queue: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        # The lock of the handler guards the first two; only the thread changes the others.
        self._queued = self._dropped = 0  # bytes; lines that did not fit
        self._taken = self._noted = 0  # bytes; of the dropped lines, those that are logged or counted in _lost
        self._lost = 0  # lines to report before the next line
        self._line_open = False  # an error has cut a line

    def emit(self, record: logging.LogRecord) -> None:
        if self._closed:
            return
        line = _line(self.formatter, record)
        # After the first dropped line, all are dropped until the backlog is written.  So they are in one place.
        if self._dropped != self._noted or self._queued - self._taken + len(line) > MAX_BACKLOG:
            self._dropped += line.count(b"\n")
            return
        self._queued += len(line)
        self._queue.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mailauth log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Wait until all lines are written, at most ``FLUSH_TIMEOUT`` seconds.  ``logging`` calls it at exit."""
        if self._thread is not None and not self._closed:
            written = threading.Event()
            self._queue.put(written)
            written.wait(FLUSH_TIMEOUT)

    def close(self) -> None:
        """Accept no more records.  The thread writes those that wait, and then closes the descriptor."""
        super().close()
        if not self._closed:
            self._closed = True
            if self._thread is None:
                os.close(self._descriptor)
            else:
                self._queue.put(None)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, bytes):
                item = self._write_lines(item)
            if self._queue.empty() and self._dropped != self._noted:
                dropped = self._dropped
                self._lost += dropped - self._noted
                self._write_note()
                self._noted = dropped  # from now on, emit() queues lines
            if isinstance(item, threading.Event):
                item.set()
            elif self._closed:
                break
        os.close(self._descriptor)

    def _write_lines(self, line: bytes) -> threading.Event | None:
        """Write *line* and those that wait.  Return the item of the queue that ended them, if there is one."""
        while True:
            lines = [line]
            size = len(line)
            following: bytes | threading.Event | None = None
            while not self._queue.empty():
                following = self._queue.get()
                if not isinstance(following, bytes) or size + len(following) > _PIPE_BUF:
                    break
                lines.append(following)
                size += len(following)
                following = None
            data = b"".join(lines)
            if self._write_note():
                left = self._write(data)
                self._line_open = 0 < len(left) < size
            else:
                left = data
            self._lost += left.count(b"\n")
            self._taken += size
            if not isinstance(following, bytes):
                return following
            line = following

    def _write_note(self) -> bool:
        """Write how many lines were lost, if any, and return whether it could be written."""
        note = b"\n" * self._line_open
        if self._lost:
            formatter = copy.copy(self.formatter)  # it keeps state, which is for one thread
            note += _line(formatter, self._record_dropped(self._lost))
        left = self._write(note)
        if left:
            self._line_open = self._line_open or len(left) < len(note)
            return False
        self._lost = 0
        self._line_open = False
        return True

    def _write(self, data: bytes) -> bytes:
        """Write *data*, and return what cannot be written because of an error."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that has the same pipe has made it non-blocking
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
            except OSError:
                break
        return data


def _line(formatter: logging.Formatter | None, record: logging.LogRecord) -> bytes:
    text = (formatter or logging.Formatter()).format(record)
    return text.encode("utf-8", "backslashreplace") + b"\n"
