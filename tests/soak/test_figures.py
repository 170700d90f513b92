"""The figures of the long tests (``make soak``), and a short run of each part."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pytest

from tests.serving import LOOPS
from tests.soak.figures import Line, Sample
from tests.soak.mixed import FEWEST, MixedResult
from tests.soak.timing import Comparison, rank_test

ROOT = Path(__file__).parent.parent.parent


def test_line_is_fitted_by_least_squares() -> None:
    assert Line.fit([(0, 1), (1, 3), (2, 5), (3, 7)]) == Line(2.0, 0.0)
    line = Line.fit([(0, 0), (1, 2), (2, 1), (3, 3)])
    assert line.slope == pytest.approx(0.8)
    assert line.error == pytest.approx((1.8 / 2 / 5) ** 0.5)


def test_rank_test_counts_pairs_and_half_of_the_ties() -> None:
    assert rank_test([1, 2], [3, 4])[0] == 0.0
    assert rank_test([1, 2], [3, 4])[1] == pytest.approx(-1.549, abs=0.001)
    assert rank_test([3, 4], [1, 2])[0] == 1.0
    assert rank_test([1, 2], [1, 2])[0] == 0.5
    assert rank_test([2, 5, 5], [1, 5])[0] == pytest.approx((1 + 2 * 1.5) / 6)


@pytest.mark.parametrize(("shift", "failed"), [(0.0, False), (0.3, True), (-0.3, True)])
def test_comparison_fails_if_one_sample_tells_names_apart(shift: float, failed: bool) -> None:
    rng = random.Random(1)
    comparison = Comparison(
        loop="asyncio", scheme="PLAIN", protocol="SMTP", mechanism="PLAIN", step="AUTH",
        known=[rng.gauss(shift, 1) for _ in range(2000)], unknown=[rng.gauss(0, 1) for _ in range(2000)],
    )  # fmt: skip
    assert comparison.failed() is failed


def result(**grown: float) -> MixedResult:
    """Return the figures of FEWEST sessions: some noise, and what grows for each session after half of them."""
    rng = random.Random(2)
    samples = []
    for sessions in range(0, FEWEST + 1, FEWEST // 100):
        noise = {"memory": 200_000 * rng.random(), "blocks": 100 * rng.random()}
        steady = Sample(sessions=sessions, memory=0, descriptors=10, threads=20, tasks=1, blocks=0, garbage=0)
        late = max(0, sessions - FEWEST // 2)
        more = {name: noise.get(name, 0) + grown.get(name, 0) * late for name in ("memory", "blocks")}
        more |= {
            name: getattr(steady, name) + grown.get(name, 0) * late for name in ("descriptors", "threads", "tasks")
        }
        samples.append(attrs.evolve(steady, **{name: int(value) for name, value in more.items()}))
    return MixedResult(loop="trio", sessions=Counter(all=FEWEST), samples=tuple(samples), seconds=1.0, acknowledged=0)


@pytest.mark.parametrize("figure", ["memory", "blocks", "threads"])
def test_growth_with_the_sessions_is_found(figure: str) -> None:
    assert result().failures() == []
    (failure,) = result(**{figure: 300.0 if figure == "memory" else 1.0}).failures()
    assert figure in failure


@pytest.mark.soak
@pytest.mark.parametrize("loop", LOOPS)
def test_short_run_of_all_parts_passes(loop: str, tmp_path: Path) -> None:
    words = [
        "--sessions",
        "250",
        "--connections",
        "100",
        "--samples",
        "5",
        "--loop",
        loop,
        "--directory",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"250 mixed sessions on {loop}" in done.stdout
    assert f"100 connections on {loop}" in done.stdout
    assert list(tmp_path.iterdir()) == []
