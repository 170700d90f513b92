"""What a message costs a server: CPU microseconds, kernel time included, of our servers and of others beside them.

Servers run in processes of their own on one core, the generator on another; rounds are interleaved, medians are taken.
The asyncio-streams floor reads lines, parses nothing and answers canned replies.  Only the ratios carry over from one
machine to another.

``python benchmarks/adapters.py [--quick]`` (Linux)
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from _load import AIOSMTPD, ASYNCIO, COLUMNS, FLOOR, READY, TRIO, Sessions

SESSIONS: Final = {"lock step": 20, "pipelined group": 20, "1 MB bodies": 4}
MESSAGES: Final = {"lock step": 1_000, "pipelined group": 1_000, "1 MB bodies": 24}
"""In each round."""

Table = dict[str, dict[str, list[float]]]


class Server:
    """One server process, and how much of its core it has used."""

    def __init__(self, name: str, core: int) -> None:
        program = Path(__file__).with_name("_servers.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), name, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid

    def cpu(self) -> float:
        """Microseconds on a processor so far, of all threads, in user and kernel mode."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        nanoseconds = [int(task.read_text().split()[0]) for task in tasks]
        return sum(nanoseconds) / 1_000

    def measure(self, column: str, messages: int) -> float:
        """Microseconds for each of *messages* messages; the sessions are opened before and closed after."""
        sessions = Sessions(self.port, SESSIONS[column])
        sessions.send(COLUMNS[column], SESSIONS[column])
        before = self.cpu()
        sent = sessions.send(COLUMNS[column], messages)
        cost = (self.cpu() - before) / sent
        sessions.close()
        return cost

    def close(self) -> None:
        self._process.communicate()


def measure(names: tuple[str, ...], rounds: int, scale: float) -> Table:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    servers = {name: Server(name, cores[0]) for name in names}
    table: Table = {name: {column: [] for column in COLUMNS} for name in names}
    for number in range(rounds + 1):
        for column in COLUMNS:
            for name, server in servers.items():
                cost = server.measure(column, max(1, int(MESSAGES[column] * scale)))
                if number:  # the first round is the warm-up
                    table[name][column].append(cost)
    for server in servers.values():
        server.close()
    return table


def show(table: Table) -> None:
    width = len(ASYNCIO) + len(READY) + 5
    medians = {name: {c: statistics.median(costs) for c, costs in row.items()} for name, row in table.items()}
    print("server CPU microseconds per message".ljust(width), *(column.rjust(16) for column in COLUMNS))
    for name, row in medians.items():
        print(name.ljust(width), *(f"{cost:16.1f}" for cost in row.values()))
    print()
    for ours in (ASYNCIO, TRIO):
        for other in (FLOOR, AIOSMTPD):
            ratios = [_ratio(table[other][column], table[ours][column]) for column in COLUMNS]
            print(f"{other} / {ours}".ljust(width), *(f"{ratio:15.2f}x" for ratio in ratios))
    ratios = [_ratio(table[ASYNCIO][column], table[READY][column]) for column in COLUMNS]
    print(f"{ASYNCIO} / {READY}".ljust(width), *(f"{ratio:15.2f}x" for ratio in ratios))


def _ratio(other: list[float], ours: list[float]) -> float:
    """Round by round, since the machine drifts: both sides of a pair were measured within a second or two."""
    return statistics.median(their / our for their, our in zip(other, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: a look, not a measurement")
    quick = parser.parse_args().quick
    show(measure((ASYNCIO, READY, TRIO, FLOOR, AIOSMTPD), rounds=3 if quick else 15, scale=0.3 if quick else 1.0))


if __name__ == "__main__":
    main()
