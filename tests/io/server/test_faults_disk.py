"""Maildirs on a disk that is full, read-only or missing: temporary failures on both ports, one log line, no loss."""

from __future__ import annotations

import errno
import logging
import os
import poplib
import resource
import shutil
import signal
import smtplib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import pytest

from mailauth_io import server, stores
from mailauth_io._workers import CLEANUP
from tests.io import file_calls
from tests.io.server_support import TIMEOUT, Run, Served, accounts, authenticate, meet, on_both_loops
from tests.io.stores.test_maildir_deliveries import RECIPIENTS, STEPS, Disk
from tests.serving import LOOPS, messages, served, started

TEXT: Final = b"Subject: x\r\n\r\n" + b"body\r\n" * 30_000


def meet_maildirs(run: Run, directory: Path, client: Callable[[Served], None]) -> None:
    """Run *client* against a server with Maildirs in *directory*: one for each account, and ``outbox``."""
    kept = server.Stores(
        accounts=accounts(),
        maildrops=stores.MaildirMaildrops(directory),
        outbox=stores.MaildirOutbox(directory / "outbox"),
    )
    meet(run, client, kept=kept)


def deliver(served: Served, recipient: str = "alice@example.test") -> int:
    """Send a message to *recipient*, and return the reply code."""
    with served.smtp("smtps") as smtp:
        authenticate(smtp, "PLAIN")
        smtp.mail("alice@example.test")
        assert smtp.rcpt(recipient)[0] == 250
        return smtp.data(TEXT)[0]


def files(directory: Path) -> list[Path]:
    """Return the files of messages, complete or not."""
    CLEANUP.finish(TIMEOUT)
    return [path for path in directory.rglob("*") if path.parent.name in ("tmp", "new", "cur")]


def told(caplog: pytest.LogCaptureFixture, part: str, error: int | str) -> None:
    """Check that one log line names the failed *part* and the reason, and contains no path and no traceback.

    A line before it may name the file that cannot be read.
    """
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    (line,) = [line for line in lines if not line.startswith("message not readable ")]
    assert f"part={part}" in line
    assert (error if isinstance(error, str) else os.strerror(error)) in line
    assert "\n" not in line
    assert "alice/" not in line
    assert "/alice" not in line
    caplog.clear()


