"""The programs shown in the README are the files in examples/ and run; links in the documentation are valid."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}

TIMEOUT = 60.0
"""Seconds after which a program that hangs is ended; no test normally takes that long."""


def blocks(kind: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def lines_of_code(text: str) -> int:
    """Return the number of lines that are neither empty nor in the docstring of the file."""
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return sum(1 for line in text.splitlines() if line.strip()) - len(docstring.splitlines())


@contextmanager
def example_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run examples/server.py in a process: (the process, its port)."""
    command = [sys.executable, str(EXAMPLES / "server.py")]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.fullmatch(r"listening on 127\.0\.0\.1, port (\d+)\n", process.stdout.readline())
            assert found is not None
            yield process, int(found[1])
        finally:
            process.terminate()


def test_readme_shows_make_demo_and_make_test() -> None:
    (section,) = re.findall(r"^## Demo and tests\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\$ (make \w+)", blocks("console", section)[0], re.MULTILINE) == ["make demo", "make test"]


def test_methods_page_shows_the_output_of_the_methods_command() -> None:
    command = [sys.executable, "-m", "mailauth_io", "methods"]
    run = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True)
    assert blocks("text", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")) == [run.stdout]


def test_the_programs_in_the_readme_are_the_examples() -> None:
    names = ("client.py", "server.py", "session_test.py")
    assert blocks("python")[:-1] == [(EXAMPLES / name).read_text(encoding="utf-8") for name in names]


def test_the_test_with_the_test_kit_passes_and_can_fail(tmp_path: Path) -> None:
    """It is the first one of docs/testing.md."""
    test = blocks("python")[-1]
    assert test == blocks("python", (ROOT / "docs" / "testing.md").read_text(encoding="utf-8"))[0]
    (tmp_path / "test_right.py").write_text(test)
    (tmp_path / "test_wrong.py").write_text(test.replace("Subject: Welcome", "Subject: Goodbye"))
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", str(tmp_path)]
    command += [argument for name in ("cacheprovider", "asyncio", "trio") for argument in ("-p", f"no:{name}")]
    run = subprocess.run(
        command, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False
    )
    assert run.stdout.splitlines()[-1].startswith("1 failed, 1 passed"), run.stdout
    assert "FAILED test_wrong.py::test_welcome_mail" in run.stdout


def test_example_programs_do_not_exceed_their_line_limits() -> None:
    """The README shows them whole, so they must stay short enough to be read there."""
    assert lines_of_code((EXAMPLES / "server.py").read_text(encoding="utf-8")) <= 30
    assert lines_of_code((EXAMPLES / "client.py").read_text(encoding="utf-8")) <= 15


def test_the_test_in_the_readme_passes_and_can_fail(tmp_path: Path) -> None:
    test = (EXAMPLES / "session_test.py").read_text(encoding="utf-8")
    (tmp_path / "session_test.py").write_text(test)
    (tmp_path / "broken_test.py").write_text(test.replace("event.password == password", "True"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(tmp_path)]
    run = subprocess.run(
        command, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False
    )
    assert run.stdout.splitlines()[-1].startswith("1 failed, 1 passed"), run.stdout
    assert "FAILED broken_test.py" in run.stdout


def test_the_example_client_submits_to_the_example_server() -> None:
    """A client without an event loop and an asyncio server, over a real socket."""
    with example_server() as (server, port):
        command = [sys.executable, str(EXAMPLES / "client.py"), str(port)]
        client = subprocess.run(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True
        )
        server.terminate()
        printed, _ = server.communicate(timeout=TIMEOUT)
    assert f"$ python examples/client.py 36917\n{client.stdout}```\n" in README
    assert "Subject: test" in printed
    assert "Down the rabbit-hole." in printed


def test_example_server_rejects_wrong_password_and_unauthenticated_relay() -> None:
    """With smtplib as the client, without a login and with a wrong password."""
    program = """
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60) as client:
    try:
        client.login("alice", "queen of hearts")
    except smtplib.SMTPAuthenticationError as error:
        print(error.smtp_code)
    try:
        client.sendmail("alice@example.test", ["dinah@example.org"], b"Subject: no")
    except smtplib.SMTPRecipientsRefused as error:
        print(error.recipients["dinah@example.org"][0])
"""
    with example_server() as (_, port):
        command = [sys.executable, "-c", program, str(port)]
        client = subprocess.run(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True
        )
    assert client.stdout.split() == ["535", "550"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_target_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_named_in_a_page_exists(page: Path) -> None:
    named = re.findall(r"`((?:tests|docs|examples|src|benchmarks)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    made = "docs/_build/"  # `make docs` writes it
    assert [name for name in named if not (name.startswith(made) or (ROOT / name).exists())] == []


@pytest.mark.parametrize("number", [0, 1])
def test_programs_in_contributing_page_run(number: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(blocks("python", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))[number])
    command = [sys.executable, "-W", "error", str(program)]
    run = subprocess.run(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT
    )
    assert (run.returncode, run.stdout) == (0, "")


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[^)]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))
