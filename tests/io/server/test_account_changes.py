"""Which logins are outdated because their account has changed."""

from __future__ import annotations

import pytest

from mailauth_io.server import _account_changes
from mailauth_io.server._account_changes import AccountChanges


def test_login_before_the_change_of_its_account_is_outdated() -> None:
    changes = AccountChanges()
    assert not changes.is_outdated("alice", 1)
    changes.add("alice", 5)
    changes.add("bob", 7)
    changes.add("alice", 9)
    assert [changes.is_outdated("alice", number) for number in (1, 8, 10)] == [True, True, False]
    assert [changes.is_outdated("bob", number) for number in (1, 8)] == [True, False]
    assert not changes.is_outdated("carol", 1)


def test_number_of_accounts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login from before a forgotten change is outdated, since its account may be the one that changed."""
    monkeypatch.setattr(_account_changes, "MAX_ACCOUNTS", 2)
    changes = AccountChanges()
    for number, name in enumerate(("alice", "bob", "alice", "carol", "dave"), start=1):
        changes.add(name, number)
        assert len(changes) <= 2
    assert changes.is_outdated("bob", 2)
    assert [changes.is_outdated("alice", number) for number in (3, 4)] == [True, False]
    assert [changes.is_outdated("carol", number) for number in (4, 5)] == [True, False]
