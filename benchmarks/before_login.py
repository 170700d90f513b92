"""Measure what a client costs before it logs in, and how much it delays other clients.

The first part is the CPU time of the server per byte received: for each mechanism that is offered before a login, with
inputs that are likely to be expensive, compared with ordinary commands.  The second part is the delay of one client's
NOOP, without load and during an attack by two connections that send the most expensive of these inputs as fast as they
can, on both loops.

Each server is a ``mailauth serve`` process with accounts from a file.  CPU time includes kernel mode.  It is measured
separately for the event loop's thread and for all other threads, which hash the passwords.

``python benchmarks/before_login.py [--short] [--quick]`` (Linux)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trustme

from _results import Results, add_options
from mailauth_io.stores import write_credential

HOST: Final = "127.0.0.1"
LOOPS: Final = ("asyncio", "trio")
PLAIN: Final = "PLAIN"
HASHED: Final = ("ARGON2ID", "SHA512-CRYPT")
"""The scheme that the account's password is stored with."""
TARGET_RATIO: Final = 10.0
TARGET_MILLISECONDS: Final = 10.0
ATTACKERS: Final = 2
TIMEOUT: Final = 60.0

IDENTITY_SIZE: Final = 255
PASSWORD_SIZE: Final = 1024
"""Maximum length of a password in bytes."""


# Inputs


