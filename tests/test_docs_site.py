"""The hooks of docs/conf.py, which prepare docstrings and pages for Sphinx, and the pages of the API reference."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def conf() -> dict[str, Any]:
    path = list(sys.path)
    try:
        return runpy.run_path(str(DOCS / "conf.py"))
    finally:
        sys.path[:] = path


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Text.", "Text."),
        ("Text.\n\n    f()\n\nMore.", "Text.\n\n::\n\n    f()\n\nMore."),
        ("Text.\n\n    f(\n        1)\n\n    g()\n", "Text.\n\n::\n\n    f(\n        1)\n\n    g()\n"),
        ("Text.\n\n    f()\n\nMore.\n\n    g()", "Text.\n\n::\n\n    f()\n\nMore.\n\n::\n\n    g()"),
        ("Text::\n\n    f()", "Text::\n\n    f()"),
        ("Text.\n\n    >>> f()\n    1", "Text.\n\n::\n\n    >>> f()\n    1"),
        ("Text,\n    indented.", "Text,\n    indented."),
        ("* an item\n\n    of two paragraphs", "* an item\n\n    of two paragraphs"),
        ("* an item,\n  continued\n\n    of two paragraphs", "* an item,\n  continued\n\n    of two paragraphs"),
        ("    f()", "    f()"),
    ],
)
def test_indented_example_is_marked_as_code(conf: dict[str, Any], docstring: str, expected: str) -> None:
    assert conf["mark_examples"](docstring.split("\n")) == expected.split("\n")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](smtp.md#x)", "[a](smtp.md#x)"),
        ("[a](#x)", "[a](#x)"),
        ("[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("[a](../README.md)", "[a](https://github.com/mailauth/mailauth/blob/main/README.md)"),
        ("[a](../CONTRIBUTING.md#x)", "[a](https://github.com/mailauth/mailauth/blob/main/CONTRIBUTING.md#x)"),
        ("[a](example.toml)", "[a](https://github.com/mailauth/mailauth/blob/main/docs/example.toml)"),
    ],
)
def test_link_to_a_file_that_is_not_a_page_leads_to_the_repository(
    conf: dict[str, Any], link: str, expected: str
) -> None:
    assert conf["repository_links"](link, DOCS) == expected


def test_navigation_is_added_to_the_index_only_for_sphinx(conf: dict[str, Any]) -> None:
    assert "```{toctree}\n:hidden:\n:glob:\n\nreference/index\n" in conf["add_tree"]("# Title", "index")
    assert conf["add_tree"]("# Title", "smtp") == "# Title"
    assert "{toctree}" not in (DOCS / "index.md").read_text(encoding="utf-8")


def test_reference_has_every_public_module() -> None:
    """A module that only repeats names of others needs no page."""
    sections = re.split(r"^\[([\w.]+)\]$", (DOCS / "api.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    own = {
        module
        for module, names in zip(sections[::2], sections[1::2], strict=True)
        if any(not re.match(r"\w+ = mailauth", line) for line in names.split("\n") if line)
    }
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.rst")))
    shown = {
        name if kind == "module" else name.rpartition(".")[0]
        for kind, name in re.findall(r"^\.\. auto(\w+):: ([\w.]+)$", pages, re.MULTILINE)
    }
    assert own == shown
