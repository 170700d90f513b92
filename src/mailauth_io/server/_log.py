"""The server's logger.  Repeated events of one session are counted, and a store failure reveals no secret."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final

from ..logs import Event, describe_error, place
from ..stores import HashingBusy
from ._results import MethodFailed, WrongResult

LOGGER: Final = logging.getLogger("mailauth_io.server")

MAX_EQUAL_EVENTS: Final = 10
"""Events of one session with the same name and ``reason`` that are logged one by one.  The others are counted.  Without
this limit, a client could make the log grow by fifty bytes for each byte that it sends."""

_MAX_REASONS: Final = 20
"""Different pairs of name and ``reason`` in one session.  Events with a further reason count as if they had none."""

_KEPT: Final[tuple[str, ...]] = (
    "connection",
    "peer",
    "protocol",
    "tls",
    "next_hop",
    "interceptor",
    "question",
    "part",
    "reason",
)
"""The fields of the line for the events that were only counted."""


class CountingRepetitions:
    """A context manager that counts repeated events in its body, a session, and logs their numbers at the end."""

    __slots__ = ("_last", "_numbers", "_token")

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, object], int] = {}
        self._last: dict[tuple[str, object], tuple[int, Event]] = {}

    def __enter__(self) -> None:
        self._token = _repetitions.set(self)

    def __exit__(self, *_: object) -> None:
        _repetitions.reset(self._token)
        self.log()

    def admits(self, level: int, event: Event) -> bool:
        """Count *event*, and return whether it is logged."""
        key = event.name, event.fields.get("reason")
        if key not in self._numbers and len(self._numbers) >= _MAX_REASONS:
            key = event.name, None
        self._numbers[key] = number = self._numbers.get(key, 0) + 1
        if number <= MAX_EQUAL_EVENTS:
            return True
        self._last[key] = level, event
        return False

    def log(self) -> None:
        """Log the number of the events that were only counted, in one line for each name and reason."""
        for key, (level, event) in self._last.items():
            fields = {name: event.fields[name] for name in _KEPT if name in event.fields}
            if key[1] is None:
                fields.pop("reason", None)
            fields["suppressed"] = self._numbers[key] - MAX_EQUAL_EVENTS
            LOGGER.log(level, Event(event.name, fields))


_repetitions: Final[ContextVar[CountingRepetitions | None]] = ContextVar("repetitions", default=None)


def log(level: int, event: Event, *, error: BaseException | None = None, repeatable: bool = True) -> None:
    """Log *event*, with the traceback of *error*.

    If a session has logged ``MAX_EQUAL_EVENTS`` such events, it is only counted, unless *repeatable* is False.
    """
    repetitions = _repetitions.get() if repeatable and LOGGER.isEnabledFor(level) else None
    if repetitions is None or repetitions.admits(level, event):
        LOGGER.log(level, event, exc_info=error)


_OPERATIONAL: Final = frozenset({"mailauth_io", "redis", "sqlite3"})
"""Packages whose exceptions mean that a store is busy, does not respond or is damaged.  An exception from any other
package, except an OSError, is a bug."""


def log_failure(session: str, part: str, error: Exception, *used: object) -> None:
    """Log that a store failed.

    *part* is the store: "accounts", "maildrops", "outbox" or "grants", and *used* are the objects that may have failed.
    *session* is a connection id, or a queue id, which starts with one.

    If one of *used* is the application's own, the message and the traceback of *error* are logged: nothing else tells
    its author what happened.  Of the stores of this package, operational failures have no traceback, because clients
    can cause many of them while a disk or a database is down.  The message of a bug in the accounts, or of an exception
    of SQLite or Redis, is not logged then: it may quote a password.  Those of WrongResult and MethodFailed are
    logged, since they quote no value.
    """
    reason = type(error).__name__
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, WrongResult | MethodFailed) or any(map(_is_application_store, used)):
        reason = describe_error(error)
        bug = with_traceback = not isinstance(error, HashingBusy)  # raised by this package, for any store
    else:
        bug = not isinstance(error, OSError) and package not in _OPERATIONAL
        with_traceback = bug and part != "accounts"
        if isinstance(error, OSError):
            reason = f"{reason}: {error.strerror}" if error.strerror else reason
        elif package == "mailauth_io" or with_traceback:
            reason = describe_error(error)
    connection, dash, _ = session.partition("-")
    fields: dict[str, object] = {
        "connection": connection,
        "queue_id": session if dash else None,
        "part": part,
        "reason": reason,
        "at": place(error) if bug or LOGGER.isEnabledFor(logging.DEBUG) else None,
    }
    log(logging.ERROR, Event("store failed", fields), error=error if with_traceback else None)


def _is_application_store(store: object) -> bool:
    return store is not None and type(store).__module__.partition(".")[0] != "mailauth_io"
