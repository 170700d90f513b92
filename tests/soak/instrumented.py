"""``mailauth`` with a report of what the process holds.

    python -m tests.soak.instrumented REPORT serve ...

After each SIGUSR1 it collects garbage and replaces the file REPORT by a JSON object with the number of living tasks, of
memory blocks that Python has allocated, and of objects that only the garbage collector could free.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path

import trio

from mailauth_io.__main__ import main


def _tasks() -> int:
    """Return the number of living tasks of the event loop that is interrupted."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living


def _write_report(report: Path) -> None:
    garbage = gc.collect()
    text = json.dumps({"tasks": _tasks(), "blocks": sys.getallocatedblocks(), "garbage": garbage})
    fresh = report.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, report)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    signal.signal(signal.SIGUSR1, lambda number, frame: _write_report(path))
    sys.exit(main(sys.argv[2:]))
