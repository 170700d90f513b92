"""Runs calls to a store that may be slow or not responding, in threads and with a timeout.

A caller gets a result or an exception within the timeout.  The number of threads is fixed, so a store that does not
respond cannot occupy more.  They are shared by network and address: a client can cause a call with each command, before
a login, and has hundreds of connections (architecture.md, invariant 4).  After a timeout, other calls fail at once for
``PAUSE`` seconds instead of waiting too, unless the store has answered other calls meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable
from ipaddress import IPv6Network
from typing import Final, TypeVar, TypeVarTuple

from mailauth.addresses import Address, limit_key, limit_network

from .._workers import Workers
from .grants import TIMEOUT

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS: Final = 8
"""Maximum number of concurrent calls.  A store that works answers a call within a millisecond."""

PAUSE: Final = 2.0
"""Seconds after a timeout during which calls fail at once; then one call tries the store again."""


class StoreTimeout(Exception):
    """The store did not answer in time, now or within the last ``PAUSE`` seconds."""

    def __init__(self) -> None:
        super().__init__("no answer in time")


class BoundedExecutor:
    """Runs blocking calls in its own threads, which are created on first use."""

    def __init__(
        self,
        *,
        nat64_prefixes: Collection[IPv6Network] = (),
        timeout: float = TIMEOUT,
        pause: float = PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nat64_prefixes = tuple(nat64_prefixes)
        self._workers = Workers(THREADS)
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._paused_until: float | None = None
        self._answers = 0  # calls that the store has answered, also with an exception

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, address: Address | None = None) -> T:
        """Run ``function(*args)`` in a thread and return its result.

        The call is made for a client at *address*, or for the server itself (None).  Raises StoreTimeout if there is no
        result within the timeout, or if *function* raises TimeoutError.  The time spent waiting for a free thread
        counts.  After a timeout *function* may still be running, and may still succeed.
        """
        if self._paused_until is not None:
            now = self._clock()
            if now < self._paused_until:
                raise StoreTimeout
            self._paused_until = now + self._timeout + self._pause  # only this call tries the store
        network, client = self._network(address)
        answers = self._answers
        try:
            answer = await self._workers.run(function, *args, key=network, source=client, timeout=self._timeout)
        except TimeoutError:
            if self._answers == answers:  # otherwise only the queue is long
                self._paused_until = self._clock() + self._pause
            raise StoreTimeout from None
        except BaseException as error:
            self._answers += isinstance(error, Exception)  # a cancellation is no answer
            self._paused_until = None
            raise
        self._answers += 1
        self._paused_until = None
        return answer

    async def run_without_timeout(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``function(*args)`` in one of the threads, for a call that may take longer than the timeout."""
        return await self._workers.run(function, *args)

    def _network(self, address: Address | None) -> tuple[Hashable, Hashable]:
        if address is None:
            return None, None
        counted = limit_key(address, nat64_prefixes=self._nat64_prefixes)
        return limit_network(counted), counted
