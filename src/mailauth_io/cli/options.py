"""How one setting of ``mailauth serve`` is written: as a flag, and as a key of the configuration file.

Knows argparse and the shapes that a setting can have; which settings there are is told by ``settings``.
"""

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
"""Under which a field of Settings keeps its Row, in its metadata."""


@attrs.frozen(kw_only=True)
class Option:
    """How one setting is written."""

    table: str
    key: str
    """Its place in the file: ``[table]``, then ``key = ...``."""
    flag: str | None
    """None: it can be set in the file alone."""
    kind: Kind
    """What it is in TOML; of each element when it is repeatable."""
    read: Callable[[str], Any]
    """Its value from its text; raises Wrong.  A value from TOML is taken as the text that one would write for it."""
    repeatable: bool
    default: Any
    metavar: str | None
    help: str
    secret: bool
    below: Callable[[Any, Path], Any] | None
    """What a value from a file means, where it names something relative to the directory of that file."""

    @property
    def title(self) -> str:
        """Its name in the file, as complaints have it."""
        return f"[{self.table}] {self.key}"

    def add_to(self, parser: argparse.ArgumentParser, name: str) -> None:
        """Give *parser* the flag, whose values go to *name*; a flag that is not given leaves nothing behind."""
        if self.flag is None:
            return
        if self.kind is bool:
            parser.add_argument(
                self.flag,
                dest=name,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=self._told(),
            )
            return
        parser.add_argument(
            self.flag,
            dest=name,
            action="append" if self.repeatable else "store",
            type=self._read_flag,
            default=argparse.SUPPRESS,
            metavar=self.metavar,
            help=self._told(),
        )

    def _told(self) -> str:
        told = f"{self.help}, repeatable" if self.repeatable else self.help
        defaults = self.default if self.repeatable else [self.default]
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in defaults if value is not None]
        return f"{told} ({', '.join(shown)})" if shown and self.kind is not bool else told

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
    below: Callable[[T, Path], T] | None = None,
) -> T | D:
    """A setting with one value."""
    row = Option(
        table=table, key=key, flag=flag, kind=kind, read=read, repeatable=False, default=default, metavar=metavar,
        help=help, secret=secret, below=below,
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
) -> tuple[T, ...]:
    """A setting with a list of values.  Flags take the place of the whole list of a file."""
    row = Option(
        table=table, key=key, flag=flag, kind=kind, read=read, repeatable=True, default=default, metavar=metavar,
        help=help, secret=secret, below=None,
    )  # fmt: skip
    return attrs.field(default=default, repr=not secret, metadata={OPTION: row})


def path(table: str, key: str, flag: str | None, *, metavar: str, help: str) -> Path | None:
    """A setting that names a file or a directory."""

    def below(path: Path, directory: Path) -> Path:
        return directory / path

    return value(table, key, flag, parsers.path, default=None, metavar=metavar, help=help, below=below)


def switch(table: str, key: str, flag: str | None, *, help: str) -> bool:
    """A setting that is off unless it is turned on; ``--no-...`` turns off what a file turns on."""
    row = Option(
        table=table, key=key, flag=flag, kind=bool, read=_true, repeatable=False, default=False, metavar=None,
        help=help, secret=False, below=None,
    )  # fmt: skip
    return attrs.field(default=False, metadata={OPTION: row})


def _true(text: str) -> bool:
    return text == "true"
