"""Log events with fields, and their two formats: a line of text or a JSON object.

An Event is the message of its log record (``record.msg``), so a program that embeds the server can read the fields of a
record, and ``record.getMessage()`` returns the text.  docs/logging.md lists the events.
"""

from __future__ import annotations

import json
import logging
import os
import re
import traceback
from datetime import UTC, datetime
from typing import Final, overload

from ._checks import check_choice, check_integer
from ._log_writer import BackgroundHandler

__all__ = [
    "FORMATS",
    "LEVELS",
    "MAX_TEXT",
    "MAX_TRACEBACK",
    "Event",
    "JsonFormatter",
    "TextFormatter",
    "describe_error",
    "place",
    "shown",
    "start",
]

MAX_TEXT: Final = 256
"""Maximum characters of client text, or other external text, in one field."""

MAX_TRACEBACK: Final = 200
"""Maximum lines of a traceback.  The middle of a longer one is omitted."""
_MAX_LINE: Final = 1_000
"""Maximum characters of each line of a traceback."""

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_HARMLESS: Final = re.compile(rf"[!#-\[\]-~]{{1,{MAX_TEXT}}}")  # fast path: escaping would not change it
_QUOTABLE: Final = re.compile(rf"[ !#-\[\]-~]{{1,{MAX_TEXT}}}")  # the same inside quotes


@overload
def shown(text: str) -> str: ...


@overload
def shown(text: str | None) -> str | None: ...


def shown(text: str | None) -> str | None:
    """Return client text *text* escaped for a field: printable ASCII, at most 256 characters.

    Spaces and quotes are escaped, so that the text cannot forge another field.
    """
    if text is None or _HARMLESS.fullmatch(text):
        return text
    return _escaped(text).replace(" ", "\\x20").replace('"', "\\x22")[:MAX_TEXT] or '""'


def _escaped(text: str) -> str:
    return text[:MAX_TEXT].encode("unicode_escape").decode("ascii")[:MAX_TEXT]


def _quoted(text: str) -> str:
    if not _QUOTABLE.fullmatch(text):
        text = _escaped(text.replace('"', "'")).rstrip("\\")
    return f'"{text}"'


class Event:
    """A log event: a *name* of one or a few words, and *fields*.

    The value of a field is a number, client text from ``shown()``, other text, or a reply.  A field that is None is
    omitted.

        >>> str(logs.Event("login failed", {"peer": "192.0.2.1", "reason": "wrong password", "name": None}))
        'login failed peer=192.0.2.1 reason="wrong password"'
    """

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        """Return ``name field=value ...``.  A value that contains spaces is quoted; client text contains none."""
        parts = [self.name]
        for key, value in self.fields.items():
            if value is not None:
                if isinstance(value, str):
                    if " " in value:
                        value = _quoted(value)
                elif not isinstance(value, int):
                    value = _quoted(str(value))
                parts.append(f"{key}={value}")
        return _one_line(" ".join(parts))

    def values(self) -> dict[str, str | int]:
        """Return the fields for JSON."""
        return {
            key: value if isinstance(value, int) else _printable(str(value))
            for key, value in self.fields.items()
            if value is not None
        }


def _printable(text: str) -> str:
    return text[:MAX_TEXT] if text.isascii() and text.isprintable() else _escaped(text)


def place(error: BaseException) -> str:
    """Return where *error* was raised, innermost frame first, in one line.

    Unlike the message of *error*, this never contains a secret.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return ", ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def describe_error(error: BaseException) -> str:
    """Return the class and the message of *error*.  The message may contain what a peer sent, or a secret."""
    try:
        message = str(error)
    except Exception:
        message = "(message not available)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class _Formatter(logging.Formatter):
    """The common base: the time in UTC.  The second is cached, since most lines share it with the line before."""

    _second = -1
    _prefix = ""

    def time(self, record: logging.LogRecord) -> str:
        """Return ``2026-01-31T12:00:00.000Z``."""
        second = int(record.created)
        if second != self._second:
            self._second, self._prefix = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}."
        return f"{self._prefix}{int(record.msecs):03}Z"


class TextFormatter(_Formatter):
    """Formats a record as one line: ``2026-01-31T12:00:00.000Z INFO login failed connection=... peer=...``.

    A traceback follows in separate lines.  Every further line of a record begins with ``"    | "``, so that a line end
    in a message, which may contain what a peer sent, cannot forge another record.

        handler = logging.FileHandler("mail.log")
        handler.setFormatter(logs.TextFormatter())
    """

    def format(self, record: logging.LogRecord) -> str:
        if type(record.msg) is Event and not record.exc_info:  # most records: an Event is one line
            return f"{self.time(record)} {record.levelname} {record.msg}"
        lines = [str(record.msg)] if isinstance(record.msg, Event) else _message(record).split("\n")
        lines += _traceback(record)
        text = "\n    | ".join(map(_one_line, lines))
        return f"{self.time(record)} {record.levelname} {text}"


class JsonFormatter(_Formatter):
    """Formats a record as one JSON object in ASCII: ``time``, ``level``, ``event``, its fields, and ``traceback``.

    For example:

        handler = logging.StreamHandler()
        handler.setFormatter(logs.JsonFormatter())
        server.LOGGER.addHandler(handler)
    """

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, str | int] = {"time": self.time(record), "level": record.levelname}
        if isinstance(record.msg, Event):
            values |= {"event": record.msg.name, **record.msg.values()}
        else:
            values |= {"event": record.name, "message": _message(record)}
        traceback = _traceback(record)
        if traceback:
            values["traceback"] = "\n".join(traceback)
        return json.dumps(values)


def _message(record: logging.LogRecord) -> str:
    """Return the text of a record that is not an Event."""
    return record.getMessage().rstrip("\n")


def _traceback(record: logging.LogRecord) -> list[str]:
    """Return the lines of the traceback of *record*; an empty list if it has no exception."""
    if not record.exc_info:
        return []
    lines = logging.Formatter().formatException(record.exc_info).split("\n")
    left_out = len(lines) - MAX_TRACEBACK
    if left_out > 0:
        half = MAX_TRACEBACK // 2
        lines[half:-half] = [f"... {left_out} lines omitted ..."]
    return [line[:_MAX_LINE] for line in lines]


def _one_line(text: str) -> str:
    """Return *text*, escaped unless it is printable ASCII: a log reader may treat other characters as line ends."""
    return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _dropped(count: int) -> logging.LogRecord:
    event = Event("log lines dropped", {"count": count})
    return logging.LogRecord(__name__, logging.WARNING, "", 0, event, (), None)


def start(form: str, level: str, descriptor: int = 2) -> None:
    """Write the log of this process to the file *descriptor*, in a thread.

    If the file cannot be written, or its reader does not keep up, lines are dropped, and their number is logged later.
    *form* is one of FORMATS; *level*, one of LEVELS, is the lowest level that is written.  The logging module no longer
    collects the source line, the thread and the process of each record, since neither format contains them.  Raises
    TypeError or ValueError for a wrong argument, and OSError if *descriptor* is not open.
    """
    check_choice("form", form, FORMATS)
    check_choice("level", level, LEVELS)
    check_integer("descriptor", descriptor, 0)
    logging._srcfile = None  # pyright: ignore[reportPrivateUsage]  # the logging documentation says to set it
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = BackgroundHandler(descriptor, _dropped)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
