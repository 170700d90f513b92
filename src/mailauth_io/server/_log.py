"""What the server tells its log, and how a failure is told: no secret has a way in.

Knows no session; those tell what happens in them.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from ..logs import Event

LOGGER: Final = logging.getLogger("mailauth.server")


def log_failure(session: str, part: str, error: Exception) -> None:
    """A store failed.  Its own words stay out of the log: they may quote a secret that it was asked about.

    *session* is a connection id, or a queue id, which begins with one.
    """
    why = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        why = f"{why}: {error.strerror}"
    connection, dash, _ = session.partition("-")
    fields: dict[str, object] = {"connection": connection, "queue_id": session if dash else None, "part": part}
    LOGGER.error(Event("store failed", {**fields, "why": why}))
    if LOGGER.isEnabledFor(logging.DEBUG):
        LOGGER.debug("%s %s failed at:\n%s", session, part, "".join(traceback.format_tb(error.__traceback__)))
