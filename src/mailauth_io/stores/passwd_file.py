"""Accounts from a file in Dovecot's passwd-file format: ``name:{PLAIN}password:`` and fields that do not concern us.

Knows the format; refuses a file that others can read, and a password scheme it would have to guess.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from .memory_accounts import Account, AccountsError

_SCHEME: Final = re.compile(rb"\{([A-Za-z0-9.-]{1,32})\}")


def read_private(path: Path) -> bytes:
    """The octets of a file that keeps a secret.

    Raises AccountsError when it cannot be read, and when group or others can read or change it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o066:
                raise AccountsError(f"{path} can be read or changed by others than its owner; say: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise AccountsError(f"{path} cannot be read: {error.strerror}") from error


def read_passwd_file(path: Path) -> list[Account]:
    """The accounts in *path*, in order; blank lines and lines beginning with ``#`` say nothing.

    Raises AccountsError, naming the line and what to write there, never what is written there.
    """
    accounts = []
    for number, line in enumerate(read_private(path).splitlines(), start=1):
        if line.strip() and not line.startswith(b"#"):
            accounts.append(_account(line, f"line {number} of {path}"))
    return accounts


def _account(line: bytes, where: str) -> Account:
    name, colon, rest = line.partition(b":")
    field = rest.partition(b":")[0]
    scheme = _SCHEME.match(field)
    if not colon:
        raise AccountsError(f"{where} lacks a colon; write name:{{PLAIN}}password")
    if scheme is None:
        raise AccountsError(f"{where} names no password scheme; write {{PLAIN}} in front of the password")
    if scheme[1].upper() != b"PLAIN":
        raise AccountsError(f"{where} uses a password scheme that is not known here; only {{PLAIN}} is")
    return Account(name=name.decode("ascii", "replace"), password=field[scheme.end() :], where=where)
