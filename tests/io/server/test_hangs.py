"""What the server depends on does not respond: a disk, a name server, Redis, SQLite, or the reader of the log.

Each delays only the work that needs it, which gets a temporary error.  Other work goes on, and SIGTERM ends the process
with status 0.  The server is a process of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import poplib
import select
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.serving import LOOPS, environment

pytestmark = pytest.mark.parametrize("loop", LOOPS)

TIMEOUT: Final = 30.0
"""Seconds after which a client, or the wait for the end of the process, fails."""

MANY: Final = 45
"""More than all threads for files or names."""

REMOTE: Final = "someone@far.test"

PROGRAM: Final = """
import os, socket, sys, threading
from mailauth_io import _workers, server
from mailauth_io.cli import main, serve

serve.EXIT_MARGIN = 0.5
_workers.FILES.timeout = 3.0
server.NextHop.__init__.__kwdefaults__["timeouts"] = server.Timeouts(recipient=1.0, check=0.1)

def hang(*_, **__):
    threading.Event().wait()

{patch}
sys.exit(main.main(sys.argv[1:]))
"""

NO_PATCH: Final = ""

DNS: Final = """
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: (hang if host == "hop.test" else resolve)(host, *rest, **more)
"""

DISK: Final = """
def hanging(call):
    def called(path, *rest, **more):
        if not isinstance(path, int) and "alice" in os.fspath(path).split("/"):
            hang()
        return call(path, *rest, **more)
    return called

for name in ("open", "unlink", "rename", "mkdir"):
    setattr(os, name, hanging(getattr(os, name)))
"""


@attrs.frozen(kw_only=True)
class Hanging:
    """A running server with the accounts alice and bob."""

    process: subprocess.Popen[bytes]
    smtp: int
    pop3: int
    log: Path

    def client(self, *, log_in: bool = True) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.smtp, "client.test", timeout=TIMEOUT)
        client.ehlo()
        if log_in:
            client.login("bob", "builder")
        return client

    def send(self, recipient: str, *, log_in: bool = False) -> int:
        """Send a message, and return the code of the first negative reply, or 250."""
        with self.client(log_in=log_in) as client:
            client.mail("bob@example.test")
            code, _ = client.rcpt(recipient)
            return client.data(b"Subject: x\r\n\r\nx\r\n")[0] if code == 250 else code

    def check_other_work(self) -> None:
        """Check a login by SMTP, a local delivery, and POP3."""
        with self.client() as client:
            assert client.noop()[0] == 250
        assert self.send("bob@example.test") == 250
        with contextlib.closing(poplib.POP3("127.0.0.1", self.pop3, timeout=TIMEOUT)) as client:
            client.user("bob")
            client.pass_("builder")
            assert client.stat()[0] >= 1
            client.quit()

    def stop(self) -> None:
        """Send SIGTERM, and check that the process ends with status 0 although something hangs."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0


@contextlib.contextmanager
def serving(
    loop: str, directory: Path, *options: str, patch: str = NO_PATCH, log: int | None = None
) -> Iterator[Hanging]:
    config, ready, written = directory / "mailauth.toml", directory / "ready.json", directory / "log"
    config.write_text("[limits]\ngrace = 0.2\n")
    arguments = (
        "serve", "--config", str(config), "--loop", loop, "--smtp", "0", "--pop3", "0", "--legacy",
        "--user", "alice:wonderland", "--user", "bob:builder", "--maildir", str(directory / "mail"),
        "--failure-delay", "0", "--ready-file", str(ready), *options,
    )  # fmt: skip
    with (
        written.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(patch=patch), *arguments],
            env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log or errors,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != b"Ready.\n":
                assert line, written.read_text()
            ports = json.loads(ready.read_text())
            yield Hanging(process=process, smtp=ports["smtp"], pop3=ports["pop3"], log=written)
        finally:
            process.kill()


