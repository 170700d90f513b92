"""What a Maildir may contain, and how much of it is read: large files, many files, and calls that nobody waits for."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from anyio.lowlevel import checkpoint

from mailauth import pop3
from mailauth_io import _maildir
from mailauth_io._calls import CallAbandoned
from mailauth_io._files import Folder
from mailauth_io._maildir import MAX_MESSAGE, MaildirPath, StagedFile, list_messages, read_data, sweep
from mailauth_io._workers import FILES, UNLOCKING
from mailauth_io.stores import MaildirMaildrops, OpenedMaildrop, _maildir_messages, _wire_sizes, maildir_maildrops
from mailauth_io.stores.protocols import PartialMaildrop
from tests.io.descriptors import open_files_in
from tests.io.line_echo import cancel_when_blocked
from tests.io.server_support import Run, on_both_loops
from tests.io.stores.test_maildirs import foreign
from tests.io.stores.test_maildrops import opened, whole

TIMEOUT = 60.0
"""Seconds after which a hanging test fails."""


def sparse(directory: Path, name: str, size: int) -> Path:
    """Make a message of *size* NUL bytes, which take no space on the disk."""
    file = foreign(directory, name, b"")
    os.truncate(file, size)
    return file


def unreadable(maildrop: OpenedMaildrop) -> list[tuple[str, str]]:
    """Return what is logged as not readable."""
    assert isinstance(maildrop, PartialMaildrop)
    return [(path.name, reason) for path, reason in maildrop.unreadable]


# Large files


@on_both_loops
@pytest.mark.parametrize(
    "names", [["2.x.host"], ["2.x,S=%d,W=%d"], ["2.M000001P1Q1R00000000.host,S=%d,W=%d"], ["2.x", "2.x:2,S"]]
)
def test_a_file_larger_than_a_message_may_be_is_left_out_unread(
    run: Run, tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file of any size takes no space on the disk.  It may have the unique name of another file."""
    size = MAX_MESSAGE + 1
    for name in names:
        large = sparse(tmp_path / "alice", name % (size, size) if "%" in name else name, size)
    if len(names) > 1:
        (tmp_path / "alice" / "new" / names[0]).write_bytes(b"b\n")
    foreign(tmp_path / "alice", "1.x", b"a\n")

    def small(folder: Folder, name: str) -> Iterator[bytes]:
        pieces = read_data(folder, name)
        assert name != large.name
        return pieces

    monkeypatch.setattr(_wire_sizes, "read_data", small)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert [message.size for message in maildrop.messages] == [3] * len(names)
        assert unreadable(maildrop) == [(large.name, "it is larger than 1073741824 bytes")]
        maildrop.close()

    run(main)


def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another program appends to all the time has no end."""
    monkeypatch.setattr(_maildir, "MAX_MESSAGE", 200_000)
    file = tmp_path / "file"
    with Folder.open(tmp_path) as folder:
        for grown, read in ((200_000, 200_000), (0, 65_536)):
            file.write_bytes(b"x" * 150_000)
            pieces = read_data(folder, "file")
            first = next(pieces)
            os.truncate(file, grown)
            assert len(first + b"".join(pieces)) == read
        file.write_bytes(b"x" * 150_000)
        pieces = read_data(folder, "file")
        os.truncate(file, 200_001)
        with pytest.raises(OSError, match="it is larger than 200000 bytes") as raised:
            list(pieces)
        assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(file))
        with pytest.raises(OSError, match="it is larger than 200000 bytes"):
            read_data(folder, "file")


@on_both_loops
def test_a_message_that_grows_without_end_ends_the_response(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_maildir, "MAX_MESSAGE", 500_000)
    file = foreign(tmp_path / "alice", "1.x", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")

        async def retrieve() -> None:
            offset = 0
            while True:
                with file.open("ab") as growing:
                    growing.write(b"x" * 65_536)
                offset += len((await maildrop.read(1, offset)).data)
                assert offset <= 500_000

        with pytest.raises(OSError, match="it is larger than 500000 bytes"):
            await retrieve()
        maildrop.close()

    run(main)


def test_a_message_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would be accepted, and lost."""
    monkeypatch.setattr(_maildir, "MAX_MESSAGE", 10)
    for data, fits in ((b"12345678\r\n" + b"\r\n", True), (b"12345678\r\n" + b"a\r\n", False)):
        file = StagedFile(MaildirPath(tmp_path))
        if fits:
            file.write((data,))
        else:
            with pytest.raises(OSError, match="it is larger than 10 bytes"):
                file.write((data,))
    assert len(os.listdir(tmp_path / "tmp")) == 1


# Many files


def newest(directory: Path) -> tuple[list[str], int]:
    """Return the names of the files that are listed, and the number of the others."""
    with Folder.open(directory) as folder, _maildir.message_folders(folder) as folders:
        found = list_messages(folders)
    return [name for files in found.files.values() for _, name in files], found.left_out


