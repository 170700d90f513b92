"""Run all benchmarks, print their tables, and write them with plots to docs/performance.md.

The page has a block for each table, between two comments: <!-- begin NAME --> and <!-- end NAME -->.  Everything else
on the page is written by hand.  Each part runs as a program of its own.

  python benchmarks/bench.py                 all tables, in less than ten minutes on two cores
  python benchmarks/bench.py --quick         a test run of less than a minute, which does not write the page
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import attrs

import _svg
import targets
from _load import ASYNCIO
from _results import Values
from adapters import TABLES

PROGRAMS: Final = Path(__file__).parent
DOCS: Final = PROGRAMS.parent / "docs"
PAGE: Final = DOCS / "performance.md"
BLOCK: Final = "<!-- begin {0} -->\n{1}<!-- end {0} -->"


@attrs.frozen
class Part:
    """A program whose output is one block of the page."""

    name: str
    command: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Options of a complete run, not of a quick one."""
    rounds: int | None = None
    """The number of rounds that fits into ten minutes, for a program with ``--rounds``."""
    verbatim: bool = False
    """Whether the output is plain text, not Markdown."""
    quick: tuple[str, ...] = ("--quick",)
    """Options of a quick run, which leaves out a program without any."""
    has_values: bool = True
    """Whether the program has the option ``--values``."""


PARTS: Final = (
    Part("smtp", ("adapters.py", "SMTP"), rounds=4),
    Part("pop3", ("adapters.py", "POP3"), rounds=4),
    Part("tls", ("adapters.py", "TLS"), rounds=4, quick=("--quick", "--column", "SMTPS")),
    Part("python", ("adapters.py", "Python"), rounds=3, quick=("--quick", "--column", "lock step")),
    Part("features", ("features.py",), rounds=4),
    Part("bytecodes", ("bytecodes.py",)),
    Part("smtp-in-memory", ("smtp_core.py",)),
    Part("pop3-in-memory", ("pop3_core.py",)),
    Part("linear", ("linear.py",)),
    Part("idle", ("idle.py",)),
    Part("imports", ("imports.py",), has_values=False),
    Part("bystander", ("before_login.py",), ("--short",), verbatim=True, quick=()),
)


def run(part: Part, rounds: int | None, *, quick: bool) -> tuple[str, Values]:
    """Run a part, print its output, and return it with its figures."""
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "values.json"
        program, *words = part.command
        if quick:
            words += part.quick
        else:
            words += part.options
            words += ["--rounds", str(rounds or part.rounds)] if part.rounds else []
        words += ["--values", str(values)] if part.has_values else []
        command = [sys.executable, str(PROGRAMS / program), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(part.command)} failed")
        print(done.stdout, flush=True)
        return done.stdout, json.loads(values.read_text()) if part.has_values else _ratios(part.name, done.stdout)


def _ratios(title: str, text: str) -> Values:
    """Return the last column of a Markdown table, for a program without ``--values``."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines())
    return {title: {row[0]: {head[-1]: float(row[-1])} for row in rows}}


def plots(values: Values) -> dict[str, str]:
    """Return the plots by the name of their file."""
    drawn = {}
    for title, name in (("SMTP", "smtp"), ("POP3", "pop3"), ("TLS", "tls")):
        rows = {row: columns for row, columns in values.get(title, {}).items() if row != ASYNCIO}
        if rows:
            text = f"{title}: CPU time / that of {ASYNCIO} (logarithmic; right of 1: mailauth is cheaper)"
            drawn[f"performance-{name}.svg"] = _svg.dots(text, rows, [column for _, column in TABLES[title]])
    if linear := values.get("linear"):
        points = {row: {float(size): cost for size, cost in each.items()} for row, each in linear.items()}
        drawn["performance-linear.svg"] = _svg.lines("Nanoseconds per unit, by the number of units", points)
    return drawn


def with_block(page: str, name: str, text: str) -> str:
    """Return *page* with *text* in the block *name*.  Raises ValueError if it has no such block."""
    pattern = re.compile(BLOCK.format(re.escape(name), ".*?"), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"{PAGE} must have one block {name!r}")
    return pattern.sub(lambda found: BLOCK.format(name, text), page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of everything; does not write the page")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each table with sockets (default: 3 or 4)")
    parser.add_argument("--values", type=Path, metavar="FILE", help="also write all figures to FILE, as JSON")
    parser.add_argument("--no-page", action="store_true", help="only print the tables")
    options = parser.parse_args()
    start = time.monotonic()
    page = PAGE.read_text(encoding="utf-8")
    values: Values = {}
    for part in PARTS:
        if options.quick and not part.quick:
            continue
        text, figures = run(part, options.rounds, quick=options.quick)
        values |= figures
        text = text.strip("\n") or "Not measured."
        page = with_block(page, part.name, f"\n```text\n{text}\n```\n\n" if part.verbatim else f"\n{text}\n\n")
    table = targets.markdown(values)
    page = with_block(page, "targets", f"\n{table}\n")
    print(f"{table}\n{time.monotonic() - start:,.0f} seconds")
    if options.values:
        options.values.write_text(json.dumps(values))
    if not options.quick and not options.no_page:
        for name, plot in plots(values).items():
            (DOCS / name).write_text(plot, encoding="utf-8")
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
