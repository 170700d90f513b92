"""What the server tells its log, and how a failure is told: no secret has a way in.

Knows no session; those tell what happens in them.
"""

from __future__ import annotations

import logging
from typing import Final

from ..logs import Event, described, place

LOGGER: Final = logging.getLogger("mailauth.server")


_OF_THE_WORLD: Final = frozenset({"mailauth", "mailauth_io", "redis", "sqlite3"})
"""Packages whose exceptions tell that a store is busy, silent or broken; others are mistakes in a program."""


def log_failure(session: str, part: str, error: Exception) -> None:
    """A store failed: its *part* and the class of *error*, and for a mistake in its program message and traceback, too.

    There are no tracebacks for what clients can bring about at will, as long as a disk or a database is down.  What
    accounts raise is told by its class and its place alone: they are asked about passwords, and may quote them.
    *session* is a connection id, or a queue id, which begins with one.
    """
    why = type(error).__name__
    bug = False
    if isinstance(error, OSError):
        why = f"{why}: {error.strerror}" if error.strerror else why
    elif type(error).__module__.partition(".")[0] not in _OF_THE_WORLD:
        bug = True
        if part != "accounts":
            why = described(error)
    connection, dash, _ = session.partition("-")
    fields: dict[str, object] = {
        "connection": connection,
        "queue_id": session if dash else None,
        "part": part,
        "why": why,
        "at": place(error) if bug or LOGGER.isEnabledFor(logging.DEBUG) else None,
    }
    LOGGER.error(Event("store failed", fields), exc_info=error if bug and part != "accounts" else None)
