"""The configuration of Sphinx, which makes the HTML documentation: ``make docs``.

Three things of the sources are adapted: examples in docstrings have no ``::`` before them, links in the Markdown pages
point to files of the repository, and those pages have no directives, so that they can be read without Sphinx.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS: Final = Path(__file__).resolve().parent
REPOSITORY: Final = "https://github.com/mailauth/mailauth"

TREES: Final = {
    "index": ["reference/index", "architecture", "stability", "smtp", "pop3", "sasl", "*", "decisions/README"],
    "decisions/README": ["0*"],
}
"""The pages below a page, in the order of the navigation; ``*`` stands for the others."""

PACKAGES: Final = (
    *("mailauth", "mailauth.smtp", "mailauth.pop3", "mailauth.sasl"),
    *("mailauth_io.adapters", "mailauth_io.client", "mailauth_io.server", "mailauth_io.stores"),
    "mailauth_io.testing",
)

sys.path.insert(0, str(DOCS.parent / "src"))

project = "mailauth"
version = release = importlib.import_module("mailauth").__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"mailauth {release}"

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
toc_object_entries_show_parents = "hide"


def mark_examples(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with ``::`` before each example, so that Sphinx shows it as code.

    An example is indented by at least four spaces, after a blank line and a line of text that is not indented.
    """
    result: list[str] = []
    text = ""  # the last line that is not indented
    blank = False  # whether the previous line is blank
    for line in lines:
        if line.startswith("    "):
            if blank and text and not text.startswith("* ") and not text.endswith("::"):
                result += ["::", ""]
            text = ""  # the further lines belong to the same example
        elif line:
            text = "" if line.startswith(" ") else line
        blank = not line
        result.append(line)
    return result


def repository_links(source: str, folder: Path) -> str:
    """Return the Markdown page *source* of *folder* with absolute links to files that are not pages."""

    def absolute(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target.suffix == ".md" and target.is_relative_to(DOCS):
            return link[0]
        return f"]({REPOSITORY}/blob/main/{target.relative_to(DOCS.parent)}"

    return re.sub(r"\]\((?!\w+:|#)([^)#]+)", absolute, source)


def add_tree(source: str, page: str) -> str:
    """Return the Markdown *source* of *page* with the directive that lists the pages below it."""
    if page not in TREES:
        return source
    return "\n".join([source, "```{toctree}", ":hidden:", ":glob:", "", *TREES[page], "```", ""])


def document_constants(package: str) -> None:
    """Let autodoc find the docstrings of constants that *package* imports from its modules.

    It takes the docstring of a constant from the source of the module that it documents.
    """
    from sphinx.pycode import ModuleAnalyzer

    exported = importlib.import_module(package)
    analyzer = ModuleAnalyzer.for_module(package)
    analyzer.analyze()
    for name in [name for name in sorted(sys.modules) if name.startswith(f"{package}.")]:
        module = ModuleAnalyzer.for_module(name)
        module.analyze()
        for (scope, constant), docstring in module.attr_docs.items():
            if not scope and constant in exported.__all__:
                analyzer.attr_docs.setdefault(("", constant), docstring)


def _read_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = mark_examples(lines)


def _read_page(app: Sphinx, page: str, content: list[str]) -> None:
    path = app.env.doc2path(page)
    if path.suffix == ".md":
        content[0] = add_tree(repository_links(content[0], path.parent), page)


def _start(app: Sphinx) -> None:
    for package in PACKAGES:
        document_constants(package)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", _start)
    app.connect("source-read", _read_page)
    app.connect("autodoc-process-docstring", _read_docstring)
