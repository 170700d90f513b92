"""A server that is killed between the next hop's 250 and its own: the client has no reply."""

from __future__ import annotations

import signal
import smtplib
from pathlib import Path

import pytest

from mailauth import smtp
from tests.io import loops
from tests.io.next_hops import FAR, LOCAL, Double, send
from tests.io.server_support import TIMEOUT, run_on_asyncio
from tests.serving import LOOPS, started


@pytest.mark.parametrize("loop", LOOPS)
def test_server_killed_after_relaying_has_not_delivered_locally(loop: str, tmp_path: Path) -> None:
    """docs/relay.md: after the next attempt there are two copies at the next hop and one here."""
    double = Double()
    maildir = tmp_path / "mail" / "alice"

    def submit(port: int) -> list[str]:
        with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=TIMEOUT) as client:
            client.login("alice", "secret")
            return send(client, LOCAL, FAR)

    def client(hop: int) -> None:
        words = ["--smtp", "0", "--user", "alice:secret", "--legacy", "--loop", loop]
        words += ["--maildir", str(maildir.parent), "--relay-to", f"smtp://127.0.0.1:{hop}"]
        with started(tmp_path, *words) as server:
            double.at_the_end = server.process.kill
            with pytest.raises(smtplib.SMTPServerDisconnected):
                submit(server.port("smtp"))
            assert server.process.wait(TIMEOUT) == -signal.SIGKILL
        assert len(list(maildir.glob("tmp/*"))) == 1
        assert list(maildir.glob("new/*")) == []
        with started(tmp_path, *words) as server:
            double.at_the_end = lambda: None
            assert submit(server.port("smtp"))[-1].startswith("250")
        assert len(list(maildir.glob("new/*"))) == 1

    async def main() -> None:
        adapter = loops.current().adapter
        async with adapter.serve_smtp(double.session, smtp.ServerSettings(), grace=0.1) as listener:
            await loops.current().in_thread(client, listener.port)

    run_on_asyncio(main)
    assert len(double.taken) == 2
