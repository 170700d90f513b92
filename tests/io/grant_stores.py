"""Every store of grants in one shape for tests: opened as often as there are processes, and its time moved at will."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec

import pytest

from mailauth_io import _loops, stores
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import RedisGrants
from tests.io.server_support import Clock
from tests.redis_server import PASSWORD, RedisServer
from tests.serving import LOOPS

LIFETIME = 10_000.0
"""Seconds; what a test does takes none of them to speak of, also where the clock goes on by itself."""


P = ParamSpec("P")


def on_both_loops(test: Callable[Concatenate[_loops.Loop, P], Awaitable[None]]) -> Callable[..., None]:
    """Run an async test once on each loop; it gets the Loop that runs it, and its fixtures."""

    @pytest.mark.parametrize("loop", LOOPS)
    @functools.wraps(test)
    def run(loop: str, *args: P.args, **fixtures: P.kwargs) -> None:
        async def main() -> None:
            await test(_loops.current(), *args, **fixtures)

        _loops.named(loop).run(main)

    return run


class Keeper(ABC):
    """One place where grants are kept."""

    outlasts: ClassVar[bool] = True
    """What was granted is there for other processes, and after a restart."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()

    def open(self, **settings: Any) -> stores.Grants:
        """The store of another process."""
        opened = self._open(**{"lifetime": LIFETIME, **settings})
        self._opened.callback(opened.close)
        return opened

    def close(self) -> None:
        self._opened.close()

    @abstractmethod
    def _open(self, **settings: Any) -> stores.Grants: ...

    @abstractmethod
    def move(self, seconds: float) -> None:
        """Let so many seconds pass at once; fewer than none: the clock is set back."""


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
        return stores.SqliteGrants(self.path, **{"clock": self.clock, **settings})

    def count(self) -> int:
        """Grants in the file, those that are over included."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            (rows,) = connection.execute("SELECT COUNT(*) FROM grants").fetchone()
            assert connection.execute("SELECT grants FROM kept").fetchone() == (rows,)
        return int(rows)

    def move(self, seconds: float) -> None:
        self.clock.now += seconds


class InRedis(Keeper):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._server = server
        self.client: Any = server.client  # its types know answers of too many kinds
        self._opened.callback(self.client.close)
        self.client.flushall()

    def _open(self, **settings: Any) -> stores.Grants:
        return RedisGrants(RedisAddress(path=str(self._server.socket)), password=PASSWORD, **settings)

    def move(self, seconds: float) -> None:
        """Nobody sets the clock of this Redis: all that it keeps is moved the other way."""
        for key in list(self.client.scan_iter("*")):
            for member, expires in self.client.zrange(key, 0, -1, withscores=True):
                self.client.zadd(key, {member: expires - seconds * 1_000_000})
