"""Reading a password from the file that a setting names."""

from __future__ import annotations

from pathlib import Path

from .._private_file import AccountsError, read_secret
from .settings import Settings


def read(settings: Settings, name: str, path: Path) -> bytes:
    """Return the password in the file *path* of the setting *name*.  Raises ConfigError as ``read_line`` does."""
    try:
        return read_line(path)
    except AccountsError as error:
        raise settings.config_error(name, str(error)) from error


def read_line(path: Path) -> bytes:
    """Return the content of *path*, without the final line end.

    Raises AccountsError if the file cannot be read, if it is empty or has more than one line, or if other users can
    read or change it.
    """
    secret = read_secret(path).removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise AccountsError(f"{path} is empty; write the password to it")
    if b"\n" in secret or b"\r" in secret:
        raise AccountsError(f"{path} has more than one line; write only the password to it")
    return secret
