"""The latest change of each account, compared with the start of a login."""

from __future__ import annotations

from typing import Final

MAX_ACCOUNTS: Final = 16_384
"""Maximum number of accounts.  A server that runs for years may have had any number of them."""


class AccountChanges:
    """The sequence numbers of the latest changes of accounts.

    Over the limit, the oldest change is forgotten.  A login that began before it counts as outdated, whatever its
    account is: it has waited while thousands of accounts changed.
    """

    def __init__(self) -> None:
        self._latest: dict[str, int] = {}  # by the name of the account, the oldest change first
        self._forgotten = 0  # the latest change that was forgotten

    def __len__(self) -> int:
        """Return the number of accounts."""
        return len(self._latest)

    def add(self, name: str, sequence: int) -> None:
        """Add a change of the account *name*.  *sequence* is larger than that of all earlier changes."""
        self._latest.pop(name, None)
        self._latest[name] = sequence
        if len(self._latest) > MAX_ACCOUNTS:
            self._forgotten = self._latest.pop(next(iter(self._latest)))

    def is_outdated(self, name: str, login_sequence: int) -> bool:
        """Return whether the account *name* has changed since a login began."""
        return self._latest.get(name, self._forgotten) >= login_sequence
