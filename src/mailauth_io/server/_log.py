"""The server's logger, and a function that logs a store failure without revealing a secret."""

from __future__ import annotations

import logging
from typing import Final

from ..logs import Event, describe_error, place
from ..stores import HashingBusy
from ._results import MethodFailed, WrongResult

LOGGER: Final = logging.getLogger("mailauth_io.server")


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
    LOGGER.error(Event("store failed", fields), exc_info=error if with_traceback else None)


def _is_application_store(store: object) -> bool:
    return store is not None and type(store).__module__.partition(".")[0] != "mailauth_io"
