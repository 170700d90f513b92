"""A limit on the concurrent sessions with the next hop, shared fairly between client addresses.

Each client session has its own session with the next hop, and only for its remote mail.  So a client that is slow, or
hostile, could use all of them (architecture.md, invariant 4).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable

import attrs
from anyio import Event, fail_after

from .._checks import check_integer


@attrs.define(eq=False)
class _Waiter:
    client: object
    event: Event = attrs.field(factory=Event)
    """Set when *admitted* becomes True, and when a session has become idle that may be closed instead."""
    admitted: bool = False


class SessionLimiter:
    """Counts the sessions with a next hop.  A client is the ``mailauth.addresses.limit_key`` of its address.

    A client may have as many sessions as it leaves free: half of them if it is alone, and less if others have
    some.  A session that is idle, between two transactions, is closed if another one waits for its place.

    For example:

        limiter = server.SessionLimiter(20)
        await limiter.acquire("192.0.2.1", timeout=30.0)
    """

    def __init__(self, max_sessions: int) -> None:
        """Raises TypeError or ValueError for an invalid *max_sessions*."""
        check_integer("max_sessions", max_sessions, 1)
        self._most = max_sessions
        self._held: Counter[object] = Counter()  # sessions by client, without zeros
        self._idle: dict[
            Callable[[], Awaitable[None]], object
        ] = {}  # what closes a session, and its client; oldest first
        self._waiters: dict[object, deque[_Waiter]] = {}  # by client, without empty ones

    def __len__(self) -> int:
        """Return the number of sessions."""
        return self._held.total()

    async def acquire(self, client: object, timeout: float) -> None:
        """Wait until *client* may have another session, at most *timeout* seconds.  Raises TimeoutError.

        When it returns, the session counts, and the caller must call ``release()`` when it has ended.
        """
        waiter = _Waiter(client)
        self._waiters.setdefault(client, deque()).append(waiter)
        try:
            self._admit()
            with fail_after(timeout):
                while not waiter.admitted:
                    close = self._take_idle(client)
                    if close is not None:
                        await close()
                    else:
                        await waiter.event.wait()
                        waiter.event = Event()
        except BaseException:
            if waiter.admitted:
                self.release(client)
            else:
                waiters = self._waiters[client]
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[client]
            raise

    def release(self, client: object) -> None:
        """Stop counting a session of *client*."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._admit()

    def mark_idle(self, close: Callable[[], Awaitable[None]], client: object) -> None:
        """Allow that a session of *client* is closed if another one waits.

        *close* closes it and calls ``release()``.  It raises nothing, and takes a limited time.
        """
        self._idle[close] = client
        self._admit()

    def mark_busy(self, close: Callable[[], Awaitable[None]]) -> None:
        """Undo ``mark_idle``."""
        self._idle.pop(close, None)

    @property
    def _free(self) -> int:
        return self._most - len(self)

    def _admit(self) -> None:
        """Admit the waiters that may have a session, in turns if several clients have some.

        Then wake the first one that may close an idle session instead.
        """
        while allowed := [client for client in self._waiters if self._held[client] < self._free]:
            client = allowed[0]
            waiters = self._waiters.pop(client)
            waiter = waiters.popleft()
            if waiters:
                self._waiters[client] = waiters  # now the last
            self._held[client] += 1
            waiter.admitted = True
            waiter.event.set()
        for client, waiters in self._waiters.items():
            if self._idle and self._is_enough(client):
                waiters[0].event.set()
                return

    def _is_enough(self, client: object) -> bool:
        """Return whether *client* could have another session if the idle sessions were closed."""
        own = sum(other == client for other in self._idle.values())
        return self._held[client] - own < self._free + len(self._idle)

    def _take_idle(self, client: object) -> Callable[[], Awaitable[None]] | None:
        """Remove and return what closes an idle session for *client*: one of its own, otherwise the oldest."""
        if not self._idle or not self._is_enough(client):
            return None
        close = next((close for close, other in self._idle.items() if other == client), next(iter(self._idle)))
        del self._idle[close]
        return close
