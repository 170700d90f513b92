"""The long tests of a server process: what takes too long for `make test`.

    make soak
    .venv/bin/python -m tests.soak --part mixed --loop trio --sessions 30000

It prints its progress, and a table of figures at the end.  The exit status is 1 if a figure is out of its bounds, and a
server or client that fails ends it with a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.serving import LOOPS
from tests.soak.connections import CONNECTIONS, ConnectionsResult, run_connections
from tests.soak.figures import GIVE_BACK
from tests.soak.mixed import FEWEST, MAX_BLOCKS, MAX_BYTES, MixedResult, run_mixed
from tests.soak.timing import MAX_CHANCE, Comparison, run_timing

PARTS = ("timing", "connections", "mixed")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="Test a server under load for a long time."
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="a part to run (default: all)")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="an event loop of the server (default: both)")
    parser.add_argument("--sessions", type=int, default=100_000, metavar="N", help="mixed sessions (default: 100,000)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help="simultaneous connections")
    parser.add_argument("--samples", type=int, default=2000, metavar="N", help="failed logins to time, for each name")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of all random choices (default: 1)")
    parser.add_argument("--directory", type=Path, help="where the mail is stored for a while (default: that for files)")
    options = parser.parse_args(arguments)
    os.environ.update(GIVE_BACK)
    began = time.monotonic()
    lines: list[str] = []
    failures: list[str] = []
    for part in PARTS:
        for loop in options.loop or LOOPS:
            if part not in (options.part or PARTS):
                continue
            with tempfile.TemporaryDirectory(prefix="mailauth-soak-", dir=options.directory) as place:
                directory = Path(place)
                if part == "timing":
                    compared = run_timing(loop, directory, options.samples, options.seed, tell)
                    lines += timing_table(loop, compared)
                    failures += [f"{part}: {each}" for each in compared if each.failed()]
                elif part == "connections":
                    opened = run_connections(loop, directory, tell, options.connections)
                    lines += connections_table(opened)
                    failures += [f"{part} on {loop}: {text}" for text in opened.failures()]
                else:
                    mixed = run_mixed(loop, directory, options.sessions, options.seed, tell)
                    lines += mixed_table(mixed)
                    failures += [f"{part} on {loop}: {text}" for text in mixed.failures()]
    print("", *lines, f"{(time.monotonic() - began) / 60:.1f} minutes", sep="\n")
    print(*(f"FAILED: {text}" for text in failures), sep="\n" if failures else "")
    return 1 if failures else 0


def tell(line: str) -> None:
    print(line, flush=True)


def timing_table(loop: str, compared: Sequence[Comparison]) -> list[str]:
    title = f"Failed logins on {loop}: medians for known and unknown names, and the chance to tell them apart"
    return [f"{title} (at most {MAX_CHANCE:.0%})", *(f"  {each}" for each in compared), ""]


def connections_table(result: ConnectionsResult) -> list[str]:
    return [
        f"{result.connections} connections on {result.loop}, in {result.seconds:.0f} s",
        f"  an idle one: {result.clear / 1024:.1f} KiB in clear text, {result.encrypted / 1024:.1f} KiB with TLS",
        f"  one connection more: {result.rejected.decode()}",
        f"  messages delivered over the idle connections: {result.delivered}",
        "",
    ]


def mixed_table(result: MixedResult) -> list[str]:
    first, last = result.steady()[0], result.samples[-1]
    memory, blocks = result.line("memory"), result.line("blocks")
    threads = [sample.threads for sample in result.samples]
    kinds = ", ".join(f"{kind} {count}" for kind, count in result.sessions.most_common())
    judged = "" if result.sessions.total() >= FEWEST else "; too few sessions to judge it"
    return [
        f"{last.sessions} mixed sessions on {result.loop}, in {result.seconds:.0f} s",
        f"  {kinds}",
        f"  {result.acknowledged} messages acknowledged, each stored or collected once",
        f"  from {first.sessions} sessions on (fitted lines; at most {MAX_BYTES:g} and {MAX_BLOCKS:g}{judged}):",
        f"    private memory {first.memory / 2**20:.1f} to {last.memory / 2**20:.1f} MiB: {memory} bytes a session",
        f"    memory blocks {first.blocks} to {last.blocks}: {blocks} a session",
        f"  at rest: {last.descriptors} descriptors, {last.tasks} tasks, {min(threads)} to {max(threads)} threads",
        f"  garbage between two samples: at most {max(sample.garbage for sample in result.samples)} objects",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
