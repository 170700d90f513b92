"""``mailauth passwd``: one line of a passwd-file on standard output, from a password that nobody sees.

Knows the terminal; which schemes there are and how a line is read is the affair of the stores.
"""

from __future__ import annotations

import getpass
import os
import sys

from mailauth import LocalProtocolError, smtp

from .. import stores
from .errors import ConfigError


def write(name: str, scheme: str) -> None:
    """Print ``name:{SCHEME}...`` for a password that is asked for.  Raises Complaint."""
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
            raise ConfigError(f"{name!r} is no mailbox name: there is no domain behind the '@'") from None
    if not domain.isascii() or stores.mailbox_name(local_part if at else name, frozenset()) is None:
        raise ConfigError(f"{name!r} is no mailbox name: {stores.NAME_RULE}")


def _ask() -> bytes:
    """From the terminal, twice and without echo; else the first line of standard input."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        return line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        password = getpass.getpass("Password: ")
        if getpass.getpass("The same again: ") != password:
            raise ConfigError("the two passwords are not the same")
    except EOFError:
        raise ConfigError("no password was given") from None
    return os.fsencode(password)
