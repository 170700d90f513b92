"""Accounts from a file in Dovecot's passwd-file format: ``name:{SCHEME}password``, and fields that are ignored.

The file is read again when it has changed, and rejected if other users can access it.  An invalid line becomes an
account with a ``problem``; the caller decides what to do about it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, TypeVarTuple

import anyio

from .._checks import check_function, check_type
from .._private_file import AccountsError, read_private
from .._workers import FILES
from .credentials import CredentialError, read_credential
from .grants import boot_time
from .protocols import Account

INTERVAL: Final = 1.0
"""Minimum seconds between two checks of the file."""

MIN_FILE_AGE: Final = 1.0
"""Minimum age in seconds of a modification before the file is read, since it may still be being written."""

TIMEOUT: Final = 5.0
"""Maximum seconds that a login waits for the disk.  Then the previous accounts stay in use."""

SLACK: Final = 1.0
"""Assumed maximum of the seconds between a check of the file and the use of its content."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Signature: TypeAlias = tuple[int, int, int, int, int]


def read_passwd_file(path: Path) -> list[Account]:
    """Return the accounts in *path*, in order.  Empty lines and lines that start with ``#`` are ignored.

    An invalid line becomes an account with a ``problem``, which never quotes the line: it may contain a password.
    Raises AccountsError as ``read_private`` does.
    """
    return [
        _account(line, f"line {number} of {path}")
        for number, line in enumerate(read_private(path).splitlines(), start=1)
        if line.strip() and not line.startswith(b"#")
    ]


def _account(line: bytes, where: str) -> Account:
    name, colon, rest = line.partition(b":")
    text = name.decode("ascii", "replace")
    if not colon:
        # The text may be a password, so it must not become the name.
        return Account(name="", credential=None, where=where, problem="has no colon; write name:{SCHEME}password")
    try:
        credential = read_credential(rest.partition(b":")[0])
    except CredentialError as error:
        return Account(name=text, credential=None, where=where, problem=str(error))
    return Account(name=text, credential=credential, where=where)


class AccountsFile:
    """A passwd-file that is read again when it has changed.

    *clock* returns seconds since 1970, which are compared with the file's times.  *monotonic* is a monotonic clock in
    seconds, which shows whether *clock* has been set meanwhile.  *stat* is ``os.stat`` or a stand-in.

        file = stores.AccountsFile(Path("users"))
        accounts = stores.MemoryAccounts(file=file, domains={"example.org"})
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = boot_time,
        stat: Callable[[Path], os.stat_result] = os.stat,
    ) -> None:
        """Raises TypeError for an argument of a wrong type."""
        check_type("path", path, Path)
        check_function("clock", clock)
        check_function("monotonic", monotonic)
        check_function("stat", stat)
        self.path = path
        self._clock = clock
        self._monotonic = monotonic
        self._stat = stat
        self._read: Signature | None = None  # of the file when its content was last read
        self._reported: tuple[Signature | None, str] | None = None  # the last failed attempt to read it
        self._checked_at = clock()
        self._checking = anyio.Lock()
        # The difference of the two clocks, which changes when the wall clock is set: at the last check that found the
        # file unchanged, and at the last such check before its current content was written.
        self._offset = self._offset_before_change = self._current_offset()

    def read(self) -> list[Account]:
        """Read the accounts now.  Raises AccountsError as ``read_passwd_file`` does."""
        self._read = self._signature()
        return read_passwd_file(self.path)

    async def changed(self, *, at_once: bool = False) -> list[Account] | None:
        """Return the accounts if the file has changed, else None.

        A change is detected at most INTERVAL + MIN_FILE_AGE seconds later, or now with *at_once*.  Raises AccountsError
        if the file cannot be read any more, once for each change and reason.  Each later call tries again, since the
        reason may not be in the file: no descriptor is free, for example.
        """
        if not at_once and (self._checking.locked() or abs(self._clock() - self._checked_at) < INTERVAL):
            return None
        # With at_once, a check that is in progress does not suffice: it may have begun before the change, or leave a
        # recent change to the next one.
        async with self._checking:
            return await self._check(at_once)

    async def _check(self, at_once: bool) -> list[Account] | None:
        now = self._checked_at = self._clock()
        seen: Signature | None = None
        try:
            seen = await self._run(self._signature)
            if seen == self._read:
                self._offset = self._current_offset()
                return None
            if seen is not None and abs(now - seen[0] / 1e9) < MIN_FILE_AGE and not at_once:
                return None
            accounts = await self._run(read_passwd_file, self.path)
            if await self._run(self._signature) != seen:
                return None  # it has changed again: leave it to the next check
        except AccountsError as error:
            attempt = (seen, str(error))
            if attempt == self._reported:
                return None
            self._reported = attempt
            raise
        self._read, self._reported = seen, None
        self._offset_before_change = self._offset
        return accounts

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``function(*args)`` in a thread.  Raises AccountsError if it takes too long."""
        try:
            return await FILES.run(function, *args, key=self.path, timeout=TIMEOUT)
        except TimeoutError:
            raise AccountsError(f"{self.path} cannot be read: the disk does not respond") from None

    @property
    def in_force(self) -> float:
        """A lower bound of the seconds for which all processes that read this file have used its current content.

        It is 0 if the wall clock may have been set since the content was written.
        """
        if self._read is None or abs(self._current_offset() - self._offset_before_change) > SLACK:
            return 0.0
        _, changed, *_ = self._read  # ctime: a copied file may keep the mtime of the original
        return max(0.0, self._clock() - changed / 1e9 - (INTERVAL + MIN_FILE_AGE + SLACK))

    def _current_offset(self) -> float:
        return self._clock() - self._monotonic()

    def _signature(self) -> Signature | None:
        try:
            found = self._stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode
