"""What is true of Maildirs alone: other programs read and write them too, and they outlive a crash."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailauth import pop3
from mailauth_io.stores import Budget, MaildirMaildrops, MessageContent, _maildir
from tests.io.server_support import Run, on_both_loops
from tests.io.test_stores_maildrops import opened, put, whole

pytestmark = on_both_loops


def foreign(maildir: Path, name: str, octets: bytes, folder: str = "new") -> Path:
    for each in ("tmp", "new", "cur"):
        (maildir / each).mkdir(parents=True, exist_ok=True)
    (maildir / folder / name).write_bytes(octets)
    return maildir / folder / name


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_nobody_else_can_read_what_is_written(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path / "deep" / "mail")
        await put(maildrops, "alice", b"x\r\n")
        (await opened(maildrops, "alice")).close()

    run(main)
    for path in (tmp_path / "deep" / "mail").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_message_lies_in_new_with_lf_line_ends(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"S: 1\r\n\r\nbody\r\n", head=b"H: 1\r\n")

    run(main)
    (file,) = (tmp_path / "alice" / "new").iterdir()
    assert file.read_bytes() == b"H: 1\nS: 1\n\nbody\n"
    assert list((tmp_path / "alice" / "tmp").iterdir()) == []


@pytest.mark.parametrize("cut", range(7))
def test_crlf_cut_between_two_chunks_is_one_line_end(run: Run, tmp_path: Path, cut: int) -> None:
    text = b"a\r\nb\r\n"

    async def main() -> None:
        content = MessageContent(Budget())
        content.chunks = [chunk for chunk in (text[:cut], text[cut:]) if chunk]
        await (await MaildirMaildrops(tmp_path).stage("alice", b"", content)).reveal()

    run(main)
    (file,) = (tmp_path / "alice" / "new").iterdir()
    assert file.read_bytes() == b"a\nb\n"
    assert file.name.endswith(",W=6")


@pytest.mark.parametrize(
    "octets", [b"a\nb\n", b"a\r\nb\r\n", b"a\r\nb\n", b"a\nb", b"a\nb\r", b"\n" * 70_000, b"x" * 65_535 + b"\r\ny\n"]
)
def test_what_others_delivered_is_read_with_crlf_line_ends(run: Run, tmp_path: Path, octets: bytes) -> None:
    foreign(tmp_path / "alice", "1.x.host", octets, "cur")
    expected = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    expected = expected if expected.endswith(b"\r\n") else expected + b"\r\n"

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert await whole(maildrop, 1) == expected
        assert [message.size for message in maildrop.messages] == [len(expected)]

    run(main)


def test_a_message_moved_by_another_program_is_found_and_keeps_its_unique_id(run: Run, tmp_path: Path) -> None:
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


def test_a_message_deleted_by_another_program_may_be_deleted_again(run: Run, tmp_path: Path) -> None:
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        file.unlink()
        await maildrop.update(frozenset({1}))

    run(main)


def test_two_processes_exclude_each_other(run: Run, tmp_path: Path) -> None:
    """RFC 1939 section 4, by a lock that the kernel keeps and that ends with its process."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from mailauth_io.stores import MaildirMaildrops\n"
        "async def main():\n"
        "    maildrop = await MaildirMaildrops(pathlib.Path(sys.argv[1])).open('alice')\n"
        "    print(maildrop.messages, flush=True)\n"
        "    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    maildrops = MaildirMaildrops(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"()\n"

        async def refused() -> None:
            assert await maildrops.open("alice") is pop3.Unavailable.IN_USE

        run(refused)
        other.kill()

    async def free() -> None:
        (await opened(maildrops, "alice")).close()

    run(free)


@pytest.mark.parametrize("name", ["..", "../alice", "a/b", "", "Alice", ".hidden", "alice@example.test"])
def test_no_name_leads_out_of_the_directory(run: Run, tmp_path: Path, name: str) -> None:
    async def main() -> None:
        maildrops = MaildirMaildrops(tmp_path / "mail")
        with pytest.raises(ValueError, match="canonical"):
            await maildrops.open(name)
        with pytest.raises(ValueError, match="canonical"):
            await maildrops.stage(name, b"", MessageContent.of(b"", Budget()))

    run(main)
    assert list(tmp_path.iterdir()) == []


def test_a_message_is_on_disk_before_it_is_seen(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced, then renamed, then its folder is synced."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(number: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def recorded_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    _maildir.make_maildir(tmp_path / "alice")
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)

    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"x\r\n")

    run(main)
    assert done == ["file", "rename", "folder"]


def test_a_message_that_cannot_be_written_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    _maildir.make_maildir(tmp_path / "alice")
    monkeypatch.setattr(os, "fsync", full)

    async def main() -> None:
        with pytest.raises(OSError, match="No space"):
            await put(MaildirMaildrops(tmp_path), "alice", b"x\r\n")

    run(main)
    assert [path for path in (tmp_path / "alice").rglob("*") if path.is_file()] == []


def test_a_message_discarded_while_it_is_written_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """A task may be cancelled while its thread goes on writing."""
    _maildir.make_maildir(tmp_path / "alice")
    file = _maildir.StagedFile(tmp_path / "alice")

    def pieces() -> Iterator[bytes]:
        yield b"half"
        file.discard()
        yield b"the rest"

    async def main() -> None:
        file.write(pieces())
        file.reveal()

    run(main)
    assert [path for path in (tmp_path / "alice").rglob("*") if path.is_file()] == []
