"""What lies beside and above the messages of a Maildir may be a link, a pipe or the file of another user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import poplib
import socket
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from mailauth import pop3
from mailauth_io import server
from mailauth_io._maildir import MaildirPath, StagedFile
from mailauth_io.stores import (
    Budget,
    Envelope,
    MaildirMaildrops,
    MaildirOutbox,
    MemoryOutbox,
    MessageContent,
    maildir_maildrops,
)
from mailauth_io.stores.protocols import PartialMaildrop, SharedMaildrop
from tests.io.descriptors import open_files_in
from tests.io.server_support import Run, Served, accounts, meet, on_both_loops
from tests.io.stores.test_maildirs import foreign, make_maildir
from tests.io.stores.test_maildrops import opened, put, whole

pytestmark = on_both_loops

KINDS = ["pipe", "socket", "folder", "link", "link to a folder", "dangling link"]
OTHER_USER = 12_345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@contextlib.contextmanager
def in_place(kind: str, path: Path, target: Path) -> Generator[None]:
    """Make *path* what *kind* says.  At the end, check that its target is unchanged and nothing waited for a pipe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    waited: list[bool] = []

    def release() -> None:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        waited.append(True)

    rescue = threading.Timer(20, release)  # ends the wait of a reader, so that the test fails instead of hanging
    before = os.getcwd()
    if kind == "pipe":
        os.mkfifo(path)
        rescue.start()
    elif kind == "socket":
        os.chdir(path.parent)  # the path of a socket has at most 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(before)
    elif kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"precious")
    else:
        if kind == "link":
            target.write_bytes(b"precious")
        elif kind == "link to a folder":
            make_maildir(target)
            (target / "abandoned").write_bytes(b"precious")
            os.utime(target / "abandoned", (0, 0))
        path.symlink_to(target)
    try:
        yield
    finally:
        rescue.cancel()
    assert waited == []
    if kind == "link":
        assert target.read_bytes() == b"precious"
    elif kind == "link to a folder":
        assert [found.name for found in target.rglob("*") if found.is_file()] == ["abandoned"]
    else:
        assert not target.exists()