def fill(text: str, size: int) -> bytes:
    """Return *text* in UTF-8, repeated as often as it fits in *size* bytes."""
    encoded = text.encode("utf-8")
    return encoded * (size // len(encoded))


def both(text: str) -> tuple[bytes, bytes]:
    return fill(text, IDENTITY_SIZE), fill(text, PASSWORD_SIZE)


INPUTS: Final[dict[str, tuple[bytes, bytes]]] = {
    "ordinary": (b"alice", b"wrong"),
    "U+FDFA name": (fill("\ufdfa", IDENTITY_SIZE), b"wrong"),
    "U+FDFA pass": (b"alice", fill("\ufdfa", PASSWORD_SIZE)),
    "U+3316": both("\u3316"),
    "U+1D160": both("\U0001d160"),
    "U+00A0": both("\u00a0"),
    "marks": both("a\u0301\u0316\u0301\u0316"),
    "long marks": both("\u0301\u0316" * 60),
    "long ASCII": both("a"),
    "too long": (b"a" * 4_000, b"a" * 4_000),
    "controls": both("\x01"),
    "NULs": (bytes(IDENTITY_SIZE), bytes(PASSWORD_SIZE)),
}
"""A name and a password for each kind of input.

NFKC expands U+FDFA to 18 characters, U+3316 to 6 and U+1D160 to 3, replaces U+00A0, and sorts combining marks.
"""
BROKEN: Final = "bad base64"
BROKEN_LINE: Final = b"A" * 12_000 + b"!"

DIGEST: Final = b"0" * 32


@attrs.frozen(kw_only=True)
class Extent:
    """How much to measure."""

    inputs: Collection[str]
    hashed: Sequence[str]
    """The password schemes."""
    rounds: int
    """The measured rounds of each input, after one round of warm-up."""
    quiet: float
    """Seconds of NOOPs without attackers."""
    attacked: float
    """Seconds of NOOPs during an attack."""
    head_start: float
    """Seconds that attackers send before the measurement."""
    worst: int
    """The number of most expensive inputs that attackers send, in addition to fixed ones."""
    judge: bool
    """Whether the measurement is long enough to compare with the target."""


NORMAL: Final = Extent(
    inputs=[*INPUTS, BROKEN], hashed=HASHED, rounds=3, quiet=1.5, attacked=2.0, head_start=0.3, worst=7, judge=True
)
SHORT: Final = attrs.evolve(
    NORMAL, inputs=["ordinary", "U+FDFA name", BROKEN], hashed=(), rounds=1, quiet=0.8, attacked=1.0, worst=1
)
QUICK: Final = Extent(
    inputs=["ordinary", BROKEN],
    hashed=HASHED[:1],
    rounds=0,
    quiet=0.1,
    attacked=0.1,
    head_start=0.1,
    worst=1,
    judge=False,
)


def base64_lines(*messages: bytes) -> bytes:
    return b"".join(b64encode(message) + b"\r\n" for message in messages)


def scram(name: bytes, password: bytes) -> bytes:
    final = b"c=biws,r=" + password.replace(b",", b"") + b",p=AAAA"
    return base64_lines(b"n,,n=" + name.replace(b",", b"") + b",r=nonce", final)


RESPONSES: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {
    "PLAIN": lambda name, password: base64_lines(b"\0" + name + b"\0" + password),
    "LOGIN": base64_lines,
    "CRAM-MD5": lambda name, password: base64_lines(name + b" " + DIGEST),
    "SCRAM-SHA-1": scram,
    "SCRAM-SHA-256": scram,
    "OAUTHBEARER": lambda name, password: base64_lines(
        b"n,a=%b,\x01auth=Bearer %b\x01\x01" % (name, b64encode(password)), b"\x01"
    ),
    "XOAUTH2": lambda name, password: base64_lines(
        b"user=%b\x01auth=Bearer %b\x01\x01" % (name, b64encode(password)), b"\x01"
    ),
    "EXTERNAL": lambda name, password: base64_lines(name),
}
"""The lines of a client after its AUTH command, sent together."""
ONLY_IN_TLS: Final = frozenset({"OAUTHBEARER", "XOAUTH2", "EXTERNAL"})


@attrs.frozen(kw_only=True)
class Case:
    """An input that a client sends, possibly several times in one session."""

    protocol: str
    """``smtp`` or ``pop3``."""
    row: str
    column: str
    data: bytes = attrs.field(repr=False)
    times: int = 2
    """How often it is sent in a session.  A server ends the session after three failed logins."""
    tls: bool = False

    @property
    def port(self) -> str:
        return f"{self.protocol}s" if self.tls else self.protocol

    def __str__(self) -> str:
        return f"{self.protocol.upper()} {self.row}, {self.column}".replace(" ,", ":")


def commands() -> list[Case]:
    """Ordinary commands, long commands and invalid commands."""
    mail = (
        b"MAIL FROM:<alice@example.org> SIZE=1000000 BODY=8BITMIME AUTH=<> SMTPUTF8 RET=HDRS ENVID=QQ314159\r\nRSET\r\n"
    )
    smtp = {
        "NOOP": (b"NOOP\r\n", 200),
        "EHLO": (b"EHLO client.example.test\r\n", 50),
        "EHLO, long": (b"EHLO " + b"a." * 120 + b"test\r\n", 50),
        "MAIL, many parameters": (mail, 50),
        "unknown command": (b"XYZZY\r\n", 15),
        "line too long": (b"a" * 8_000 + b"\r\n", 15),
    }
    pop3 = {"CAPA": (b"CAPA\r\n", 15), "unknown command": (b"XYZZY\r\n", 15), "NULs": (bytes(200) + b"\r\n", 15)}
    return [
        *(Case(protocol="smtp", row="", column=name, data=data, times=times) for name, (data, times) in smtp.items()),
        *(Case(protocol="pop3", row="", column=name, data=data, times=times) for name, (data, times) in pop3.items()),
    ]


def logins() -> list[Case]:
    """Return every mechanism with every input."""
    cases = []
    for protocol in ("smtp", "pop3"):
        for mechanism, responses in RESPONSES.items():
            start = b"AUTH %b\r\n" % mechanism.encode("ascii")
            sent = {title: start + responses(name, password) for title, (name, password) in INPUTS.items()}
            sent[BROKEN] = start + BROKEN_LINE + b"\r\n"
            tls = mechanism in ONLY_IN_TLS
            cases += [
                Case(protocol=protocol, row=mechanism, column=title, data=data, tls=tls) for title, data in sent.items()
            ]
    for title, (name, password) in INPUTS.items():
        short = password[: len(password) * 2 // 9]  # a POP3 command has at most 255 bytes
        sent = {
            "USER": b"USER %b\r\nPASS %b\r\n" % (name[:240], short),
            "APOP": b"APOP %b %b\r\n" % (name[:210], DIGEST),
        }
        cases += [Case(protocol="pop3", row=row, column=title, data=data) for row, data in sent.items()]
    return cases


NOOP: Final = Case(protocol="smtp", row="", column="NOOP", data=b"NOOP\r\n", times=200)


# Server


@attrs.frozen(kw_only=True)
class Server:
    """A running ``mailauth serve``."""

    pid: int
    ports: dict[str, int]
    context: ssl.SSLContext
    """The TLS context of a client with a certificate."""

    def cpu(self) -> tuple[int, int]:
        """Return nanoseconds of CPU time so far: of the event loop's thread, and of all threads, also ended ones."""
        loop = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]
        return int(loop), time.clock_gettime_ns((~self.pid << 3) | 2)  # as clock_getcpuclockid(3) computes it on Linux

    def waited(self) -> int:
        """Return nanoseconds for which the event loop's thread was ready to run but had no CPU."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[1])

    def settled_cpu(self) -> tuple[int, int]:
        """Return ``cpu`` after the server has finished all work."""
        before, now = None, self.cpu()
        while before != now:
            time.sleep(0.001)
            before, now = now, self.cpu()
        return now

    def connect(self, port: str, address: str = HOST) -> socket.socket:
        """Return a connection after the greeting, and after EHLO for SMTP."""
        connection = socket.create_connection((HOST, self.ports[port]), TIMEOUT, source_address=(address, 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if port.endswith("s"):
            connection = self.context.wrap_socket(connection)
        read_reply(connection)
        if port.startswith("smtp"):
            connection.sendall(b"EHLO client.example.test\r\n")
            read_reply(connection)
        return connection


def read_reply(connection: socket.socket) -> None:
    """Read one SMTP reply or one line of POP3."""
    received = b""
    while not received.endswith(b"\r\n") or received.split(b"\r\n")[-2][3:4] == b"-":
        data = connection.recv(65_536)
        if not data:
            raise EOFError("the server closed the connection")
        received += data


@contextlib.contextmanager
def serve(loop: str, scheme: str) -> Iterator[Server]:
    """Run a server with an account of *scheme* until the context exits.

    It does not delay the reply to a failed login, because an attacker with many addresses avoids the delay.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        accounts, ready, clients = directory / "accounts", directory / "ready.json", directory / "clients.pem"
        accounts.touch(0o600)
        accounts.write_text(f"alice:{write_credential(scheme, b'secret')}\n")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(clients))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        authority.issue_cert("alice@example.test").configure_cert(context)
        command = [
            *(sys.executable, "-m", "mailauth_io", "serve", "--loop", loop, "--legacy", "--ready-file", str(ready)),
            *("--accounts", str(accounts), "--token", "alice:a-token", "--client-ca", str(clients)),
            *("--client-name", "email:alice@example.test=alice", "--failure-delay", "0"),
        ]
        with (
            (directory / "log").open("w") as log,
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process,
        ):
            try:
                assert process.stdout is not None
                if b"Ready.\n" not in iter(process.stdout.readline, b""):
                    sys.exit(f"the server did not start:\n{(directory / 'log').read_text()}")
                ports = json.loads(ready.read_text())
                yield Server(pid=process.pid, ports=ports, context=context)
            finally:
                process.kill()


