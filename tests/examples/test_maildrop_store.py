"""examples/maildrop_store.py with smtplib and poplib, on both loops; and what cancellation and failures leave."""

from __future__ import annotations

import asyncio
import poplib
import re
import smtplib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from examples.maildrop_store import Opened, SqliteMaildrops
from mailauth import pop3
from mailauth_io import server, stores
from tests import serving
from tests.examples import programs
from tests.io.server_support import Run, Served, accounts, meet, on_both_loops, run_on_asyncio

LONG = b"Subject: long\r\n\r\n" + b"".join(b".line %d\r\n" % number for number in range(20_000))


@attrs.frozen
class Program:
    smtp: int
    pop3: int

    def send(self, data: bytes) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=programs.TIMEOUT) as client:
            assert client.sendmail("sender@far.test", ["alice@example.test"], data) == {}

    def log_in(self) -> poplib.POP3:
        client = poplib.POP3("127.0.0.1", self.pop3, timeout=programs.TIMEOUT)
        try:
            client.user("alice")
            client.pass_("wonderland")
        except poplib.error_proto:
            client.close()
            raise
        return client


@contextmanager
def running(path: Path, loop: str) -> Iterator[Program]:
    command = [sys.executable, str(programs.ROOT / "examples" / "maildrop_store.py"), str(path), "--loop", loop]
    with subprocess.Popen(command, env=programs.environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"listening on 127\.0\.0\.1, ports (\d+) \(SMTP\) and (\d+) \(POP3\)\n", line)
            assert found is not None, line
            yield Program(int(found[1]), int(found[2]))
        finally:
            process.terminate()


def body(client: poplib.POP3, number: int) -> bytes:
    """Return the message from its subject on."""
    text = b"\r\n".join(client.retr(number)[1]) + b"\r\n"
    return text[text.index(b"Subject: ") :]


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_messages_are_stored_and_deleted_at_quit(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "mail.sqlite"
    short = b"Subject: short\r\n\r\n.\r\n"
    with running(path, loop) as program:
        program.send(short)
        program.send(LONG)
        first = program.log_in()
        with pytest.raises(poplib.error_proto, match="IN-USE"):
            program.log_in()
        assert [body(first, 1), body(first, 2)] == [short, LONG]
        assert first.stat() == (2, sum(int(each.split()[1]) for each in first.list()[1]))
        unique_ids = first.uidl()[1]
        first.dele(1)
        first.close()  # without QUIT
    with running(path, loop) as program:
        second = program.log_in()
        assert second.uidl()[1] == unique_ids
        second.dele(1)
        second.quit()
        third = program.log_in()
        assert [line.split()[1] for line in third.uidl()[1]] == [line.split()[1] for line in unique_ids[1:]]
        assert body(third, 1) == LONG
        third.quit()


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_mailauth_serve_enters_and_leaves_the_store(loop: str, tmp_path: Path) -> None:
    example = (programs.ROOT / "examples" / "maildrop_store.py").read_text(encoding="utf-8")
    (tmp_path / "own_maildrops.py").write_text(
        example.replace('Path("mail.sqlite")', f"Path({str(tmp_path / 'mail.sqlite')!r})")
    )
    path = tmp_path / "mailauth.toml"
    path.write_text(
        '[stores]\nmaildrops = "own_maildrops:open_maildrops"\n'
        '[accounts]\nlegacy = true\nusers = ["alice:wonderland"]\n'
    )
    path.chmod(0o600)
    with serving.started(tmp_path, "--config", str(path), "--loop", loop) as served:
        program = Program(served.port("smtp"), served.port("pop3"))
        program.send(LONG)
        client = program.log_in()
        assert body(client, 1) == LONG
        client.quit()


def rows(path: Path) -> list[tuple[str, int]]:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT maildrop, visible FROM message").fetchall()


def content() -> stores.MessageContent:
    return stores.MessageContent.of(b"Subject: x\r\n\r\n", stores.Budget())


def test_cancelled_stage_leaves_no_row(tmp_path: Path) -> None:
    """The INSERT waits in the thread when the task is cancelled, and runs afterwards; the DELETE runs after it."""
    path = tmp_path / "mail.sqlite"
    go_on = threading.Event()

    async def main() -> None:
        async with SqliteMaildrops(path) as maildrops:
            database = maildrops.database
            database.submit(go_on.wait)
            task = asyncio.create_task(maildrops.stage("alice", b"", content()))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()

    run_on_asyncio(main)
    assert rows(path) == []


@on_both_loops
@pytest.mark.parametrize("committed", [False, True])
def test_discarded_message_is_removed(run: Run, committed: bool, tmp_path: Path) -> None:
    async def main() -> list[tuple[int, str, int]]:
        async with SqliteMaildrops(tmp_path / "mail.sqlite") as maildrops:
            copy = await maildrops.stage("alice", b"", content())
            if committed:
                await copy.commit()
            copy.discard()
            return await maildrops.database.run(maildrops.database.messages, "alice")

    assert run(main) == []
    assert rows(tmp_path / "mail.sqlite") == []


@on_both_loops
def test_message_that_was_not_committed_is_removed_at_the_next_start(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteMaildrops(tmp_path / "mail.sqlite") as maildrops:
            await maildrops.stage("alice", b"", content())
            await (await maildrops.stage("bob", b"", content())).commit()

    run(main)
    assert rows(tmp_path / "mail.sqlite") == [("alice", 0), ("bob", 1)]

    async def again() -> None:
        async with SqliteMaildrops(tmp_path / "mail.sqlite"):
            pass

    run(again)
    assert rows(tmp_path / "mail.sqlite") == [("bob", 1)]


@on_both_loops
def test_second_close_does_not_release_the_maildrop_of_another_session(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteMaildrops(tmp_path / "mail.sqlite") as maildrops:
            first = await maildrops.open("alice")
            assert isinstance(first, Opened)
            first.close()
            second = await maildrops.open("alice")
            assert isinstance(second, Opened)
            first.close()
            assert await maildrops.open("alice") is pop3.Unavailable.IN_USE

    run(main)


@on_both_loops
def test_damaged_database_is_a_temporary_failure(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log tells what is wrong, and the maildrop is not locked afterwards."""
    path = tmp_path / "mail.sqlite"
    maildrops = SqliteMaildrops(path)
    database = maildrops.database
    database.submit(database.connect).result()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE message")

    def client(served: Served) -> None:
        for _ in range(2):
            with pytest.raises(poplib.error_proto, match="SYS/TEMP"):
                served.log_in()

    meet(run, client, kept=server.Stores(accounts=accounts(), maildrops=maildrops, outbox=stores.MemoryOutbox()))
    database.submit(database.close).result()
    assert caplog.text.count('part=maildrops reason="OperationalError: no such table: message" at="maildrop_store') == 2
