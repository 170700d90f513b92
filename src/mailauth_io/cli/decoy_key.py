"""The file with the key for the salts of unknown names, which is created at the first start."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from typing import Final

from . import secret_file
from .settings import Settings

SIZE: Final = 32
"""Bytes of a new key, which is written in hexadecimal."""

_MIN_LENGTH: Final = 32  # characters


def read_or_create(settings: Settings) -> bytes | None:
    """Return the key in the file that *settings* name, after creating it if necessary; None if they name none.

    Raises ConfigError.
    """
    path = settings.decoy_key
    if path is None:
        return None
    try:
        if not os.path.lexists(path):
            # A link either appears with its content or not at all, and replaces nothing: several processes may start
            # at the same time, and all must have the same key.
            number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with open(number, "w", encoding="ascii") as file:
                    file.write(secrets.token_hex(SIZE) + "\n")
                    file.flush()
                    os.fsync(number)
                with contextlib.suppress(FileExistsError):
                    os.link(name, path)
            finally:
                os.unlink(name)
    except OSError as error:
        raise settings.config_error("decoy_key", f"{path} cannot be created: {error.strerror}") from error
    return _read(settings)


def check(settings: Settings) -> None:
    """Check that the file can be read or created, without creating it.  Raises ConfigError."""
    path = settings.decoy_key
    if path is None:
        return
    if os.path.lexists(path):
        _read(settings)
    elif not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise settings.config_error("decoy_key", f"{path} cannot be created: {path.parent} is not a writable directory")


def _read(settings: Settings) -> bytes:
    path = settings.decoy_key
    assert path is not None
    key = secret_file.read(settings, "decoy_key", path)
    if len(key) < _MIN_LENGTH:
        raise settings.config_error(
            "decoy_key", f"{path} is too short for a key; remove the file, and a new one is created at the next start"
        )
    return key
