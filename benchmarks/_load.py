"""Start the measured servers, replay recordings to them, and measure their CPU time.

The load generator polls for replies instead of sleeping, so that no server spends CPU time to wake it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from _messages import PASSWORD
from _traffic import DIGEST, Reply, Step

ASYNCIO: Final = "mailauth on asyncio"
TRIO: Final = "mailauth on trio"
READY: Final = "`mailauth serve`, nothing stored"
SERVE: Final = "`mailauth serve`, Maildir in memory"
AIOSMTPD: Final = "aiosmtpd"
TWISTED: Final = "Twisted"
STREAMS: Final = "floor: asyncio streams, nothing parsed"
PROTOCOL: Final = "floor: asyncio.Protocol, nothing parsed"

_SMTP_REPLY: Final = re.compile(rb"(?:[23]\d\d-[^\n]*\n)*[23]\d\d(?: [^\n]*)?\r\n")
_TIMESTAMP: Final = re.compile(rb"<[^<>]+>")


class Server:
    """One server process and the CPU time it has used."""

    def __init__(self, protocol: str, name: str, core: int, *, tls: bool = False) -> None:
        program = Path(__file__).with_name("_servers.py")
        words = [sys.executable, str(program), protocol, name, str(core), *(["tls"] if tls else [])]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pop3 = protocol == "pop3"
        self.pid = self._process.pid

    @functools.cached_property
    def port(self) -> int:
        """The port of the server; waits until the server listens."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {self._process.args!r}")
        return int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def used(self) -> float:
        """Return the CPU time so far in microseconds, of all threads, user and kernel mode, after all work is done."""
        before = -1
        while (now := self._nanoseconds()) != before:
            before = now
            time.sleep(0.003)
        return now / 1_000

    def _nanoseconds(self) -> int:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)


class Client:
    """One connection that steps are replayed on."""

    def __init__(self, server: Server, *, source: str = "") -> None:
        self._pop3 = server.pop3
        self._buffer = bytearray()
        self._timestamp = b""
        self.socket = socket.create_connection(
            ("127.0.0.1", server.port), source_address=(source, 0) if source else None
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, step: Step) -> None:
        sent = step.sent
        if sent:
            if self._pop3 and DIGEST in sent:
                digest = hashlib.md5(self._timestamp + PASSWORD, usedforsecurity=False).hexdigest()
                sent = sent.replace(DIGEST, digest.encode("ascii"))
            self.socket.sendall(sent)

    def read(self, step: Step) -> None:
        """Read the replies to a step.  Raises ValueError if one is negative or if there are more than expected."""
        for reply in step.replies:
            if self._pop3:
                self._read_pop3_reply(reply)
            else:
                self._read_smtp_reply()
        if step.replies and self._buffer:
            raise ValueError(
                f"the server sent more than the expected replies to {step.sent[:80]!r}: {self._buffer[:80]!r}"
            )

    def _read_smtp_reply(self) -> None:
        while (found := _SMTP_REPLY.match(self._buffer)) is None:
            if self._buffer.startswith((b"4", b"5")) and self._buffer.endswith(b"\r\n"):
                raise ValueError(f"negative reply: {bytes(self._buffer)!r}")
            self._receive()
        end = found.end()
        found = None  # an open match locks the buffer
        del self._buffer[:end]

    def _read_pop3_reply(self, reply: Reply) -> None:
        buffer = self._buffer
        while (end := buffer.find(b"\r\n")) < 0:
            self._receive()
        if reply is not Reply.ANY and not buffer.startswith(b"+"):
            raise ValueError(f"negative reply: {bytes(buffer[:end])!r}")
        if not self._timestamp and (found := _TIMESTAMP.search(bytes(buffer[:end]))):
            self._timestamp = found[0]
        if reply is not Reply.MULTILINE:
            del buffer[: end + 2]
            return
        start = end
        while (dot := buffer.find(b"\r\n.\r\n", start)) < 0:
            start = max(end, len(buffer) - 4)
            self._receive()
        del buffer[: dot + 5]

    def _receive(self) -> None:
        while True:
            try:
                received = self.socket.recv(262_144, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if not received:
                raise EOFError(f"the server closed the connection; it had sent {bytes(self._buffer)!r}")
            self._buffer += received
            return

    def await_end(self) -> None:
        """Wait until the server closes the connection, as it does after QUIT."""
        self.socket.settimeout(30)
        if self.socket.recv(1):
            raise ValueError("the server sent more data after the reply to QUIT")

    def close(self) -> None:
        self.socket.close()


def play(clients: Sequence[Client], steps: Iterable[Step]) -> None:
    """Replay the same steps on all connections: each step on all of them before the next step."""
    for step in steps:
        for client in clients:
            client.send(step)
        for client in clients:
            client.read(step)


def play_sessions(server: Server, sessions: Sequence[Sequence[Step]]) -> None:
    """Open one connection for each of *sessions*, replay them in parallel, and wait until the server closes them."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(server))) for _ in sessions]
        for steps in itertools.zip_longest(*sessions):
            for client, step in zip(clients, steps, strict=True):
                if step is not None:
                    client.send(step)
            for client, step in zip(clients, steps, strict=True):
                if step is not None:
                    client.read(step)
        for client in clients:
            client.await_end()
