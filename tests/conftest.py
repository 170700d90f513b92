"""Hypothesis settings: every run uses the same examples, and no test fails because the machine is slow.

``HYPOTHESIS_PROFILE=explore pytest ...`` searches for new examples, and runs many more of them; ``quick`` runs few.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("same"), derandomize=False, max_examples=5_000)
settings.register_profile("quick", settings.get_profile("same"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