@contextlib.contextmanager
def waiting_clients(server: Hanging, recipient: str, *commands: bytes) -> Iterator[list[socket.socket]]:
    """Yield the connections of clients that have sent *commands* and wait for the reply to the last."""
    with contextlib.ExitStack() as stack:
        connections: list[socket.socket] = []
        for _ in range(MANY):
            client = stack.enter_context(contextlib.closing(server.client(log_in=recipient == REMOTE)))
            assert client.mail("bob@example.test")[0] == 250
            assert client.sock is not None
            client.sock.sendall(f"RCPT TO:<{recipient}>\r\n".encode() + b"".join(commands))
            connections.append(client.sock)
        yield connections


def last_code(connection: socket.socket, replies: int) -> bytes:
    with connection.makefile("rb") as file:
        for _ in range(replies - 1):
            file.readline()
        return file.readline()[:9]


def test_a_maildrop_on_a_hanging_disk_delays_no_other(loop: str, tmp_path: Path) -> None:
    """The clients that deliver to it get 451, and its own user a temporary error."""
    content = (b"DATA\r\n", b"Subject: x\r\n\r\nx\r\n.\r\n")
    with serving(loop, tmp_path, patch=DISK) as server:
        with waiting_clients(server, "alice@example.test", *content) as connections:
            server.check_other_work()
            assert {last_code(connection, 3) for connection in connections} == {b"451 4.3.0"}
            with contextlib.closing(poplib.POP3("127.0.0.1", server.pop3, timeout=TIMEOUT)) as client:
                client.user("alice")
                with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
                    client.pass_("wonderland")
            server.check_other_work()
        server.stop()
    assert 'part=maildrops reason="TimeoutError: no answer in time"' in server.log.read_text()


def test_a_delivery_that_waits_for_the_disk_does_not_delay_the_end(loop: str, tmp_path: Path) -> None:
    patch = DISK + "_workers.FILES.timeout = 600.0\n"
    content = (b"DATA\r\n", b"Subject: x\r\n\r\nx\r\n.\r\n")
    with serving(loop, tmp_path, patch=patch) as server, waiting_clients(server, "alice@example.test", *content):
        server.check_other_work()
        server.stop()


def test_name_server_that_does_not_respond_delays_only_remote_mail(loop: str, tmp_path: Path) -> None:
    options = ("--relay-to", "smtp://hop.test:25", "--relay-tls", "none")
    with (
        serving(loop, tmp_path, *options, patch=DNS) as server,
        waiting_clients(server, REMOTE) as connections,
    ):
        server.check_other_work()
        assert {last_code(connection, 1)[:4] for connection in connections} == {b"451 "}
        server.check_other_work()
        server.stop()


def test_redis_that_does_not_respond_delays_only_mail_that_needs_a_grant(loop: str, tmp_path: Path) -> None:
    """It accepts connections, and sends nothing.  A POP3 login succeeds without a grant."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        server = stack.enter_context(serving(loop, tmp_path, "--grants", url))
        server.check_other_work()
        assert server.send(REMOTE) == 451
        server.stop()


def test_locked_sqlite_file_delays_only_new_grants(loop: str, tmp_path: Path) -> None:
    file = tmp_path / "grants.db"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(loop, tmp_path, "--grants", f"sqlite:{file}"))
        other = stack.enter_context(contextlib.closing(sqlite3.connect(file, isolation_level=None)))
        other.execute("BEGIN EXCLUSIVE")
        assert server.send(REMOTE) == 550  # lookups work, and there is no grant
        server.check_other_work()
        assert server.send(REMOTE) == 451  # that was a POP3 login, whose grant could not be stored
        server.stop()


def test_log_pipe_that_nobody_reads_delays_nothing(loop: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        with serving(loop, tmp_path, "--log-level", "debug", log=writing) as server:
            while select.select((), (writing,), (), 0)[1]:  # until the pipe is full
                server.check_other_work()
            server.check_other_work()
            server.stop()
    finally:
        os.close(reading)
        os.close(writing)
