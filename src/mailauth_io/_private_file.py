"""Files that hold secrets, which other users must not be able to read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ._checks import check_type


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
    """Return the content of a file that holds secrets.

    Raises AccountsError if it cannot be read, or if the group or others can read or write it.
    """
    check_type("path", path, Path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o066:
                raise AccountsError(f"{path} is accessible to other users; run: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise AccountsError(f"{path} cannot be read: {error.strerror}") from error
