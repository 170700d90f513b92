"""Measure how long a legitimate login takes during a password-guessing attack.

  python benchmarks/login_under_attack.py

The server is ``mailauth serve`` on each loop, with accounts hashed by ARGON2ID and by SHA512-CRYPT.  Attackers in a
separate process send wrong passwords of 1,000 bytes, each as soon as the last one is answered, and reconnect when the
server disconnects.  The legitimate logins are those of smtplib, poplib and curl from other loopback addresses.  For the
first two, only the login is timed; for curl, the whole command.  A deferred login (454, [SYS/TEMP]) is counted
separately.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import poplib
import shutil
import signal
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mailauth_io.stores import write_credential

PASSWORD: Final = "Down the rabbit-hole"
GUESS: Final = base64.b64encode(b"\0alice\0" + b"x" * 1000)
LOOPS: Final = ("asyncio", "trio")
SCHEMES: Final = ("ARGON2ID", "SHA512-CRYPT")
ATTACKS: Final = {
    "quiet": (0, 0),
    "1 address, 8 connections": (1, 8),
    "1 address, 250": (1, 250),
    "10 addresses, 25 each": (10, 25),
}
"""Attacking addresses, and connections of each."""


@contextmanager
def server(loop: str, scheme: str) -> Iterator[dict[str, int]]:
    """Run ``mailauth serve`` with alice's password hashed by *scheme*; yield its ports."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        accounts, ready = directory / "accounts", directory / "ready.json"
        accounts.touch(mode=0o600)
        accounts.write_text(f"alice:{write_credential(scheme, PASSWORD.encode())}\n")
        command = [sys.executable, "-m", "mailauth_io", "serve", "--accounts", str(accounts), "--legacy"]
        command += ["--loop", loop, "--ready-file", str(ready)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                if "Ready.\n" not in process.stdout:
                    raise SystemExit("the server did not start")
                yield json.loads(ready.read_text())
            finally:
                process.send_signal(signal.SIGTERM)


@contextmanager
def attackers(port: int, addresses: int, connections: int) -> Iterator[None]:
    """Guess passwords from *addresses* addresses until the context exits."""
    if not addresses:
        yield
        return
    command = [sys.executable, __file__, "--attack", str(port), str(addresses), str(connections)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # each address has one failed login now
            yield
        finally:
            process.kill()


async def attack(port: int, addresses: int, connections: int) -> None:
    """The main function of the attacking process."""
    failed: set[str] = set()
    all_failed = asyncio.Event()

    async def guess(address: str) -> None:
        while True:
            writer = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
                await reader.readline()
                writer.write(b"EHLO attacker.test\r\n")
                while (await reader.readline())[3:4] == b"-":
                    pass
                while True:
                    writer.write(b"AUTH PLAIN " + GUESS + b"\r\n")
                    reply = await reader.readline()
                    if reply.startswith(b"535 "):  # not 454, for which the password was not checked
                        failed.add(address)
                    if len(failed) == addresses:
                        all_failed.set()
                    if not reply.startswith((b"535 ", b"454 ")):
                        break
            except OSError:
                await asyncio.sleep(0.01)
            finally:
                if writer is not None:
                    writer.close()

    async with asyncio.TaskGroup() as group:
        for address in range(addresses):
            for _ in range(connections):
                group.create_task(guess(f"127.0.1.{address + 1}"))
        await all_failed.wait()
        print("attacking", flush=True)


def by_smtplib(ports: dict[str, int], source: str) -> float:
    with smtplib.SMTP("127.0.0.1", ports["smtp"], source_address=(source, 0)) as client:
        client.ehlo()
        client.user, client.password = "alice", PASSWORD
        begun = time.perf_counter()
        client.auth("PLAIN", client.auth_plain)
        return time.perf_counter() - begun


def by_poplib(ports: dict[str, int], source: str) -> float:
    # poplib cannot bind to an address: it always uses 127.0.0.1.
    client = poplib.POP3("127.0.0.1", ports["pop3"])
    try:
        client.user("alice")
        begun = time.perf_counter()
        client.pass_(PASSWORD)
        return time.perf_counter() - begun
    finally:
        with contextlib.suppress(Exception):
            client.quit()


def by_curl(ports: dict[str, int], source: str) -> float:
    command = ["curl", "--silent", "--fail", "--interface", source, "--user", f"alice:{PASSWORD}"]
    begun = time.perf_counter()
    done = subprocess.run([*command, f"pop3://127.0.0.1:{ports['pop3']}/"], capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"curl: {done.returncode}")
    return time.perf_counter() - begun


CLIENTS: Final[dict[str, Callable[[dict[str, int], str], float]]] = {
    "smtplib": by_smtplib, "poplib": by_poplib, "curl": by_curl,
}  # fmt: skip


def measure(ports: dict[str, int], logins: int) -> tuple[list[float], int]:
    """Return the seconds of each successful login, and the number of deferred ones."""
    names = [name for name in CLIENTS if name != "curl" or shutil.which("curl")]
    taken: list[float] = []
    put_off = 0
    for number in range(logins):
        client = CLIENTS[names[number % len(names)]]
        try:
            taken.append(client(ports, f"127.0.2.{number % 250 + 1}"))
        except (smtplib.SMTPException, poplib.error_proto, OSError):
            put_off += 1
    return taken, put_off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=45, help="legitimate logins for each line (default: 45)")
    parser.add_argument("--loop", choices=LOOPS, action="append", help="measure only this loop (default: both)")
    parser.add_argument("--attack", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(attack(*options.attack))
        return
    print(f"{os.cpu_count()} cores; milliseconds per login, and multiples of the median without attackers\n")
    print(f"{'loop':8} {'scheme':13} {'attackers':26} {'median':>8} {'p95':>8} {'ratio':>6} {'p95':>6} {'deferred':>8}")
    for loop in options.loop or LOOPS:
        for scheme in SCHEMES:
            quiet = 0.0
            with server(loop, scheme) as ports:
                for name, (addresses, connections) in ATTACKS.items():
                    with attackers(ports["smtp"], addresses, connections):
                        taken, put_off = measure(ports, options.logins)
                    median = statistics.median(taken or [float("nan")])
                    p95 = sorted(taken)[int(len(taken) * 0.95)] if taken else float("nan")
                    quiet = quiet or median
                    print(
                        f"{loop:8} {scheme:13} {name:26} {median * 1e3:8.1f} {p95 * 1e3:8.1f} "
                        f"{median / quiet:6.1f} {p95 / quiet:6.1f} {put_off:8}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