# CPU time per byte


def spend(server: Server, port: str, data: bytes) -> tuple[int, int]:
    """Return the CPU time, as ``Server.cpu``, for *data*, sent at once, and for the end of the session."""
    with server.connect(port) as connection:
        before = server.settled_cpu()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(data + b"QUIT\r\n")
            while connection.recv(65_536):
                pass
        after = server.settled_cpu()
    return after[0] - before[0], after[1] - before[1]


@attrs.frozen(kw_only=True)
class Cost:
    """Return nanoseconds of CPU time for *case*: of the event loop and of all threads."""

    case: Case
    loop: float
    threads: float

    @property
    def loop_per_byte(self) -> float:
        return self.loop / len(self.case.data)


def measure(server: Server, cases: Sequence[Case], rounds: int) -> list[Cost]:
    """Return the cost of each of *cases* above a session of QUIT only: medians of interleaved rounds."""
    spent: dict[Case, list[tuple[int, int]]] = {case: [] for case in cases}
    empty: dict[str, list[tuple[int, int]]] = {case.port: [] for case in cases}
    for number in range(rounds + 1):
        if number == 1:  # the first round was the warm-up
            for measured in (*spent.values(), *empty.values()):
                measured.clear()
        for port, measured in empty.items():
            measured += (spend(server, port, b"") for _ in range(3))
        for case, measured in spent.items():
            measured.append(spend(server, case.port, case.data * case.times))
    costs = []
    for case in cases:
        loop, threads = (
            statistics.median(one[which] for one in spent[case])
            - statistics.median(one[which] for one in empty[case.port])
            for which in (0, 1)
        )
        costs.append(Cost(case=case, loop=max(loop / case.times, 0.0), threads=max(threads / case.times, 0.0)))
    return costs


def show_costs(title: str, costs: Iterable[Cost], noop: float) -> None:
    """Print one row for each cost, with the ratio of its cost per byte to that of *noop*."""
    print(f"{title:36}{'bytes':>8}{'loop, us':>10}{'threads, us':>13}{'loop, ns/byte':>15}{'/ NOOP':>8}")
    for cost in costs:
        print(
            f"{cost.case!s:36}{len(cost.case.data):8,}{cost.loop / 1e3:10,.0f}{(cost.threads - cost.loop) / 1e3:13,.0f}"
            f"{cost.loop_per_byte:15,.0f}{cost.loop_per_byte / noop:8.1f}"
        )
    print()


