"""Format outcomes as a text table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

from .outcome import Columns, Outcome

_COLUMNS = tuple(field.name for field in attrs.fields(Columns))
_HEAD = ("#", "method", "loop", *(name.replace("_", " ") for name in _COLUMNS), "worked")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table: one line per row and loop, then one line per failure, then the total."""
    lines = [_HEAD, *(_line(outcome) for outcome in outcomes)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_aligned(line, widths) for line in lines]
    text.insert(1, _aligned(["-" * width for width in widths], widths))
    failed = [outcome for outcome in outcomes if not outcome.worked]
    text += ["", *(f"{outcome.row} on {outcome.loop} failed: {outcome.error}" for outcome in failed)]
    text.append(f"{len(outcomes) - len(failed)} of {len(outcomes)} rows are as expected.")
    return "\n".join(text)


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Return a JSON list with an object for each row and loop: the columns of the table, ``worked`` and ``error``."""
    return json.dumps([_as_object(outcome) for outcome in outcomes], indent=2)


def _line(outcome: Outcome) -> tuple[str, ...]:
    columns = attrs.astuple(outcome.columns) if outcome.columns else ("-",) * len(_COLUMNS)
    return (
        str(outcome.row.number),
        outcome.row.name,
        outcome.loop,
        *columns,
        "yes" if outcome.worked else "NO",
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _as_object(outcome: Outcome) -> dict[str, object]:
    return {
        "number": outcome.row.number,
        "method": outcome.row.name,
        "loop": outcome.loop,
        **(attrs.asdict(outcome.columns) if outcome.columns else dict.fromkeys(_COLUMNS)),
        "worked": outcome.worked,
        "error": outcome.error,
    }
