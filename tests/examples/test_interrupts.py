"""Ctrl-C ends every example that serves: with status 0, and without a traceback, on both event loops."""

from __future__ import annotations

import ast
import json
import os
import signal
from pathlib import Path

import pytest

from mailauth_io.stores import write_credential
from tests.examples import programs
from tests.serving import LOOPS

SERVERS: dict[str, tuple[str, ...]] = {
    "account_store.py": ("accounts.json",),
    "greylisting.py": (),
    "honeypot.py": (),
    "lmtp_server.py": ("--user", "alice", "Maildir"),
    "maildrop_server.py": ("--user", "alice", "Maildir"),
    "maildrop_store.py": ("mail.sqlite",),
    "relay.py": ("--tls", "none", "127.0.0.1", "25"),
    "rewrite_sender.py": ("--device", "scanner:ink", "127.0.0.1", "25", "office@example.org"),
    "sender_policy.py": ("--user", "alice:wonderland"),
    "server.py": (),
    "smtp_server.py": ("--user", "alice", "--domain", "example.org", "Maildir"),
    "vrfy.py": ("--domain", "example.org", "alice=alice@example.org"),
    "xclient.py": ("--trust", "127.0.0.1"),
}
"""The examples that serve until they are ended, with their arguments; files are in a temporary directory."""

FILES = ("accounts.json", "mail.sqlite", "Maildir")

ON_BOTH_LOOPS = ("account_store.py", "maildrop_store.py", "rewrite_sender.py")

CASES = [
    *((name, arguments) for name, arguments in SERVERS.items() if name not in ON_BOTH_LOOPS),
    *((name, (*SERVERS[name], "--loop", loop)) for name in ON_BOTH_LOOPS for loop in LOOPS),
    ("README on trio", ()),
]


def wait_until_idle(process_id: int) -> None:
    """Wait until the process waits for an event.

    A signal may interrupt trio before it has awaited a coroutine of its own, and Python then warns of that coroutine.
    """
    path = Path(f"/proc/{process_id}/stat")
    while path.exists() and path.read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()


def interrupted(program: str | Path, *arguments: str, errors: Path) -> int:
    """Send SIGINT to the program when it listens; return its exit status."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # an ignored signal is ignored by children too
    try:
        with programs.started(program, *arguments, errors=errors, MAIL_PASSWORD="secret") as (process, _):
            wait_until_idle(process.pid)
            process.send_signal(signal.SIGINT)
            return process.wait(programs.TIMEOUT)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[" ".join((name, *more[-1:])) for name, more in CASES])
def test_interrupt_ends_the_program_with_status_0_and_no_error(
    name: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "accounts.json").write_text(json.dumps({"alice": write_credential("PLAIN", b"secret")}))
    program = programs.readme_server_on_trio(tmp_path) if name == "README on trio" else name
    errors = tmp_path / "errors"
    full = [str(tmp_path / each) if each in FILES else each for each in arguments]
    assert (interrupted(program, *full, errors=errors), errors.read_text()) == (0, "")


def test_every_example_that_serves_is_interrupted() -> None:
    """Those that print where they listen, with the text that ``programs.started()`` expects."""
    found = set()
    for path in (programs.ROOT / "examples").glob("*.py"):
        texts = [each.value for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.Constant)]
        if any(isinstance(each, str) and each.startswith("listening on ") for each in texts):
            found.add(path.name)
    assert found == set(SERVERS)
