"""What came of a row: the measured columns, or the step that failed and why.

Values only: knows neither how they were measured nor what was expected.
"""

from __future__ import annotations

import attrs

from .rows import Row


@attrs.frozen
class Columns:
    """One line of the design's table, as measured or as expected."""

    credentials_checked_by: str
    name_on_the_wire: str
    password_on_the_wire: str
    message_on_the_wire: str
    server_proved_by: str


class StepFailed(Exception):
    """A step of a row did not come out as it must; the text says which and why."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")


@attrs.frozen(kw_only=True)
class Outcome:
    """A row on a loop: what was measured, and in one sentence what was wrong with it (empty: nothing)."""

    row: Row
    loop: str
    columns: Columns | None
    """None: a step failed before there was anything to measure."""
    trouble: str = ""

    @property
    def worked(self) -> bool:
        """True: every step came out, and the columns are the expected ones."""
        return not self.trouble
