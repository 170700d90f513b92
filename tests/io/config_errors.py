"""What the command says when it cannot do what it is told, in the process of the tests."""

from __future__ import annotations

import pytest

from mailauth_io.cli import main as cli


def config_error(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command with *arguments* that are wrong; the one sentence that it says."""
    status: object
    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = end.code
    said = capfd.readouterr()
    assert (status, said.out, said.err.count("\n")) == (2, "", 1), said
    assert said.err.startswith("mailauth")
    return said.err
