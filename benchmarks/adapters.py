"""Compare the cost of a message in mailauth and in other servers, with the lines that real clients send.

Replays the recordings in benchmarks/traffic/ to each server, whatever extensions it offers, and measures the CPU time
of the server, user and kernel mode.  Servers run on one core and the load generator on another.  Rounds are
interleaved, and the first is a warm-up.  Prints Markdown tables of medians: the cost of the asyncio adapter in
microseconds, and the cost of each other server as a multiple of it (above 1: mailauth is cheaper).  Linux only.  On
another machine the ratios are similar but the microseconds are not; on a busy machine the ratios vary too.

  python benchmarks/adapters.py                 both tables, a few minutes
  python benchmarks/adapters.py smtp --quick    one table, for a test run
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

from _load import AIOSMTPD, ASYNCIO, PROTOCOL, READY, SERVE, STREAMS, TRIO, TWISTED, Server
from _workloads import POP3, SMTP, Workload

COLUMNS: Final[dict[str, Mapping[str, Workload]]] = {"smtp": SMTP, "pop3": POP3}
SERVERS: Final = {
    "smtp": (ASYNCIO, AIOSMTPD, TWISTED, STREAMS, PROTOCOL, TRIO, READY, SERVE),
    "pop3": (ASYNCIO, TWISTED, STREAMS, PROTOCOL, TRIO, READY),
}

Table = dict[str, dict[str, list[float]]]


def measure(protocol: str, columns: Mapping[str, Workload], rounds: int, *, quick: bool) -> Table:
    """The cost of each server and column in microseconds, one for each round."""
    cores = sorted(os.sched_getaffinity(0))
    names = SERVERS[protocol]
    table: Table = {name: {column: [] for column in columns} for name in names}
    os.sched_setaffinity(0, {cores[-1]})
    try:
        with contextlib.ExitStack() as stack:
            servers = {name: stack.enter_context(Server(protocol, name, cores[0])) for name in names}
            for number in range(0 if quick else -1, rounds):
                for column, workload in columns.items():
                    for name, server in servers.items():
                        try:
                            cost = workload.measure(server, 0.05 if quick else 0.2 if number < 0 else 1.0)
                        except (ValueError, OSError, EOFError) as error:
                            raise RuntimeError(f"{name}, {column}: {error}") from error
                        if number >= 0:
                            table[name][column].append(cost)
    finally:
        os.sched_setaffinity(0, cores)
    return table


def markdown(protocol: str, table: Table) -> str:
    """Return a table with the costs of the asyncio adapter, and those of the other servers as multiples of them."""
    ours = table[ASYNCIO]
    columns = list(ours)
    rows = [
        [f"{protocol.upper()}: cost / cost of {ASYNCIO}", *columns],
        ["---", *("--:" for _ in columns)],
        *(
            [name, *(_short(ratio(costs[column], ours[column])) for column in columns)]
            for name, costs in table.items()
            if name != ASYNCIO
        ),
        [f"*{ASYNCIO}, in microseconds*", *(f"*{statistics.median(ours[column]):,.0f}*" for column in columns)],
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def ratio(other: Sequence[float], ours: Sequence[float]) -> float:
    """Divide round by round, because the speed of the machine drifts: each pair was measured within a few seconds."""
    return statistics.median(their / our for their, our in zip(other, ours, strict=True))


def _short(number: float) -> str:
    """Format with about two digits."""
    return f"{number:.2f}" if number < 0.995 else f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", nargs="?", choices=tuple(COLUMNS), help="the table to print (default: both)")
    parser.add_argument("--column", action="append", metavar="NAME", help="measure only this column; may be repeated")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="number of measured rounds (default: 6)")
    parser.add_argument("--quick", action="store_true", help="one short round without warm-up")
    options = parser.parse_args()
    rounds: int = 1 if options.quick else options.rounds
    wanted: list[str] | None = options.column
    loads = []
    for protocol in [options.protocol] if options.protocol else list(COLUMNS):
        columns = {name: workload for name, workload in COLUMNS[protocol].items() if not wanted or name in wanted}
        if columns:
            print(markdown(protocol, measure(protocol, columns, rounds, quick=options.quick)), flush=True)
            loads.append(os.getloadavg()[0])
    if not loads:
        parser.error(f"the columns are: {', '.join(name for columns in COLUMNS.values() for name in columns)}")
    print(
        f"CPython {platform.python_version()}, aiosmtpd {version('aiosmtpd')}, Twisted {version('twisted')}; "
        f"medians of {rounds} rounds; load average {max(loads):.1f}, including 1 for the load generator."
    )


if __name__ == "__main__":
    main()
