"""Delivery into a Maildir: an acknowledged message is on disk, and a failed or killed delivery leaves no message."""

from __future__ import annotations

import errno
import itertools
import os
import smtplib
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from mailauth_io import server
from mailauth_io._maildir import MaildirPath, StagedFile
from mailauth_io._workers import CLEANUP
from mailauth_io.stores import Budget, MaildirMaildrops, MaildirOutbox, MessageContent
from tests.io import killed_deliveries
from tests.io.file_calls import full_path
from tests.io.server_support import Run, Served, accounts, authenticate, meet, on_both_loops, run_on_asyncio
from tests.io.stores.test_maildirs import make_maildir
from tests.io.stores.test_maildrops import opened, put, whole

STEPS = ("write", "sync of the file", "rename", "sync of the folder")
RECIPIENTS = ("alice@example.test", "friend@far.test")  # for a maildrop, and for the outbox


@attrs.define
class Disk:
    """Records the file operations below *root*, in order.  It can skip one kind of operation, or make it fail."""

    root: Path
    patch: pytest.MonkeyPatch
    left_out: str = ""
    failing: str = ""
    error: int = errno.ENOSPC
    steps: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._watch("write", lambda number, data: "write", lambda number, data: len(data))
        self._watch("fsync", lambda number: f"sync of the {'folder' if _is_folder(number) else 'file'}")
        self._watch("rename", lambda source, target, **folders: "rename")
        self._watch("mkdir", lambda path, *mode, **folder: "making a folder")
        self._watch("open", lambda path, flags, *mode, **folder: "making the file" if flags & os.O_EXCL else "")

    def _watch(
        self, name: str, step: Callable[..., str], instead: Callable[..., object] = lambda *args, **options: None
    ) -> None:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            what = step(*args, **options) if self._concerned(args[0], **options) else ""
            if not what:
                return real(*args, **options)
            if what == self.failing:
                raise OSError(self.error, os.strerror(self.error))
            if what == self.left_out:
                return instead(*args, **options)
            self.steps.append(what)
            return real(*args, **options)

        self.patch.setattr(os, name, call)

    def _concerned(self, place: int | str | Path, **options: Any) -> bool:
        path = full_path(place, options.get("dir_fd"), options.get("src_dir_fd"))
        return str(path).startswith(str(self.root))


def _is_folder(number: int) -> bool:
    return stat.S_ISDIR(os.fstat(number).st_mode)


def assert_safe(steps: list[str]) -> None:
    """Check that all steps were done in this order, and that 250 came last."""
    assert [step for step, _ in itertools.groupby(steps)] == ["making the file", *STEPS, "250"]


def deliver(run: Run, directory: Path, recipient: str, disk: Disk) -> tuple[int, bytes]:
    """Send *recipient* a message through a server.  Returns the reply; its code is also added to *disk*."""
    kept = server.Stores(
        accounts=accounts(), maildrops=MaildirMaildrops(directory), outbox=MaildirOutbox(directory / "outbox")
    )

    def client(served: Served) -> tuple[int, bytes]:
        with served.smtp("smtps") as smtp:
            authenticate(smtp, "PLAIN")
            smtp.mail("alice@example.test")
            assert smtp.rcpt(recipient)[0] == 250
            code, text = smtp.data("Subject: x\r\n\r\n" + "body\r\n" * 50_000)
            disk.steps.append(str(code))
            return code, text

    return meet(run, client, kept=kept)


@on_both_loops
@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_message_is_synced_to_disk_before_250(
    run: Run, recipient: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321 section 6.1: after 250 the server is responsible, so a later power cut must not lose the message."""
    for folder in ("alice", "outbox"):
        make_maildir(tmp_path / folder)
    disk = Disk(tmp_path, monkeypatch)
    assert deliver(run, tmp_path, recipient, disk)[0] == 250
    assert_safe(disk.steps)


@pytest.mark.parametrize("left_out", STEPS)
@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_sync_check_detects_each_skipped_step(
    recipient: str, left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a step is skipped, the check of the test above fails."""
    for folder in ("alice", "outbox"):
        make_maildir(tmp_path / folder)
    disk = Disk(tmp_path, monkeypatch, left_out=left_out)
    deliver(run_on_asyncio, tmp_path, recipient, disk)
    with pytest.raises(AssertionError):
        assert_safe(disk.steps)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES], ids=["full", "unwritable"])
