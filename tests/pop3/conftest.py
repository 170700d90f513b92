"""Runs the tests of the server in both modes: with tolerant syntax, which is the default, and with strict syntax."""

from __future__ import annotations

from typing import Final

import pytest

from tests.pop3 import drive

BOTH_MODES: Final = frozenset(
    {"authorization", "back_to_back", "extensions", "rfc_examples", "session_end", "transaction", "utf8", "verbs"}
)
"""The modules, without ``test_``.  Those with properties of any input choose the mode themselves."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "tolerant" not in metafunc.fixturenames and metafunc.module.__name__.rpartition(".test_")[2] in BOTH_MODES:
        metafunc.parametrize("syntax", ["tolerant", "strict"], indirect=True)


@pytest.fixture(autouse=True)
def syntax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "strict_syntax", getattr(request, "param", "tolerant") == "strict")


@pytest.fixture
def tolerant() -> None:
    """For a test of what is accepted only without strict syntax."""
