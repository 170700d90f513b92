"""``mailauth passwd``: ask for a password and print a line for an accounts file."""

from __future__ import annotations

import getpass
import os
import sys

from mailauth import LocalProtocolError, smtp

from .. import stores
from .errors import ConfigError


def write(name: str, scheme: str) -> None:
    """Ask for a password and print ``name:{SCHEME}...``.

    Raises ConfigError if *name* or the password is invalid.
    """
    _check_name(name)
    try:
        field = stores.write_credential(scheme, _ask())
    except stores.CredentialError as error:
        raise ConfigError(f"the password {error}") from error
    sys.stdout.buffer.write(f"{name}:{field}\n".encode())


def _check_name(name: str) -> None:
    local_part, at, domain = name.rpartition("@")
    if at:
        try:
            smtp.Mailbox("somebody", domain)
        except LocalProtocolError:
            raise ConfigError(f"invalid mailbox name: {name!r}; use NAME or NAME@DOMAIN") from None
    if not domain.isascii() or stores.mailbox_name(local_part if at else name, frozenset()) is None:
        raise ConfigError(f"invalid mailbox name: {name!r}; {stores.NAME_RULE}")


def _ask() -> bytes:
    """Ask twice at the terminal, without echo.  Without a terminal, read the first line of standard input."""
    if sys.stdin is None:
        raise ConfigError("standard input is closed; redirect it from a file whose first line is the password")
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        return line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Retype password: ") != password:
            raise ConfigError("the passwords do not match")
    except EOFError:
        raise ConfigError("no password was entered") from None
    return os.fsencode(password)
