"""The server's logger, and a function that logs a store failure without revealing a secret."""

from __future__ import annotations

import logging
from typing import Final

from ..logs import Event, describe_error, place
from ._results import WrongResult

LOGGER: Final = logging.getLogger("mailauth_io.server")


_OPERATIONAL: Final = frozenset({"mailauth_io", "redis", "sqlite3"})
"""Packages whose exceptions mean that a store is busy, does not respond or is damaged.  An exception from any other
package, except an OSError, is a bug."""


def log_failure(session: str, part: str, error: Exception) -> None:
    """Log that a store failed.

    *part* is the store: "accounts", "maildrops", "outbox" or "grants".  *session* is a connection id, or a queue id,
    which starts with one.  The class of *error* is logged; for a bug, its message and traceback as well.  Operational
    failures have no traceback, because clients can cause many of them while a disk or a database is down.  The message
    of a bug in the accounts, or of an exception of SQLite or Redis, is not logged: it may quote a password.  That of
    a WrongResult is logged, since it quotes no value.
    """
    reason = type(error).__name__
    package = type(error).__module__.partition(".")[0]
    wrong = isinstance(error, WrongResult)
    bug = wrong or (not isinstance(error, OSError) and package not in _OPERATIONAL)
    if isinstance(error, OSError):
        reason = f"{reason}: {error.strerror}" if error.strerror else reason
    elif package == "mailauth_io" or (bug and part != "accounts"):
        reason = describe_error(error)
    connection, dash, _ = session.partition("-")
    fields: dict[str, object] = {
        "connection": connection,
        "queue_id": session if dash else None,
        "part": part,
        "reason": reason,
        "at": place(error) if bug or LOGGER.isEnabledFor(logging.DEBUG) else None,
    }
    LOGGER.error(Event("store failed", fields), exc_info=error if wrong or (bug and part != "accounts") else None)
