"""Runs the tests of the servers in both modes: with tolerant syntax, which is the default, and with strict syntax.

``tests/smtp/conftest.py`` and ``tests/pop3/conftest.py`` import the hook and the fixtures.  ``-m "not strict_syntax"``
leaves out the second run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

MODULES: Final = {
    "pop3": frozenset(
        {"authorization", "back_to_back", "extensions", "rfc_examples", "session_end", "transaction", "utf8", "verbs"}
    ),
    "smtp": frozenset({
        *("clients", "endings", "pipelining", "rows", "server_answers", "server_chunks", "server_commands"),
        *("server_content", "server_lmtp", "server_login", "server_parameters", "server_tls", "smtputf8", "smuggling"),
        *("transcripts", "transitions"),
    }),
}  # fmt: skip
"""The modules of each directory, without ``test_``.  Those with properties of any input choose the mode themselves."""

strict = False
"""Whether the servers of ``drive`` have strict syntax; the fixture *syntax* sets it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path
    if "tolerant" not in metafunc.fixturenames and path.stem.removeprefix("test_") in MODULES[path.parent.name]:
        modes = ["tolerant", pytest.param("strict", marks=pytest.mark.strict_syntax)]
        metafunc.parametrize("syntax", modes, indirect=True)


@pytest.fixture(autouse=True)
def syntax(request: pytest.FixtureRequest) -> Iterator[None]:
    global strict
    strict = getattr(request, "param", "tolerant") == "strict"
    yield
    strict = False


@pytest.fixture
def tolerant() -> None:
    """For a test of what is accepted only without strict syntax."""
