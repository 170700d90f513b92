"""Run the examples as from a shell: in a separate process, or in this one where that would be slow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 60.0
"""Seconds after which a program that hangs is ended; tests do not wait this long."""


@attrs.frozen
class Result:
    status: int
    out: str
    err: str


@attrs.frozen
class CertificateFiles:
    certificate: Path
    """The certificate and key of the server, for 127.0.0.1."""
    ca: Path
    """The CA file of the client."""


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child process; output is buffered as usual, so that a missing flush is detected."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "MAIL_PASSWORD")}
    return {**inherited, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error", **variables}


def run(name: str, *arguments: object, **variables: str) -> Result:
    """Run an example to completion in a separate process."""
    program = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        start_new_session=True,  # no terminal, so a program that asks for a password fails instead of waiting
    )
    return Result(program.returncode, program.stdout, program.stderr)


def readme_server_on_trio(directory: Path) -> Path:
    """Write examples/server.py with the changes that the README shows for trio; return the file."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    program = (ROOT / "examples" / "server.py").read_text("utf-8")
    lines = diff.splitlines(keepends=True)
    for before, after in zip(lines[::2], lines[1::2], strict=True):
        assert (before[0], after[0], program.count(before[1:])) == ("-", "+", 1), before
        program = program.replace(before[1:], after[1:])
    assert "asyncio" not in program
    path = directory / "server.py"
    path.write_text(program)
    return path


@contextmanager
def started(
    name: str | Path, *arguments: object, errors: Path, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run an example, or a program at an absolute path, that serves; yield the process and its port.

    Its stderr goes to *errors*.
    """
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    with (
        errors.open("w") as err,
        subprocess.Popen(
            command, env=environment(**variables), stdout=subprocess.PIPE, stderr=err, text=True
        ) as program,
    ):
        try:
            assert program.stdout is not None
            line = program.stdout.readline()
            found = re.fullmatch(r"listening on 127\.0\.0\.1, ports? (\d+)(?: \(SMTP\) and \d+ \(POP3\))?\n", line)
            assert found is not None, line + errors.read_text()
            yield program, int(found[1])
        finally:
            program.terminate()
    assert "Traceback" not in errors.read_text(), errors.read_text()


@contextmanager
def listening(name: str, *arguments: object, errors: Path, **variables: str) -> Iterator[int]:
    """Run an example that serves; yield only its port."""
    with started(name, *arguments, errors=errors, **variables) as (_, port):
        yield port
