"""Measure what each feature of the adapter for asyncio costs: the part of the CPU time that is saved without it.

For each feature a server process runs in which the code of this feature is replaced (_features.py), and the recorded
traffic is replayed to all of them in interleaved rounds, as in adapters.py.  Two more rows show the log of `mailauth
serve`, and TLS, which is the part of a session with implicit TLS that a session in clear text does not use.

  python benchmarks/features.py [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Final

from _features import FEATURES, READY_WITHOUT_LOG
from _load import ASYNCIO, READY
from _results import Results, add_options
from _workloads import SMTP, Sessions
from adapters import Costs, measure

COLUMNS: Final = ("one per session", "lock step", "all pipelined", "20 recipients", "1 MB")
SESSION: Final = "one per session"
OVER_TLS: Final = f"{SESSION}, TLS"

ROWS: Final = {"smtp": (ASYNCIO, *FEATURES, READY, READY_WITHOUT_LOG), "smtps": (ASYNCIO,)}


def saved(costs: Costs, whole: str, less: str, column: str) -> float:
    """Return the part of the cost of the row *whole* that the row *less* saves, in percent."""
    pairs = zip(costs[whole][column], costs[less][column], strict=True)
    return median(100 * (1 - without / full) for full, without in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="number of measured rounds (default: 7)")
    add_options(parser)
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    workload = SMTP[SESSION]
    assert isinstance(workload, Sessions)
    columns = {("smtp", name): SMTP[name] for name in COLUMNS} | {("smtps", OVER_TLS): workload}
    costs = measure(columns, ROWS, rounds, quick=options.quick)

    rows = {name.removeprefix("without "): (ASYNCIO, name) for name in FEATURES}
    rows["the log of `mailauth serve`"] = (READY, READY_WITHOUT_LOG)
    results = Results()
    print(f"| percent of the CPU time | {' | '.join(COLUMNS)} |\n| --- |{' --: |' * len(COLUMNS)}")
    for title, (whole, less) in rows.items():
        percent = {column: saved(costs, whole, less, column) for column in COLUMNS}
        results.add("features", title, percent)
        print(f"| {title} | {' | '.join(f'{round(each)}' for each in percent.values())} |")
    sessions = zip(costs[ASYNCIO][OVER_TLS], costs[ASYNCIO][SESSION], strict=True)
    tls = median(100 * (1 - clear / whole) for whole, clear in sessions)
    results.add("features", "TLS", {SESSION: tls})
    print(f"| TLS, full handshake | {round(tls)} |{' |' * (len(COLUMNS) - 1)}")
    results.write(options.values)


if __name__ == "__main__":
    main()