def show_matrix(protocol: str, costs: Sequence[Cost], noop: float) -> None:
    """Print the costs of the event loop by input and mechanism."""
    cells = {(cost.case.column, cost.case.row): cost for cost in costs if cost.case.protocol == protocol}
    mechanisms = list(dict.fromkeys(row for _, row in cells))
    print(f"{protocol.upper() + ', loop, ns/byte':20}", *(f"{mechanism:>15}" for mechanism in mechanisms), sep="")
    for column in dict.fromkeys(column for column, _ in cells):
        texts = []
        for mechanism in mechanisms:
            cost = cells.get((column, mechanism))
            texts.append("-" if cost is None else f"{cost.loop_per_byte:,.0f} ({cost.loop_per_byte / noop:.1f})")
        print(f"{column:20}", *(f"{text:>15}" for text in texts), sep="")
    print()


def costs_before_login(extent: Extent) -> list[Case]:
    """Print the cost of each input.  For each mechanism without TLS, return the input with the most event loop time.

    The most expensive come first.
    """
    print(
        "Server CPU time on asyncio, above that of a session of QUIT only; in brackets: cost per byte / that of NOOP\n"
    )
    with serve("asyncio", PLAIN) as server:
        ordinary = measure(server, commands(), extent.rounds)
        noop = max(next(cost.loop_per_byte for cost in ordinary if cost.case == NOOP), 1.0)
        show_costs("ordinary commands, and junk", ordinary, noop)
        costs = measure(server, [case for case in logins() if case.column in extent.inputs], extent.rounds)
    for protocol in ("smtp", "pop3"):
        show_matrix(protocol, costs, noop)
    show_costs("highest cost per byte", sorted(costs, key=lambda cost: -cost.loop_per_byte)[:5], noop)
    longest = sorted(costs, key=lambda cost: -cost.loop)
    show_costs("longest on the event loop", longest[:10], noop)
    for scheme in extent.hashed:
        with serve("asyncio", scheme) as server:
            show_costs(f"accounts of {scheme}", measure(server, hashed(extent.inputs), 0), noop)
    worst: dict[str, Case] = {}
    for cost in longest:
        if not cost.case.tls:
            worst.setdefault(cost.case.row, cost.case)
    return list(worst.values())[: extent.worst]


def login(protocol: str, mechanism: str, title: str) -> Case:
    return next(case for case in logins() if (case.protocol, case.row, case.column) == (protocol, mechanism, title))


def hashed(inputs: Collection[str]) -> list[Case]:
    """Return logins that hash the password or almost do."""
    ways = (("smtp", "PLAIN"), ("pop3", "USER"))
    titles = [title for title in ("ordinary", "long ASCII", "U+FDFA pass") if title in inputs]
    return [attrs.evolve(login(*way, title), times=1) for way in ways for title in titles]


# Delays of another client


@attrs.frozen(kw_only=True)
class Delays:
    """The delays of NOOP replies in milliseconds, and the load of the server in that time."""

    median: float
    p95: float
    longest: float
    loop: float
    """Fraction of CPU time used by the event loop; *threads* is that of all threads."""
    threads: float
    waited: float
    """Fraction of time in which the event loop was ready to run but had no CPU."""


def send_noops(server: Server, seconds: float) -> Delays:
    """Send a NOOP every few milliseconds, on a new connection from time to time."""
    delays: list[float] = []
    started_at, before, waited = time.monotonic(), server.cpu(), server.waited()
    while time.monotonic() < started_at + seconds or not delays:
        with server.connect("smtp") as connection:
            for _ in range(200):
                sent = time.perf_counter()
                connection.sendall(b"NOOP\r\n")
                read_reply(connection)
                delays.append((time.perf_counter() - sent) * 1_000)
                if time.monotonic() >= started_at + seconds:
                    break
                time.sleep(random.uniform(0.001, 0.009))
    took, after = (time.monotonic() - started_at) * 1e9, server.cpu()
    delays.sort()
    return Delays(
        median=statistics.median(delays),
        p95=delays[int(len(delays) * 0.95)],
        longest=delays[-1],
        loop=(after[0] - before[0]) / took,
        threads=(after[1] - before[1]) / took,
        waited=(server.waited() - waited) / took,
    )


Counts: TypeAlias = "SynchronizedArray[int]"