# Files beside the messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mailauth.sizes", "mailauth.sizes.new"])
def test_cache_of_sizes_that_is_not_a_regular_file_is_not_used(run: Run, name: str, kind: str, tmp_path: Path) -> None:
    """The sizes are counted, whatever it is."""
    foreign(tmp_path / "alice", "1.x", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert await whole(maildrop, 1) == b"a\r\n"
        maildrop.close()

    with in_place(kind, tmp_path / "alice" / name, tmp_path / "target"):
        run(main)
    if kind != "folder":
        assert (tmp_path / "alice" / "mailauth.sizes").read_bytes().startswith(b"mailauth sizes 1\n")
        assert not (tmp_path / "alice" / "mailauth.sizes").is_symlink()


@pytest.mark.parametrize("kind", KINDS)
def test_lock_that_is_not_a_regular_file_is_an_error(run: Run, kind: str, tmp_path: Path) -> None:
    foreign(tmp_path / "alice", "1.x", b"a\n")

    async def main() -> None:
        with pytest.raises(OSError, match=r"mailauth\.lock is |Is a directory"):
            await MaildirMaildrops(tmp_path).open("alice")

    with in_place(kind, tmp_path / "alice" / "mailauth.lock", tmp_path / "target"):
        run(main)


def test_client_gets_sys_temp_and_the_log_names_the_lock(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = server.Stores(accounts=accounts(), maildrops=MaildirMaildrops(tmp_path), outbox=MemoryOutbox())
    make_maildir(tmp_path / "alice")

    def client(served: Served) -> None:
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
            served.log_in()

    with in_place("link", tmp_path / "alice" / "mailauth.lock", tmp_path / "target"):
        meet(run, client, kept=kept)
    (record,) = [record for record in caplog.records if "store failed" in record.getMessage()]
    assert "mailauth.lock is a symbolic link, which is not followed" in record.getMessage()
    assert record.exc_info is None


# Folders


async def deliver_to(store: str, directory: Path) -> None:
    if store == "maildrops":
        await put(MaildirMaildrops(directory), "alice", b"a\r\n")
    else:
        envelope = Envelope(queue_id="q", reverse_path="", recipients=("a@far.test",))
        staged = await MaildirOutbox(directory / "alice").stage(envelope, b"", MessageContent.of(b"a", Budget()))
        await staged.commit()


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "link", "link to a folder", "dangling link"])
@pytest.mark.parametrize("name", ["tmp", "new", "cur"])
@pytest.mark.parametrize("store", ["maildrops", "outbox"])
def test_folder_of_a_maildir_that_is_not_a_folder_is_an_error(
    run: Run, store: str, name: str, kind: str, tmp_path: Path
) -> None:
    """At a delivery and at a login.  Nothing is written or removed behind a link, not even abandoned files."""
    make_maildir(tmp_path / "alice")
    (tmp_path / "alice" / name).rmdir()

    async def main() -> None:
        with pytest.raises(NotADirectoryError, match=f"{name} is a symbolic link or not a folder"):
            await deliver_to(store, tmp_path)
        with pytest.raises(NotADirectoryError, match=f"{name} is a symbolic link or not a folder"):
            await MaildirMaildrops(tmp_path).open("alice")

    with in_place(kind, tmp_path / "alice" / name, tmp_path / "target"):
        run(main)


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "link", "link to a folder", "dangling link"])
def test_maildrop_that_is_not_a_folder_is_an_error(run: Run, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(NotADirectoryError, match="alice is a symbolic link or not a folder"):
            await deliver_to("maildrops", tmp_path / "mail")
        with pytest.raises(NotADirectoryError, match="alice is a symbolic link or not a folder"):
            await MaildirMaildrops(tmp_path / "mail").open("alice")

    with in_place(kind, tmp_path / "mail" / "alice", tmp_path / "target"):
        run(main)


@pytest.mark.parametrize("store", ["maildrops", "outbox"])
def test_directory_that_the_operator_names_may_be_a_link(run: Run, store: str, tmp_path: Path) -> None:
    make_maildir(tmp_path / "far" / "alice")
    (tmp_path / "mail").mkdir()
    link = tmp_path / "mail" / ("alice" if store == "outbox" else "link")
    link.symlink_to(tmp_path / "far" / ("alice" if store == "outbox" else ""))

    async def main() -> None:
        await deliver_to(store, tmp_path / "mail" if store == "outbox" else link)
        if store == "maildrops":
            assert await whole(await opened(MaildirMaildrops(link), "alice"), 1) == b"a\r\n"

    run(main)
    assert len(list((tmp_path / "far" / "alice" / "new").iterdir())) == 1


# Other users


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o1777])
@pytest.mark.parametrize("name", ["alice", "alice/new", "alice/mailauth.lock"])
def test_entry_of_another_user_in_a_folder_of_everybody_is_an_error(
    run: Run, name: str, mode: int, tmp_path: Path
) -> None:
    """That user would get the mail.  If only the owner and the group can write to the folder, they have decided it."""
    make_maildir(tmp_path / "mail" / "alice")
    (tmp_path / "mail" / "alice" / "mailauth.lock").touch(mode=0o600)
    path = tmp_path / "mail" / name
    os.chown(path, OTHER_USER, -1)
    path.parent.chmod(mode)

    async def main() -> None:
        expected = pytest.raises(PermissionError, match=f"{path.name} is another user's")
        with expected if mode & 0o002 else contextlib.nullcontext():
            (await opened(MaildirMaildrops(tmp_path / "mail"), "alice")).close()
        if not name.endswith("lock"):
            with expected if mode & 0o002 else contextlib.nullcontext():
                await deliver_to("maildrops", tmp_path / "mail")

    run(main)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o1777])
