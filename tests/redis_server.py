"""A Redis server for tests, which a test can start, kill, stop and continue.

Without redis-server (Debian) the tests that need it are skipped; with MAILAUTH_INTEROP=require they fail.
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
from typing import Any

import pytest
import redis

PASSWORD = "a secret: between/servers@home"


class RedisServer:
    """A Redis server without persistence, on a Unix socket in *directory* and on a port of 127.0.0.1.

    If *pair*, a file with a key and its certificate, is given, the port uses TLS.
    """

    def __init__(self, directory: Path, pair: Path | None = None) -> None:
        self._pair = pair
        self.socket = directory / "redis.sock"
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def client(self) -> redis.Redis:
        """A client with full access, to read or change the data."""
        return redis.Redis(unix_socket_path=str(self.socket), password=PASSWORD, decode_responses=True)

    def start(self) -> None:
        """Start it without data, on the same port as before if it was started before."""
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
            output = []
            for line in process.stdout:
                output.append(line)
                if "Ready to accept connections" in line:
                    self.port, self._process = port, process
                    return
            process.communicate()
            assert not self.port, output  # on the first start, another program may have taken the port: try again

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: after SIGSTOP it does not respond, after SIGCONT it continues."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with SIGKILL, like a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class RedisCluster:
    """Three Redis servers without replicas, which share the slots of a cluster, on ports of 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[str]] = []
        self.ports: list[int] = []

    def client(self, number: int) -> Any:  # the type hints of redis are unions of too many types
        """A client of one node, which does not follow redirections."""
        return redis.Redis(port=self.ports[number], password=PASSWORD, decode_responses=True)

    def start(self) -> None:
        while len(self.ports) < 3:
            self._start_node()
        nodes = [f"127.0.0.1:{port}" for port in self.ports]
        words = ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"]
        done = subprocess.run(
            words, env={**os.environ, "REDISCLI_AUTH": PASSWORD}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for number in range(3):
            with self.client(number) as client:
                while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                    pass

    def _start_node(self) -> None:
        port = _free_port()
        if port > 55_535:  # the nodes talk to each other on this port plus 10,000
            return
        directory = self._directory / str(port)
        directory.mkdir(exist_ok=True)
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--cluster-enabled", "yes"]
        words += ["--dir", str(directory), "--save", "", "--requirepass", PASSWORD, "--masterauth", PASSWORD]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if "Ready to accept connections" in line:
                self.ports.append(port)
                self._processes.append(process)
                return
        process.communicate()  # another program has taken one of the ports: the caller tries again

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _require_redis() -> None:
    if shutil.which("redis-server") is None:
        if os.environ.get("MAILAUTH_INTEROP") == "require":
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")


@contextmanager
def redis_cluster(directory: Path) -> Iterator[RedisCluster]:
    """Run a cluster of three nodes until the context ends."""
    _require_redis()
    cluster = RedisCluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@contextmanager
def redis_server(directory: Path, pair: Path | None = None) -> Iterator[RedisServer]:
    """Run a Redis server until the context ends.  *pair* as for RedisServer."""
    _require_redis()
    server = RedisServer(directory, pair)
    try:
        server.start()
        yield server
    finally:
        server.kill()
