"""Compare the measured columns with the expected ones."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .expected import EXPECTED
from .outcome import Columns, Outcome
from .rows import Row


def compare(row: Row, loop: str, measured: Mapping[str, Columns]) -> Outcome:
    """Return the outcome of a row.  *measured* holds the columns by the name of the kind of client."""
    expected = attrs.asdict(EXPECTED[row.number])
    errors = [
        f"{title(column)} is {value!r} with {clients}, expected {expected[column]!r}"
        for clients, columns in measured.items()
        for column, value in attrs.asdict(columns).items()
        if value != expected[column]
    ]
    if not measured:
        errors = ["nothing was measured"]
    columns = next(iter(measured.values()), None)
    return Outcome(row=row, loop=loop, columns=columns, error="; ".join(errors))


def title(column: str) -> str:
    """Return the heading of a column."""
    return column.replace("_", " ")
