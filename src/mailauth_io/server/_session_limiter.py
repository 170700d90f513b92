"""A limit on the concurrent sessions with the next hop, shared fairly between networks, addresses and accounts.

Each client session has its own session with the next hop, and only for its remote mail.  So a client that is slow, or
hostile, could use all of them (architecture.md, invariant 4).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs
from anyio import Event, current_time, fail_after, move_on_after

from mailauth.addresses import limit_network

_CHECK_SECONDS: Final = 1.0
"""Seconds after which a waiting client looks again for a session that may be closed.  Deadlines change often, and a
change wakes no task."""

MAX_WAITING: Final = 200
"""Maximum number of clients that wait for a session, or the number of sessions if that is larger.  They are all
examined when a session ends.  No RFC gives a number; with 20 sessions, 200 transactions of six seconds have their turns
within a minute."""

_REMEMBERED: Final = 1024
"""Maximum number of networks, addresses and accounts whose last turns are remembered."""


@attrs.frozen
class RelayClient:
    """The client for whose mail a session with the next hop is opened."""

    address: IPv4Address | IPv6Address | str
    """The ``mailauth.addresses.limit_key`` of its address; empty for the server itself."""
    identity: str | None = None
    """The account for which it acts; None if there is none."""
    keys: frozenset[tuple[str, str]] = attrs.field(
        default=attrs.Factory(lambda self: _keys(self.address, self.identity), takes_self=True),
        init=False, repr=False, eq=False,
    )  # fmt: skip
    """What its sessions are counted by: its network (IPv4: /24, IPv6: /48), its address and its account."""


@attrs.define(eq=False)
class Place:
    """One session with the next hop, as the SessionLimiter counts it."""

    client: RelayClient
    close: Callable[[], Awaitable[None]]
    """Closes the session and calls ``release()``.  It raises nothing, and takes a limited time."""
    idle: bool = False
    """Whether the session has no transaction."""
    deadline: float = math.inf
    """The time of the event loop from which the session may be closed if another one waits."""


@attrs.define(eq=False)
class _Waiter:
    place: Place
    event: Event = attrs.field(factory=Event)
    """Set when *admitted* becomes True, and when a session has become idle that may be closed instead."""
    admitted: bool = False


class SessionLimiter:
    """Counts the sessions with a next hop.

    A client may have another session while the sessions of its network, those of its address and those of its account,
    added up, are fewer than the free ones.  So a client that is alone may have a quarter of all sessions, and it always
    leaves some to other accounts at its address, to other addresses in its network, and more to other networks.

    If another session waits, a session is closed that is idle, or whose client has been waited for too long.

    The places of those that wait are limited, and shared by the same rule.
    """

    def __init__(self, max_sessions: int) -> None:
        self._most = max_sessions
        self._places: dict[Place, None] = {}
        self._held: Counter[tuple[str, str]] = Counter()  # sessions by key, without zeros
        self._waiters: dict[_Waiter, None] = {}  # the first one first
        self._most_waiting = max(MAX_WAITING, max_sessions)
        self._waiting: Counter[tuple[str, str]] = Counter()  # waiters by key, without zeros
        self._turns: dict[tuple[str, str], int] = {}  # the last turn of each key, the latest last
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._places)

    async def acquire(self, client: RelayClient, close: Callable[[], Awaitable[None]], timeout: float) -> Place:
        """Wait until *client* may have another session, at most *timeout* seconds.

        Raises TimeoutError, at once if too many others of its network, address and account wait.

        When it returns, the session counts, and the caller must call ``release()`` when it has ended.  *close* is
        ``Place.close``.
        """
        may_have_another = self._may_have_another(client)
        if not may_have_another and _count(self._waiting, client) >= self._most_waiting - len(self._waiters):
            raise TimeoutError("too many clients wait")
        waiter = _Waiter(Place(client, close))
        self._waiters[waiter] = None
        self._waiting.update(client.keys)
        try:
            if may_have_another:  # the others may not: nothing has changed for them
                self._admit(waiter)
            with fail_after(timeout):
                while not waiter.admitted:
                    now = current_time()
                    place = self._take(client, now)
                    if place is not None:
                        await place.close()
                        continue
                    deadlines = (place.deadline for place in self._places if place.deadline > now)
                    with move_on_after(min(_CHECK_SECONDS, min(deadlines, default=math.inf) - now)):
                        await waiter.event.wait()
                    waiter.event = Event()
        except BaseException:
            if waiter.admitted:
                self.release(waiter.place)
            else:
                self._leave_queue(waiter)
            raise
        return waiter.place

    def release(self, place: Place) -> None:
        """Stop counting the session *place*, and admit the waiters that may have its place, in turns."""
        del self._places[place]
        self._held -= Counter(place.client.keys)
        while allowed := [waiter for waiter in self._waiters if self._may_have_another(waiter.place.client)]:
            self._admit(min(allowed, key=self._rank))
        self._wake()

    def mark_busy(self, place: Place) -> None:
        """Forbid that the session is closed for another one: the server or the next hop works on its transaction."""
        place.idle = False
        place.deadline = math.inf

    def mark_waiting(self, place: Place, deadline: float) -> None:
        """Allow that the session is closed for another one from *deadline* on, a time of the event loop.

        It has a transaction, and the server waits for its client.
        """
        place.deadline = deadline

    def mark_idle(self, place: Place) -> None:
        """Allow that the session is closed for another one: it has no transaction."""
        place.idle = True
        place.deadline = current_time()
        self._wake()

    def is_wanted(self, place: Place) -> bool:
        """Return whether another client waits that may have the place of this session."""
        return any(self._may_have_another(waiter.place.client, (place,)) for waiter in self._waiters)

    def _may_have_another(self, client: RelayClient, closed: Collection[Place] = ()) -> bool:
        """Return whether *client* may have another session when those in *closed* are closed."""
        free = self._most - len(self._places) + len(closed)
        return _count(self._held, client) - sum(_shared(client, place) for place in closed) < free

    def _admit(self, waiter: _Waiter) -> None:
        place = waiter.place
        self._leave_queue(waiter)
        self._places[place] = None
        self._held.update(place.client.keys)
        number = next(self._numbers)
        for key in place.client.keys:
            self._turns.pop(key, None)
            self._turns[key] = number
        while len(self._turns) > _REMEMBERED:
            del self._turns[next(iter(self._turns))]
        waiter.admitted = True
        waiter.event.set()

    def _leave_queue(self, waiter: _Waiter) -> None:
        del self._waiters[waiter]
        self._waiting -= Counter(waiter.place.client.keys)

    def _rank(self, waiter: _Waiter) -> list[int]:
        """Return a key by which the waiter is first whose network, address and account had their turns longest ago."""
        return sorted((self._turns.get(key, -1) for key in waiter.place.client.keys), reverse=True)

    def _wake(self) -> None:
        """Wake the first waiter that may close a session instead."""
        now = current_time()
        closed = [place for place in self._places if place.deadline <= now]
        if closed:
            for waiter in self._waiters:
                if self._may_have_another(waiter.place.client, closed):
                    waiter.event.set()
                    return

    def _take(self, client: RelayClient, now: float) -> Place | None:
        """Return a session to close for *client*: an idle one, one of its own, and the one due for the longest time.

        None if none may be closed, or if that would not help.
        """
        closed = [place for place in self._places if place.deadline <= now]
        if not closed or not self._may_have_another(client, closed):
            return None
        place = min(closed, key=lambda place: (not place.idle, -_shared(client, place), place.deadline))
        place.deadline = math.inf
        return place


def _keys(address: IPv4Address | IPv6Address | str, identity: str | None) -> frozenset[tuple[str, str]]:
    found = {("network", str(limit_network(address))), ("address", str(address))}
    if identity is not None:
        found.add(("identity", identity))
    return frozenset(found)


def _count(counted: Counter[tuple[str, str]], client: RelayClient) -> int:
    return sum(counted[key] for key in client.keys)


def _shared(client: RelayClient, place: Place) -> int:
    return len(client.keys & place.client.keys)
