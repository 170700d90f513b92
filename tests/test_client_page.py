"""The programs in docs/client.md run, and send and collect what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import serving
from tests.io.client.peers import Script, pop3_server, smtp_server

PAGE = (Path(__file__).parent.parent / "docs" / "client.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HOST = 'host="mail.example.org"'


def run(program: str, port: int) -> str:
    """Run a program of the page against the server on *port*, and return its output."""
    assert program.count(HOST) == 1
    text = program.replace(HOST, f'host="127.0.0.1", port={port}, tls="none"')
    return subprocess.run(
        [sys.executable, "-c", text], env=serving.environment(), capture_output=True, text=True, timeout=60, check=True
    ).stdout


REJECTED = "rejected for carol@example.org, try again never: 550 5.1.1 unknown\n"


@pytest.mark.parametrize(
    ("number", "output", "subjects"),
    [
        (0, "", [b"tea"]),
        (1, f"accepted for bob@example.org\n{REJECTED}", [b"tea"]),
        (2, "bob@example.org True\ncarol@example.org False\n", [b"tea"]),
    ],
)
def test_programs_that_send(number: int, output: str, subjects: list[bytes]) -> None:
    script: Script = {"RCPT carol@example.org": b"550 5.1.1 unknown\r\n"}
    with smtp_server(script) as peer:
        assert run(PROGRAMS[number], peer.port) == output
    assert [re.findall(rb"^Subject: (\w+)", message, re.MULTILINE)[0] for message in peer.messages] == subjects
    assert any(line.startswith("AUTH PLAIN ") for line in peer.heard)


@pytest.mark.parametrize(("number", "output"), [(3, "one 23\ntwo 25\nthree 25\n"), (4, "one\ntwo\nthree\n")])
def test_programs_that_collect(number: int, output: str) -> None:
    with pop3_server({}) as peer:
        assert run(PROGRAMS[number], peer.port) == output
    assert peer.deleted == [1, 2, 3]


def test_every_program_is_run() -> None:
    assert len(PROGRAMS) == 5
