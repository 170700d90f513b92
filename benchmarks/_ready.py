"""``mailauth serve``: its sessions with stores that keep nothing, and the command with a Maildir."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import _certificates
from _messages import MAILDROPS, PASSWORD
from _ours import Announce, Maildrop, open_maildrop
from mailauth_io import logs, server, stores
from mailauth_io.cli import main as cli

SHARED: Final = Path("/dev/shm")


class Nowhere:
    """Maildrops that can be read, and that accept every message without storing it."""

    async def open(self, name: str) -> Maildrop:
        return await open_maildrop(name)

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        return Discarded()


class Discarded:
    """A message that is discarded."""

    async def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass


class NoOutbox:
    """An outbox that discards every message."""

    async def stage(self, envelope: stores.Envelope, head: bytes, content: stores.MessageContent) -> stores.Staged:
        return Discarded()


NAMES: Final = (*MAILDROPS, *(f"member{number}" for number in range(20)))
"""The accounts of ``mailauth serve``."""


def run_ready(serves: str, announce: Announce, *, log: bool) -> None:
    """The sessions of ``mailauth serve`` on asyncio: policy, accounts, grants, delivery, and logging to a file."""
    context = None if serves in ("smtp", "pop3") else _certificates.server_context()
    port = "smtp" if serves == "starttls" else serves
    ports: dict[str, Any] = {port: 0}
    config = server.Config(legacy=True, ssl_context=context, **ports)

    async def serve() -> None:
        accounts = stores.MemoryAccounts(dict.fromkeys(NAMES, PASSWORD))
        kept = server.Stores(accounts=accounts, maildrops=Nowhere(), outbox=NoOutbox())
        async with server.serve(config, kept) as running:
            announce(getattr(running, port))
            await asyncio.Event().wait()

    with tempfile.TemporaryFile() as file:
        if log:
            logs.start("text", "info", file.fileno())
        asyncio.run(serve())


def run_command(announce: Announce) -> None:
    """``mailauth serve`` with a Maildir, in /dev/shm if it exists, and logging to a file."""
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as name:
        folder = Path(name)
        announcing = os.dup(sys.stdout.fileno())
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())

        def await_ready_file() -> None:
            while not (folder / "ready").exists():
                time.sleep(0.01)
            os.dup2(announcing, sys.stdout.fileno())
            announce(json.loads((folder / "ready").read_text())["smtp"])

        threading.Thread(target=await_ready_file, daemon=True).start()
        users = [word for name in NAMES for word in ("--user", f"{name}:{PASSWORD.decode('ascii')}")]
        places = ["--maildir", str(folder / "maildrops"), "--outbox", str(folder / "outbox")]
        cli.main(["serve", "--legacy", "--smtp", "0", *users, *places, "--ready-file", str(folder / "ready")])