@on_both_loops
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("failing", STEPS)
@pytest.mark.parametrize(("recipient", "part"), [(RECIPIENTS[0], "maildrops"), (RECIPIENTS[1], "outbox")])
def test_the_log_names_the_store_that_could_not_write(
    run: Run,
    recipient: str,
    part: str,
    failing: str,
    error: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """451, and no incomplete file.  In the next session the disk works again, and the message is stored."""
    caplog.set_level(logging.INFO)

    def client(served: Served) -> None:
        with pytest.MonkeyPatch.context() as patch:
            Disk(tmp_path, patch, failing=failing, error=error)
            assert deliver(served, recipient) == 451
        told(caplog, part, error)
        assert files(tmp_path) == []
        assert deliver(served, recipient) == 250
        assert len(files(tmp_path)) == 1

    meet_maildirs(run, tmp_path, client)
    assert capfd.readouterr() == ("", "")


@attrs.frozen
class Trouble:
    """A system call that fails in a directory."""

    call: str
    error: int
    about: str
    """A string that the path must contain."""

    def begin(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        def fail(path: Path) -> None:
            if str(path).startswith(str(directory)) and self.about in str(path):
                raise OSError(self.error, os.strerror(self.error))

        file_calls.before(patch, self.call, fail)


@on_both_loops
@pytest.mark.parametrize(
    "trouble",
    [
        Trouble("open", errno.EACCES, "mailauth.lock"),
        Trouble("open", errno.ENOSPC, "mailauth.lock"),
        Trouble("scandir", errno.EIO, "new"),
        Trouble("scandir", errno.EACCES, "cur"),
    ],
)
def test_a_maildrop_that_cannot_be_opened_is_a_temporary_failure(
    run: Run, trouble: Trouble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 3206 section 4.  Mail is still accepted, and the same session may try again."""

    def client(served: Served) -> None:
        assert deliver(served) == 250
        session = served.pop3("pop3s")
        with pytest.MonkeyPatch.context() as patch:
            trouble.begin(tmp_path, patch)
            session.user("alice")
            with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
                session.pass_("correct horse")
            told(caplog, "maildrops", trouble.error)
            assert deliver(served) == 250
        session.user("alice")
        session.pass_("correct horse")
        assert session.stat()[0] == 2
        session.quit()

    meet_maildirs(run, tmp_path, client)


@on_both_loops
@pytest.mark.parametrize(
    ("trouble", "left"),
    [
        (Trouble("unlink", errno.EROFS, "new"), 2),
        (Trouble("unlink", errno.EACCES, "new"), 2),
        (Trouble("fsync", errno.EIO, "new"), 1),
    ],
)
def test_quit_returns_sys_temp_if_deletion_on_disk_fails(
    run: Run, trouble: Trouble, left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 1939 section 6: -ERR at QUIT when something marked as deleted may still be there."""

    def client(served: Served) -> None:
        for _ in range(2):
            assert deliver(served) == 250
        session = served.log_in()
        session.dele(1)
        with pytest.MonkeyPatch.context() as patch:
            trouble.begin(tmp_path, patch)
            with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
                session.quit()
        session.close()
        told(caplog, "maildrops", trouble.error)

    meet_maildirs(run, tmp_path, client)
    assert len(files(tmp_path)) == left


@on_both_loops
def test_full_disk_does_not_prevent_reading_and_deleting(run: Run, tmp_path: Path) -> None:
    """Otherwise it could never be emptied.  Sizes that cannot be cached are counted again."""

    def client(served: Served) -> None:
        assert deliver(served) == 250
        served.log_in().quit()
        foreign = tmp_path / "alice" / "new" / "1.foreign"  # its name contains no size
        foreign.write_bytes(TEXT)
        with pytest.MonkeyPatch.context() as patch:
            Disk(tmp_path, patch, failing="write")
            Trouble("open", errno.ENOSPC, "mailauth.sizes").begin(tmp_path, patch)
            session = served.log_in()
            for number, line in enumerate(session.list()[1], start=1):
                text = b"\r\n".join(session.retr(number)[1]) + b"\r\n"
                assert int(line.split()[1]) == len(text)
                session.dele(number)
            session.quit()
        assert files(tmp_path) == []

    meet_maildirs(run, tmp_path, client)


@on_both_loops
def test_maildrop_removed_during_session_is_a_temporary_failure(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At RETR and at QUIT.  The next session finds a new maildrop."""

    def client(served: Served) -> None:
        assert deliver(served) == 250
        session = served.log_in()
        shutil.rmtree(tmp_path / "alice")
        for _ in range(2):
            with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
                session.retr(1)
            told(caplog, "maildrops", errno.ENOENT)
        session.dele(1)
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
            session.quit()
        session.close()
        told(caplog, "maildrops", errno.ENOENT)
        assert served.mail_of("alice") == []
        assert deliver(served) == 250
        assert len(served.mail_of("alice")) == 1

    meet_maildirs(run, tmp_path, client)


@on_both_loops
def test_a_file_in_the_place_of_a_maildrop_is_a_temporary_failure(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On both ports, and only for that account."""

    def client(served: Served) -> None:
        (tmp_path / "alice").write_bytes(b"precious")
        assert deliver(served) == 451
        told(caplog, "maildrops", "symbolic link or not a folder")
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
            served.log_in()
        told(caplog, "maildrops", "symbolic link or not a folder")
        assert deliver(served, "bob@example.test") == 250

    meet_maildirs(run, tmp_path, client)
    assert (tmp_path / "alice").read_bytes() == b"precious"


@pytest.mark.parametrize("loop", LOOPS)
def test_partial_write_at_file_size_limit_gives_451_and_leaves_no_file(loop: str, tmp_path: Path) -> None:
    """A process that may not write files over 64 KiB (RLIMIT_FSIZE): one write is partial, the next one fails."""
    maildrops, outbox = tmp_path / "maildrops", tmp_path / "outbox"
    words = ("--legacy", "--user", "alice:open sesame", "--maildir", str(maildrops), "--outbox", str(outbox))
    with served(tmp_path, "--loop", loop, *words) as server_process:
        pid = server_process.process.pid
        with smtplib.SMTP("127.0.0.1", server_process.port("smtp"), "client.test", timeout=TIMEOUT) as client:
            client.login("alice", "open sesame")
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (65_536, resource.RLIM_INFINITY))
            for recipient in ("alice@example.test", "bob@far.test"):
                with pytest.raises(smtplib.SMTPDataError, match="451"):
                    client.sendmail("alice@example.test", [recipient], TEXT)
                assert client.sendmail("alice@example.test", [recipient], b"small") == {}
            assert [len(messages(place)) for place in (maildrops / "alice", outbox)] == [1, 1]
            deadline = time.monotonic() + TIMEOUT
            while [path for path in files(tmp_path) if path.parent.name == "tmp"]:  # a thread removes them
                assert time.monotonic() < deadline
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
            assert client.sendmail("alice@example.test", ["alice@example.test"], TEXT) == {}
        log = server_process.log_so_far()
        assert log.count("store failed") == 2
        for part in ("maildrops", "outbox"):
            assert f'part={part} reason="OSError: {os.strerror(errno.EFBIG)}"' in log


@pytest.mark.parametrize("loop", LOOPS)
def test_sessions_are_served_if_the_log_cannot_be_written(loop: str, tmp_path: Path) -> None:
    """The disk of the log is full from the start (/dev/full)."""
    words = ("--loop", loop, "--user", "alice:open sesame", "--maildir", str(tmp_path))
    with started(tmp_path, *words, log=Path("/dev/full")) as server:
        for _ in range(3):
            with smtplib.SMTP("127.0.0.1", server.port("smtp"), "client.test", timeout=TIMEOUT) as client:
                assert client.sendmail("far@far.test", ["alice@example.test"], b"x") == {}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert len(messages(tmp_path / "alice")) == 3
