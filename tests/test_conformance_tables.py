"""The conformance tables under docs/ name tests that exist: a row without proof is worth nothing."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
TABLES: Final = [
    table for table in sorted((TESTS.parent / "docs").glob("*.md")) if table.name in {"pop3.md", "smtp.md", "sasl.md"}
]
NAMED: Final = re.compile(r"`(?:tests/)?([\w/]+\.py)::(\w+)`")


def defined(file: Path) -> set[str]:
    """What pytest may find in *file*: functions, and names that are assigned to (a stateful test)."""
    names: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body if file.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def missing(text: str) -> list[str]:
    """The tests named in *text* that do not exist."""
    return [f"{file}::{name}" for file, name in NAMED.findall(text) if name not in defined(TESTS / file)]


def unproved(text: str) -> list[str]:
    """The rows without a test, of the tables that have a column for it."""
    rows, wanted = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            wanted = False
        elif line.endswith("| test |"):
            wanted = True
        elif wanted and not line.startswith("|--") and not NAMED.search(line):
            rows.append(line)
    return rows


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_named_test_exists(table: Path) -> None:
    assert missing(table.read_text("utf-8")) == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_row_names_a_test(table: Path) -> None:
    assert unproved(table.read_text("utf-8")) == []


def test_a_test_that_is_not_there_is_seen() -> None:
    assert missing("`pop3/test_utf8.py::test_nothing`, `pop3/none.py::test_b`") == [
        "pop3/test_utf8.py::test_nothing",
        "pop3/none.py::test_b",
    ]
    assert unproved("| a | test |\n|---|---|\n| 3 | done |\n| 4 | `x.py::test_y` |\n\n| a | b |") == ["| 3 | done |"]


def test_there_is_a_table() -> None:
    assert any(NAMED.search(table.read_text("utf-8")) for table in TABLES)
