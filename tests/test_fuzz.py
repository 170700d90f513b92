"""The fuzzer finds nothing in a short run, and finds faults that are planted here."""

from __future__ import annotations

from typing import Any

import pytest

from mailauth import sasl
from mailauth.smtp import _command_lines
from tests.soak import fuzz


def test_short_run_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--inputs", "25", "--seed", "7"]) == 0
    assert capsys.readouterr().out == "seed 7: 25 inputs for each of 4 targets, no finding\n"


def test_tolerance_that_changes_the_meaning_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blanks in a quoted string are part of the address."""
    normalize = _command_lines.normalize

    def too_tolerant(verb: str, argument: str) -> str:
        return normalize(verb, argument).replace('"a b"', '"ab"')

    monkeypatch.setattr(_command_lines, "normalize", too_tolerant)
    assert fuzz.main(["--inputs", "500", "--seed", "7"]) == 1
    assert capsys.readouterr().out.startswith("SMTP server: Finding: ")


def test_exception_in_a_parser_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*arguments: Any) -> Any:
        raise KeyError(arguments)

    monkeypatch.setattr(sasl.LoginServer, "respond", fail)
    assert fuzz.main(["--inputs", "500", "--seed", "7"]) == 1
    assert "KeyError" in capsys.readouterr().out
