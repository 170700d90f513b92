"""A Redis of our own for tests: started where it is installed, killed, stopped and gone on with as a test wants it.

Without Debian's redis-server the tests that need it skip; with MAILAUTH_INTEROP=require they fail.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

PASSWORD = "a secret: between/servers@home"


class RedisServer:
    """One that keeps nothing on disk, on a socket in a directory of its own and on a port of 127.0.0.1.

    With *pair*, a file with a key and the certificate for it, that port is inside TLS.
    """

    def __init__(self, directory: Path, pair: Path | None = None) -> None:
        self._pair = pair
        self.socket = directory / "redis.sock"
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def client(self) -> redis.Redis:
        """A client that may do anything, for a look at what is kept or a change of it."""
        return redis.Redis(unix_socket_path=str(self.socket), password=PASSWORD, decode_responses=True)

    def start(self) -> None:
        """Start it, with nothing in it; on the same port as before when it was started before."""
        while True:
            port = self.port or _free_port()
            words = ["redis-server", "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
            if self._pair is None:
                words += ["--port", str(port)]
            else:
                pair = str(self._pair)
                words += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
                words += ["--tls-cert-file", pair, "--tls-key-file", pair]
            kept = ["--save", "", "--appendonly", "no", "--dir", str(self.socket.parent), "--requirepass", PASSWORD]
            process = subprocess.Popen([*words, *kept], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ready to accept connections" in line:
                    self.port, self._process = port, process
                    return
            process.communicate()
            assert not self.port, said  # else another program has taken the port that was free just now

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP makes it silent, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a crash does it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def redis_server(directory: Path, pair: Path | None = None) -> Iterator[RedisServer]:
    """One that runs, until the context is left; *pair* as RedisServer takes it."""
    if shutil.which("redis-server") is None:
        if os.environ.get("MAILAUTH_INTEROP") == "require":
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    server = RedisServer(directory, pair)
    try:
        server.start()
        yield server
    finally:
        server.kill()
