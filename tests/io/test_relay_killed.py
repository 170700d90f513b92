"""A server that is killed between the next hop's 250 and its own: nobody was told that the message is anywhere."""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailauth import smtp
from mailauth_io import _loops
from tests.io.next_hops import FAR, LOCAL, Double, send
from tests.io.server_support import PATIENCE, run_on_asyncio
from tests.serving import LOOPS, command, environment


@contextmanager
def serving(directory: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server as a process, and its SMTP port; it is killed in the end, if it still runs."""
    ready = directory / "ready.json"
    with subprocess.Popen(
        command("serve", "--smtp", "0", "--user", "alice:secret", "--legacy", "--ready-file", str(ready), *words),
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            while process.stdout.readline() not in (b"Ready.\n", b""):
                pass
            yield process, json.loads(ready.read_text())["smtp"]
        finally:
            process.kill()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_is_killed_after_the_next_hop_took_the_message_has_shown_nothing(
    loop: str, tmp_path: Path
) -> None:
    """docs/relay.md: after the next try the message is twice there and once here."""
    double = Double()
    maildir = tmp_path / "mail" / "alice"

    def submit(port: int) -> list[str]:
        with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=PATIENCE) as client:
            client.login("alice", "secret")
            return send(client, LOCAL, FAR)

    def client(hop: int) -> None:
        words = ("--loop", loop, "--maildir", str(maildir.parent), "--relay-to", f"smtp://127.0.0.1:{hop}")
        with serving(tmp_path, *words) as (process, port):
            double.at_the_end = process.kill
            with pytest.raises(smtplib.SMTPServerDisconnected):
                submit(port)
            assert process.wait(PATIENCE) == -signal.SIGKILL
        assert len(list(maildir.glob("tmp/*"))) == 1
        assert list(maildir.glob("new/*")) == []
        with serving(tmp_path, *words) as (_, port):
            double.at_the_end = lambda: None
            assert submit(port)[-1].startswith("250")
        assert len(list(maildir.glob("new/*"))) == 1

    async def main() -> None:
        adapter = _loops.current().adapter
        async with adapter.serve_smtp(double.session, smtp.ServerSettings(), grace=0.1) as listener:
            await _loops.current().in_thread(client, listener.port)

    run_on_asyncio(main)
    assert len(double.taken) == 2
