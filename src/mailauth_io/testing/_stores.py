"""The stores of the test kit: tokens that expire, grants that are remembered, and an outbox that keeps nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mailauth.grants import Grant, Lookup

from .._checks import check_number
from ..stores import ActiveGrant, Envelope, GrantSettings, MemoryGrants, MessageContent, Staged


class Clock:
    """The clock of the server: it stands still until the test moves it.  Grants and tokens expire by it.

    For example:

        mail_server.clock.advance(1800)
        assert mail_server.grants == ()
    """

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward.  Raises TypeError or ValueError if *seconds* is not a number of at least 0."""
        check_number("seconds", seconds, zero=True)  # the clock of the server cannot go back
        self._now += seconds


class ExpiringTokens:
    """Bearer tokens with a lifetime."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._tokens: dict[bytes, tuple[str, float]] = {}

    def issue(self, name: str, lifetime: float) -> str:
        """Return a new token of the account *name*, valid for *lifetime* seconds."""
        token = f"token-{next(self._numbers)}-of-{name}"
        self._tokens[token.encode()] = name, self._clock() + lifetime
        return token

    @property
    def owners(self) -> dict[bytes, str]:
        """The account of each token, those that have expired included."""
        return {token: name for token, (name, _) in self._tokens.items()}

    async def token_owner(self, token: bytes) -> str | None:
        """Return the account of *token*; None if it is unknown or has expired."""
        name, expires = self._tokens.get(token, (None, 0.0))
        return name if self._clock() < expires else None


class RememberedGrants:
    """Grants in memory, and the last one that was found for each address."""

    def __init__(self, grants: MemoryGrants) -> None:
        self._grants = grants
        self.settings: GrantSettings = grants.settings
        self._found: dict[object, str] = {}

    async def find(self, address: str) -> Lookup:
        found = await self._grants.find(address)
        key = self.settings.key(address)
        self._found.pop(key, None)
        if isinstance(found, Grant):
            self._found[key] = found.identity
        return found

    def last_found(self, address: str) -> str | None:
        """Return the account of the grant that was found last for *address*; None if there was none."""
        return self._found.get(self.settings.key(address))

    async def grant(self, address: str, identity: str) -> int:
        return await self._grants.grant(address, identity)

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        return await self._grants.revoke_identity(identity, older_than)

    async def revoke_address(self, address: str) -> int:
        return await self._grants.revoke_address(address)

    async def active(self) -> list[ActiveGrant]:
        return await self._grants.active()

    def close(self) -> None:
        """Do nothing."""


class EmptyOutbox:
    """Accepts remote mail and keeps nothing: the machines of the connections keep the messages."""

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> Staged:
        return _Nothing()


class _Nothing:
    async def commit(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing."""
