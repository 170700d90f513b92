"""The limits of open files of a process, and the files that this one has open, for tests."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

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


def open_files_in(directory: Path) -> list[str]:
    """Return the paths of the open files and directories in *directory*.

    Their number in the whole process is no measure: threads of other tests may still close or open some.
    """
    found: list[str] = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(f"/proc/self/fd/{number}")
            if Path(path).is_relative_to(directory):
                found.append(path)
    return sorted(found)
