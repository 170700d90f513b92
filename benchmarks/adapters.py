"""Compare the cost of a message in mailauth and in other servers, with the lines that real clients send.

Replays the recordings in benchmarks/traffic/ to each server, whatever extensions it offers, and measures the CPU time
of the server, user and kernel mode, of all its threads and processes.  Servers run on one core and the load generator,
which also does the client's part of TLS, on another.  Rounds are interleaved, and the first is a warm-up.  Prints
Markdown tables of medians: the cost of the asyncio adapter in microseconds, and the cost of each other server as a
multiple of it (above 1: mailauth is cheaper).  A dash means that the server cannot run the column.  Linux only.  On
another machine the ratios are similar but the microseconds are not; on a busy machine the ratios vary too.

  python benchmarks/adapters.py                 all tables, a few minutes
  python benchmarks/adapters.py SMTP --quick    one table, for a test run
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Final

import _external
from _load import (
    AIOSMTPD,
    ASYNCIO,
    DOVECOT,
    GO_SMTP,
    NODEMAILER,
    PROTOCOL,
    READY,
    SERVE,
    SMTP_SINK,
    STREAMS,
    TRIO,
    TWISTED,
    UVLOOP,
    Server,
)
from _results import Results, add_options, short
from _workloads import POP3, SMTP, TLS, Workload

Columns = Mapping[tuple[str, str], Workload]
"""By what the server serves, and the title of the column."""
Rows = Mapping[str, Sequence[str]]
"""The rows, by what the server serves."""
Costs = dict[str, dict[str, list[float]]]
"""Microseconds by row and column, one for each round.  A column that a row cannot run is missing."""

PEERS: Final = (AIOSMTPD, TWISTED, NODEMAILER, GO_SMTP, SMTP_SINK, DOVECOT, STREAMS, PROTOCOL)
_SUBMISSION: Final = (ASYNCIO, UVLOOP, TRIO, READY, AIOSMTPD, TWISTED, NODEMAILER, GO_SMTP)
SERVERS: Final[dict[str, Sequence[str]]] = {
    "smtp": (ASYNCIO, UVLOOP, TRIO, READY, SERVE, AIOSMTPD, TWISTED, NODEMAILER, GO_SMTP, SMTP_SINK, STREAMS, PROTOCOL),
    "pop3": (ASYNCIO, UVLOOP, TRIO, READY, TWISTED, DOVECOT, STREAMS, PROTOCOL),
    "starttls": _SUBMISSION,
    "smtps": (*_SUBMISSION, STREAMS),
    "pop3s": (ASYNCIO, UVLOOP, TRIO, READY, TWISTED, STREAMS),
}
VERSIONS: Final = ("3.12", "3.13", "3.14")


def _columns(serves: str, workloads: Mapping[str, Workload], *names: str) -> Columns:
    return {(serves, name): workload for name, workload in workloads.items() if name in names or not names}


TABLES: Final[dict[str, Columns]] = {
    "SMTP": _columns("smtp", SMTP),
    "POP3": _columns("pop3", POP3),
    "TLS": TLS,
    "Python": {
        **_columns("smtp", SMTP, "one per session", "AUTH PLAIN + one", "lock step", "all pipelined", "1 MB"),
        **_columns("pop3", POP3, "USER session", "RETR, lock step"),
    },
}
"""The columns of the tables.  In the last one, the rows are other versions of Python, instead of other servers."""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def interpreters() -> dict[str, str]:
    """Return the paths of other interpreters by the name of their row, as ``make bench-peers`` installs them."""
    paths = {each: _external.FOLDER / f"python{each}" / "bin" / "python" for each in VERSIONS}
    return {f"Python {each}": str(path) for each, path in paths.items() if path.exists()}


def measure(columns: Columns, rows: Rows, rounds: int, *, quick: bool, show: Callable[[str], None] = note) -> Costs:
    """Return the cost of each server and column in microseconds.  What is left out is passed to *show*."""
    paths = interpreters()
    served = dict.fromkeys(serves for serves, _ in columns)
    rows = {serves: _installed(serves, rows[serves], show) for serves in served}
    costs: Costs = {name: {} for names in rows.values() for name in names}
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    try:
        with contextlib.ExitStack() as stack:
            servers: dict[tuple[str, str], Server] = {}
            for serves, names in rows.items():
                for name in names:
                    server = (
                        Server(serves, ASYNCIO, cores[0], python=paths[name])
                        if name in paths
                        else Server(serves, name, cores[0])
                    )
                    servers[serves, name] = stack.enter_context(server)
            impossible = {
                (DOVECOT, column) for (_, column), workload in columns.items() if workload.deletes
            }  # the others do not delete, so that each session finds the same messages
            first = 0 if quick else -1
            for number in range(first, rounds):
                scale = 0.05 if quick else 0.2 if number < 0 else 1.0
                for (serves, column), workload in columns.items():
                    start = number % len(rows[serves])  # none is always the first one after another column
                    for name in (*rows[serves][start:], *rows[serves][:start]):
                        if (name, column) in impossible:
                            continue
                        try:
                            cost = workload.measure(servers[serves, name], scale)
                        except (ValueError, OSError, EOFError) as error:
                            if number > first or name not in PEERS:
                                raise RuntimeError(f"{name}, {column}: {error}") from error
                            impossible.add((name, column))
                            continue
                        if number >= 0:
                            costs[name].setdefault(column, []).append(cost)
    finally:
        os.sched_setaffinity(0, cores)
    return costs


def _installed(serves: str, names: Sequence[str], show: Callable[[str], None]) -> tuple[str, ...]:
    reasons = {name: _external.missing(name, serves) for name in names}
    for name, reason in reasons.items():
        if reason is not None:
            show(f"Left out: {name}, {serves}: {reason}; see make bench-peers.")
    return tuple(name for name, reason in reasons.items() if reason is None)


def ratios(costs: Costs) -> dict[str, dict[str, float]]:
    """Return the costs of the other servers as multiples of those of mailauth on asyncio.

    Divides round by round, because the speed of the machine drifts: each pair was measured within a few seconds.
    """
    ours = costs[ASYNCIO]
    return {
        name: {
            column: median(their / our for their, our in zip(each, ours[column], strict=True))
            for column, each in columns.items()
        }
        for name, columns in costs.items()
        if name != ASYNCIO
    }


def markdown(title: str, costs: Costs) -> str:
    """Return a table with the costs of the asyncio adapter, and those of the other servers as multiples of them."""
    columns = list(costs[ASYNCIO])
    rows = [
        [f"{title}: cost / cost of {ASYNCIO}", *columns],
        ["---", *("--:" for _ in columns)],
        *(
            [name, *(short(row[column]) if column in row else "-" for column in columns)]
            for name, row in ratios(costs).items()
        ),
        [f"*{ASYNCIO}, in microseconds*", *(f"*{median(costs[ASYNCIO][column]):,.0f}*" for column in columns)],
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=tuple(TABLES), help="the table to print (default: all)")
    parser.add_argument("--column", action="append", metavar="NAME", help="measure only this column; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="number of measured rounds (default: 5)")
    add_options(parser)
    options = parser.parse_args()
    rounds: int = 1 if options.quick else options.rounds
    wanted: list[str] | None = options.column
    results = Results()
    loads = []
    for title in [options.table] if options.table else list(TABLES):
        columns = {key: each for key, each in TABLES[title].items() if not wanted or key[1] in wanted}
        if not columns:
            continue
        rows: Rows = SERVERS
        if title == "Python":
            rows = dict.fromkeys(("smtp", "pop3"), (ASYNCIO, *interpreters()))
            if not interpreters():
                note("Left out: other versions of Python: none are installed; see make bench-peers.")
                continue
        costs = measure(columns, rows, rounds, quick=options.quick)
        print(markdown(title, costs), flush=True)
        for row, values in ratios(costs).items():
            results.add(title, row, values)
        results.add(title, ASYNCIO, {column: median(each) for column, each in costs[ASYNCIO].items()})
        loads.append(os.getloadavg()[0])
    if not loads and not options.table:
        titles = ", ".join(column for columns in TABLES.values() for _, column in columns)
        parser.error(f"the columns are: {titles}")
    if loads:
        print(
            f"CPython {platform.python_version()}, aiosmtpd {version('aiosmtpd')}, Twisted {version('twisted')}, "
            f"uvloop {version('uvloop')}; medians of {rounds} rounds; load average {max(loads):.1f}, including 1 for "
            "the load generator."
        )
    results.write(options.values)


if __name__ == "__main__":
    main()