def test_the_newest_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their names, also if they are in both folders or have the same unique name.

    At no time are there many more in memory.
    """
    kept: list[int] = []
    keep_newest = _maildir._keep_newest

    def noted(files: list[tuple[str, str, str]]) -> int:
        kept.append(len(files))
        return keep_newest(files)

    monkeypatch.setattr(_maildir, "_keep_newest", noted)
    monkeypatch.setattr(_maildir, "MAX_LISTED", 5)
    names = [f"{number}.x" for number in range(10, 43)]
    for number, name in enumerate(names):
        foreign(tmp_path, f"{name}:2,S" if number % 3 else name, b"", "cur" if number % 3 else "new")
        found, left_out = newest(tmp_path)
        assert [_maildir.unique_name(each) for each in found] == names[max(0, number - 4) : number + 1]
        assert left_out == max(0, number - 4)
    for flag in "ABCDEFGHIJKL":
        foreign(tmp_path, f"99.x:2,{flag}", b"", "cur")
    assert newest(tmp_path) == ([f"99.x:2,{flag}" for flag in "HIJKL"], 33 + 7)
    assert max(kept) == 10


@on_both_loops
def test_a_maildrop_with_too_many_files_has_the_newest(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says so.  The others follow when these have been deleted."""
    monkeypatch.setattr(_maildir, "MAX_LISTED", 3)
    for number in range(4):
        foreign(tmp_path / "alice", f"{number}.x", b"%d\n" % number)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert [await whole(maildrop, number) for number in (1, 2, 3)] == [b"1\r\n", b"2\r\n", b"3\r\n"]
        assert unreadable(maildrop) == [("alice", "too many files: the newest 3 are listed, and 1 are not")]
        await maildrop.update(frozenset({1, 2, 3}))
        maildrop.close()
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert [await whole(maildrop, number) for number in range(1, len(maildrop.messages) + 1)] == [b"0\r\n"]
        assert unreadable(maildrop) == []
        maildrop.close()

    run(main)


def test_one_login_examines_a_limited_number_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_maildir, "MAX_SWEPT", 3)
    for number in range(5):
        os.utime(foreign(tmp_path, f"{number}", b"", "tmp"), (0, 0))
    with Folder.open(tmp_path) as folder:
        for left in (2, 0):
            sweep(folder)
            assert len(os.listdir(tmp_path / "tmp")) == left


# Saved sizes


def saved(count: int) -> bytes:
    """Return a valid file of *count* sizes."""
    lines = (f"{number:032x} 4 1700000000000000000 6\n" for number in range(count))
    return b"mailauth sizes 1\n" + "".join(lines).encode()


@on_both_loops
@pytest.mark.parametrize("name", ["1.x.host", "1.M000001P1Q1R00000000.host,S=4,W=6"])
def test_saved_sizes_of_far_more_messages_are_ignored_and_replaced(run: Run, tmp_path: Path, name: str) -> None:
    """Reading them took 13 times their size in memory.  Whoever can write to the Maildir could make the file."""
    foreign(tmp_path / "alice", name, b"a\nb\n")
    kept = tmp_path / "alice" / "mailauth.sizes"
    kept.write_bytes(saved(150_000))

    async def main() -> None:
        tracemalloc.start()
        try:
            maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()
        assert [message.size for message in maildrop.messages] == [6]
        maildrop.close()

    run(main)
    assert kept.read_bytes().count(b"\n") == (2 if name == "1.x.host" else 1)


@on_both_loops
def test_saved_sizes_are_used_after_most_messages_were_deleted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have deleted them, and recounting those that remain would take long."""
    file = foreign(tmp_path / "alice", "1.x.host", b"a\nb\n")
    unique_id = hashlib.sha256(b"1.x.host").hexdigest()[:32]
    line = f"{unique_id} 4 {file.stat().st_mtime_ns} 6\n".encode()
    (tmp_path / "alice" / "mailauth.sizes").write_bytes(saved(10_000) + line)

    def uncounted(folder: Folder, name: str) -> Iterator[bytes]:
        raise AssertionError("the message was read to count it")

    monkeypatch.setattr(_wire_sizes, "read_data", uncounted)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert [message.size for message in maildrop.messages] == [6]
        maildrop.close()

    run(main)


def test_a_line_of_saved_sizes_has_at_most_its_maximum_length() -> None:
    line = b"%s-%s %d -%d %d\n" % (b"a" * 32, b"a" * 37, 10**19 - 1, 10**19 - 1, 10**19 - 1)
    assert _wire_sizes._LINE.match(line)
    assert len(line) == _wire_sizes._MAX_LINE


# Calls that nobody waits for


@on_both_loops
def test_opening_stops_reading_when_nobody_waits_for_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maildrop is unlocked, and what was counted is saved: a maildrop that takes too long can be opened later."""
    foreign(tmp_path / "alice", "1.x", b"a\n")
    large = sparse(tmp_path / "alice", "2.x", MAX_MESSAGE)
    foreign(tmp_path / "alice", "3.x", b"a\n")
    reading = False

    def noted(folder: Folder, name: str) -> Iterator[bytes]:
        nonlocal reading
        for piece in read_data(folder, name):
            reading = reading or name == "2.x"
            yield piece

    monkeypatch.setattr(_wire_sizes, "read_data", noted)

    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path)
        await cancel_when_blocked(lambda: maildrops.open("alice"), lambda: reading)
        while FILES.admission.running:
            await checkpoint()
        assert (tmp_path / "alice" / "mailauth.sizes").read_bytes().count(b"\n") == 2
        large.unlink()
        maildrop = await opened(maildrops, "alice")
        assert len(maildrop.messages) == 2
        maildrop.close()

    run(main)