@pytest.mark.parametrize("failing", ["making a folder", "making the file", *STEPS])
@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_failed_delivery_gets_451_and_leaves_no_file(
    recipient: str, failing: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321 section 4.2.2: the reply is 451, so the client tries again."""
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch, failing=failing, error=error)
        code, text = deliver(run_on_asyncio, tmp_path, recipient, disk)
    assert (code, text[:6]) == (451, b"4.3.0 ")
    CLEANUP.finish(60)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    code, _ = deliver(run_on_asyncio, tmp_path, recipient, Disk(tmp_path, monkeypatch))
    assert code == 250


def test_maildrop_that_is_a_file_gets_451_and_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alice").write_bytes(b"precious")
    code, _ = deliver(run_on_asyncio, tmp_path, "alice@example.test", Disk(tmp_path, monkeypatch))
    assert code == 451
    assert (tmp_path / "alice").read_bytes() == b"precious"


def test_new_folders_are_synced_to_disk_before_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``cur`` is created last: if it exists, the next delivery knows that the other folders are on disk."""
    disk = Disk(tmp_path, monkeypatch)
    deliver(run_on_asyncio, tmp_path / "mail", "alice@example.test", disk)
    made = len(disk.steps) - disk.steps[::-1].index("making a folder")
    assert disk.steps[made - 2 : made] == ["sync of the folder", "making a folder"]
    assert_safe(disk.steps[made:])


def test_message_discarded_during_write_leaves_no_file(tmp_path: Path) -> None:
    """A task may be cancelled while its thread is still writing."""
    make_maildir(tmp_path / "alice")
    file = StagedFile(MaildirPath(tmp_path, "alice"))

    def pieces() -> Iterator[bytes]:
        yield b"half"
        file.discard()
        yield b"the rest"

    file.write(pieces())
    file.commit()
    assert [path for path in (tmp_path / "alice").rglob("*") if path.is_file()] == []


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``os.write`` may write less than it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda number, data: write(number, data[:1000]))

    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"line\r\n" * 1_000)
        assert await whole(await opened(MaildirMaildrops(tmp_path), "alice"), 1) == b"line\r\n" * 1_000

    run_on_asyncio(main)


def test_file_name_contains_file_size_and_crlf_size(tmp_path: Path) -> None:
    """As in Dovecot: ``S=`` is the size of the file, ``W=`` the size with CRLF line ends."""

    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"a\r\nb\nc\rd\r\n")

    run_on_asyncio(main)
    (file,) = (tmp_path / "alice" / "new").iterdir()
    assert file.read_bytes() == b"a\nb\nc\nd\n"
    assert file.name.endswith(",S=8,W=12")


@pytest.mark.parametrize("cut", range(7))
def test_crlf_split_between_two_chunks_is_one_line_end(tmp_path: Path, cut: int) -> None:
    text = b"a\r\nb\r\n"

    async def main() -> None:
        content = MessageContent(Budget())
        content.chunks = [chunk for chunk in (text[:cut], text[cut:]) if chunk]
        await (await MaildirMaildrops(tmp_path).stage("alice", b"", content)).commit()

    run_on_asyncio(main)
    (file,) = (tmp_path / "alice" / "new").iterdir()
    assert file.read_bytes() == b"a\nb\n"
    assert file.name.endswith(",S=4,W=6")


@pytest.mark.parametrize("seed", [1, 2])
def test_sigkill_truncates_no_message_and_loses_none_acknowledged(tmp_path: Path, seed: int) -> None:
    """Of two hundred deliveries, about every fourth is killed, at any of its file system calls."""
    program = killed_deliveries.__file__
    root = Path(program).parent.parent.parent
    done = subprocess.run(
        [sys.executable, program, str(tmp_path), "200", str(seed)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(root), *filter(None, sys.path)))},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    acknowledged = [int(number) for number in done.stdout.split()]
    assert 100 < len(acknowledged) < 190

    async def read() -> list[bytes]:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        texts = [await whole(maildrop, number + 1) for number in range(len(maildrop.messages))]
        assert [len(text) for text in texts] == [message.size for message in maildrop.messages]
        return texts

    stored = [text.removeprefix(b"Return-Path: <>\r\n") for text in run_on_asyncio(read)]
    numbers = [int(text[8:11]) for text in stored]
    assert all(text == killed_deliveries.text(number) for text, number in zip(stored, numbers, strict=True))
    assert len(set(numbers)) == len(numbers)
    assert set(acknowledged) <= set(numbers)


@on_both_loops
def test_delivery_succeeds_in_same_session_after_full_disk(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both happen in one session: the connection stays open after the failure."""
    kept = server.Stores(
        accounts=accounts(), maildrops=MaildirMaildrops(tmp_path), outbox=MaildirOutbox(tmp_path / "outbox")
    )

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            with monkeypatch.context() as patch:
                Disk(tmp_path, patch, failing="write")
                with pytest.raises(smtplib.SMTPDataError) as refused:
                    smtp.sendmail("x@far.test", ["alice@example.test"], "text")
            assert refused.value.smtp_code == 451
            assert smtp.sendmail("x@far.test", ["alice@example.test"], "text") == {}
        assert len(served.mail_of("alice")) == 1

    meet(run, client, kept=kept)
