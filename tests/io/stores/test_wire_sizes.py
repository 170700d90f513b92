"""The sizes of messages in a Maildir: LIST and RETR agree, each message is counted once, and little memory is used."""

from __future__ import annotations

import errno
import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailauth_io._files import Folder
from mailauth_io.stores import MaildirMaildrops, _wire_sizes
from tests.io import file_calls
from tests.io.server_support import Run, on_both_loops
from tests.io.stores.test_maildirs import foreign
from tests.io.stores.test_maildrops import opened, put, whole

pytestmark = on_both_loops


WRONG = [
    "1.M000001P1.host,W=3",
    "1.M000001P1Q1R00000000.host,S=5,W=3",
    "1.M000001P1Q1R00000000.host,W=3",
    "1.x,S=4,W=3",
    "1.M000001P1Q1R00000000.host,S=4,W=3",
    "1.M000001P1Q1R00000000.host,S=4,W=11",
    "1.M000001P1Q1R00000000.host,S=4,W=999999999999999999",
]


@pytest.mark.parametrize("name", WRONG)
def test_size_in_foreign_file_name_is_not_trusted(run: Run, tmp_path: Path, name: str) -> None:
    """The size in LIST must be that of the content of RETR (RFC 1939 section 11), for any file name."""
    foreign(tmp_path / "alice", name, b"a\nb\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert maildrop.messages[0].size == 6 == len(await whole(maildrop, 1))

    run(main)


async def sizes(directory: Path) -> list[int]:
    """Return the sizes that a new store reports."""
    maildrop = await opened(MaildirMaildrops(directory), "alice")
    maildrop.close()
    return [message.size for message in maildrop.messages]


def uncounted(folder: Folder, name: str) -> Iterator[bytes]:
    raise AssertionError("the message was read to count it")


def test_sizes_are_counted_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages written by this server are never counted, and others once for all later sessions and processes."""
    foreign(tmp_path / "alice", "1.x.host", b"a\nb\n")
    moved = foreign(tmp_path / "alice", "2.x.host", b"c\n")

    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"mine\r\n")
        assert await sizes(tmp_path) == [6, 6, 3]
        moved.rename(tmp_path / "alice" / "cur" / "2.x.host:2,S")
        monkeypatch.setattr(_wire_sizes, "read_data", uncounted)
        assert await sizes(tmp_path) == [6, 6, 3]

    run(main)


def test_a_message_that_another_program_changed_is_counted_again(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for data, size in ((b"a\nb\n", 6), (b"\n\n\n\n", 8), (b"a\n", 3)):
            file = foreign(tmp_path / "alice", "1.x.host", data)
            os.utime(file, ns=(0, len(data) + size))
            assert await sizes(tmp_path) == [size]

    run(main)


def test_saved_sizes_of_removed_messages_are_dropped(run: Run, tmp_path: Path) -> None:
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")
    foreign(tmp_path / "alice", "2.x.host", b"a\n")

    async def main() -> None:
        await sizes(tmp_path)
        file.unlink()
        await sizes(tmp_path)

    run(main)
    assert len((tmp_path / "alice" / "mailauth.sizes").read_bytes().splitlines()) == 2


INVALID = [
    *(b"", b"\0" * 100, b"mailauth sizes 0\n%s %s 1\n", b"mailauth sizes 1\n%s %s\n"),
    *(b"mailauth sizes 1\n%s %s " + size + b"\n" for size in (b"3", b"11", b"9" * 19, b"9" * 30, b"9" * 5000)),
]


@pytest.mark.parametrize("kept", INVALID, ids=range(len(INVALID)))
def test_invalid_saved_sizes_are_counted_again(run: Run, tmp_path: Path, kept: bytes) -> None:
    """They may come from a power cut, from another version of the format, or from who may write to the Maildir."""
    file = foreign(tmp_path / "alice", "1.x.host", b"a\nb\n")
    unique_id = hashlib.sha256(b"1.x.host").hexdigest()[:32].encode()
    stamp = b"4 %d" % file.stat().st_mtime_ns
    (tmp_path / "alice" / "mailauth.sizes").write_bytes(kept % (unique_id, stamp) if b"%" in kept else kept)

    async def main() -> None:
        assert await sizes(tmp_path) == [6]

    run(main)


@pytest.mark.parametrize("name", ["open", "rename"])
def test_full_disk_does_not_prevent_opening_maildrop(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes that cannot be saved are counted each time, so that users can still log in and delete mail."""
    foreign(tmp_path / "alice", "1.x.host", b"a\n")

    def full(path: Path) -> None:
        if "mailauth.sizes" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    file_calls.before(monkeypatch, name, full)

    async def main() -> None:
        assert await sizes(tmp_path) == [3]

    run(main)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"1.x.host", "mailauth.lock"}


def test_large_message_is_counted_and_read_in_bounded_memory(run: Run, tmp_path: Path) -> None:
    """This holds for counting and for reading."""
    foreign(tmp_path / "alice", "1.x.host", b"x" * 75 + b"\n" + b"\n" * 8_000_000)

    async def main() -> None:
        tracemalloc.start()
        try:
            maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
            assert maildrop.messages[0].size == 16_000_077
            count, last = 0, False
            while not last:
                content = await maildrop.read(1, count)
                count, last = count + len(content.data), content.last
            assert count == 16_000_077
            assert tracemalloc.get_traced_memory()[1] < 1_500_000
        finally:
            tracemalloc.stop()

    run(main)
