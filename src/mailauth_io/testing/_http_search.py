"""The search language of the HTTP API.

Terms are separated by spaces, and all of them must match.  A text in quotation marks is one term.  A ``-`` or ``!``
before a term negates it.  Comparison ignores case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from typing import Final, Protocol, TypeAlias
from zoneinfo import ZoneInfo

from ._http_messages import Summary, searchable

MAX_TERMS: Final = 100
"""The number of terms that a search may have."""


class Found(Protocol):
    """A message that a search looks at."""

    @property
    def summary(self) -> Summary: ...
    @property
    def read(self) -> bool: ...
    @property
    def received(self) -> datetime: ...


Condition: TypeAlias = Callable[[Found], bool]

_TERM: Final = re.compile(r'(?:[^\s"]|"[^"]*(?:"|\Z))+')
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s?(kb?|mb?)?")
_UNITS: Final = {"": 1, "k": 1024, "m": 1024 * 1024}

_TEXTS: Final[dict[str, Callable[[Summary], str]]] = {
    "to": lambda mail: _joined(*mail.to),
    "from": lambda mail: _joined(mail.sender),
    "cc": lambda mail: _joined(*mail.cc),
    "bcc": lambda mail: _joined(*mail.bcc),
    "reply-to": lambda mail: _joined(*mail.reply_to),
    "addressed": lambda mail: _joined(mail.sender, *mail.to, *mail.cc, *mail.bcc, *mail.reply_to),
    "subject": lambda mail: mail.subject,
    "message-id": lambda mail: mail.message_id,
}
"""The text that a term such as ``to:bob`` is searched in."""

_FLAGS: Final[dict[str, Condition]] = {
    "is:read": lambda found: found.read,
    "is:unread": lambda found: not found.read,
    "is:tagged": lambda found: False,
    "has:attachment": lambda found: found.summary.attachments > 0,
    "has:attachments": lambda found: found.summary.attachments > 0,
    "has:inline": lambda found: found.summary.inline > 0,
    "has:inlines": lambda found: found.summary.inline > 0,
}


class SearchError(ValueError):
    """A term is invalid.  The text says what to use instead."""


def parse(query: str, zone: str = "") -> Condition:
    """Return the condition that *query* states.  Dates without an offset are in the time zone *zone*.

    Raises SearchError for a date or a size that is invalid, and for more than MAX_TERMS terms.
    """
    conditions = list(_conditions(query, _zone(zone)))
    return lambda found: all(condition(found) for condition in conditions)


def parse_time(text: str, zone: str = "") -> datetime:
    """Return a date, or a date and a time, in the format of ISO 8601.  Raises SearchError."""
    return _time(text, _zone(zone))


def _conditions(query: str, zone: tzinfo | None) -> Iterator[Condition]:
    terms = _TERM.findall(query)
    if len(terms) > MAX_TERMS:
        raise SearchError(f"too many terms in the search; use at most {MAX_TERMS}")
    for written in terms:
        term = written.replace('"', "").strip()
        negated = len(term) > 1 and term[0] in "-!"
        if negated:
            term = term[1:]
        if not searchable(term):
            continue
        condition = _condition(term, zone)
        if condition is not None:
            yield _negation(condition) if negated else condition


def _negation(condition: Condition) -> Condition:
    return lambda found: not condition(found)


def _condition(term: str, zone: tzinfo | None) -> Condition | None:
    """Return the condition of one term; None if its value is empty."""
    flag = _FLAGS.get(term.lower())
    if flag is not None:
        return flag
    name, colon, value = term.partition(":")
    name = name.lower()
    if colon and (name in _TEXTS or name in ("tag", "after", "before", "larger", "smaller")):
        value = value.strip()
        return _field_condition(name, value, zone) if searchable(value) else None
    wanted = searchable(term)
    return lambda found: wanted in found.summary.search_text


def _field_condition(name: str, value: str, zone: tzinfo | None) -> Condition:
    if name == "tag":  # messages have no tags
        return lambda found: False
    if name in ("after", "before"):
        limit = _time(value, zone)
        if name == "after":
            return lambda found: found.received >= limit
        return lambda found: found.received <= limit
    if name in ("larger", "smaller"):
        size = _size(value)
        if name == "larger":
            return lambda found: found.summary.size > size
        return lambda found: found.summary.size < size
    text, wanted = _TEXTS[name], searchable(value)
    return lambda found: wanted in searchable(text(found.summary))


def _joined(*addresses: object) -> str:
    return " ".join(map(str, addresses))


def _size(text: str) -> float:
    found = _SIZE.fullmatch(text.lower())
    if found is None:
        raise SearchError("invalid size in the search; use a number of bytes, or one such as 2kb or 1.5mb")
    return float(found[1]) * _UNITS[(found[2] or "")[:1]]


def _time(text: str, zone: tzinfo | None) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip().upper())
        if found.tzinfo is None and zone is not None:
            return found.replace(tzinfo=zone)
        return found.astimezone()  # the local time zone, if it has none
    except (ValueError, OverflowError, OSError):
        raise SearchError("invalid date in the search; use one such as 2026-11-30 or 2026-11-30T12:00:00Z") from None


def _zone(name: str) -> tzinfo | None:
    """Return a time zone; None, for the local one, if the name is empty."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise SearchError("unknown time zone in tz; use a name such as Europe/Berlin") from None
