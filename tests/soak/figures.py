"""What a server process holds, and whether it grows with the number of sessions."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.serving import Served

_PRIVATE: Final = re.compile(r"^Private_(?:Clean|Dirty): +([0-9]+) kB$", re.MULTILINE)
_THREADS: Final = re.compile(r"^Threads:\s+([0-9]+)$", re.MULTILINE)


GIVE_BACK: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""The environment in which the C library returns freed memory to the system at once.

Otherwise it keeps a heap for each of up to eight threads per core, and each of them grows to the largest message that
was handled by its thread.  That has an end, but after more sessions than a test can wait for."""


def private_memory(pid: int) -> int:
    """Return the bytes of memory that only this process uses."""
    return 1024 * sum(map(int, _PRIVATE.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        return str(error)


def threads(pid: int) -> int:
    found = _THREADS.search(Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@attrs.frozen(kw_only=True)
class Sample:
    """What a server without clients holds."""

    sessions: int
    """The sessions that it has had."""
    memory: int
    """Bytes of private memory."""
    descriptors: int
    threads: int
    tasks: int
    blocks: int
    """Memory blocks that Python has allocated: about one for each small object."""
    garbage: int
    """Objects that were unreachable, and waited for the garbage collector."""


async def take_sample(server: Served, report: Path, sessions: int) -> Sample:
    """Ask an instrumented server, which writes to *report*, for its figures."""
    report.unlink(missing_ok=True)
    memory = private_memory(server.process.pid)
    server.process.send_signal(signal.SIGUSR1)
    while not report.exists():
        assert server.process.poll() is None, server.log.read_text()[-4000:]
        await asyncio.sleep(0.02)
    return Sample(
        sessions=sessions,
        memory=memory,
        descriptors=descriptors(server.process.pid),
        threads=threads(server.process.pid),
        **json.loads(report.read_text()),
    )


async def sample_at_rest(server: Served, report: Path, sessions: int, rest: Sample, seconds: float) -> Sample:
    """Return a sample with as many descriptors and tasks as *rest*: some sessions are still ending.

    After *seconds* it is an AssertionError that names the descriptors.
    """
    deadline = time.monotonic() + seconds
    while True:
        sample = await take_sample(server, report, sessions)
        if (sample.descriptors, sample.tasks) == (rest.descriptors, rest.tasks):
            return sample
        links = sorted(map(_link, Path(f"/proc/{server.process.pid}/fd").iterdir()))
        assert time.monotonic() < deadline, f"{sample} after {sessions} sessions; at rest it was {rest}; {links}"
        await asyncio.sleep(0.2)


@attrs.frozen
class Line:
    """A line fitted through points by least squares."""

    slope: float
    error: float
    """The standard error of the slope."""

    def __str__(self) -> str:
        return f"{self.slope:+.3g} (standard error {self.error:.2g})"

    def rises(self, most: float) -> bool:
        """Return whether the slope is more than *most*, and not only by accident."""
        return self.slope - 2 * self.error > most

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Fit a line through at least three points with different abscissas."""
        count = len(points)
        mean_x, mean_y = (sum(values) / count for values in zip(*points, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
        rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
        return cls(slope, math.sqrt(rest / (count - 2) / spread))
