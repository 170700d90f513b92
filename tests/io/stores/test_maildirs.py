"""Maildirs: other programs read and write them too, and they survive crashes."""

from __future__ import annotations

import errno
import os
import poplib
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailauth import pop3
from mailauth_io import server
from mailauth_io._maildir import MaildirPath
from mailauth_io.stores import (
    Budget,
    Envelope,
    MaildirMaildrops,
    MaildirOutbox,
    MemoryOutbox,
    MessageContent,
)
from tests.io import file_calls
from tests.io.server_support import Run, Served, accounts, meet, on_both_loops
from tests.io.stores.test_maildrops import opened, put, whole
from tests.serving import environment

pytestmark = on_both_loops


def foreign(maildir: Path, name: str, data: bytes, folder: str = "new") -> Path:
    for each in ("tmp", "new", "cur"):
        (maildir / each).mkdir(parents=True, exist_ok=True)
    (maildir / folder / name).write_bytes(data)
    return maildir / folder / name


def make_maildir(path: Path) -> None:
    with MaildirPath(path).make():
        pass


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_files_and_folders_are_accessible_to_owner_only(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path / "deep" / "mail")
        await put(maildrops, "alice", b"x\r\n")
        (await opened(maildrops, "alice")).close()

    run(main)
    for path in (tmp_path / "deep" / "mail").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_message_is_stored_in_new_with_lf_line_ends(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"S: 1\r\n\r\nbody\r\n", head=b"H: 1\r\n")

    run(main)
    (file,) = (tmp_path / "alice" / "new").iterdir()
    assert file.read_bytes() == b"H: 1\nS: 1\n\nbody\n"
    assert list((tmp_path / "alice" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [b"a\nb\n", b"a\r\nb\r\n", b"a\r\nb\n", b"a\nb", b"a\nb\r", b"a\rb\n", b"\n" * 70_000, b"x" * 65_535 + b"\r\ny\n"],
)
def test_externally_delivered_message_is_read_with_crlf_line_ends(run: Run, tmp_path: Path, data: bytes) -> None:
    foreign(tmp_path / "alice", "1.x.host", data, "cur")
    expected = re.sub(rb"\r\n|\r|\n|(?<![\r\n])\Z", b"\r\n", data)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert await whole(maildrop, 1) == expected
        assert [message.size for message in maildrop.messages] == [len(expected)]

    run(main)


def test_message_moved_by_another_program_is_found_and_keeps_unique_id(run: Run, tmp_path: Path) -> None:
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        file.rename(tmp_path / "alice" / "cur" / "1.x.host:2,S")
        assert await whole(maildrop, 1) == b"a\r\n"
        maildrop.close()
        again = await opened(MaildirMaildrops(tmp_path), "alice")
        assert again.messages == maildrop.messages
        await again.update(frozenset({1}))
        assert list((tmp_path / "alice" / "cur").iterdir()) == []

    run(main)


def test_deleting_message_removed_by_another_program_succeeds(run: Run, tmp_path: Path) -> None:
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        file.unlink()
        await maildrop.update(frozenset({1}))

    run(main)


def child(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that opens the maildrop, prints its messages, and holds it until the end of its input."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from mailauth_io.stores import MaildirMaildrops\n"
        "async def main():\n"
        "    maildrop = await MaildirMaildrops(pathlib.Path(sys.argv[1])).open('alice')\n"
        "    print(maildrop.messages, flush=True)\n"
        "    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )


def test_maildrop_is_locked_until_other_process_ends(run: Run, tmp_path: Path) -> None:
    """RFC 1939 section 4.  The kernel releases the lock when its process ends, for any reason."""
    maildrops = MaildirMaildrops(tmp_path)
    with child(tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"()\n"

        async def refused() -> None:
            assert await maildrops.open("alice") is pop3.Unavailable.IN_USE

        run(refused)
        other.kill()

    async def free() -> None:
        (await opened(maildrops, "alice")).close()

    run(free)


def test_second_session_gets_in_use_response_code(run: Run, tmp_path: Path) -> None:
    """RFC 2449 section 8.1.1.  The other session is in another process."""
    kept = server.Stores(accounts=accounts(), maildrops=MaildirMaildrops(tmp_path), outbox=MemoryOutbox())

    def client(served: Served) -> None:
        with child(tmp_path) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"()\n"
            with pytest.raises(poplib.error_proto, match=r"-ERR \[IN-USE\]"):
                served.log_in()
            other.kill()
        served.log_in().quit()

    meet(run, client, kept=kept)


@pytest.mark.parametrize("name", ["..", "../alice", "a/b", "", "Alice", ".hidden", "alice@example.test"])
def test_non_canonical_mailbox_name_raises_value_error(run: Run, tmp_path: Path, name: str) -> None:
    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path / "mail")
        with pytest.raises(ValueError, match="canonical"):
            await maildrops.open(name)
        with pytest.raises(ValueError, match="canonical"):
            await maildrops.stage(name, b"", MessageContent.of(b"", Budget()))

    run(main)
    assert list(tmp_path.iterdir()) == []


def test_only_visible_regular_files_are_messages(run: Run, tmp_path: Path) -> None:
    """A symbolic link could point to a file that its creator must not read."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x\n")
    file = foreign(tmp_path / "alice", "5.x.host", b"a\n")
    file.with_name("1.link").symlink_to(secret)
    file.with_name("2.folder").mkdir()
    os.mkfifo(file.with_name("3.pipe"))
    file.with_name(".4.hidden").write_bytes(b"x\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert len(maildrop.messages) == 1
        assert await whole(maildrop, 1) == b"a\r\n"

    run(main)


NAMES = ["1.x.host", "1." + "x" * 200, "1.\u00e9", "1.a b\nc", "1.M1P1Q1R00000000.host,S=1,W=2", "1.x,foo=bar"]


def test_unique_ids_are_the_same_in_every_process(run: Run, tmp_path: Path) -> None:
    """RFC 1939 section 7: 1 to 70 characters from 0x21 to 0x7E, for any file names."""
    for name in NAMES:
        foreign(tmp_path / "alice", name, b"a\n")
    (tmp_path / "alice" / "new" / os.fsdecode(b"1.\xff")).write_bytes(b"a\n")
    printed = child(tmp_path).communicate(b"", timeout=60)[0].decode()

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        snapshot = pop3.Maildrop(messages=maildrop.messages)
        assert len({message.unique_id for message in snapshot.messages}) == len(NAMES) + 1
        assert printed == f"{maildrop.messages}\n"

    run(main)


def test_retr_of_removed_message_gets_err_and_session_continues(run: Run, tmp_path: Path) -> None:
    """RFC 1939 section 5: RETR and TOP get -ERR, the numbers do not change, and QUIT still deletes the others."""
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")
    foreign(tmp_path / "alice", "2.x.host", b"b\n")
    kept = server.Stores(accounts=accounts(), maildrops=MaildirMaildrops(tmp_path), outbox=MemoryOutbox())

    def client(served: Served) -> None:
        session = served.log_in()
        file.unlink()
        with pytest.raises(poplib.error_proto, match="-ERR"):
            session.retr(1)
        with pytest.raises(poplib.error_proto, match="-ERR"):
            session.top(1, 0)
        assert session.retr(2)[1] == [b"b"]
        session.dele(1)
        session.dele(2)
        session.quit()
        assert served.mail_of("alice") == []

    meet(run, client, kept=kept)


def test_message_removed_while_maildrop_is_opened_is_omitted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")
    foreign(tmp_path / "alice", "2.x.host", b"bb\n")
    file_calls.before(monkeypatch, "stat", lambda path: file.unlink(missing_ok=True) if path == file else None)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert [message.size for message in maildrop.messages] == [4]
        assert await whole(maildrop, 1) == b"bb\r\n"

    run(main)


def test_failed_deletion_raises_and_other_messages_are_deleted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 1939 section 6: the reply is -ERR if a message was not removed.  Only marked messages are removed."""
    files = [foreign(tmp_path / "alice", f"{number}.x.host", b"a\n") for number in range(1, 5)]

    def stuck(path: Path) -> None:
        if path == files[0]:
            raise PermissionError(errno.EACCES, "Permission denied")

    file_calls.before(monkeypatch, "unlink", stuck)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        with pytest.raises(PermissionError):
            await maildrop.update(frozenset({1, 2, 4}))
        assert [file.exists() for file in files] == [True, False, True, False]

    run(main)


def test_update_syncs_deletions_to_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path / "alice", "1.x.host", b"a\n")
    synced: list[str] = []
    fsync = os.fsync

    def noted(number: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        monkeypatch.setattr(os, "fsync", noted)
        await maildrop.update(frozenset({1}))

    run(main)
    assert synced == ["new", "cur"]


@pytest.mark.parametrize("kind", ["maildrop", "outbox"])
def test_files_in_tmp_are_removed_after_36_hours(run: Run, kind: str, tmp_path: Path) -> None:
    """maildir(5).  Other entries, such as a folder, stay and do no harm."""
    maildir = tmp_path / "alice"
    make_maildir(maildir)
    for name, hours in (("old", 37), ("young", 35)):
        path = maildir / "tmp" / name
        path.write_bytes(b"half a mess")
        os.utime(path, (time.time() - hours * 3600,) * 2)
    folder = maildir / "tmp" / "folder"
    folder.mkdir()
    os.utime(folder, (0, 0))

    async def main() -> None:
        if kind == "maildrop":
            (await opened(MaildirMaildrops(tmp_path), "alice")).close()
        else:
            envelope = Envelope(queue_id="q", reverse_path="", recipients=("a@far.test",))
            await (await MaildirOutbox(maildir).stage(envelope, b"", MessageContent.of(b"x", Budget()))).commit()

    run(main)
    assert sorted(path.name for path in (maildir / "tmp").iterdir()) == ["folder", "young"]


def test_missing_outbox_directory_is_created_at_delivery(run: Run, tmp_path: Path) -> None:
    """Here it does not exist yet."""

    async def main() -> None:
        envelope = Envelope(queue_id="q", reverse_path="", recipients=("a@far.test",))
        await (await MaildirOutbox(tmp_path / "new").stage(envelope, b"", MessageContent.of(b"x", Budget()))).commit()

    run(main)
    assert len(list((tmp_path / "new" / "new").iterdir())) == 1
