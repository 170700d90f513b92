"""``mailauth serve`` as a process of its own, for tests that meet it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

import mailauth_io

LOOPS = ("asyncio", "trio")
_SOURCE = Path(mailauth_io.__file__).parent.parent


def environment() -> dict[str, str]:
    """The environment in which a child process finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(_SOURCE), "PYTHONWARNINGS": "error"}


def command(*arguments: str) -> list[str]:
    """The ``mailauth`` command as words for a child process."""
    return [sys.executable, "-m", "mailauth_io", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


@attrs.frozen
class Login:
    """What the log tells of one."""

    identity: str
    """Empty where it was never named."""
    mechanism: str
    inside_tls: bool
    accepted: bool = True


@attrs.frozen(kw_only=True)
class Served:
    """A server that listens."""

    process: subprocess.Popen[str]
    ports: dict[str, int | None]
    """What the ready file said, its pid included."""
    said: tuple[str, ...]
    """What it said at its start, line by line."""
    log: Path

    def wait_for(self, text: str) -> None:
        """Wait until *text* stands in the log."""
        deadline = time.monotonic() + 30
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def logins(self) -> list[Login]:
        """What the log tells of logins, in their order; it is written as text."""
        found = []
        for line in self.log.read_text().splitlines():
            event, _, rest = line.partition(" connection=")
            if event.endswith((" INFO login", " INFO login failed")):
                fields = dict(word.partition("=")[::2] for word in rest.split())
                accepted = event.endswith("login")
                found.append(Login(fields.get("identity", ""), fields["mechanism"], "tls" in fields, accepted))
        return found

    def port(self, name: str) -> int:
        """The number of a port that is open."""
        port = self.ports[name]
        assert port is not None
        return port


@contextmanager
def started(directory: Path, *options: str, log: Path | None = None) -> Iterator[Served]:
    """Start the server and wait until it listens; it is killed in the end, if it still runs.

    Its log is the file *log*, or one of that name in *directory*.
    """
    ready, log = directory / "ready.json", log or directory / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            # Tests fail many logins from one address, and wait for none of them.
            command("serve", "--failure-delay", "0", *options, "--ready-file", str(ready)),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            said = _first_words(process)
            assert said, log.read_text() if log.is_file() else log
            yield Served(process=process, ports=json.loads(ready.read_text()), said=said, log=log)
        finally:
            process.kill()


@contextmanager
def served(directory: Path, *options: str, end: signal.Signals = signal.SIGTERM) -> Iterator[Served]:
    """Start the server, wait until it listens, end it by the signal *end* and see that it went cleanly."""
    log = directory / "log"
    with started(directory, *options) as server:
        yield server
        server.process.send_signal(end)
        assert server.process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def _first_words(process: subprocess.Popen[str]) -> tuple[str, ...]:
    """All that it says until it is ready."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line == "Ready.\n":
            break
    return tuple(lines)


def messages(maildir: Path) -> list[bytes]:
    """The messages in a Maildir, in the order of their names."""
    return [path.read_bytes() for path in sorted(maildir.glob("new/*"))] if maildir.is_dir() else []
