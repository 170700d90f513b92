"""Runs ``mailauth policy-service`` in a subprocess, and asks it as Postfix does."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import serving

DEFER = "DEFER 4.7.1 cannot check relay permission, try again later"
TIMEOUT = 30.0


@contextlib.contextmanager
def started(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command on a free port; yield the process and the port."""
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            serving.command("policy-service", "--port", "0", *options),
            env=serving.environment(), stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on 127.0.0.1, port "), line + (tmp_path / "log").read_text()
            yield process, int(line.split()[-1])
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        yield connection


def ask(connection: socket.socket, *lines: str) -> str:
    connection.sendall("".join(f"{line}\n" for line in (*lines, "")).encode())
    answer = b""
    while not answer.endswith(b"\n\n"):
        received = connection.recv(4096)
        assert received
        answer += received
    return answer.decode().removeprefix("action=").removesuffix("\n\n")


def ask_about(connection: socket.socket, address: str) -> str:
    return ask(
        connection, "request=smtpd_access_policy", "protocol_state=RCPT", f"client_address={address}", "sender=a=b"
    )
