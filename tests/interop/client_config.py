"""What every foreign client is given: where to go, how, and with what in hand; and how a program is run.

Knows nothing of any one client, and nothing of the server but ports.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

HOST = "127.0.0.1"
NAME, PASSWORD, TOKEN = "alice", "open sesame:2", "t0ken"
SENDER, FRIEND = "alice@example.test", "friend@elsewhere.test"
WAYS = ("clear", "upgrade", "implicit")
BY_TOKEN = ("OAUTHBEARER", "XOAUTH2")
REQUIRED = os.environ.get("MAILAUTH_INTEROP") == "require"


@attrs.frozen(kw_only=True)
class ClientConfig:
    """Where to go, how, and with what in hand."""

    port: int
    tls_mode: str
    login: str
    """A mechanism's name, USER, APOP, or empty for none."""
    trusted: Path
    scratch: Path
    """A directory for what the client must find in files, and its home."""
    source: str = HOST
    """Where to come from, for the clients that can choose."""
    name: str = NAME
    password: str = PASSWORD
    token: str = TOKEN
    certificate: Path | None = None
    """The client's own and its key, in one file."""
    delete: bool = False
    """Whether messages are to be deleted once they are collected."""

    @property
    def secret(self) -> str:
        """What stands in the place of a password."""
        return self.token if self.login in BY_TOKEN else self.password

    def file(self, name: str, *lines: str) -> Path:
        """A file in ``scratch`` that nobody else may read, as most clients want it."""
        path = self.scratch / name
        path.touch(mode=0o600)
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def maildir(self) -> Path:
        """An empty Maildir to collect into."""
        path = self.scratch / "collected"
        for folder in ("tmp", "new", "cur"):
            (path / folder).mkdir(parents=True)
        return path


class CommandRejected(Exception):
    """The client did not get through; the text is what it said."""


def missing(name: str) -> NoReturn:
    """Skip the test, or fail it where clients are required."""
    if REQUIRED:
        pytest.fail(f"{name} is not installed, and MAILAUTH_INTEROP=require wants it")
    pytest.skip(f"{name} is not installed")


def program(name: str) -> str:
    """Where a client is; some are where only root looks."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/lib/git-core")
    if path is None:
        missing(name)
    return path


def environment(home: Path) -> dict[str, str]:
    """One in which a client finds nothing of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR")}
    return {
        **kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "xterm", "MAILRC": "/dev/null",
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
    }  # fmt: skip


def run(name: str, arguments: list[str], data: bytes = b"", *, home: Path) -> bytes:
    """Run a client to its end; what it printed.  Raises Refused unless it was content."""
    done = subprocess.run(
        [program(name), *arguments], input=data, capture_output=True, timeout=60, env=environment(home), cwd=home
    )
    if done.returncode != 0:
        raise CommandRejected(f"{name} ended with {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout
