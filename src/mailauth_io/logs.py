"""What stands in the log: events with fields, and the two ways to write them, a line of text or an object of JSON.

An Event is the message of its log record (``record.msg``), so whoever embeds the server and handles its records has
the fields at hand, and the text by ``record.getMessage()``.  Knows text only; which events are worth a line is the
affair of whoever tells them.  docs/logging.md lists them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import traceback
from datetime import UTC, datetime
from typing import Final, overload

MAX_TEXT: Final = 256
"""Characters of client text, and of any other text that is not ours, in one field."""

MAX_TRACEBACK: Final = 200
"""Lines of a traceback that are written: of a longer one its first and its last lines."""
_LONGEST_LINE: Final = 1_000
"""Characters of each."""

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_HARMLESS: Final = re.compile(rf"[!#-\[\]-~]{{1,{MAX_TEXT}}}")  # it would be escaped to itself
_QUOTABLE: Final = re.compile(rf"[ !#-\[\]-~]{{1,{MAX_TEXT}}}")  # likewise, inside quotes


@overload
def shown(text: str) -> str: ...


@overload
def shown(text: str | None) -> str | None: ...


def shown(text: str | None) -> str | None:
    """Client text for a field: printable ASCII, no blank and no quote to forge a field by, 256 characters at most."""
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
    """What happened, in one or two words, and what is known of it.

    A field is a number, client text as ``shown()`` gives it, other text, or a reply; None is left out.
    """

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        """``name field=value ...``: a value with a blank in it stands in quotes, and is none of client text."""
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
        """The fields as they are written into JSON."""
        return {
            key: value if isinstance(value, int) else _printable(str(value))
            for key, value in self.fields.items()
            if value is not None
        }


def _printable(text: str) -> str:
    return text[:MAX_TEXT] if text.isascii() and text.isprintable() else _escaped(text)


def place(error: BaseException) -> str:
    """Where *error* was raised, innermost first, in one line: its own words may be a secret, these never are."""
    frames = traceback.extract_tb(error.__traceback__)
    return ", ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def described(error: BaseException) -> str:
    """The class of *error* and its message, for a field.  The message may hold what a peer sent, or a secret."""
    try:
        message = str(error)
    except Exception:
        message = "(the message cannot be read)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class _Formatter(logging.Formatter):
    """What both forms have in front: the time, in UTC.  Most lines share their second with the one before."""

    _second = -1
    _prefix = ""

    def time(self, record: logging.LogRecord) -> str:
        """``2026-01-31T12:00:00.000Z``."""
        second = int(record.created)
        if second != self._second:
            self._second, self._prefix = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}."
        return f"{self._prefix}{int(record.msecs):03}Z"


class TextFormatter(_Formatter):
    """``2026-01-31T12:00:00.000Z INFO login failed connection=... peer=...``, in one line.

    A traceback follows in lines of its own.  Each further line of a record begins with ``    | ``: a message may hold
    what a peer sent, and no line end in it can begin what looks like another record.
    """

    def format(self, record: logging.LogRecord) -> str:
        lines = [str(record.msg)] if isinstance(record.msg, Event) else _message(record).split("\n")
        lines += _traceback(record)
        text = "\n    | ".join(map(_one_line, lines))
        return f"{self.time(record)} {record.levelname} {text}"


class JsonFormatter(_Formatter):
    """One object a line: ``time``, ``level``, ``event``, the fields of the event, and ``traceback``; in ASCII."""

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
    """The text of a record that is no event of ours."""
    return record.getMessage().rstrip("\n")


def _traceback(record: logging.LogRecord) -> list[str]:
    """The lines of the traceback of *record*, none when it has no exception."""
    if not record.exc_info:
        return []
    lines = logging.Formatter().formatException(record.exc_info).split("\n")
    left_out = len(lines) - MAX_TRACEBACK
    if left_out > 0:
        half = MAX_TRACEBACK // 2
        lines[half:-half] = [f"... {left_out} lines left out ..."]
    return [line[:_LONGEST_LINE] for line in lines]


def _one_line(text: str) -> str:
    """*text* if it is printable ASCII, else escaped: a reader of logs may take other characters for a line end."""
    return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode("ascii")


class _Lines(logging.Handler):
    """Each record a line, written at once and in one piece; where it cannot be written the server goes on."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))


def start(form: str, level: str, descriptor: int = 2) -> None:
    """Write the log of this process to the file *descriptor*, in one of FORMATS, from one of LEVELS up.

    What no line shows is not asked for: the place in the program, the thread and the process of each record.
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Lines(descriptor)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
