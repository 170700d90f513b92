"""Files that hold secrets, which other users must not be able to read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ._checks import check_type
from ._files import read_file, read_input


class AccountsError(ValueError):
    """The accounts cannot be used.  The text is one sentence for the administrator, and contains no secret.

    *others* holds a sentence for each further error.  *argument* is the argument of MemoryAccounts that is invalid:
    ``accounts``, ``tokens`` or ``certificate_names``.

        try:
            accounts = stores.MemoryAccounts(stores.read_passwd_file(Path("users")))
        except stores.AccountsError as error:
            sys.exit("\\n".join([str(error), *error.others]))
    """

    def __init__(self, text: str, others: Sequence[str] = (), *, argument: str = "accounts") -> None:
        super().__init__(text)
        self.others = tuple(others)
        self.argument = argument


def read_private(path: Path) -> bytes:
    """Return the content of a file that holds secrets.  *path* may be a link to it.

    Raises AccountsError if it cannot be read, if it is not a regular file, or if the group or others can read or write
    it.  It does not wait for a program that writes to a pipe.
    """
    check_type("path", path, Path)
    return _private(path, read_file)


def read_secret(path: Path) -> bytes:
    """Like ``read_private``, for a file that is read only once: it may also be a pipe that a program writes to."""
    return _private(path, read_input)


def _private(path: Path, read: Callable[[Path], tuple[bytes, os.stat_result]]) -> bytes:
    try:
        data, status = read(path)
    except OSError as error:
        raise AccountsError(f"{path} cannot be read: {error.strerror}") from error
    if status.st_mode & 0o066:
        raise AccountsError(f"{path} is accessible to other users; run: chmod 600 {path}")
    return data
