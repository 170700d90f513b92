"""The figures of the programs, for the page that ``bench.py`` writes: by table, row and column."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

Values = dict[str, dict[str, dict[str, float]]]
"""A figure by table, row and column."""

_WIDE: Final = 9.95


class Results:
    """Collects figures, and writes them to a file for ``bench.py``."""

    def __init__(self) -> None:
        self.values: Values = {}

    def add(self, table: str, row: str, columns: Mapping[str, float]) -> None:
        self.values.setdefault(table, {}).setdefault(row, {}).update(columns)

    def write(self, path: Path | None) -> None:
        """Write all figures to *path*; None writes nothing."""
        if path is not None:
            path.write_text(json.dumps(self.values))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every program that ``bench.py`` runs."""
    parser.add_argument("--quick", action="store_true", help="one short round, only to test the program")
    parser.add_argument("--values", type=Path, metavar="FILE", help="also write the figures to FILE, as JSON")


def short(number: float) -> str:
    """Format with about two digits."""
    return f"{number:.2f}" if number < 0.995 else f"{number:.1f}" if number < _WIDE else f"{number:,.0f}"
