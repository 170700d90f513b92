"""The suites of the test kit, examples/test_mail_client.py and its asynchronous twin, pass with each pytest plugin."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.programs import ROOT, TIMEOUT, environment

SYNCHRONOUS, ASYNCHRONOUS = "test_mail_client.py", "test_async_mail_client.py"

ASYNCIO = (
    *("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)
ANYIO = ("-p", "anyio.pytest_plugin", "-o", "anyio_mode=auto")
TRIO = ("-p", "pytest_trio.plugin", "-o", "trio_mode=true")
XDIST = ("-p", "xdist.plugin", "-n", "2")


def run_suite(name: str, directory: Path, *options: str) -> str:
    """Return what pytest prints.  It loads no plugins but those in *options*, and no configuration of this project."""
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(directory / "pytest.ini"), "--rootdir", str(directory)]
    plugin = ["-p", "no:cacheprovider", "-p", "mailauth_io.pytest_plugin"]
    done = subprocess.run(
        [*command, *plugin, *options, str(ROOT / "examples" / name)],
        cwd=directory,
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_ADDOPTS=""),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("name", "options", "passed"),
    [
        pytest.param(SYNCHRONOUS, (), 31, id="pytest"),
        pytest.param(SYNCHRONOUS, XDIST, 31, id="xdist"),
        pytest.param(ASYNCHRONOUS, ASYNCIO, 31, id="pytest-asyncio"),
        pytest.param(ASYNCHRONOUS, ANYIO, 62, id="anyio"),  # each test on asyncio and on trio
        pytest.param(ASYNCHRONOUS, TRIO, 31, id="pytest-trio"),
    ],
)
def test_suite_passes(name: str, options: tuple[str, ...], passed: int, tmp_path: Path) -> None:
    output = run_suite(name, tmp_path, *options)
    assert output.splitlines()[-1].startswith(f"{passed} passed in "), output


@pytest.mark.parametrize("name", [SYNCHRONOUS, ASYNCHRONOUS])
def test_suite_needs_less_than_ten_lines_of_set_up(name: str) -> None:
    """Set-up is what is neither a test, nor an import, nor the client under test."""
    source = (ROOT / "examples" / name).read_text("utf-8")
    lines = source.splitlines()
    docstring, *body = ast.parse(source).body
    lines[: docstring.end_lineno] = [""] * (docstring.end_lineno or 0)
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                first = node.lineno
            case ast.ClassDef(name="Mailer"):
                first = node.lineno
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name.startswith("test_"):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            case _:
                continue
        last = node.end_lineno or first
        lines[first - 1 : last] = [""] * (last - first + 1)
    set_up = [line for line in lines if line.strip()]
    assert 0 < len(set_up) < 10, set_up
