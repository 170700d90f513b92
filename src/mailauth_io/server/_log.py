"""What the server tells its log, and how a failure is told: no secret has a way in.

Knows no session; those tell what happens in them.
"""

from __future__ import annotations

import logging
from typing import Final

from ..logs import Event, place

LOGGER: Final = logging.getLogger("mailauth.server")


def log_failure(session: str, part: str, error: Exception) -> None:
    """A store failed.  Its own words stay out of the log: they may quote a secret that it was asked about.

    *session* is a connection id, or a queue id, which begins with one.  From DEBUG up the
    log says where it failed, too.
    """
    why = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        why = f"{why}: {error.strerror}"
    connection, dash, _ = session.partition("-")
    fields = {"connection": connection, "queue_id": session if dash else None, "part": part, "why": why}
    LOGGER.error(Event("store failed", {**fields, "at": place(error) if LOGGER.isEnabledFor(logging.DEBUG) else None}))
