"""Functions of ``os`` that fail, or during which another program does something."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def full_path(place: int | str | os.PathLike[str], dir_fd: int | None = None, src_dir_fd: int | None = None) -> Path:
    """Return the path of the first argument of a function of ``os``, which may be relative to a descriptor."""
    if isinstance(place, int):
        return Path(os.readlink(f"/proc/self/fd/{place}"))
    folder = src_dir_fd if dir_fd is None else dir_fd
    return Path(place) if folder is None else full_path(folder) / place


def before(patch: pytest.MonkeyPatch, name: str, effect: Callable[[Path], object]) -> None:
    """Call *effect* with the path before each call of ``os.NAME``.  It may raise."""
    _around(patch, name, effect, lambda path: None)


def after(patch: pytest.MonkeyPatch, name: str, effect: Callable[[Path], object]) -> None:
    """Call *effect* with the path after each call of ``os.NAME`` that succeeds."""
    _around(patch, name, lambda path: None, effect)


def _around(
    patch: pytest.MonkeyPatch, name: str, first: Callable[[Path], object], then: Callable[[Path], object]
) -> None:
    real = getattr(os, name)
    busy = threading.local()

    def call(place: Any, *args: Any, **options: Any) -> Any:
        if getattr(busy, "now", False):  # the effect itself calls this function
            return real(place, *args, **options)
        path = full_path(place, options.get("dir_fd"), options.get("src_dir_fd"))
        busy.now = True
        try:
            first(path)
            result = real(place, *args, **options)
            then(path)
        finally:
            busy.now = False
        return result

    patch.setattr(os, name, call)