@pytest.mark.parametrize("work", ["list", "sweep", "read", "write", "examine", "hash"])
def test_every_loop_over_files_and_data_can_be_stopped(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind."""
    foreign(tmp_path, "1.x", b"a\n")
    foreign(tmp_path, "1.x:2,S", b"b\n", "cur")
    foreign(tmp_path, "old", b"", "tmp")

    def stop() -> None:
        raise CallAbandoned

    for module in (_maildir, _maildir_messages):
        if (work == "examine") == (module is _maildir_messages):
            monkeypatch.setattr(module, "check_abandoned", stop)
    with Folder.open(tmp_path) as folder, _maildir.message_folders(folder) as folders:
        functions: dict[str, Callable[[], object]] = {
            "list": lambda: list_messages(folders),
            "sweep": lambda: sweep(folder),
            "read": lambda: list(read_data(folders["new"], "1.x")),
            "hash": lambda: _maildir_messages.content_digest(folders["new"], "1.x"),
            "write": lambda: StagedFile(MaildirPath(tmp_path)).write((b"x\r\n",)),
            "examine": lambda: _maildir_messages.MaildirMessages(folder),
        }
        with pytest.raises(CallAbandoned):
            functions[work]()
    assert os.listdir(tmp_path / "tmp") == ["old"]
    assert open_files_in(tmp_path) == []


# Work on the event loop


@on_both_loops
def test_closing_a_maildrop_does_not_wait_for_the_disk(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the lock and of a message are closed in threads.  Another maildrop can be used meanwhile."""
    for name in ("alice", "bob"):
        foreign(tmp_path / name, "1.x", b"a\n" * 100_000)
    go_on, main_thread, blocked = threading.Event(), threading.get_ident(), list[str]()
    close = os.close
    closing_threads: list[int] = []

    class Noted(io.FileIO):
        def close(self) -> None:
            closing_threads.append(threading.get_ident())
            super().close()

    def hanging(number: int) -> None:
        path = os.readlink(f"/proc/self/fd/{number}")
        if path == str(tmp_path / "alice" / "mailauth.lock") and threading.current_thread().name == "mailauth cleanup":
            blocked.append(path)
            assert go_on.wait(TIMEOUT)
        assert threading.get_ident() != main_thread or str(tmp_path) not in path
        close(number)

    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path)
        monkeypatch.setattr(os, "close", hanging)
        monkeypatch.setattr(maildir_maildrops, "_CLOSE_TIMEOUT", 0.0)
        monkeypatch.setattr(Folder, "read", lambda folder, name: Noted(folder.open_file(name, os.O_RDONLY)))
        maildrop = await opened(maildrops, "alice")
        await maildrop.read(1)
        maildrop.close()
        maildrop.close()
        assert await maildrops.open("alice") is pop3.Unavailable.IN_USE
        for _ in range(3):  # each can be opened again at once
            monkeypatch.setattr(maildir_maildrops, "_CLOSE_TIMEOUT", TIMEOUT)
            (await opened(maildrops, "bob")).close()
        go_on.set()
        (await opened(maildrops, "alice")).close()
        monkeypatch.undo()

    run(main)
    UNLOCKING.finish(TIMEOUT)
    assert len(blocked) in (1, 2)
    assert closing_threads
    assert main_thread not in closing_threads
    assert maildir_maildrops._Lock._closing == {}
    assert open_files_in(tmp_path) == []


@on_both_loops
def test_a_maildrop_can_be_opened_as_soon_as_it_was_closed(run: Run, tmp_path: Path) -> None:
    """Its lock is closed in a thread: the client that has got the reply to QUIT may log in again at once."""

    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path)
        for _ in range(100):
            (await opened(maildrops, "alice")).close()

    run(main)
