"""One setting of ``mailauth serve``, as a flag and as a key of the configuration file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from . import parsers

T = TypeVar("T")
D = TypeVar("D")

Kind: TypeAlias = type[str] | type[int] | type[float] | type[bool]

OPTION: Final = "row"
"""The metadata key under which a field of Settings keeps its Option."""


@attrs.frozen(kw_only=True)
class Option:
    """How one setting is written on the command line and in the file."""

    table: str
    key: str
    """The place in the file: ``[table]``, then ``key = ...``."""
    flag: str | None
    """None if the setting can only be made in the file."""
    kind: Kind
    """The TOML type; of each element if the setting is repeatable."""
    read: Callable[[str], Any]
    """Returns the value for a text; raises ValueParseError.  A TOML value is converted to text first."""
    repeatable: bool
    default: Any
    metavar: str | None
    help: str
    secret: bool
    resolve: Callable[[Any, Path], Any] | None
    """Resolves a value from a file against the directory of that file, for settings that name a path."""

    @property
    def title(self) -> str:
        """The name in the file, as errors show it."""
        return f"[{self.table}] {self.key}"

    def add_to(self, parser: argparse.ArgumentParser, name: str, help: str | None = None) -> None:
        """Add the flag to *parser*, with *name* as its attribute, which is absent if the flag is not given.

        *help* replaces the help text.
        """
        if self.flag is None:
            return
        help = self._help_text() if help is None else help
        if self.kind is bool:
            parser.add_argument(
                self.flag,
                dest=name,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=help,
            )
            return
        parser.add_argument(
            self.flag,
            dest=name,
            action="append" if self.repeatable else "store",
            type=self._read_flag,
            default=argparse.SUPPRESS,
            metavar=self.metavar,
            help=help,
        )

    def _help_text(self) -> str:
        text = f"{self.help}; may be repeated" if self.repeatable else self.help
        if "(default: " in text:
            return text
        if self.kind is bool:
            return f"{text} (default: {'on' if self.default else 'off'})"
        defaults = self.default if self.repeatable else [self.default]
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in defaults if value is not None]
        return f"{text} (default: {', '.join(shown) or 'none'})"

    def _read_flag(self, text: str) -> Any:
        try:
            return self.read(text)
        except parsers.ValueParseError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def value(
    table: str,
    key: str,
    flag: str | None,
    read: Callable[[str], T],
    *,
    default: D,
    metavar: str,
    help: str,
    kind: Kind = str,
    secret: bool = False,
    resolve: Callable[[T, Path], T] | None = None,
) -> T | D:
    """Define a setting with one value."""
    row = Option(
        table=table, key=key, flag=flag, kind=kind, read=read, repeatable=False, default=default, metavar=metavar,
        help=help, secret=secret, resolve=resolve,
    )  # fmt: skip
    return attrs.field(default=default, repr=not secret, metadata={OPTION: row})


def values(
    table: str,
    key: str,
    flag: str | None,
    read: Callable[[str], T],
    *,
    metavar: str,
    help: str,
    default: tuple[T, ...] = (),
    kind: Kind = str,
    secret: bool = False,
    resolve: Callable[[T, Path], T] | None = None,
) -> tuple[T, ...]:
    """Define a setting with a list of values.  Flags replace the whole list of a file."""
    row = Option(
        table=table, key=key, flag=flag, kind=kind, read=read, repeatable=True, default=default, metavar=metavar,
        help=help, secret=secret, resolve=resolve,
    )  # fmt: skip
    return attrs.field(default=default, repr=not secret, metadata={OPTION: row})


def path(table: str, key: str, flag: str | None, *, metavar: str, help: str) -> Path | None:
    """Define a setting that names a file or directory."""

    def resolve(path: Path, directory: Path) -> Path:
        return directory / path

    return value(table, key, flag, parsers.path, default=None, metavar=metavar, help=help, resolve=resolve)


def switch(table: str, key: str, flag: str | None, *, help: str, default: bool = False) -> bool:
    """Define a setting that is on or off.  The flag and its ``--no-...`` override the file."""
    row = Option(
        table=table, key=key, flag=flag, kind=bool, read=_true, repeatable=False, default=default, metavar=None,
        help=help, secret=False, resolve=None,
    )  # fmt: skip
    return attrs.field(default=default, metadata={OPTION: row})


def _true(text: str) -> bool:
    return text == "true"
