"""Fixtures shared by the tests of the stores."""

from __future__ import annotations

import pytest

from mailauth_io.stores import redis_grants, sqlite_grants
from mailauth_io.stores._bounded_executor import BoundedExecutor
from tests.io.server_support import TIMEOUT


@pytest.fixture
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each call of a grant store more than two seconds, which a slow machine may need for a store that works."""
    defaults = BoundedExecutor.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeout", TIMEOUT)
    monkeypatch.setattr(redis_grants, "REPLY_TIMEOUT", TIMEOUT)
    for module in (redis_grants, sqlite_grants):
        monkeypatch.setattr(module, "TIMEOUT", TIMEOUT)