def attack(address: str, port: int, data: bytes, until: float, replies: Counts, place: int) -> None:
    """Send *data* from *address* repeatedly, as fast as the server accepts it, and read the replies.

    Reconnects when disconnected.  Counts the lines of replies in ``replies[place]``.
    """
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # chrt is for the server and the measured client only
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 5.0, (address, 0)) as connection:
            connection.setblocking(False)
            left = memoryview(data)
            while time.monotonic() < until:
                readable, writable, _ = select.select([connection], [connection], [], 0.1)
                if readable:
                    received = connection.recv(65_536)
                    if not received:
                        break
                    replies[place] += received.count(b"\n")
                if writable:
                    left = left[connection.send(left) :] or memoryview(data)


def send_noops_beside(server: Server, address: str, case: Case, extent: Extent) -> tuple[Delays, float]:
    """Run ``send_noops`` while attackers send *case* from *address*; also return their reply lines per second."""
    fork = multiprocessing.get_context("fork")
    replies: Counts = fork.Array("q", ATTACKERS)
    data = (b"EHLO client.example.test\r\n" if case.protocol == "smtp" else b"") + case.data * 20
    until = time.monotonic() + extent.head_start + extent.attacked + TIMEOUT
    attackers = [
        fork.Process(target=attack, args=(address, server.ports[case.port], data, until, replies, place), daemon=True)
        for place in range(ATTACKERS)
    ]
    for process in attackers:
        process.start()
    try:
        time.sleep(extent.head_start)
        started_at, before = time.monotonic(), sum(replies[:])
        delays = send_noops(server, extent.attacked)
        return delays, (sum(replies[:]) - before) / (time.monotonic() - started_at)
    finally:
        for process in attackers:
            process.kill()
            process.join()


def show_delays(name: str, delays: Delays, quiet: Delays, rate: float | None, *, judge: bool) -> bool:
    """Print one row, with a mark if *judge* and the target is missed.  Return whether the target is met."""
    within = delays.median <= max(TARGET_RATIO * quiet.median, TARGET_MILLISECONDS)
    print(
        f"{name:44}{delays.median:9.2f}{delays.p95:9.2f}{delays.longest:9.2f}{delays.median / quiet.median:8.1f}"
        f"{'-' if rate is None else f'{rate:,.0f}':>11}{delays.loop:7.0%}{delays.threads:7.0%}{delays.waited:8.0%}"
        f"{'  MISSED' if judge and not within else ''}"
    )
    return within


def delays_of_others(worst: list[Case], extent: Extent) -> bool:
    """Print the delays of another client during attacks.  Return whether all meet the target."""
    guess, long_guess = login("smtp", "PLAIN", "ordinary"), login("smtp", "PLAIN", "long ASCII")
    attacks = {PLAIN: [NOOP, guess, login("smtp", "PLAIN", BROKEN), *worst]}
    attacks |= {scheme: [guess, long_guess] for scheme in extent.hashed}
    within = []
    print(f"NOOP delay of another client, in ms, while {ATTACKERS} connections send the following\n")
    print(
        f"{'':44}{'median':>9}{'p95':>9}{'longest':>9}{'/ quiet':>8}{'replies/s':>11}{'loop':>7}{'all':>7}{'waited':>8}"
    )
    for loop in LOOPS:
        for scheme, cases in attacks.items():
            with serve(loop, scheme) as server:
                send_noops(server, extent.quiet / 4)  # warms the server up
                quiet = send_noops(server, extent.quiet)
                show_delays(f"{loop}, accounts of {scheme}: quiet", quiet, quiet, None, judge=extent.judge)
                for number, case in enumerate(cases, 2):  # each from an address without failed logins
                    delays, rate = send_noops_beside(server, f"127.0.0.{number}", case, extent)
                    within.append(show_delays(f"  {case}", delays, quiet, rate, judge=extent.judge))
    return all(within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="few inputs, no hashes, and only the second part")
    add_options(parser)
    options = parser.parse_args()
    extent = QUICK if options.quick else SHORT if options.short else NORMAL
    with contextlib.redirect_stdout(io.StringIO()) if options.short else contextlib.nullcontext():
        worst = costs_before_login(extent)
    within = delays_of_others(worst, extent)
    results = Results()
    results.add("bystander", "target", {"met": float(within)})
    results.write(options.values)
    print(
        "\nloop, all: CPU usage of the server's event loop and of all its threads.  waited: the part of the time in"
        "\nwhich the loop was ready to run but had no CPU; if it is large, use chrt -f 1 or an idle machine."
    )
    verdict = ("met" if within else "MISSED") if extent.judge else "not checked: --quick is only a test run"
    print(
        f"Target: a median of at most {TARGET_RATIO:.0f} times that without load, or {TARGET_MILLISECONDS:.0f} ms: "
        f"{verdict}."
    )


if __name__ == "__main__":
    main()
