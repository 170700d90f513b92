"""Accounts from a file in Dovecot's passwd-file format: ``name:{SCHEME}password`` and fields that do not concern us.

Knows the format, and when the file has changed; refuses a file that others can read.  What is wrong with a line is told
as a flaw of its account, and what follows from that is decided by whoever asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from .. import _loops
from .credentials import Credential, CredentialError, read_credential

INTERVAL: Final = 1.0
"""Seconds between two looks at the file."""

SETTLED: Final = 1.0
"""Seconds that a changed file must have rested: whoever writes it in place may be in the middle of it."""

SLACK: Final = 1.0
"""Seconds from the look at the file to what is done by it."""

Signature: TypeAlias = tuple[int, int, int, int, int]


class AccountsError(ValueError):
    """These accounts cannot be used; the text is one sentence for whoever wrote them, and holds no secret.

    *further* sentences tell what else is wrong.
    """

    def __init__(self, text: str, further: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.further = tuple(further)


@attrs.frozen(kw_only=True)
class Account:
    """One account as it was written down."""

    name: str
    credential: Credential | None
    """None: it has a mailbox, and nobody can log in."""
    where: str = ""
    """Where it was written, for an error to point at: ``line 3 of users``."""
    problem: str = ""
    """What is wrong with it, behind *where*; empty for nothing."""


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

    A line that is broken is an account with a flaw, which says what to write there and never what is written.  Raises
    AccountsError as ``read_private`` does, and for a pipe: it is not there to be read again, and may never end.
    """
    if path.is_fifo():
        raise AccountsError(f"{path} is a pipe, which cannot be read again; write the accounts into a file")
    return [
        _account(line, f"line {number} of {path}")
        for number, line in enumerate(read_private(path).splitlines(), start=1)
        if line.strip() and not line.startswith(b"#")
    ]


def _account(line: bytes, where: str) -> Account:
    name, colon, rest = line.partition(b":")
    text = name.decode("ascii", "replace")
    if not colon:
        # What stands there may be anything, a password too: it is no name.
        return Account(name="", credential=None, where=where, problem="lacks a colon; write name:{SCHEME}password")
    try:
        credential = read_credential(rest.partition(b":")[0])
    except CredentialError as error:
        return Account(name=text, credential=None, where=where, problem=str(error))
    return Account(name=text, credential=credential, where=where)


class AccountsFile:
    """A passwd-file that is read again when it has changed.

    *clock* gives seconds since 1970, to set beside the times of the file; *stat* looks at it.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        stat: Callable[[Path], os.stat_result] = os.stat,
    ) -> None:
        self.path = path
        self._clock = clock
        self._stat = stat
        self._read: Signature | None = None  # the file as it was when it was read last
        self._looked = clock()
        self._reading = False

    def read(self) -> list[Account]:
        """The accounts in it now.  Raises AccountsError as ``read_passwd_file`` does."""
        self._read = self._signature()
        return read_passwd_file(self.path)

    async def changed(self, *, at_once: bool = False) -> list[Account] | None:
        """The accounts in it when it has changed, at the latest INTERVAL + SETTLED seconds after that; else None.

        With *at_once* neither time is waited for.  Raises AccountsError, once for each change, when it cannot be read
        any more.
        """
        now = self._clock()
        if self._reading or (abs(now - self._looked) < INTERVAL and not at_once):
            return None
        self._looked = now
        seen = self._signature()
        if seen == self._read or (seen is not None and abs(now - seen[0] / 1e9) < SETTLED and not at_once):
            return None
        self._reading = True
        try:
            accounts = await _loops.current().in_thread(read_passwd_file, self.path)
            if self._signature() != seen:
                return None  # it changed again in between: the next look will tell
        except AccountsError:
            self._read = seen
            raise
        finally:
            self._reading = False
        self._read = seen
        return accounts

    @property
    def in_force(self) -> float:
        """Seconds for which every process that reads this file goes by what was read last, if that is older."""
        if self._read is None:
            return 0.0
        _, changed, *_ = self._read  # not the time of its content, which a copy may keep from another place
        return max(0.0, self._clock() - changed / 1e9 - (INTERVAL + SETTLED + SLACK))

    def _signature(self) -> Signature | None:
        try:
            found = self._stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode
