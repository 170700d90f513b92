"""The configuration of each foreign client: the server, the TLS mode and the credentials; and how to run a program."""

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
    """The address of the server, how to connect, and the credentials."""

    port: int
    tls_mode: str
    login: str
    """The name of a mechanism, USER, APOP, or empty for no login."""
    trusted: Path
    scratch: Path
    """A directory for configuration files of the client; also its home."""
    source: str = HOST
    """The source address, for clients that can set it."""
    name: str = NAME
    password: str = PASSWORD
    token: str = TOKEN
    certificate: Path | None = None
    """The client certificate and its key in one file."""
    delete: bool = False
    """Whether to delete messages after they are collected."""

    @property
    def secret(self) -> str:
        """The password or the token, depending on the login."""
        return self.token if self.login in BY_TOKEN else self.password

    def file(self, name: str, *lines: str) -> Path:
        """A file in ``scratch`` that only the owner can read, as most clients require."""
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
    """The client failed; the text is its output."""


def missing(name: str) -> NoReturn:
    """Skip the test, or fail it if all clients are required."""
    if REQUIRED:
        pytest.fail(f"{name} is not installed, and MAILAUTH_INTEROP=require wants it")
    pytest.skip(f"{name} is not installed")


def program(name: str) -> str:
    """Return the path of a program, also in directories that only root has in its PATH."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/lib/git-core")
    if path is None:
        missing(name)
    return path


def environment(home: Path) -> dict[str, str]:
    """An environment without the settings of the current user."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR")}
    return {
        **kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "xterm", "MAILRC": "/dev/null",
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
    }  # fmt: skip


def run(name: str, arguments: list[str], data: bytes = b"", *, home: Path) -> bytes:
    """Run a client to completion and return its output.  Raises Refused if its exit status is not 0."""
    done = subprocess.run(
        [program(name), *arguments], input=data, capture_output=True, timeout=60, env=environment(home), cwd=home
    )
    if done.returncode != 0:
        raise CommandRejected(f"{name} ended with {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout
