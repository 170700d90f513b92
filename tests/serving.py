"""Runs ``mailauth serve`` in a subprocess, for tests that use it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

import mailauth_io

LOOPS = ("asyncio", "trio")
ALL_LOOPS = (*LOOPS, "uvloop")
"""For tests of what depends on the loop: signals, listening sockets, TLS."""
_SOURCE = Path(mailauth_io.__file__).parent.parent


def environment() -> dict[str, str]:
    """Return an environment in which a child process imports this checkout."""
    return {**os.environ, "PYTHONPATH": str(_SOURCE), "PYTHONWARNINGS": "error"}


MODULE = ("mailauth_io",)
"""The module that is the ``mailauth`` command, as an argument of ``python -m``."""


def command(*arguments: str, module: Sequence[str] = MODULE) -> list[str]:
    """Return the argument list of the ``mailauth`` command for a child process.

    *module* is another module that runs the command, and the arguments before those of the command.
    """
    return [sys.executable, "-m", *module, *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command until it exits."""
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def run_without_anyio(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``mailauth`` as if only attrs were installed, which ``pip install mailauth`` installs."""
    program = (
        "import sys; sys.modules['anyio'] = None; from mailauth_io.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)


@attrs.frozen
class Login:
    """A login, as reported in the log."""

    identity: str
    """Empty if the client never sent it."""
    mechanism: str
    inside_tls: bool
    accepted: bool = True


@attrs.frozen(kw_only=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    ports: dict[str, int | None]
    """The content of the ready file, including the pid."""
    said: tuple[str, ...]
    """The lines that it printed at its start."""
    log: Path

    def wait_for(self, text: str) -> None:
        """Wait until *text* is in the log."""
        deadline = time.monotonic() + 30
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def log_so_far(self) -> str:
        """Return the log with all that the server has logged until now.

        A thread writes it, perhaps after the client has its reply.  Lines are in order: that of a reload is the last.
        """
        line = " INFO reload\n"
        reloads = self.log.read_text().count(line)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while (log := self.log.read_text()).count(line) == reloads:
            assert time.monotonic() < deadline, log
            time.sleep(0.01)
        return log

    def logins(self) -> list[Login]:
        """Return the logins in the log, in order.  The log must be in text format."""
        found = []
        for line in self.log_so_far().splitlines():
            event, _, rest = line.partition(" connection=")
            if event.endswith((" INFO login", " INFO login failed")):
                fields = dict(word.partition("=")[::2] for word in rest.split())
                accepted = event.endswith("login")
                found.append(Login(fields.get("identity", ""), fields["mechanism"], "tls" in fields, accepted))
        return found

    def port(self, name: str) -> int:
        """Return the number of an open port."""
        port = self.ports[name]
        assert port is not None
        return port


@contextmanager
def started(
    directory: Path, *options: str, log: Path | None = None, module: Sequence[str] = MODULE
) -> Iterator[Served]:
    """Start the server, and wait until it listens.  It is killed at the end if it is still running.

    Its log is the file *log*, by default ``log`` in *directory*.  *module* as for ``command``.
    """
    ready, log = directory / "ready.json", log or directory / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            # Tests fail many logins from one address, and must not be delayed.
            command("serve", "--failure-delay", "0", *options, "--ready-file", str(ready), module=module),
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
def served(
    directory: Path, *options: str, end: signal.Signals = signal.SIGTERM, module: Sequence[str] = MODULE
) -> Iterator[Served]:
    """Start the server and wait until it listens; at the end send the signal *end*, and check that it exits cleanly."""
    log = directory / "log"
    with started(directory, *options, module=module) as server:
        yield server
        server.process.send_signal(end)
        assert server.process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def _first_words(process: subprocess.Popen[str]) -> tuple[str, ...]:
    """Return the lines that it prints until it is ready."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line == "Ready.\n":
            break
    return tuple(lines)


def messages(maildir: Path) -> list[bytes]:
    """Return the messages in a Maildir, sorted by file name."""
    return [path.read_bytes() for path in sorted(maildir.glob("new/*"))] if maildir.is_dir() else []
