"""Grants in a SQLite file, for several processes on one host.

The file has a write-ahead log, so that no lookup waits for a login.  Times are wall-clock times, since all processes
share them and they survive a restart.  A grant whose login is later than now was made before the clock stepped back,
and counts as expired.  Blocking calls run in threads; a grant is committed before ``grant()`` returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import queue
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Generator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Final, TypeAlias

from mailauth.addresses import grant_key
from mailauth.grants import ADDRESSES_PER_IDENTITY, IDENTITIES_PER_ADDRESS, LIFETIME, MAX_GRANTS, Grant, Lookup

from .._checks import check_function, check_type
from .._files import Folder
from ._bounded_executor import BoundedExecutor
from .grants import MAX_SWEPT_PER_LOGIN, TIMEOUT, ActiveGrant, GrantsError, GrantSettings, make_table

__all__ = [
    "SqliteGrants",
    "access_problem",
    "check_file",
]

_FileId: TypeAlias = tuple[int, int] | None
_FileIds: TypeAlias = tuple[_FileId, ...]
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""The ends of the names of the files that SQLite makes beside the database."""

BUSY: Final = 0.5 * TIMEOUT
"""Seconds that a login waits for another process's write: less than the timeout, so that lookups continue."""

_APPLICATION: Final = 0x6D616772  # "magr", for PRAGMA application_id
_VERSION: Final = 3
# Grants are numbered in the order of the logins.  Triggers count them, in all and for each identity, since COUNT(*)
# scans the table.  made_with has the settings that decide the addresses in the table.
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS grants (
    number INTEGER PRIMARY KEY, address TEXT NOT NULL, identity TEXT NOT NULL, login REAL NOT NULL,
    expires REAL NOT NULL, UNIQUE (address, identity)
);
CREATE INDEX IF NOT EXISTS by_identity ON grants (identity);
CREATE INDEX IF NOT EXISTS by_login ON grants (login);
CREATE INDEX IF NOT EXISTS by_expiry ON grants (expires);
CREATE TABLE IF NOT EXISTS kept (grants INTEGER NOT NULL);
INSERT INTO kept SELECT 0 WHERE NOT EXISTS (SELECT * FROM kept);
CREATE TABLE IF NOT EXISTS identities (identity TEXT PRIMARY KEY, grants INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_grants ON identities (grants);
CREATE TRIGGER IF NOT EXISTS one_more AFTER INSERT ON grants BEGIN
    UPDATE kept SET grants = grants + 1;
    INSERT OR IGNORE INTO identities VALUES (new.identity, 0);
    UPDATE identities SET grants = grants + 1 WHERE identity = new.identity;
END;
CREATE TRIGGER IF NOT EXISTS one_less AFTER DELETE ON grants BEGIN
    UPDATE kept SET grants = grants - 1;
    UPDATE identities SET grants = grants - 1 WHERE identity = old.identity;
    DELETE FROM identities WHERE identity = old.identity AND grants = 0;
END;
CREATE TABLE IF NOT EXISTS made_with (settings TEXT NOT NULL);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
_MOST: Final = "SELECT identity, grants FROM identities ORDER BY grants DESC LIMIT 1"
_OLDEST_OF: Final = "SELECT MIN(number) FROM grants WHERE identity = ?"


class SqliteGrants:
    """Grants in the SQLite file at *path*.  It is created with mode 0600; its directory must exist.  ``check_file()``
    says which modes an existing file may have.

    The settings are those of GrantTable; an invalid one is a ValueError.  *ipv6_prefix* and *nat64_prefixes* must be
    the same in all processes; *lifetime* is that of the grants made here.  *clock* returns seconds since 1970.  Raises
    GrantsError if the file is not a grants database, if it was made with other prefixes, or if other users can access
    it.

        grant_store = sqlite_grants.SqliteGrants(Path("/var/lib/mailauth/grants.db"), lifetime=900.0)
        server_stores = server.Stores(accounts=accounts, maildrops=maildrops, outbox=outbox, grants=grant_store)
    """

    def __init__(
        self,
        path: Path,
        *,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        nat64_prefixes: Collection[IPv6Network] = (),
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        addresses_per_identity: int = ADDRESSES_PER_IDENTITY,
        max_grants: int = MAX_GRANTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_type("path", path, Path)
        check_function("clock", clock)
        self.settings = GrantSettings(lifetime=lifetime, ipv6_prefix=ipv6_prefix, nat64_prefixes=nat64_prefixes)
        make_table(
            identities_per_address=identities_per_address,
            addresses_per_identity=addresses_per_identity,
            max_grants=max_grants,
        )
        self._path = path
        self._identities = identities_per_address
        self._addresses = addresses_per_identity
        self._max_grants = max_grants
        self._clock = clock
        self._executor = BoundedExecutor(nat64_prefixes=self.settings.nat64_prefixes)
        self._idle: queue.SimpleQueue[tuple[sqlite3.Connection, _FileIds]] = queue.SimpleQueue()  # one for each thread
        self._closed = False
        self._log: tuple[Path, ...] = ()  # the files of the log, beside the target if the path is a link
        self._complete: _FileId = None  # the file that was opened last
        try:
            self._idle.put(self._open())
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise GrantsError(f"cannot store grants in {path}: {access_problem(path) or reason}") from error

    async def find(self, address: str) -> Lookup:
        """Return the newest active grant of *address*, or None.

        Raises an exception if the file cannot be used.
        """
        return await self._executor.run(self._find, self._key(address), address=address)

    async def grant(self, address: str, identity: str) -> int:
        """Store a grant, and return the number of identities that have grants at *address*."""
        grant = Grant(self._key(address), identity, 0.0)  # raises for an empty identity
        return await self._executor.run(
            self._grant, str(grant.address), grant.identity, time.monotonic(), address=address
        )

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        """Revoke the grants of *identity* that are *older_than* seconds old or more.  Return how many were active."""
        return await self._executor.run(self._revoke, "identity", identity, older_than)

    async def revoke_address(self, address: str) -> int:
        """Revoke every grant of *address*, and return the number of active ones."""
        return await self._executor.run(self._revoke, "address", self._key(address), 0.0)

    async def active(self) -> list[ActiveGrant]:
        """Return all active grants, the oldest login first."""
        return await self._executor.run_without_timeout(self._active)  # a million grants take seconds

    def close(self) -> None:
        """Close the file.  A call in progress closes it at its end."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait()[0].close()

    def _key(self, address: str) -> str:
        return str(self.settings.key(address))

    def _find(self, address: str) -> Lookup:
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT identity, login, expires FROM grants WHERE address = ? ORDER BY number DESC", (address,)
            ).fetchall()
            (latest,) = connection.execute("SELECT MAX(login) FROM grants").fetchone()
            # Read the clock after the rows.  Otherwise a grant that another process commits in between would seem to be
            # from the future.
            now = self._clock()
            if latest is not None and latest > now:
                with _writing(connection):  # otherwise these grants would become active later
                    self._sweep(connection, self._clock())
        for identity, login, expires in rows:
            if login <= now < expires:
                return Grant(address, identity, expires)
        return None

    def _grant(self, address: str, identity: str, asked: float) -> int:
        with self._connection() as connection, _writing(connection):
            now = self._clock()  # inside the transaction, so that no other process writes in between
            if time.monotonic() - asked > TIMEOUT:
                raise TimeoutError  # the caller no longer waits, and the lifetime starts at the login
            self._sweep(connection, now)
            connection.execute("DELETE FROM grants WHERE address = ? AND identity = ?", (address, identity))
            connection.execute(
                "DELETE FROM grants WHERE address = ? AND NOT (expires > ? AND number IN ("
                "SELECT number FROM grants WHERE address = ? ORDER BY number DESC LIMIT ?))",
                (address, now, address, self._identities - 1),
            )
            connection.execute(
                "INSERT INTO grants (address, identity, login, expires) VALUES (?, ?, ?, ?)",
                (address, identity, now, now + self.settings.lifetime),
            )
            (kept,) = connection.execute("SELECT grants FROM identities WHERE identity = ?", (identity,)).fetchone()
            for _ in range(min(kept - self._addresses, MAX_SWEPT_PER_LOGIN)):
                connection.execute(f"DELETE FROM grants WHERE number = ({_OLDEST_OF})", (identity,))
            (kept,) = connection.execute("SELECT grants FROM kept").fetchone()
            for _ in range(min(kept - self._max_grants, MAX_SWEPT_PER_LOGIN)):
                most, grants = connection.execute(_MOST).fetchone()
                if grants > 1:
                    connection.execute(f"DELETE FROM grants WHERE number = ({_OLDEST_OF})", (most,))
                else:
                    connection.execute("DELETE FROM grants WHERE number = (SELECT MIN(number) FROM grants)")
            (identities,) = connection.execute("SELECT COUNT(*) FROM grants WHERE address = ?", (address,)).fetchone()
            return int(identities)

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        """Remove grants that have expired, and those from before the clock was set back."""
        for condition in ("expires <= ?", "login > ?"):
            connection.execute(
                f"DELETE FROM grants WHERE number IN (SELECT number FROM grants WHERE {condition} LIMIT ?)",
                (now, MAX_SWEPT_PER_LOGIN),
            )

    def _revoke(self, column: str, value: str, older_than: float) -> int:
        with self._connection() as connection:
            connection.execute("PRAGMA synchronous = FULL")  # a revocation must survive a power cut; a grant need not
            try:
                with _writing(connection):
                    now = self._clock()
                    which, values = f"{column} = ? AND (login <= ? OR login > ?)", (value, now - older_than, now)
                    (active,) = connection.execute(
                        f"SELECT COUNT(*) FROM grants WHERE {which} AND login <= ? AND expires > ?", (*values, now, now)
                    ).fetchone()
                    connection.execute(f"DELETE FROM grants WHERE {which}", values)
            finally:
                connection.execute("PRAGMA synchronous = NORMAL")
        return int(active)

    def _active(self) -> list[ActiveGrant]:
        with self._connection() as connection:
            rows = connection.execute("SELECT address, identity, login, expires FROM grants ORDER BY number").fetchall()
        now = self._clock()
        return [
            ActiveGrant(address=grant_key(address), identity=identity, remaining=expires - now)
            for address, identity, login, expires in rows
            if login <= now < expires
        ]

    @contextlib.contextmanager
    def _connection(self) -> Generator[sqlite3.Connection]:
        try:
            connection, files = self._idle.get_nowait()
        except queue.Empty:
            connection, files = self._open()
        else:
            if files != self._file_ids():
                connection.close()  # a file was removed or replaced: no other process sees what is in it
                connection, files = self._open()
        try:
            yield connection
        except BaseException:
            connection.close()  # the connection itself may be broken
            raise
        if self._closed:
            connection.close()
        else:
            self._idle.put((connection, files))

    def _open(self) -> tuple[sqlite3.Connection, _FileIds]:
        """Return a connection to the file, which is created if it does not exist, and what identifies the files."""
        file = _file_id(self._path)
        # Another process may be creating a file that this one has not opened yet.
        with contextlib.nullcontext() if file is not None and file == self._complete else _alone(self._path.parent):
            _claim(self._path)
            file = _file_id(self._path)
            target = os.path.realpath(self._path)
            self._log = (Path(f"{target}-wal"), Path(f"{target}-shm"))
            connection = _connect(self._path, self.settings)
        self._complete = file
        # The log exists while a connection is open.  If the database was replaced meanwhile, the next call opens it.
        return connection, (file, *self._file_ids()[1:])

    def _file_ids(self) -> _FileIds:
        """Return what identifies the database and its log."""
        return tuple(map(_file_id, (self._path, *self._log)))


def _file_id(path: Path) -> _FileId:
    """Return the device and the inode of *path*; None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Lock *folder*, so that processes that start together do not create the same file at once."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _claim(path: Path) -> None:
    """Create *path* for its owner only, or check an existing file.  Raises GrantsError or OSError.

    An existing file is not opened: closing it would release the locks of all SQLite connections of this process.
    """
    _check_beside(Path(os.path.realpath(path)))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        check_file(path)


def check_file(path: Path) -> None:
    """Check that *path* is a regular file that other users can neither access nor replace.

    Raises GrantsError or OSError.  *path* may be a link, but the files beside its target may not.  In a directory such
    as /tmp, all of them must belong to this user or to root.

    The mode of the file is 600, or 660 to share it with a group.  Then its directory must belong to this group, be
    writable for it, and have the setgid bit: SQLite makes the files beside it (-wal, -shm) with the same mode, but for
    the group of the directory.
    """
    check_type("path", path, Path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise GrantsError(f"{path} is not a regular file; use another path")
    mode = stat.S_IMODE(status.st_mode)
    private, shared = not mode & 0o077, not mode & 0o007 and mode & 0o070 == 0o060
    path = Path(os.path.realpath(path))
    folder = path.parent
    if shared:
        found = folder.stat()
        shared = found.st_gid == status.st_gid and found.st_mode & 0o2032 == 0o2030
    if not (private or shared):
        group = _name(grp.getgrgid, status.st_gid)
        raise GrantsError(
            f"{path} is accessible to other users; run: chmod 600 {path} (or, to share it with the group {group}: "
            f"chmod 660 {path} && chgrp {group} {folder} && chmod 2770 {folder})"
        )
    _check_beside(path)


def _check_beside(path: Path) -> None:
    """Check that no other user can replace the database *path* or a file beside it, or has put it there."""
    with Folder.open(path.parent) as folder:
        mode = os.fstat(folder.number).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise GrantsError(f"{path} can be replaced by other users; run: chmod o-w {path.parent}")
        for end in ("", *_BESIDE):
            name = f"{path.name}{end}"
            try:
                status = folder.status(name)
                folder.check(name, status)
            except FileNotFoundError:
                continue
            except PermissionError as error:
                raise GrantsError(f"{path.parent}: {error.strerror}; use another directory") from error
            if end and not stat.S_ISREG(status.st_mode):
                raise GrantsError(f"{path.parent / name} is not a regular file; remove it")


def access_problem(path: Path) -> str | None:
    """Return what the user of this process may not do with the database *path*; None if all is permitted."""
    check_type("path", path, Path)
    path = path.absolute()
    folder = path.parent
    needed = [(place, os.X_OK, "enter") for place in reversed(folder.parents)]
    needed.append((folder, os.R_OK | os.W_OK | os.X_OK, "read and write"))
    needed += [(path.with_name(f"{path.name}{end}"), os.R_OK | os.W_OK, "read and write") for end in ("", *_BESIDE)]
    for place, access, verb in needed:
        try:
            status = place.stat()
        except OSError:
            continue  # it does not exist; a directory that does not let us look at it was found before
        if not os.access(place, access, effective_ids=os.access in os.supports_effective_ids):
            user, owner = (_name(pwd.getpwuid, number) for number in (os.geteuid(), status.st_uid))
            group, mode = _name(grp.getgrgid, status.st_gid), stat.S_IMODE(status.st_mode)
            return (
                f"user {user} may not {verb} {place} (owner {owner}, group {group}, mode {mode:o}); "
                "run this as the owner, or share the file with a group (docs/grants.md)"
            )
    return None


def _name(look_up: Callable[[int], tuple[Any, ...]], number: int) -> str:
    """Return the name of a user or group, or the number of one without a name."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def _connect(path: Path, settings: GrantSettings) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and tables:
            raise GrantsError(f"{path} is the database of another program; use another file")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise GrantsError(f"{path} is on a file system that does not support a write-ahead log; use a local disk")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO made_with VALUES (?)", (settings.describe_keys(),))
            connection.execute("COMMIT")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            raise GrantsError(f"{path} was written by another version of mailauth; stop its servers and remove it")
        (made_with,) = connection.execute("SELECT settings FROM made_with").fetchone()
        if made_with != settings.describe_keys():
            raise GrantsError(
                f"{path} was made with {made_with}, not with {settings.describe_keys()}; use the same settings in all "
                "processes, or stop them and remove the file"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _writing(connection: sqlite3.Connection) -> Generator[None]:
    """Run the body in one write transaction, which excludes other writers."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
