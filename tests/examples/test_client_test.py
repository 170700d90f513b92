"""examples/client_test.py passes, and its tests fail for a client that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import programs

EXAMPLE = (programs.ROOT / "examples" / "client_test.py").read_text("utf-8")


def failed(tests: str, folder: Path) -> set[str]:
    """Run *tests* in *folder*; return the names of those that fail."""
    (folder / "client_test.py").write_text(tests, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", str(folder)]
    command += [argument for name in ("cacheprovider", "asyncio", "trio") for argument in ("-p", f"no:{name}")]
    run = subprocess.run(
        command, env=programs.environment(), cwd=folder, capture_output=True, text=True, timeout=programs.TIMEOUT
    )
    summary = run.stdout.splitlines()[-1]
    assert re.match(r"(\d+ failed, )?\d+ passed", summary), run.stdout
    return set(re.findall(r"^FAILED client_test\.py::(\w+)", run.stdout, re.MULTILINE))


def test_example_passes(tmp_path: Path) -> None:
    assert failed(EXAMPLE, tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (("[recipient], MESSAGE)", "[recipient], MESSAGE + b'.')"), "test_message_arrives_unchanged"),
        (('client.login("alice", password)', "pass"), "test_wrong_password_is_reported"),
        (('client.login("alice", password)', "client.ehlo()"), "test_message_arrives_unchanged"),
        (("client.starttls(context=server.ssl_context)", "pass"), "test_invalid_certificate_is_rejected"),
        (("client.stat()[0]", "0"), "test_mail_is_fetched"),
    ],
)
def test_example_detects_a_wrong_client(change: tuple[str, str], name: str, tmp_path: Path) -> None:
    old, new = change
    assert EXAMPLE.count(old) == 1
    assert name in failed(EXAMPLE.replace(old, new), tmp_path)
