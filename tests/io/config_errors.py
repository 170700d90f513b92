"""Run the command with invalid arguments, in the process of the tests."""

from __future__ import annotations

import pytest

from mailauth_io.cli import main as cli


def config_error(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command with invalid *arguments*, and return the one line that it prints to standard error."""
    status: object
    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = end.code
    said = capfd.readouterr()
    assert (status, said.out, said.err.count("\n")) == (2, "", 1), said
    assert said.err.startswith("mailauth")
    return said.err