def test_hard_link_to_a_file_of_another_user_is_no_message(run: Run, mode: int, tmp_path: Path) -> None:
    """A user who owns the Maildir could read any file that the server can read, and lock any file.

    The owner's own hard links are messages.
    """
    maildir = tmp_path / "mail" / "alice"
    (tmp_path / "secret").write_bytes(b"root:x\n")
    own = foreign(maildir, "1.x", b"a\n")
    os.link(own, maildir / "new" / "2.x")
    os.link(tmp_path / "secret", maildir / "new" / "3.x")
    os.link(tmp_path / "secret", maildir / "cur" / "4.M000001P1Q1R00000000.host,S=7,W=8:2,")
    foreign(maildir, "5.x", b"b\n")  # delivered by root
    for path in (maildir, maildir / "new", maildir / "cur", own):
        os.chown(path, OTHER_USER, -1)
    (maildir / "new").chmod(mode)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path / "mail"), "alice")
        texts = [await whole(maildrop, number) for number in range(1, len(maildrop.messages) + 1)]
        assert texts == ([b"a\r\n", b"a\r\n", b"b\r\n"] if mode == 0o700 else [b"b\r\n"])
        assert isinstance(maildrop, PartialMaildrop)
        assert "3.x is a hard link to a file of another user" in dict(maildrop.unreadable).values()
        maildrop.close()
        os.link(tmp_path / "secret", maildir / "link")
        (maildir / "link").rename(maildir / "mailauth.lock")
        with pytest.raises(PermissionError, match=r"mailauth\.lock is a hard link to a file of another user"):
            await MaildirMaildrops(tmp_path / "mail").open("alice")

    run(main)


# Removed and replaced


