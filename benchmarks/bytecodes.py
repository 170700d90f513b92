"""Count the bytecode instructions that CPython executes in the server for a message, by part of the program.

Unlike a time, these numbers are nearly the same in each run, on any machine.  The server runs in the main thread of a
process of its own, and another thread replays the recorded traffic to it.  The functions written in C (regular
expressions, the system calls) are not counted.

  python benchmarks/bytecodes.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, cast

import mailauth
import mailauth_io
from _load import ASYNCIO, PROTOCOL, READY, STREAMS, Server
from _results import Results, add_options
from _workloads import SMTP

COLUMNS: Final = ("one per session", "AUTH PLAIN + one", "lock step", "all pipelined", "20 recipients")
PARTS: Final = {
    Path(mailauth.__file__).parent: "core",
    Path(mailauth_io.__file__).parent: "adapter",
    Path(__file__).parent: "application",
}
"""The part that a file belongs to, by its folder.  All others are the event loop and its modules."""
EVENT_LOOP: Final = "event loop"
TOTAL: Final = "total"


class Counting:
    """The server in this process, for a workload.  ``used()`` returns the instructions so far."""

    pop3 = implicit_tls = False
    session = None

    def __init__(self) -> None:
        self._by_code: Counter[CodeType] = Counter()
        self._listening = threading.Event()
        self.port = 0
        self.snapshots: list[Counter[str]] = []
        """The instructions by part, at each call of ``used()``."""

    def announce(self, port: int) -> None:
        """The server listens."""
        self.port = port
        self._listening.set()

    def wait(self) -> None:
        self._listening.wait()

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """Count the instructions of *frame*: for ``sys.settrace()``."""
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self._by_code[frame.f_code] += 1
        return self.trace

    def used(self) -> float:
        before = -1
        while (now := self._by_code.total()) != before:
            before = now
            time.sleep(0.1)
        parts: Counter[str] = Counter()
        for code, count in self._by_code.copy().items():
            file = Path(code.co_filename)
            parts[next((part for folder, part in PARTS.items() if file.is_relative_to(folder)), EVENT_LOOP)] += count
        self.snapshots.append(parts)
        return now


def serve_and_count(name: str, column: str, *, quick: bool) -> None:
    """Run the server *name* in this thread and the traffic in another one, which prints the result and ends both."""
    import _ours
    import _peers
    import _ready

    server = Counting()

    def replay() -> None:
        server.wait()
        total = SMTP[column].measure(cast(Server, server), 0.1 if quick else 1.0)
        before, after = server.snapshots
        executed = after - before
        messages = executed.total() / total
        print(json.dumps({part: number / messages for part, number in executed.items()} | {TOTAL: total}))
        sys.stdout.flush()
        os._exit(0)

    threading.Thread(target=replay, daemon=True).start()
    sys.settrace(server.trace)
    if name == ASYNCIO:
        _ours.run_adapter("smtp", name, server.announce)
    elif name == READY:
        _ready.run_ready("smtp", server.announce, log=True)
    else:
        _peers.run("smtp", name, server.announce)


def count(name: str, column: str, options: list[str]) -> dict[str, float]:
    """Return the instructions for each message in a process of its own, by part, and in total."""
    command = [sys.executable, __file__, "--server", name, "--column", column, *options]
    found: dict[str, float] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300).stdout
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help=argparse.SUPPRESS)  # the child process
    parser.add_argument("--column", help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    if options.server:
        serve_and_count(options.server, options.column, quick=options.quick)
    more = ["--quick"] if options.quick else []
    columns = COLUMNS[2:3] if options.quick else COLUMNS
    ours = {column: count(ASYNCIO, column, more) for column in columns}
    rows = {f"{ASYNCIO}: {part}": {column: ours[column].get(part, 0) for column in columns}
            for part in (EVENT_LOOP, "adapter", "core", "application", TOTAL)}  # fmt: skip
    for name in (READY, STREAMS, PROTOCOL):
        rows[f"{name}: {TOTAL}"] = {column: count(name, column, more)[TOTAL] for column in columns}
    results = Results()
    print(f"| bytecode instructions for a message | {' | '.join(columns)} |\n| --- |{' --: |' * len(columns)}")
    for title, row in rows.items():
        results.add("bytecodes", title, row)
        print(f"| {title} | {' | '.join(f'{each:,.0f}' for each in row.values())} |")
    results.write(options.values)


if __name__ == "__main__":
    main()
