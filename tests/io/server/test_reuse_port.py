"""Several processes on the same ports: any of them may get a connection, and they share their stores."""

from __future__ import annotations

import contextlib
import poplib
import smtplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from mailauth_io import server
from mailauth_io.adapters.connection import AsyncServerConnection
from tests.io import loops
from tests.io.grant_stores import on_both_loops
from tests.io.line_echo import Echo, EchoEvent
from tests.serving import LOOPS, Served, messages, run, served

ROUNDS = 24
"""Number of connections.  Each goes to a random process; one process gets none once in ten million runs."""


@contextmanager
def free_port() -> Iterator[int]:
    """Reserve a port that can only be used with SO_REUSEPORT."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@on_both_loops
async def test_two_listeners_share_a_port_only_if_both_set_reuse_port(loop: loops.Loop) -> None:
    """On IPv4 and IPv6."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for _ in connection:
            pass

    def build(entropy: bytes, tls: object) -> Echo:
        return Echo(entropy=entropy)

    serve = loop.adapter.serve
    for host in ("127.0.0.1", "::1"):
        async with serve(session, build, host=host, reuse_port=True) as first:
            async with serve(session, build, host=host, port=first.port, reuse_port=True) as second:
                assert (second.address, second.port) == (first.address, first.port)
            with pytest.raises(OSError, match="in use"):
                async with serve(session, build, host=host, port=first.port):
                    pass


def test_config_rejects_reuse_port_with_port_zero() -> None:
    with pytest.raises(ValueError, match="port numbers other than 0"):
        server.Config(smtp=0, reuse_port=True)


@contextmanager
def two_processes(loop: str, directory: Path) -> Iterator[tuple[Served, Served]]:
    """Run two servers with the same options, ports and stores."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(directory / "cert.pem")
    (directory / "cert.pem").chmod(0o600)
    with free_port() as smtp, free_port() as pop3, contextlib.ExitStack() as stack:
        words = (
            "--loop", loop, "--user", "alice:wonderland", "--legacy", "--reuse-port",
            "--smtp", str(smtp), "--pop3", str(pop3), "--maildir", str(directory / "maildrops"),
            "--outbox", str(directory / "outbox"), "--grants", f"sqlite:{directory / 'grants.db'}",
            "--cert", str(directory / "cert.pem"), "--key", str(directory / "cert.pem"),
        )  # fmt: skip
        servers = []
        for name in ("first", "second"):
            (directory / name).mkdir()
            servers.append(stack.enter_context(served(directory / name, *words)))
        yield servers[0], servers[1]


def log_in(server_process: Served) -> poplib.POP3:
    client = poplib.POP3("127.0.0.1", server_process.port("pop3"), timeout=20)
    try:
        client.user("alice")
        client.pass_("wonderland")
    except poplib.error_proto:
        client.close()
        raise
    return client


def may_relay(server_process: Served) -> bool:
    with smtplib.SMTP("127.0.0.1", server_process.port("smtp"), "client.test", timeout=20) as client:
        client.ehlo()
        client.mail("alice@example.test")
        code, text = client.rcpt("bob@far.test")
        assert code in (250, 550), (code, text)
        return code == 250


@pytest.mark.parametrize("loop", LOOPS)
def test_processes_on_one_port_share_maildrops_and_grants(loop: str, tmp_path: Path) -> None:
    with two_processes(loop, tmp_path) as (one, other):
        assert one.ports["smtp"] == other.ports["smtp"]
        assert one.ports["pid"] != other.ports["pid"]

        for number in range(ROUNDS):
            with smtplib.SMTP("127.0.0.1", one.port("smtp"), "client.test", timeout=20) as client:
                client.sendmail("bob@far.test", ["alice@example.test"], f"Subject: {number}\r\n\r\nbody\r\n".encode())
        texts = messages(tmp_path / "maildrops" / "alice")
        subjects = sorted(int(text.partition(b"\nSubject: ")[2].split()[0]) for text in texts)
        assert subjects == list(range(ROUNDS))
        assert not may_relay(one)

        reader = log_in(one)
        listed, named = reader.list()[1], reader.uidl()[1]
        assert len(named) == len({line.split()[1] for line in named}) == ROUNDS
        for _ in range(ROUNDS):  # the lock works between processes
            with pytest.raises(poplib.error_proto, match=r"\[IN-USE\]"):
                log_in(one)
        assert all(may_relay(one) for _ in range(ROUNDS))
        reader.dele(1)
        reader.quit()
        for _ in range(ROUNDS):
            reader = log_in(one)
            assert [line.split()[1] for line in reader.list()[1]] == [line.split()[1] for line in listed[1:]]
            assert [line.split()[1] for line in reader.uidl()[1]] == [line.split()[1] for line in named[1:]]
            reader.quit()

        done = run("grants", "revoke", "alice", "--grants", f"sqlite:{tmp_path / 'grants.db'}")
        assert done.stdout == "revoked 1 grant of alice\n", done.stderr
        assert not any(may_relay(one) for _ in range(ROUNDS))
        for server_process in (one, other):
            log = server_process.log.read_text()
            assert "INFO message " in log
            assert "INFO login " in log
            assert "INFO recipient refused " in log
