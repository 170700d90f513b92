"""The limits of open files of a process, for tests."""

from __future__ import annotations

import pytest


class Process:
    """The limits of open files of a process, instead of those of this one."""

    def __init__(self, patch: pytest.MonkeyPatch, soft: int, hard: int, *, fixed: bool = False) -> None:
        self.limits = (soft, hard)
        self._fixed = fixed
        patch.setattr("resource.getrlimit", lambda kind: self.limits)
        patch.setattr("resource.setrlimit", self._set)

    def _set(self, kind: int, limits: tuple[int, int]) -> None:
        if self._fixed:
            raise ValueError("not allowed to raise maximum limit")
        self.limits = limits
