"""``mailauth methods``: run the seven ways to submit mail on real sockets, and show what an eavesdropper could read.

``rows`` lists the methods, ``measure`` runs one, ``compare`` compares it with ``expected``, and ``report`` prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .. import _event_loop
from ..adapters.tls.certificates import temporary_certificate
from .client_config import Clients
from .compare import compare
from .measure import Bench, measure
from .outcome import Columns, Outcome, StepFailed
from .report import as_json as to_json, table
from .rows import Row

AT_ONCE: Final = 4
"""Number of rows that run in parallel, each in a thread with its own servers."""


def main(loops: Sequence[str], *, as_json: bool, bench: Bench | None = None) -> int:
    """Run all rows of *bench* on *loops* and print them.  Returns 0 if every row is as expected, else 1.

    Raises ImportError, with a text that says what to install, if a package is missing.
    """
    for name in loops:
        _event_loop.check_event_loop(name)
    bench = bench or Bench(certificate=temporary_certificate(), another=temporary_certificate())
    outcomes = run_rows(bench, loops)
    print(to_json(outcomes) if as_json else table(outcomes))
    return 0 if outcomes and all(outcome.worked for outcome in outcomes) else 1


def run_rows(bench: Bench, loops: Sequence[str]) -> list[Outcome]:
    """Run every row of *bench* on every loop.  Returns the outcomes in the order of the table."""
    with ThreadPoolExecutor(AT_ONCE, "row") as threads:
        outcomes = [threads.submit(_outcome, bench, row, loop) for row in bench.rows for loop in loops]
        return [outcome.result() for outcome in outcomes]


def _outcome(bench: Bench, row: Row, loop: str) -> Outcome:
    measured: dict[str, Columns] = {}
    errors: list[str] = []
    for clients in bench.clients:
        try:
            measured[clients.name] = _measure(bench, row, loop, clients)
        except StepFailed as failed:
            errors.append(f"with {clients.name}, {failed}")
        except Exception as error:  # the other rows must still run
            errors.append(f"with {clients.name}, unexpected error: {error!r}")
    outcome = compare(row, loop, measured)
    if errors:
        return Outcome(row=row, loop=loop, columns=outcome.columns, error="; ".join(errors))
    return outcome


def _measure(bench: Bench, row: Row, loop: str, clients: Clients) -> Columns:
    return _event_loop.run(loop, measure, row, clients, bench)
