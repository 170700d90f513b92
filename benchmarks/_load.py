"""Start the measured servers, replay recordings to them, and measure their CPU time.

A server is named by its row in the tables, and by what it serves: ``smtp``, ``smtps`` (implicit TLS), ``starttls``,
``pop3`` or ``pop3s``.

The load generator polls for replies instead of sleeping, so that no server spends CPU time to wake it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import socket
import ssl
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
UVLOOP: Final = "mailauth on asyncio with uvloop"
TRIO: Final = "mailauth on trio"
READY: Final = "`mailauth serve`, nothing stored"
SERVE: Final = "`mailauth serve`, Maildir in memory"
AIOSMTPD: Final = "aiosmtpd"
TWISTED: Final = "Twisted"
NODEMAILER: Final = "nodemailer smtp-server (Node.js)"
GO_SMTP: Final = "go-smtp (compiled Go)"
SMTP_SINK: Final = "Postfix smtp-sink (C)"
DOVECOT: Final = "Dovecot (C)"
STREAMS: Final = "floor: asyncio streams, nothing parsed"
PROTOCOL: Final = "floor: asyncio.Protocol, nothing parsed"

_SMTP_REPLY: Final = re.compile(rb"(?:[23]\d\d-[^\n]*\n)*[23]\d\d(?: [^\n]*)?\r\n")
_TIMESTAMP: Final = re.compile(rb"<[^<>]+>")
_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PLAIN: Final = {"smtps": "smtp", "starttls": "smtp", "pop3s": "pop3"}


class Server:
    """One server process, with its child processes, and the CPU time used by them.

    *python* is the interpreter that runs it, by default the one that runs this program.
    """

    def __init__(self, serves: str, name: str, core: int, *, python: str = sys.executable) -> None:
        program = Path(__file__).with_name("_servers.py")
        words = [python, str(program), serves, name, str(core)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pop3 = _PLAIN.get(serves, serves) == "pop3"
        self.implicit_tls = serves in ("smtps", "pop3s")
        self.pid = self._process.pid
        self.session: ssl.SSLSession | None = None
        """A TLS session that a client can resume."""

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
        """Return the CPU time so far in microseconds, of all processes and threads, user and kernel mode, after all
        work is done."""
        before = -1
        while (now := self._nanoseconds()) != before:
            before = now
            time.sleep(0.003)
        return now / 1_000

    def _nanoseconds(self) -> int:
        return sum(_nanoseconds(pid) for pid in with_children(self.pid))


def with_children(pid: int) -> list[int]:
    """Return *pid* and its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _nanoseconds(pid: int) -> int:
    """Return the CPU time of the threads of a process, and of its child processes that have ended."""
    total = 0
    with contextlib.suppress(OSError):  # it may have ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[13]) + int(fields[14])) * _TICK  # cutime, cstime
    return total


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # each server makes its own certificate
    return context


_CONTEXT: Final = _client_context()


class Client:
    """One connection that steps are replayed on.  With *resume*, TLS resumes the session of ``server.session``."""

    def __init__(self, server: Server, *, source: str = "", resume: bool = False) -> None:
        self._server = server
        self._pop3 = server.pop3
        self._resume = resume
        self._buffer = bytearray()
        self._timestamp = b""
        self.socket = socket.create_connection(
            ("127.0.0.1", server.port), source_address=(source, 0) if source else None
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.implicit_tls:
            self.start_tls()

    def start_tls(self) -> None:
        """Do a TLS handshake.  Raises ValueError if the session should be resumed and the server refuses."""
        session = self._server.session if self._resume else None
        secure = _CONTEXT.wrap_socket(self.socket, do_handshake_on_connect=False, session=session)
        secure.setblocking(False)
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        if session is not None and not secure.session_reused:
            raise ValueError("the server did not resume the TLS session")
        self.socket = secure

    def send(self, step: Step) -> None:
        sent = step.sent
        if sent:
            if self._pop3 and DIGEST in sent:
                digest = hashlib.md5(self._timestamp + PASSWORD, usedforsecurity=False).hexdigest()
                sent = sent.replace(DIGEST, digest.encode("ascii"))
            self.socket.sendall(sent)

    def finish_step(self, step: Step) -> None:
        """Read the replies to a step, and start TLS if they end a STARTTLS."""
        self.read(step)
        if step.starts_tls:
            self.start_tls()

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
                if isinstance(self.socket, ssl.SSLSocket):  # it does not block, and takes no flags
                    received = self.socket.recv(262_144)
                else:
                    received = self.socket.recv(262_144, socket.MSG_DONTWAIT)
            except (BlockingIOError, ssl.SSLWantReadError):
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
        if isinstance(self.socket, ssl.SSLSocket):
            self._server.session = self.socket.session

    def close(self) -> None:
        self.socket.close()


def play(clients: Sequence[Client], steps: Iterable[Step]) -> None:
    """Replay the same steps on all connections: each step on all of them before the next step."""
    for step in steps:
        for client in clients:
            client.send(step)
        for client in clients:
            client.read(step)


def play_sessions(server: Server, sessions: Sequence[Sequence[Step]], *, resume: bool = False) -> None:
    """Open one connection for each of *sessions*, replay them in parallel, and wait until the server closes them.

    With *resume*, TLS resumes the session of an earlier call.
    """
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(server, resume=resume))) for _ in sessions]
        for steps in itertools.zip_longest(*sessions):
            for client, step in zip(clients, steps, strict=True):
                if step is not None:
                    client.send(step)
            for client, step in zip(clients, steps, strict=True):
                if step is not None:
                    client.finish_step(step)
        for client in clients:
            client.await_end()
