"""How the server writes to its log: what a client said is escaped and cut, and no secret has a way in.

Knows text only; which events are worth a line is the sessions' affair.
"""

from __future__ import annotations

import logging
import re
import traceback
from typing import Final

LOGGER: Final = logging.getLogger("mailauth.server")

MAXIMUM_TEXT: Final = 256
"""Characters of client text in a log line."""

_HARMLESS: Final = re.compile(rf"[!-\[\]-~]{{1,{MAXIMUM_TEXT}}}")  # it would be escaped to itself


def shown(text: str | None) -> str:
    """Client text for a log line: printable ASCII, no blank inside that could forge a field, at most 256 characters."""
    if text is None:
        return "-"
    if _HARMLESS.fullmatch(text):
        return text
    escaped = text[:MAXIMUM_TEXT].encode("unicode_escape").decode("ascii").replace(" ", "\\x20")
    return escaped[:MAXIMUM_TEXT] or '""'


def log_failure(connection_id: str, part: str, error: Exception) -> None:
    """A store failed.  Its own words stay out of the log: they may quote a secret that it was asked about."""
    why = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        why = f"{why}: {error.strerror}"
    LOGGER.error("%s %s failed: %s", connection_id, part, why)
    if LOGGER.isEnabledFor(logging.DEBUG):
        LOGGER.debug("%s %s failed at:\n%s", connection_id, part, "".join(traceback.format_tb(error.__traceback__)))
