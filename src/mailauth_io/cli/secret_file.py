"""Reading a password from the file that a setting names."""

from __future__ import annotations

from pathlib import Path

from .. import stores
from .settings import Settings


def read(settings: Settings, name: str, path: Path) -> bytes:
    """Return the content of the file *path* of the setting *name*, without the final line end.

    Raises ConfigError if the file cannot be read, if it is empty or has more than one line, or if other users can read
    or change it.
    """
    try:
        data = stores.read_private(path)
    except stores.AccountsError as error:
        raise settings.config_error(name, str(error)) from error
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise settings.config_error(name, f"{path} is empty; write the password to it")
    if b"\n" in secret or b"\r" in secret:
        raise settings.config_error(name, f"{path} has more than one line; write only the password to it")
    return secret
