"""Each row of the conformance tables in docs/ names a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
_NAMED: Final = re.compile(r"`([a-z0-9_/]+\.py)::([tT]est\w+)`")
_RULE: Final = re.compile(r"\|[-| ]+\|")


def missing(table: str) -> list[str]:
    """Return the errors in the tables of one page: rows without a test, and tests that do not exist."""
    faults = []
    lines = table.splitlines()
    inside = False
    for number, line in enumerate(lines):
        if _RULE.fullmatch(line):
            inside = lines[number - 1].endswith("| test |")
        elif not line.startswith("|"):
            inside = False
        elif inside:
            named = _NAMED.findall(line)
            if not named or line.count(".py::") != len(named):
                faults.append(f"no test, or one that cannot be read: {line}")
            faults += [f"{file}::{test}" for file, test in named if test not in names_in(file)]
    return faults


@cache
def names_in(file: str) -> set[str]:
    path = ROOT / "tests" / file
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return functions | {target.id for target in assigned if isinstance(target, ast.Name)}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8")) == []


def test_smtp_page_names_more_than_50_tests() -> None:
    """Otherwise the test above would check nothing."""
    assert len(_NAMED.findall((ROOT / "docs" / "smtp.md").read_text(encoding="utf-8"))) > 50


@pytest.mark.parametrize(
    "row",
    [
        "| 1, 2 | it | |",
        "| 1, 2 | it | `test_conformance.py::test_that_nobody_wrote` |",
        "| 1, 2 | it | `no_such_file.py::test_a` |",
        "| 1, 2 | it | `test_conformance.py::test_smtp_page_names_more_than_50_tests` test_conformance.py::test_x |",
    ],
)
def test_row_without_an_existing_test_is_reported(row: str) -> None:
    head = "| RFC, section | what we do | test |\n|---|---|---|\n"
    assert len(missing(head + row)) == 1
    assert missing(head + "| 1, 2 | it | `test_conformance.py::test_smtp_page_names_more_than_50_tests` |") == []
