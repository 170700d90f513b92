"""All grant stores with one interface for tests: a store can be opened several times, and its time moved."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec

import pytest

from mailauth_io import stores
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import KEYS, RedisGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests.io import loops
from tests.io.server_support import Clock
from tests.redis_server import PASSWORD, RedisServer
from tests.serving import LOOPS

LIFETIME = 10_000.0
"""Seconds: much longer than a test takes, for stores whose clock runs by itself."""


P = ParamSpec("P")


def on_both_loops(test: Callable[Concatenate[loops.Loop, P], Awaitable[None]]) -> Callable[..., None]:
    """Run an async test once on each loop.  Its arguments are the running Loop, and its fixtures."""

    @pytest.mark.parametrize("loop", LOOPS)
    @functools.wraps(test)
    def run(loop: str, *args: P.args, **fixtures: P.kwargs) -> None:
        async def main() -> None:
            await test(loops.current(), *args, **fixtures)

        loops.named(loop).run(main)

    return run


class Keeper(ABC):
    """One place where grants are stored."""

    outlasts: ClassVar[bool] = True
    """Whether grants are visible to other processes, and survive a restart."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()

    def open(self, **settings: Any) -> stores.Grants:
        """Open the store as another process would."""
        opened = self._open(**{"lifetime": LIFETIME, **settings})
        self._opened.callback(opened.close)
        return opened

    def close(self) -> None:
        self._opened.close()

    @abstractmethod
    def _open(self, **settings: Any) -> stores.Grants: ...

    @abstractmethod
    def move(self, seconds: float) -> None:
        """Advance the clock by *seconds*; a negative number sets it back."""


class Memory(Keeper):
    outlasts = False

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock()

    def _open(self, **settings: Any) -> stores.Grants:
        return stores.MemoryGrants(clock=self._clock, **settings)

    def move(self, seconds: float) -> None:
        self._clock.now += seconds


class Sqlite(Keeper):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.clock = Clock(1_700_000_000.0)

    def _open(self, **settings: Any) -> stores.Grants:
        return SqliteGrants(self.path, **{"clock": self.clock, **settings})

    def count(self) -> int:
        """Return the number of grants in the file, including expired ones."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            (rows,) = connection.execute("SELECT COUNT(*) FROM grants").fetchone()
            assert connection.execute("SELECT grants FROM kept").fetchone() == (rows,)
            counted = connection.execute("SELECT identity, COUNT(*) FROM grants GROUP BY identity").fetchall()
            assert connection.execute("SELECT * FROM identities ORDER BY identity").fetchall() == counted
        return int(rows)

    def move(self, seconds: float) -> None:
        self.clock.now += seconds


class InRedis(Keeper):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._server = server
        self.client: Any = server.client  # its type hints are unions of too many types
        self._opened.callback(self.client.close)
        self.client.flushall()

    def _open(self, **settings: Any) -> stores.Grants:
        return RedisGrants(RedisAddress(path=str(self._server.socket)), password=PASSWORD, **settings)

    def move(self, seconds: float) -> None:
        """Move the times of all grants in the other direction, since the clock of Redis cannot be set."""
        for key in KEYS[:2]:
            for member, time in self.client.zrange(key, 0, -1, withscores=True):
                self.client.zadd(key, {member: time - seconds * 1_000_000})
