"""What a message costs a server: ours and others, side by side, with the lines that real clients send.

Replays the recordings in benchmarks/traffic/, the same to each server whatever it offers, and counts the processor time
of the server, kernel included.  Servers run on one core, the generator on another; rounds are interleaved, the first is
the warm-up and is left out.  Prints Markdown tables of medians: the cost on our asyncio adapter in microseconds, and
what each other server takes for the same, as a multiple of it (above 1: ours is cheaper).  Linux only.  Ratios carry
over to another machine roughly, microseconds do not; on a busy machine even the ratios wander.

  python benchmarks/adapters.py                 both tables, a few minutes
  python benchmarks/adapters.py smtp --quick    a look at one, not a measurement
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
    """The costs by server and column, one for each round, in microseconds."""
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
    """The costs of our asyncio adapter, and what the others take as multiples of them."""
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
    """Round by round, since the machine drifts: both sides of a pair were measured within a few seconds."""
    return statistics.median(their / our for their, our in zip(other, ours, strict=True))


def _short(number: float) -> str:
    """About two digits."""
    return f"{number:.2f}" if number < 0.995 else f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", nargs="?", choices=tuple(COLUMNS), help="one of the tables; both unless given")
    parser.add_argument("--column", action="append", metavar="NAME", help="only this column; may be said again")
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="rounds that are measured (6)")
    parser.add_argument("--quick", action="store_true", help="one short round without a warm-up")
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
        f"medians of {rounds} rounds; load average {max(loads):.1f}, of which the generator is 1."
    )


if __name__ == "__main__":
    main()
