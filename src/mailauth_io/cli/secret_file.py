"""A password that a setting names the file of.

Knows who may read such a file and where its line ends; what the password is for is told by whoever asks.
"""

from __future__ import annotations

from pathlib import Path

from .. import stores
from .settings import Settings


def read(settings: Settings, name: str, path: Path) -> bytes:
    """What is in the file at *path* of the setting *name*, without the end of its line.  Raises Complaint."""
    try:
        data = stores.read_private(path)
    except stores.AccountsError as error:
        raise settings.config_error(name, str(error)) from error
    return data.removesuffix(b"\n").removesuffix(b"\r")
