"""Correct programs of users pass ``mypy --strict``, and their mistakes are reported.

``accepted/`` and ``examples/`` must pass without errors.  In ``refused/`` the lines marked ``# error: [code]``, and no
others, must have an error with that code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ACCEPTED = sorted([*HERE.glob("accepted/*.py"), *ROOT.glob("examples/*.py")])
REFUSED = sorted(HERE.glob("refused/*.py"))

_MARK = re.compile(r"# error: \[([a-z-]+)\]$")
_ERROR = re.compile(r"(?P<path>.+?\.py):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]")

Errors: TypeAlias = Counter[tuple[str, int, str]]
"""(file, line, code) of each error."""


def marked(path: Path) -> Errors:
    """Return the errors marked in a program."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return Counter((path.name, number, found[1]) for number, line in lines if (found := _MARK.search(line)))


@pytest.fixture(scope="module")
def mypy_says(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the output of ``mypy --strict`` without the project's settings, for all programs in one run."""
    programs = [str(path.relative_to(ROOT)) for path in (*ACCEPTED, *REFUSED)]
    cache = tmp_path_factory.mktemp("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "--no-pretty"]
    command += ["--no-color-output", "--no-error-summary", "--hide-error-context", *programs]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "MYPYPATH": "src"}, capture_output=True, text=True)
    assert run.stderr == ""
    assert run.returncode == 1  # 2 would mean that mypy could not check them
    return run.stdout


def errors(output: str, paths: list[Path]) -> Errors:
    names = {str(path.relative_to(ROOT)) for path in paths}
    found = [match for line in output.splitlines() if (match := _ERROR.fullmatch(line))]
    return Counter((Path(m["path"]).name, int(m["line"]), m["code"]) for m in found if m["path"] in names)


def test_every_line_of_mypy_output_is_recognized(mypy_says: str) -> None:
    """There is no error in the library itself, which the tests below would not detect."""
    rest = [line for line in mypy_says.splitlines() if not (_ERROR.fullmatch(line) or ": note: " in line)]
    assert rest == []
    told = errors(mypy_says, [*ACCEPTED, *REFUSED])
    assert told.total() == sum(1 for line in mypy_says.splitlines() if ": error: " in line)


def test_wrong_answer_type_gets_the_expected_mypy_message(mypy_says: str) -> None:
    """The code is [misc]; the message shows that no type fits both the question and the answer."""
    sentences = [line for line in mypy_says.splitlines() if "_wrong_answer.py" in line]
    assert sentences
    assert [line for line in sentences if 'Cannot infer value of type parameter "A" of "answer"' not in line] == []


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_accepted_program_passes_mypy(path: Path, mypy_says: str) -> None:
    assert errors(mypy_says, [path]) == Counter()


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_mypy_reports_errors_exactly_at_the_marked_lines(path: Path, mypy_says: str) -> None:
    """mypy reports a wrong answer type and a question without a branch."""
    assert marked(path)
    assert errors(mypy_says, [path]) == marked(path)


# pyright, the other type checker, has codes of its own: only files and lines are compared.


@pytest.fixture(scope="module")
def pyright_says() -> list[tuple[str, int]]:
    """Return (file, line) of each error that pyright reports in strict mode."""
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(HERE)],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    found = json.loads(run.stdout)
    assert found["summary"]["filesAnalyzed"] >= len([*ACCEPTED, *REFUSED])
    return [(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found["generalDiagnostics"]]


def test_pyright_reports_the_same_lines(pyright_says: list[tuple[str, int]]) -> None:
    wrong = sorted((name, line) for path in REFUSED for name, line, _ in marked(path))
    assert sorted(set(pyright_says)) == wrong
