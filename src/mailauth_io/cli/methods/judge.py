"""The judge: do the measured columns say what the table of the design says?

The only module that sees both.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .expected import EXPECTED
from .outcome import Columns, Outcome
from .rows import Row


def judge(row: Row, loop: str, measured: Mapping[str, Columns]) -> Outcome:
    """The outcome of a row that every kind of clients got through; *measured* is by the name of the kind."""
    expected = attrs.asdict(EXPECTED[row.number])
    troubles = [
        f"{title(column)} is {value!r} with {clients}, where the table says {expected[column]!r}"
        for clients, columns in measured.items()
        for column, value in attrs.asdict(columns).items()
        if value != expected[column]
    ]
    if not measured:
        troubles = ["nothing was measured"]
    columns = next(iter(measured.values()), None)
    return Outcome(row=row, loop=loop, columns=columns, trouble="; ".join(troubles))


def title(column: str) -> str:
    """A column's name as the design writes it."""
    return column.replace("_", " ")
