"""Runs the tests of the server in both modes: with tolerant syntax, which is the default, and with strict syntax."""

from __future__ import annotations

from typing import Final

import pytest

from tests.smtp import drive

BOTH_MODES: Final = frozenset({
    *("clients", "endings", "pipelining", "rows", "server_answers", "server_chunks", "server_commands"),
    *("server_content", "server_lmtp", "server_login", "server_parameters", "server_tls", "smtputf8", "smuggling"),
    *("transcripts", "transitions"),
})  # fmt: skip
"""The modules, without ``test_``.  Those with properties of any input choose the mode themselves."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".test_")[2] in BOTH_MODES:
        metafunc.parametrize("syntax", ["tolerant", "strict"], indirect=True)


@pytest.fixture(autouse=True)
def syntax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "strict_syntax", getattr(request, "param", "tolerant") == "strict")
