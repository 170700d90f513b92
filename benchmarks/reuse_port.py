"""Compare the messages per second of two processes that share their ports with those of one process.

``mailauth serve --reuse-port`` stores each message in a Maildir, in /dev/shm if it exists, so that no disk is measured.
Each process has a CPU core of its own.  The load generator shares the second core with the second server, so it reduces
the throughput of two processes; its CPU usage is printed too.  Rounds are interleaved.  The ratio is reliable only on
an otherwise idle machine, the cost of a message also on a busy one.

  python benchmarks/reuse_port.py [--quick] [--loop asyncio|trio]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import trustme

from _workloads import RELAY, transaction

_LINES: Final = [step.sent for step in transaction(RELAY, rset=False)[1]]
ENVELOPE: Final = _LINES[0].replace(b"<bob@", b"<alice@")
"""The lines of a relay in one segment, which RFC 2920 section 3.1 allows to follow the content before it; it gets three
lines of replies."""
CONTENT: Final = _LINES[1]

SESSIONS: Final = 40
SHARED: Final = Path("/dev/shm")


class Servers:
    """Server processes that share a port and a Maildir."""

    def __init__(self, directory: Path, number: int, loop: str) -> None:
        directory.mkdir()
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = int(self._reserved.getsockname()[1])
        self._maildir = directory / "maildrops"
        ports = directory / "pair.pem"
        ports.touch(mode=0o600)
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(ports)
        words = [
            sys.executable, "-m", "mailauth_io", "serve", "--reuse-port", "--smtp", str(self.port), "--loop", loop,
            "--user", "alice:wonderland", "--maildir", str(self._maildir), "--outbox", str(directory / "outbox"),
            "--grants", f"sqlite:{directory / 'grants.db'}", "--cert", str(ports), "--key", str(ports),
        ]  # fmt: skip
        cores = sorted(os.sched_getaffinity(0))
        self._processes = []
        for place in range(number):
            os.sched_setaffinity(0, {cores[place]})  # a child starts on the core of its parent
            self._processes.append(
                subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            )
        os.sched_setaffinity(0, cores)
        for process in self._processes:
            assert process.stdout is not None
            while process.stdout.readline() not in ("Ready.\n", ""):
                pass

    def measure(self, messages: int) -> tuple[float, float]:
        """Return messages per second from the first MAIL to the last 250, and microseconds of CPU time per message."""
        with sessions(self.port) as opened:
            used, begin = self._used(), time.perf_counter()
            send(opened, messages)
            rate, cost = messages / (time.perf_counter() - begin), (self._used() - used) / messages
        shutil.rmtree(self._maildir / "alice")
        return rate, cost

    def _used(self) -> float:
        """Return the CPU time so far in microseconds, of all processes and threads, user and kernel mode."""
        ticks = 0
        for process in self._processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK") * 1e6

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.communicate()
        self._reserved.close()


@attrs.define
class Session:
    """A connection that sends its next data when no reply is outstanding."""

    connection: socket.socket
    begun: int = 0
    """The number of messages whose envelope was sent."""
    taken: int = 0
    _sent: int = 0
    _chunk_reply: int = 0

    def begin(self) -> None:
        self._say(b"", more=True)

    def go_on(self, *, more: bool) -> None:
        """Read replies, then send the next message, and with *more* another envelope after it."""
        said = self.connection.recv(4096)
        if said[:1] not in b"23":
            raise RuntimeError(f"unexpected reply: {said!r}")
        self._chunk_reply -= said.count(b"\n")
        if not self._chunk_reply:
            self.taken = self._sent
            if self._sent < self.begun:
                self._sent += 1
                self._say(CONTENT, more=more)

    def _say(self, message: bytes, *, more: bool) -> None:
        self.connection.sendall(message + ENVELOPE if more else message)
        self._chunk_reply = bool(message) + 3 * more
        self.begun += more


@contextlib.contextmanager
def sessions(port: int) -> Iterator[list[Session]]:
    """Open connections and complete the greeting, so that MAIL is next."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(SESSIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(4096)
            connection.sendall(b"EHLO relay.example.test\r\n")
            connection.recv(4096)
            opened.append(Session(connection))
        yield opened


def send(opened: list[Session], messages: int) -> None:
    """Send *number* messages, on each connection the next one when the last one is accepted."""
    by_number = {session.connection.fileno(): session for session in opened}
    with select.epoll() as poll:
        for number, session in by_number.items():
            poll.register(number, select.EPOLLIN)
            session.begin()
        begun, taken = len(opened), 0
        while taken < messages:
            for number, _ in poll.poll():
                session = by_number[number]
                before = session.begun, session.taken
                session.go_on(more=begun < messages)
                begun += session.begun - before[0]
                taken += session.taken - before[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args()
    rounds, messages = (1, 100) if options.quick else (15, 2_000)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as directory:
        alone = Servers(Path(directory) / "one", 1, options.loop)
        both = Servers(Path(directory) / "two", 2, options.loop)
        os.sched_setaffinity(0, {cores[1]})
        measured: dict[str, list[tuple[float, float]]] = {"one process": [], "two processes": []}
        shares = []
        for number in range(rounds + 1):
            first = alone.measure(messages)
            before = time.process_time(), time.perf_counter()
            second = both.measure(messages)
            share = (time.process_time() - before[0]) / (time.perf_counter() - before[1])
            if number:  # the first round is the warm-up
                measured["one process"].append(first)
                measured["two processes"].append(second)
                shares.append(share)
        alone.close()
        both.close()
    costs = []
    for name, found in measured.items():
        rate, cost = (statistics.median(column) for column in zip(*found, strict=True))
        costs.append(cost)
        print(f"{name:14}{rate:8.0f} messages per second, {cost:6.0f} us of CPU time each")
    ratio = statistics.median(two[0] / one[0] for one, two in zip(*measured.values(), strict=True))
    print(f"two / one     {ratio:8.2f}x, while the load generator used {statistics.median(shares):.0%} of a core")
    print(f"by the cost   {2 * costs[0] / costs[1]:8.2f}x, with a separate core for the load generator")


if __name__ == "__main__":
    main()
