"""What the server tells its log, and how a failure is told: no secret has a way in.

Knows no session; those tell what happens in them.
"""

from __future__ import annotations

import logging
from typing import Final

from ..logs import Event, described, place

LOGGER: Final = logging.getLogger("mailauth.server")


_OPERATIONAL: Final = frozenset({"mailauth_io", "redis", "sqlite3"})
"""Packages whose exceptions say that a store is busy, silent or broken; those of others are errors in a program."""


def log_failure(session: str, part: str, error: Exception) -> None:
    """A store failed: log its *part* and the class of *error*, for an error in a program with message and traceback.

    While a disk or a database is down clients can cause failures at will, so these have no traceback.  Of what accounts
    raise only class and place are logged: they are asked about passwords, and their messages may quote them, as those
    of Redis may.  *session* is a connection id, or a queue id, which begins with one.
    """
    reason = type(error).__name__
    package = type(error).__module__.partition(".")[0]
    bug = not isinstance(error, OSError) and package not in _OPERATIONAL
    if isinstance(error, OSError):
        reason = f"{reason}: {error.strerror}" if error.strerror else reason
    elif package == "mailauth_io" or (bug and part != "accounts"):
        reason = described(error)
    connection, dash, _ = session.partition("-")
    fields: dict[str, object] = {
        "connection": connection,
        "queue_id": session if dash else None,
        "part": part,
        "reason": reason,
        "at": place(error) if bug or LOGGER.isEnabledFor(logging.DEBUG) else None,
    }
    LOGGER.error(Event("store failed", fields), exc_info=error if bug and part != "accounts" else None)
