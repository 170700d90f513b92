"""The TOML configuration file of ``mailauth serve``: its settings and its errors.

The files that it names are read by ``config``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from .._files import read_input
from .errors import ConfigError
from .options import Kind, Option
from .parsers import ValueParseError
from .settings import OPTIONS, Settings

_AT_LINE: Final = re.compile(r" \(at line ([0-9]+), column [0-9]+\)\Z")
_AT_END: Final = " (at end of document)"
_KINDS: Final[Mapping[Kind, str]] = {
    str: "a string in quotes",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}
_BY_PLACE: Final[Mapping[tuple[str, str], str]] = {(row.table, row.key): name for name, row in OPTIONS.items()}
_TABLES: Final = tuple(dict.fromkeys(row.table for row in OPTIONS.values()))


@attrs.frozen(kw_only=True)
class FileSettings:
    """The settings and the errors of one file."""

    values: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    """The valid values, by the names of the fields of Settings."""
    places: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """``FILE:LINE: [table] key`` of each value, by the same names."""
    errors: tuple[ConfigError, ...] = ()
    """``FILE:LINE: [table] key: error``, in the order of the lines."""
    broken: frozenset[str] = frozenset()
    """The tables that have errors."""

    def settings(self, flags: Mapping[str, Any]) -> Settings:
        """Return these values, overridden by *flags*.  Raises the first error, if there is one."""
        if self.errors:
            raise self.errors[0]
        return self.valid_settings(flags)

    def valid_settings(self, flags: Mapping[str, Any]) -> Settings:
        """Return the valid values, overridden by *flags*, whatever errors there are."""
        places = {name: where for name, where in self.places.items() if name not in flags}
        return Settings(**{**self.values, **flags}, places=places)


def read(path: Path) -> FileSettings:
    """Read the settings in *path*.  All errors are in the result; nothing is raised."""
    try:
        data, status = read_input(path)
    except OSError as error:
        return _only_error(f"{path}: cannot be read: {error.strerror}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        return _only_error(f"{path}:{number}: not valid UTF-8; save the file as UTF-8")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        found = _AT_LINE.search(reason)
        number = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        return _only_error(f"{path}:{number}: invalid TOML: {_AT_LINE.sub('', reason).removesuffix(_AT_END)}")
    except (RecursionError, ValueError):
        return _only_error(f"{path}: nested too deeply, or a number has too many digits; simplify the file")
    return _FileReader(path, text, private=not status.st_mode & 0o066).read(document)


def _only_error(config_error: str) -> FileSettings:
    return FileSettings(errors=(ConfigError(config_error),), broken=frozenset(_TABLES))


class _FileReader:
    """Builds the FileSettings of one file."""

    def __init__(self, path: Path, text: str, *, private: bool) -> None:
        self._path = path
        self._lines = _Lines(text)
        self._private = private
        self._values: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        self._errors: list[tuple[int, ConfigError]] = []
        self._broken: set[str] = set()

    def read(self, document: Mapping[str, Any]) -> FileSettings:
        for table, keys in document.items():
            if table in _TABLES and isinstance(keys, Mapping):
                for key, value in cast("Mapping[str, Any]", keys).items():
                    self._take(table, key, value)
            else:
                self._add_error(_TABLES, self._lines.of(table), *self._misplaced(table, keys))
        self._errors.sort(key=lambda found: found[0])
        return FileSettings(
            values=self._values,
            places=self._places,
            errors=tuple(config_error for _, config_error in self._errors),
            broken=frozenset(self._broken),
        )

    def _misplaced(self, name: str, value: Any) -> tuple[str, str]:
        """Return the title and the error of a top-level item that is not a known table."""
        if name in _TABLES:
            return name, f"must be a table; write [{name}]"
        if isinstance(value, Mapping):
            return f"[{name}]", f"unknown table; {_nearest(name, _TABLES)}"
        for table, key in _BY_PLACE:
            if key == name:
                return name, f"outside of any table; move it below [{table}]"
        return name, f"unknown table; {_nearest(name, _TABLES)}"

    def _take(self, table: str, key: str, value: Any) -> None:
        line, title = self._lines.of(table, key), f"[{table}] {key}"
        name = _BY_PLACE.get((table, key))
        try:
            if name is None:
                keys = [row.key for row in OPTIONS.values() if row.table == table]
                raise ValueParseError(f"unknown key; {_nearest(key, keys)}")
            row = OPTIONS[name]
            if row.secret and not self._private:
                raise ValueParseError(
                    f"contains a secret, but other users can read or change this file; run: chmod 600 {self._path}"
                )
            self._values[name] = self._value(row, value)
        except ValueParseError as error:
            self._add_error([table], line, title, str(error))
        else:
            self._places[name] = f"{self._path}:{line}: {title}"

    def _value(self, row: Option, value: Any) -> Any:
        if not row.repeatable:
            return self._element(row, value, f"must be {_KINDS[row.kind]}")
        expected = f"must be an array; each element must be {_KINDS[row.kind]}"
        if not isinstance(value, list):
            raise ValueParseError(expected)
        if row.default and not value:
            raise ValueParseError("must not be empty; remove it to use the default")
        return tuple(self._element(row, element, expected) for element in cast("list[object]", value))

    def _element(self, row: Option, value: Any, expected: str) -> Any:
        fits = isinstance(value, (int, float) if row.kind is float else row.kind)
        if not fits or (isinstance(value, bool) and row.kind is not bool):
            raise ValueParseError(expected)
        try:
            text = str(value).lower() if row.kind is bool else str(value)
        except ValueError:  # a hexadecimal number, with too many digits for a decimal one
            raise ValueParseError(expected) from None
        found = row.read(text)
        return found if row.resolve is None else row.resolve(found, self._path.parent)

    def _add_error(self, tables: Iterable[str], line: int, title: str, text: str) -> None:
        self._broken.update(tables)
        self._errors.append((line, ConfigError(f"{self._path}:{line}: {title}: {text}")))


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    found = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {found[0]}?" if found else f"use one of {', '.join(names)}"


class _Lines:
    """The line numbers of tables and keys in a TOML text, which tomllib does not report.

    They are found by lines that start like a table or a key, so lines inside a multi-line string can be mistaken for
    keys.
    """

    _HEADER: Final = re.compile(r"\s*\[{1,2}\s*([^\]#]+?)\s*\]{1,2}\s*(?:#.*)?")
    _KEY: Final = re.compile(r"""\s*([A-Za-z0-9_\-."' ]+?)\s*=""")

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, ...], int] = {}
        for number, names in self._walk(text):
            for depth in range(1, len(names) + 1):
                self._found.setdefault(names[:depth], number)

    def _walk(self, text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if header := self._HEADER.fullmatch(line):
                table = _names(header[1])
                yield number, table
            elif key := self._KEY.match(line):
                yield number, (*table, *_names(key[1]))

    def of(self, *names: str) -> int:
        """Return the line of a table or of a key in it; of its table, or 1, if the key is not found."""
        return next(
            (self._found[names[:depth]] for depth in range(len(names), 0, -1) if names[:depth] in self._found), 1
        )


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))