@pytest.mark.parametrize("replaced", [False, True])
def test_lock_that_was_removed_before_it_was_locked_is_taken_again(
    run: Run, replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a file without the name excludes nobody."""
    lock = tmp_path / "alice" / "mailauth.lock"
    flock, calls = fcntl.flock, 0

    def late(number: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            lock.unlink()
            if replaced:
                lock.touch(mode=0o600)
        flock(number, operation)

    monkeypatch.setattr(fcntl, "flock", late)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert calls == 3
        assert await MaildirMaildrops(tmp_path).open("alice") is pop3.Unavailable.IN_USE
        maildrop.close()
        (await opened(MaildirMaildrops(tmp_path), "alice")).close()

    run(main)


def test_lock_that_is_always_replaced_is_in_use(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, flock = tmp_path / "alice" / "mailauth.lock", fcntl.flock

    def late(number: int, operation: int) -> None:
        lock.unlink()
        flock(number, operation)

    monkeypatch.setattr(fcntl, "flock", late)

    async def main() -> None:
        assert await MaildirMaildrops(tmp_path).open("alice") is pop3.Unavailable.IN_USE
        assert open_files_in(tmp_path) == []

    run(main)


@pytest.mark.parametrize("what", ["lock removed", "lock replaced", "maildrop replaced"])
def test_session_without_its_lock_deletes_nothing(run: Run, what: str, tmp_path: Path) -> None:
    """Another session may be open.  If the Maildir was replaced, the messages are in another place."""
    maildir = tmp_path / "alice"
    foreign(maildir, "1.x", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        if what == "maildrop replaced":
            maildir.rename(tmp_path / "away")
            foreign(maildir, "1.x", b"b\n")
        else:
            (maildir / "mailauth.lock").unlink()
        if what != "lock removed":
            (await opened(MaildirMaildrops(tmp_path), "alice")).close()
        with pytest.raises(OSError, match="removed or replaced during the session") as caught:
            await maildrop.update(frozenset({1}))
        assert caught.value.errno == errno.ESTALE
        with pytest.raises(OSError, match="removed or replaced during the session"):
            await maildrop.read(1)
        maildrop.close()

    run(main)
    assert (maildir / "new" / "1.x").exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_maildir_moved_between_writing_and_commit_gets_no_message(run: Run, replaced: bool, tmp_path: Path) -> None:
    """The message is not acknowledged, and the next one is in the new Maildir."""

    async def main() -> None:
        staged = await MaildirMaildrops(tmp_path).stage("alice", b"", MessageContent.of(b"a", Budget()))
        (tmp_path / "alice").rename(tmp_path / "away")
        if replaced:
            make_maildir(tmp_path / "alice")
        with pytest.raises(FileNotFoundError):
            await staged.commit()
        staged.discard()
        await deliver_to("maildrops", tmp_path)

    run(main)
    assert list((tmp_path / "away" / "new").iterdir()) == []
    assert len(list((tmp_path / "alice" / "new").iterdir())) == 1


def test_message_written_to_a_moved_maildir_is_not_acknowledged(run: Run, tmp_path: Path) -> None:
    """The Maildir is moved during the write; a folder of this name does not get the message either."""
    file = StagedFile(MaildirPath(tmp_path, "alice"))

    def pieces() -> Iterator[bytes]:
        yield b"a"
        (tmp_path / "alice").rename(tmp_path / "away")
        make_maildir(tmp_path / "alice")
        yield b"b"

    file.write(pieces())
    with pytest.raises(FileNotFoundError):
        file.commit()
    assert list((tmp_path / "alice" / "new").iterdir()) == []


def test_no_descriptor_stays_open(run: Run, tmp_path: Path) -> None:
    """After deliveries, sessions and errors.  An open session keeps one, for the lock."""
    foreign(tmp_path / "alice", "1.x", b"a\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tmp").symlink_to(tmp_path)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "mailauth.lock").mkdir()

    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path)
        await put(maildrops, "alice", b"a\r\n")
        assert open_files_in(tmp_path) == []
        maildrop = await opened(maildrops, "alice")
        assert open_files_in(tmp_path) == [str(tmp_path / "alice" / "mailauth.lock")]
        await whole(maildrop, 1)
        await maildrop.update(frozenset({1}))
        maildrop.close()
        assert isinstance(maildrop, SharedMaildrop)
        await maildrop.wait_closed()
        for name in ("broken", "locked"):
            with pytest.raises(OSError, match=r"tmp is |Is a directory"):
                await maildrops.open(name)
        assert open_files_in(tmp_path) == []

    run(main)


def test_files_in_tmp_are_removed_only_in_the_maildir(run: Run, tmp_path: Path) -> None:
    """A link in the place of ``tmp`` could lead to any folder, whose old files would be removed."""
    make_maildir(tmp_path / "alice")
    (tmp_path / "alice" / "tmp").rmdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    long_ago = time.time() - 40 * 3600
    os.utime(tmp_path / "old" / "file", (long_ago, long_ago))
    (tmp_path / "alice" / "tmp").symlink_to(tmp_path / "old")

    async def main() -> None:
        with pytest.raises(NotADirectoryError):
            await deliver_to("outbox", tmp_path)

    run(main)
    assert (tmp_path / "old" / "file").exists()


def test_lock_is_released_before_the_reply_to_quit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may serve the next session, and does not know that the lock is being released."""
    order: list[str] = []
    replied = threading.Event()
    close = maildir_maildrops._Lock._close

    def close_late(lock: maildir_maildrops._Lock, closed: threading.Event) -> None:
        replied.wait(0.2)  # a server that does not wait for this has replied then
        order.append("released")
        close(lock, closed)

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert smtp.sendmail("sender@far.test", ["alice@example.test"], "Subject: x") == {}
        for deleted in ([], [1]):
            session = served.log_in()
            for number in deleted:
                session.dele(number)
            replied.clear()
            session.quit()
            replied.set()
            order.append("replied")

    monkeypatch.setattr(maildir_maildrops._Lock, "_close", close_late)
    kept = server.Stores(accounts=accounts(), maildrops=MaildirMaildrops(tmp_path), outbox=MemoryOutbox())
    meet(run, client, kept=kept)
    assert order == ["released", "replied"] * 2
