"""Hypothesis settings and the order of the tests: runs use the same examples, and do not fail if the machine is slow.

``HYPOTHESIS_PROFILE=explore pytest ...`` searches for new examples, and runs many more of them; ``quick`` runs few.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

TYPING: Final = Path(__file__).parent / "typing"

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("same"), derandomize=False, max_examples=5_000)
settings.register_profile("quick", settings.get_profile("same"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests of ``tests/typing``, whose fixtures run mypy and pyright.

    At the end of the run several workers would share these tests, and each would need the fixtures.
    """
    items.sort(key=lambda item: item.path.parent != TYPING)
