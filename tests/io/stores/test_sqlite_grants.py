"""Grants in SQLite: the file, the locks, and when the clock is read."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailauth.grants import Grant
from mailauth_io.stores import GrantsError
from mailauth_io.stores.sqlite_grants import SqliteGrants, access_problem
from tests.io import loops
from tests.io.grant_stores import on_both_loops
from tests.io.server_support import run_on_asyncio

pytestmark = pytest.mark.usefixtures("long_timeouts")

HERE = "192.0.2.1"
REMOTE_ADDRESS = "192.0.2.2"
NOW = 1_700_000_000.0


class Opening:
    """Opens stores, and closes them at the end of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack = contextlib.ExitStack()

    def __call__(self, clock: Callable[[], float] = lambda: NOW) -> SqliteGrants:
        grants = SqliteGrants(self.path, clock=clock)
        self.stack.callback(grants.close)
        return grants


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    opens = Opening(tmp_path / "grants.db")
    with opens.stack:
        yield opens


def test_database_files_are_accessible_to_owner_only(opening: Opening) -> None:
    """Write access to the files allows relaying, and read access shows who logs in from where."""
    before = os.umask(0)
    try:
        grants = opening()
        run_on_asyncio(lambda: grants.grant(HERE, "alice"))
    finally:
        os.umask(before)
    files = sorted(opening.path.parent.iterdir())
    assert [path.name for path in files] == ["grants.db", "grants.db-shm", "grants.db-wal"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_accessible_to_other_users_is_rejected(opening: Opening, mode: int) -> None:
    opening().close()
    opening.path.chmod(mode)
    with pytest.raises(GrantsError, match=r"grants\.db is accessible to other users; run: chmod 600 "):
        opening()


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "accepted"),
    [
        (0o660, 0o2770, True),
        (0o660, 0o2775, True),
        (0o600, 0o1777, True),
        (0o660, 0o770, False),  # the files beside it would be for the group of whoever opens it first
        (0o660, 0o2750, False),
        (0o660, 0o3777, False),
        (0o640, 0o2770, False),
        (0o620, 0o2770, False),
        (0o664, 0o2770, False),
    ],
)
def test_file_may_be_shared_with_the_group_of_its_directory(
    tmp_path: Path, file_mode: int, folder_mode: int, accepted: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "grants.db"
    path.touch()
    folder.chmod(folder_mode)
    path.chmod(file_mode)
    with contextlib.nullcontext() if accepted else pytest.raises(GrantsError, match="accessible to other users"):
        SqliteGrants(path).close()
    if accepted and os.geteuid() == 0 and file_mode == 0o660:
        os.chown(path, -1, os.getegid() + 1)
        with pytest.raises(GrantsError, match="to share it with the group "):
            SqliteGrants(path)


def test_file_in_a_directory_that_all_users_can_write_to_is_rejected(tmp_path: Path) -> None:
    """They could replace it, or make the files beside it.  In a directory such as /tmp they could make these files."""
    tmp_path.chmod(0o777)
    path = tmp_path / "grants.db"
    for _ in range(2):
        with pytest.raises(GrantsError, match=f"{path} can be replaced by other users; run: chmod o-w {tmp_path}"):
            SqliteGrants(path)
        path.touch(mode=0o600)
    tmp_path.chmod(0o1777)
    SqliteGrants(path).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize(("mode", "accepted"), [(0o1777, False), (0o700, True)])
def test_file_of_another_user_in_a_shared_directory_is_rejected(
    tmp_path: Path, end: str, mode: int, accepted: bool
) -> None:
    """SQLite would read a log that another user wrote."""
    path = tmp_path / "grants.db"
    SqliteGrants(path).close()
    beside = Path(f"{path}{end}")
    beside.touch(mode=0o600)
    os.chown(beside, 12_345, -1)
    tmp_path.chmod(mode)
    with contextlib.nullcontext() if accepted else pytest.raises(GrantsError, match=f"{beside.name} is another user's"):
        SqliteGrants(path).close()


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "folder", "socket"])
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_database_and_the_files_beside_it_are_regular_files(
    tmp_path: Path, end: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the database may be a link, which the operator has made."""
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir()
    path = folder / "grants.db"
    SqliteGrants(path).close()
    beside = Path(f"{path}{end}")
    beside.unlink(missing_ok=True)
    monkeypatch.chdir(folder)  # the path of a socket has at most 107 bytes
    if kind == "pipe":
        os.mkfifo(beside, 0o600)
    elif kind == "folder":
        beside.mkdir(mode=0o700)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(beside.name)
    else:
        beside.symlink_to(target)
    if kind == "link":
        target.touch(mode=0o600)
    if kind == "link" and not end:
        SqliteGrants(path).close()
        return
    with pytest.raises(GrantsError, match=r"is not a regular file|No such file"):
        SqliteGrants(path)
    assert target.exists() == (kind == "link")
    if kind == "link":
        assert target.read_bytes() == b""


def test_files_beside_the_target_of_a_link_are_checked(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    SqliteGrants(tmp_path / "far" / "real.db").close()
    (tmp_path / "grants.db").symlink_to(tmp_path / "far" / "real.db")
    SqliteGrants(tmp_path / "grants.db").close()
    (tmp_path / "far" / "real.db-wal").symlink_to(tmp_path / "none")
    with pytest.raises(GrantsError, match=r"far/real\.db-wal is not a regular file"):
        SqliteGrants(tmp_path / "grants.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_missing_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    SqliteGrants(path).close()
    path.chmod(0o400)
    with pytest.raises(GrantsError, match=r"may not read and write .*grants\.db \(owner .*, group .*, mode 400\)"):
        SqliteGrants(path)
    assert access_problem(path) is not None


def test_missing_directory_raises_grants_error(tmp_path: Path) -> None:
    with pytest.raises(GrantsError, match=r"^cannot store grants in .*none/grants\.db: No such file or directory$"):
        SqliteGrants(tmp_path / "none" / "grants.db")


def test_file_that_is_no_grant_database_is_rejected_and_unchanged(tmp_path: Path) -> None:
    other, text = tmp_path / "other.db", tmp_path / "text"
    for path in (other, text):
        path.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE grants (something)")
    text.write_text("this text is not a database, but long enough to have a header\n" * 20)
    before = other.read_bytes(), text.read_bytes()
    with pytest.raises(GrantsError, match="is the database of another program"):
        SqliteGrants(other)
    with pytest.raises(GrantsError, match=r"^cannot store grants in .*text: file is not a database"):
        SqliteGrants(text)
    with pytest.raises(GrantsError, match="is not a regular file"):
        SqliteGrants(tmp_path)
    assert (other.read_bytes(), text.read_bytes()) == before


def test_file_of_another_version_is_rejected(opening: Opening) -> None:
    opening().close()
    with contextlib.closing(sqlite3.connect(opening.path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(GrantsError, match="was written by another version of mailauth"):
        opening()


def test_file_can_be_created_concurrently(tmp_path: Path) -> None:
    """As processes that start together do."""
    failures: list[Exception] = []
    for number in range(10):
        path, together = tmp_path / str(number), threading.Barrier(4)

        def start(path: Path = path, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                SqliteGrants(path).close()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@on_both_loops
async def test_clock_is_read_while_write_lock_is_held(loop: loops.Loop, opening: Opening) -> None:
    """Otherwise a grant that another process commits meanwhile would seem to be from the future, and be removed."""
    locked = []

    def clock() -> float:
        with contextlib.closing(sqlite3.connect(opening.path, timeout=0)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                locked.append(True)
        return NOW

    grants = opening(clock)
    await grants.grant(HERE, "alice")
    await grants.revoke_identity("alice")
    assert locked == [True, True]


@on_both_loops
async def test_grant_made_during_lookup_is_not_removed(loop: loops.Loop, opening: Opening) -> None:
    """The rows are read before the clock.  A row added in between is not found, and not removed."""
    later = opening(lambda: NOW + 0.5)
    meanwhile: list[Callable[[], object]] = [lambda: run_on_asyncio(lambda: later.grant(HERE, "alice"))]

    def clock() -> float:
        if meanwhile:
            meanwhile.pop()()
        return NOW

    grants = opening(clock)
    assert await grants.find(HERE) is None
    assert meanwhile == []
    assert await later.find(HERE) is not None


@on_both_loops
async def test_lookup_does_not_wait_for_write_lock(loop: loops.Loop, opening: Opening) -> None:
    """A lookup works while another process holds the write lock.  A login raises an exception, and makes no grant."""
    grants = opening()
    await grants.grant(HERE, "alice")
    with contextlib.closing(sqlite3.connect(opening.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = await grants.find(HERE)
        assert found is not None
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await grants.grant(REMOTE_ADDRESS, "bob")
        assert await grants.find(HERE) is not None
        other.execute("ROLLBACK")
    assert await grants.find(REMOTE_ADDRESS) is None


@on_both_loops
async def test_full_disk_prevents_new_grants_but_not_lookups(loop: loops.Loop, opening: Opening) -> None:
    grants = opening()
    await grants.grant(HERE, "alice")
    connection, file = grants._idle.get()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    grants._idle.put((connection, file))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await grants.grant(REMOTE_ADDRESS, "bob" * 10_000)
    assert await grants.find(HERE) is not None
    assert await grants.find(REMOTE_ADDRESS) is None
    assert await grants.grant(REMOTE_ADDRESS, "bob") == 1


@on_both_loops
async def test_grant_after_deadline_raises_timeout_and_is_not_stored(loop: loops.Loop, opening: Opening) -> None:
    """The caller has given up, and the lifetime starts at the login, not when a stalled disk continues."""
    grants = opening()
    with pytest.raises(TimeoutError):
        await loop.in_thread(grants._grant, HERE, "alice", -1000.0)
    assert await grants.find(HERE) is None


@on_both_loops
async def test_removed_file_is_made_again_and_has_no_grants(loop: loops.Loop, opening: Opening) -> None:
    """SQLite goes on with a removed file, which no other process sees: a grant in it could not be revoked."""
    grants = opening()
    await grants.grant(HERE, "alice")
    for path in opening.path.parent.iterdir():
        path.unlink()
    assert await grants.find(HERE) is None
    assert stat.S_IMODE(opening.path.stat().st_mode) == 0o600
    await grants.grant(REMOTE_ADDRESS, "bob")
    assert await opening().find(REMOTE_ADDRESS) is not None


@pytest.mark.parametrize("linked", [False, True])
@on_both_loops
async def test_log_that_was_removed_alone_is_noticed(loop: loops.Loop, opening: Opening, linked: bool) -> None:
    """A grant in it would be seen by no other process, and be lost at the end."""
    if linked:
        link = opening.path.with_name("link")
        link.symlink_to(opening.path)
        opening.path = link
        opening.path.resolve().touch(mode=0o600)
    grants = opening()
    await grants.grant(HERE, "alice")
    for end in ("-wal", "-shm"):
        Path(f"{opening.path.resolve()}{end}").unlink()
    await grants.grant(REMOTE_ADDRESS, "bob")
    assert await opening().find(REMOTE_ADDRESS) is not None


@pytest.mark.parametrize("moved", [False, True])
@on_both_loops
async def test_replaced_file_is_used_at_once(loop: loops.Loop, opening: Opening, moved: bool) -> None:
    """Also if it takes the place of the old one, as after a backup was restored.  The files beside it stay."""
    grants = opening()
    await grants.grant(HERE, "alice")
    for path in opening.path.parent.iterdir():
        path.rename(f"{path}.old") if moved else path.unlink()
    other = opening()
    await other.grant(HERE, "bob")
    for _ in range(2):
        found = await grants.find(HERE)
        assert isinstance(found, Grant)
        assert found.identity == "bob"
    assert await other.revoke_address(HERE) == 1
    assert await grants.find(HERE) is None
    names = {path.name for path in opening.path.parent.iterdir() if path.suffix != ".old"}
    assert names == {"grants.db", "grants.db-shm", "grants.db-wal"}


@on_both_loops
async def test_store_of_a_file_whose_directory_was_removed_fails_until_it_is_back(
    loop: loops.Loop, opening: Opening
) -> None:
    folder = opening.path.parent / "folder"
    folder.mkdir()
    opening.path = folder / "grants.db"
    grants = opening()
    await grants.grant(HERE, "alice")
    away = folder.rename(f"{folder}.away")
    with pytest.raises(FileNotFoundError):
        await grants.find(HERE)
    away.rename(folder)
    assert await grants.find(HERE) is not None
