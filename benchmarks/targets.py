"""The targets of performance, and whether the figures of ``bench.py`` meet them.

python benchmarks/targets.py FILE    the table, from a file of figures (bench.py --values FILE)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs

from _load import AIOSMTPD, ASYNCIO, READY, STREAMS, TRIO, TWISTED
from _results import Values, short
from _workloads import SMTP

BOTH: Final = "{} / mailauth on asyncio"
TRANSACTION: Final = "Postfix: SIZE and BODY, pipelined, RSET"
KILOBYTES: Final = tuple(SMTP)[:6]
"""The columns with messages of 1 KB."""


@attrs.frozen(kw_only=True)
class Target:
    """One figure, and its limit."""

    name: str
    table: str
    row: str
    column: str
    limit: float
    at_most: bool = False
    convert: Callable[[float], float] = float

    def measured(self, values: Values) -> float | None:
        """Return the figure; None if it was not measured."""
        found = values.get(self.table, {}).get(self.row, {}).get(self.column)
        return None if found is None else self.convert(found)

    def met(self, measured: float) -> bool:
        return measured <= self.limit if self.at_most else measured >= self.limit


def _inverse(number: float) -> float:
    return 1 / number


def _targets() -> Iterator[Target]:
    aiosmtpd = (3.5, 3.3, 5.5, 8, 11, 28)
    for column, limit in zip(KILOBYTES, aiosmtpd, strict=True):
        yield Target(name=BOTH.format(AIOSMTPD), table="SMTP", row=AIOSMTPD, column=column, limit=limit)
    for column in SMTP:
        limit = 0.8 if column in KILOBYTES[:2] else 1.0
        yield Target(name=BOTH.format("asyncio streams"), table="SMTP", row=STREAMS, column=column, limit=limit)
    twisted = {"USER session": 5, "RETR, lock step": 5, "RETR, ten in flight": 15, "RETR of 10 MB": 4}
    for column, limit in twisted.items():
        yield Target(name=BOTH.format(TWISTED), table="POP3", row=TWISTED, column=column, limit=limit)
    for column in (*KILOBYTES, "1 MB"):
        limit = 0.6 if column == "1 MB" else 0.8
        name = "mailauth on asyncio / `mailauth serve`, nothing stored"
        yield Target(name=name, table="SMTP", row=READY, column=column, limit=limit, convert=_inverse)
    yield Target(
        name="SMTP in memory / h11", table="SMTP in memory", row=TRANSACTION, column="/ h11", limit=0.2, at_most=True
    )
    for row, limit in ((ASYNCIO, 3.2), (TRIO, 5.5)):
        yield Target(
            name=f"KB of an idle connection, {row}", table="idle", row=row, column="clear", limit=limit, at_most=True,
            convert=lambda number: number / 1_000,
        )  # fmt: skip
    yield Target(
        name="import of mailauth.smtp / of attrs", table="imports", row="mailauth.smtp", column="/ attrs", limit=2.5,
        at_most=True,
    )  # fmt: skip
    yield Target(name="delay of a bystander (1: met)", table="bystander", row="target", column="met", limit=1)


TARGETS: Final = tuple(_targets())


def markdown(values: Values) -> str:
    """Return the table of targets."""
    lines = ["| figure | column | target | measured | |", "| --- | --- | --: | --: | --- |"]
    met = 0
    for target in TARGETS:
        measured = target.measured(values)
        met += measured is not None and target.met(measured)
        shown = "-" if measured is None else short(measured)
        verdict = "not measured" if measured is None else "met" if target.met(measured) else "**missed**"
        limit = f"{'at most' if target.at_most else 'at least'} {short(target.limit)}"
        lines.append(f"| {target.name} | {target.column} | {limit} | {shown} | {verdict} |")
    return "\n".join([*lines, "", f"{met} of {len(TARGETS)} targets are met.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    print(markdown(json.loads(parser.parse_args().file.read_text())), end="")


if __name__ == "__main__":
    main()
