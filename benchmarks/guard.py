"""Detect slower code without a clock: count the instructions of the core.

``make bench-guard`` runs each workload of ``guard_workloads.py`` under ``valgrind --tool=callgrind``, compares the
instructions of one round with those recorded in ``guard_records.json``, and fails if there are over 3 % more.
``python benchmarks/guard.py --record`` records the counts.

Each workload runs twice, with few rounds and with many, and the difference is divided by the difference in rounds.
This removes everything that happens once, such as the start of Python and the imports.  With a fixed environment and
fixed hashes, repeated counts are identical.  Counts depend on the build of Python, on the libraries and on the CPU that
valgrind emulates, so there is a record for each combination.  Without a record nothing is compared.
"""

from __future__ import annotations

import argparse
import enum
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import attrs

LIMIT: Final = 0.03
"""The largest difference from the record, as a fraction."""
RECORDS: Final = Path(__file__).with_name("guard_records.json")
WORKLOADS: Final = Path(__file__).with_name("guard_workloads.py")
COLLECTED: Final = re.compile(r"^==(\d+)== Collected : (\d+)$", re.MULTILINE)
TO_RECORD: Final = ".venv/bin/python benchmarks/guard.py --record"


class Verdict(enum.Enum):
    """The result of a comparison."""

    SAME = ""
    MORE = "more than recorded"
    FEWER = "less than recorded: update the record"
    NOT_RECORDED = "not recorded"


@attrs.frozen(kw_only=True)
class Comparison:
    """The instructions of one round of a workload: recorded and counted now."""

    workload: str
    recorded: int | None
    counted: int

    @property
    def change(self) -> float:
        """The increase as a fraction; 0 if none is recorded."""
        return 0.0 if self.recorded is None else self.counted / self.recorded - 1

    @property
    def verdict(self) -> Verdict:
        if self.recorded is None:
            return Verdict.NOT_RECORDED
        if abs(self.counted - self.recorded) <= LIMIT * self.recorded:
            return Verdict.SAME
        return Verdict.MORE if self.change > 0 else Verdict.FEWER

    def __str__(self) -> str:
        recorded = "-" if self.recorded is None else f"{self.recorded:,}"
        change = "" if self.recorded is None else f"{self.change:+.2%}"
        return f"{self.workload:12}{recorded:>14}{self.counted:>14,}{change:>10}  {self.verdict.value}".rstrip()


def compare(recorded: Mapping[str, int], counted: Mapping[str, int]) -> list[Comparison]:
    """Return a comparison for each counted workload, in the same order."""
    return [
        Comparison(workload=workload, recorded=recorded.get(workload), counted=instructions)
        for workload, instructions in counted.items()
    ]


def report(combination: str, comparisons: list[Comparison]) -> tuple[str, bool]:
    """Return the text to print, and whether the guard passes."""
    lines = [
        combination,
        f"{'per round':12}{'recorded':>14}{'instructions':>14}{'change':>10}",
        *map(str, comparisons),
    ]
    more = [comparison for comparison in comparisons if comparison.verdict is Verdict.MORE]
    for comparison in more:
        lines.append(
            f"FAILED: {comparison.workload} takes {comparison.counted:,} instructions, {comparison.change:.1%} more "
            f"than the recorded {comparison.recorded:,}; the limit is {LIMIT:.0%}."
        )
    if more:
        lines.append(f"If this cost is acceptable, update the record: {TO_RECORD}")
    if any(comparison.verdict is Verdict.FEWER for comparison in comparisons):
        lines.append(f"Cheaper than recorded; to keep the improvement, update the record: {TO_RECORD}")
    missing = [comparison.workload for comparison in comparisons if comparison.verdict is Verdict.NOT_RECORDED]
    if missing:
        lines.append(f"NOTHING COMPARED for {', '.join(missing)}: no figure is recorded for this combination.")
        lines.append(f"To record these counts: {TO_RECORD}")
    return "\n".join(lines), not more


def combination() -> str:
    """Return everything that the counts depend on except the measured code."""
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return ", ".join(
        (
            f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
            platform.machine(),
            " ".join(platform.libc_ver()),
            "OpenSSL " + ".".join(map(str, ssl.OPENSSL_VERSION_INFO[:2])),
            f"attrs {version('attrs')}",
            valgrind,
        )
    )


def run_workloads(*prefix: str) -> subprocess.CompletedProcess[str]:
    """Run the workloads with the command *prefix* in a fixed environment."""
    run = subprocess.run(
        [*prefix, sys.executable, "-s", "-P", str(WORKLOADS)],
        cwd="/", env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        sys.exit(f"{' '.join(run.args)} failed:\n{run.stderr}")
    return run


def count() -> dict[str, int]:
    """Return the instructions of one round of each workload."""
    run_workloads()  # writes the bytecode: compiling it under valgrind changes the counts by up to 0.4 %
    run = run_workloads("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    collected = {process: int(count) for process, count in COLLECTED.findall(run.stderr)}
    counted = {}
    for line in run.stdout.splitlines():
        workload, rounds, fewer, more = line.split()
        counted[workload] = round((collected[more] - collected[fewer]) / int(rounds))
    return counted


def main() -> int:
    """Return 0; 1 if a workload exceeds the limit."""
    parser = argparse.ArgumentParser(description="Count the instructions of the core and compare them with the record.")
    parser.add_argument("--record", action="store_true", help=f"write the counts to {RECORDS.name}")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed (Debian: apt install valgrind)")
    here = combination()
    records = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    counted = count()
    if arguments.record:
        records[here] = counted
        RECORDS.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        print(f"recorded in {RECORDS.name}:")
    text, passed = report(here, compare(records.get(here, {}), counted))
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
