"""Grants in a file, for the processes of one host: SQLite with a write-ahead log, so that no lookup waits for a login.

Knows files, SQL and the wall clock, which all processes and the next start share.  It may step: a grant that would
still live longer than the lifetime was made before the clock stepped back, and counts as expired.  Everything that
blocks runs in threads; a grant is committed before ``grant()`` returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mailauth.grants import IDENTITIES_PER_ADDRESS, LIFETIME, MAX_GRANTS, Grant, GrantTable, Lookup, normalize_address

from .. import _loops
from ._bounded_executor import BoundedExecutor
from ._grants import SWEPT_AT_ONCE, TIMEOUT, ActiveGrant, GrantsError

BUSY: Final = 0.5 * TIMEOUT
"""Seconds that a login waits while another process writes; less than the patience, so that lookups are asked on."""

_APPLICATION: Final = 0x6D616772  # "magr": whose file it is (PRAGMA application_id)
_VERSION: Final = 1
# The order of the numbers is the order of the logins.  The triggers count: COUNT(*) would walk the table.
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS grants (
    number INTEGER PRIMARY KEY, address TEXT NOT NULL, identity TEXT NOT NULL, expires REAL NOT NULL,
    UNIQUE (address, identity)
);
CREATE INDEX IF NOT EXISTS by_identity ON grants (identity);
CREATE INDEX IF NOT EXISTS by_expiry ON grants (expires);
CREATE TABLE IF NOT EXISTS kept (grants INTEGER NOT NULL);
INSERT INTO kept SELECT 0 WHERE NOT EXISTS (SELECT * FROM kept);
CREATE TRIGGER IF NOT EXISTS one_more AFTER INSERT ON grants BEGIN UPDATE kept SET grants = grants + 1; END;
CREATE TRIGGER IF NOT EXISTS one_less AFTER DELETE ON grants BEGIN UPDATE kept SET grants = grants - 1; END;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class SqliteGrants:
    """The grants in the file at *path*, 0600, in a directory that exists.

    Settings as those of GrantTable, which raises LocalProtocolError; they must be the same in all processes.  *clock*
    gives seconds since 1970.  Raises GrantsError when the file is none of ours, or open to others.
    """

    def __init__(
        self,
        path: Path,
        *,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        max_grants: int = MAX_GRANTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # GrantTable knows which settings are right.
        GrantTable(
            lifetime=lifetime,
            ipv6_prefix=ipv6_prefix,
            identities_per_address=identities_per_address,
            max_grants=max_grants,
        )
        self._path = path
        self._lifetime = lifetime
        self._prefix = ipv6_prefix
        self._identities = identities_per_address
        self._maximum = max_grants
        self._clock = clock
        self._executor = BoundedExecutor()
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()  # at most one for each thread
        self._closed = False
        try:
            with _alone(path.parent):
                _claim(path)
                self._idle.put(_connect(path))
        except OSError as error:
            raise GrantsError(f"{path} cannot keep grants: {error.strerror}") from error
        except sqlite3.Error as error:
            raise GrantsError(f"{path} cannot keep grants: {error}") from error

    async def find(self, address: str) -> Lookup:
        return await self._executor.run(self._find, self._key(address))

    async def grant(self, address: str, identity: str) -> int:
        grant = Grant(self._key(address), identity, 0.0)  # which refuses an identity that is none
        return await self._executor.run(self._grant, str(grant.address), grant.identity, time.monotonic())

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        return await self._executor.run(self._revoke, "identity", identity, older_than)

    async def revoke_address(self, address: str) -> int:
        return await self._executor.run(self._revoke, "address", self._key(address), 0.0)

    async def active(self) -> list[ActiveGrant]:
        return await _loops.current().in_thread(self._living)  # a million take longer than the patience

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _key(self, address: str) -> str:
        return str(normalize_address(address, self._prefix))

    def _find(self, address: str) -> Lookup:
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT identity, expires FROM grants WHERE address = ? ORDER BY number DESC", (address,)
            ).fetchall()
            (highest,) = connection.execute("SELECT MAX(expires) FROM grants").fetchone()
            # After the rows: one that another process commits in between would seem to come from the future.
            now = self._clock()
            if highest is not None and highest > now + self._lifetime:
                with _writing(connection):  # or those rows would live again when the clock is back where it was
                    self._sweep(connection, self._clock())
        for identity, expires in rows:
            if now < expires <= now + self._lifetime:
                return Grant(address, identity, expires)
        return None

    def _grant(self, address: str, identity: str, asked: float) -> int:
        with self._connection() as connection, _writing(connection):
            now = self._clock()  # nobody else can write any more
            if time.monotonic() - asked > TIMEOUT:
                raise TimeoutError  # whoever logged in was told so, and the login is no longer a recent one
            self._sweep(connection, now)
            connection.execute("DELETE FROM grants WHERE address = ? AND identity = ?", (address, identity))
            connection.execute(
                "DELETE FROM grants WHERE address = ? AND NOT (expires > ? AND number IN ("
                "SELECT number FROM grants WHERE address = ? ORDER BY number DESC LIMIT ?))",
                (address, now, address, self._identities - 1),
            )
            connection.execute(
                "INSERT INTO grants (address, identity, expires) VALUES (?, ?, ?)",
                (address, identity, now + self._lifetime),
            )
            (kept,) = connection.execute("SELECT grants FROM kept").fetchone()
            if kept > self._maximum:
                connection.execute(
                    "DELETE FROM grants WHERE number IN (SELECT number FROM grants ORDER BY number LIMIT ?)",
                    (min(kept - self._maximum, SWEPT_AT_ONCE),),
                )
            (identities,) = connection.execute("SELECT COUNT(*) FROM grants WHERE address = ?", (address,)).fetchone()
            return int(identities)

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        for condition, limit in (("expires <= ?", now), ("expires > ?", now + self._lifetime)):
            connection.execute(
                f"DELETE FROM grants WHERE number IN (SELECT number FROM grants WHERE {condition} LIMIT ?)",
                (limit, SWEPT_AT_ONCE),
            )

    def _revoke(self, column: str, value: str, older_than: float) -> int:
        with self._connection() as connection:
            connection.execute("PRAGMA synchronous = FULL")  # a revocation outlasts a power cut; a login need not
            try:
                with _writing(connection):
                    now = self._clock()
                    which, values = f"{column} = ? AND expires <= ?", (value, now + self._lifetime - older_than)
                    (lived,) = connection.execute(
                        f"SELECT COUNT(*) FROM grants WHERE {which} AND expires > ?", (*values, now)
                    ).fetchone()
                    connection.execute(f"DELETE FROM grants WHERE {which}", values)
            finally:
                connection.execute("PRAGMA synchronous = NORMAL")
        return int(lived)

    def _living(self) -> list[ActiveGrant]:
        with self._connection() as connection:
            rows = connection.execute("SELECT address, identity, expires FROM grants ORDER BY number").fetchall()
        now = self._clock()
        return [
            ActiveGrant(address=normalize_address(address), identity=identity, remaining=expires - now)
            for address, identity, expires in rows
            if now < expires <= now + self._lifetime
        ]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = _connect(self._path)
        try:
            yield connection
        except BaseException:
            connection.close()  # it may be what is broken
            raise
        if self._closed:
            connection.close()
        else:
            self._idle.put(connection)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: those that start together must not make the same file at once."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _claim(path: Path) -> None:
    """Make *path*, or see that it is for its owner alone.  Raises GrantsError and OSError.

    A file that is there is not opened: closing it would end the locks of every connection in this process.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        check_file(path)


def check_file(path: Path) -> None:
    """See that the file at *path*, which is there, is for its owner alone.  Raises GrantsError and OSError."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise GrantsError(f"{path} is no plain file")
    if mode & 0o077:
        raise GrantsError(f"{path} is open to others than its owner; say: chmod 600 {path}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and tables:
            raise GrantsError(f"{path} is the database of another program")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise GrantsError(f"{path} cannot be shared by several processes: there is no write-ahead log on this disk")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            connection.executescript(_SCHEMA)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            raise GrantsError(f"{path} was written by another version of mailauth: end its servers and remove it")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction, which no other process can come between."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
