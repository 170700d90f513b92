"""The result of a row: the measured columns, or the step that failed and the reason."""

from __future__ import annotations

import attrs

from .rows import Row


@attrs.frozen
class Columns:
    """The columns of one row, measured or expected."""

    credentials_checked_by: str
    name_on_the_wire: str
    password_on_the_wire: str
    message_on_the_wire: str
    server_proved_by: str


class StepFailed(Exception):
    """A step of a row failed.  The text names the step and the reason."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")


@attrs.frozen(kw_only=True)
class Outcome:
    """The result of a row on a loop.  *error* is a sentence about its errors, empty if there are none."""

    row: Row
    loop: str
    columns: Columns | None
    """None if a step failed before anything was measured."""
    error: str = ""

    @property
    def worked(self) -> bool:
        """Whether every step succeeded, and the columns are as expected."""
        return not self.error
