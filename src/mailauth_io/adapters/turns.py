"""Turns of the event loop, shared fairly between networks (architecture.md, invariant 4).

A client can have hundreds of connections, and send 64 KiB of commands on each.  If the event loop served all of them
before the next client, that client would wait for seconds.  So the connections of one network (IPv4: /24, IPv6: /48),
which usually has one owner, share a number of events.  When these are used up, each connection waits for the next turn
of its network.  In each turn of the event loop, one of the networks that wait gets a turn.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Final, Protocol
from weakref import WeakValueDictionary

import attrs

from ..limits import LOGGER, LogLimit
from ..logs import Event

__all__ = ["CONNECTION", "EVENTS_PER_TURN", "HANDSHAKE", "LOGIN", "Flag", "Share", "Turns"]

EVENTS_PER_TURN: Final = 128
"""Events that the connections of one network may cause in one turn.  A read and a TLS record count as one each.

A typical group of pipelined commands has fewer events, so it is not interrupted."""

CONNECTION: Final = 8
"""The start of a connection costs as much CPU time as this many events."""

HANDSHAKE: Final = EVENTS_PER_TURN
"""A TLS handshake counts as this many events: a signature with RSA takes a millisecond or more."""

LOGIN: Final = EVENTS_PER_TURN
"""A login counts as this many events, since it may take as much CPU time (SASLprep, SCRAM)."""

LINES_PER_NETWORK: Final = 10
LINES: Final = 100
"""Log lines a minute about connections without a session, such as failed TLS handshakes: for each network, and in all.
A client can cause each with a few bytes."""

_MOST_WOKEN: Final = 32
"""Connections that are woken for one turn.  A client that waits for each reply needs two events at a time, a read and a
command."""


class Flag(Protocol):
    """What one task waits for, and another one sets: ``asyncio.Event`` or ``trio.Event``.

    For example:

        flag: turns.Flag = trio.Event()
        await flag.wait()
    """

    def set(self) -> object:
        """Wake the task that waits."""
        ...

    def is_set(self) -> bool:
        """Return whether ``set()`` was called."""
        ...

    def wait(self) -> Awaitable[object]:
        """Wait until ``set()`` is called."""
        ...


@attrs.define(eq=False)
class _Waiter:
    woken: Flag
    turn: int = 0
    """The number of the turn that it begins when it runs; 0 if it was woken for what another one leaves."""


class Share:
    """What the connections of one network may do in a turn: *left* is the number of events.

    It falls below zero if the last event counts as more than one.  ``Share()`` is for one connection that shares
    nothing.

    For example:

        if stream.share.left <= 0:
            await stream.share.wait(stream.limit_key, stream.checkpoint)
        stream.share.left -= 1
    """

    __slots__ = ("__weakref__", "_turns", "_waiting", "left")

    def __init__(self, turns: Turns | None = None) -> None:
        self.left = EVENTS_PER_TURN
        self._turns = turns
        self._waiting: OrderedDict[object, deque[_Waiter]] = OrderedDict()  # by address, without empty ones

    async def wait(self, key: object, checkpoint: Callable[[], Awaitable[None]]) -> None:
        """Wait until *left* is above zero, at least for one turn of the event loop.

        *key* is the ``mailauth.addresses.limit_key`` of the connection: the addresses of a network are served in
        turn.  *checkpoint* lets other tasks run.
        """
        turns = self._turns
        if turns is None:
            await checkpoint()
            self.left = EVENTS_PER_TURN
            return
        waiter = _Waiter(turns.flag())
        self._waiting.setdefault(key, deque()).append(waiter)
        turns.add(self)
        try:
            while True:
                turns.ended(waiter.turn)
                await (checkpoint() if waiter.woken.is_set() else waiter.woken.wait())
                waiter.woken = turns.flag()
                if turns.is_current(waiter.turn):
                    self.left = EVENTS_PER_TURN
                if self.left > 0:
                    return
        finally:
            self._remove(waiter, key)
            if not self._waiting:
                turns.remove(self)
            turns.ended(waiter.turn)

    def log(self, level: int, name: str, fields: Mapping[str, object]) -> None:
        """Log an event of a connection, at most ten a minute for each network."""
        if self._turns is None:
            LOGGER.log(level, Event(name, dict(fields)))
        else:
            self._turns.events.log(level, name, fields, self)

    def _remove(self, waiter: _Waiter, key: object) -> None:
        """Remove *waiter*, and move its address to the end."""
        self._waiting[key].remove(waiter)
        if self._waiting[key]:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]

    def wake(self, turn: int) -> bool:
        """Wake a connection that begins the turn number *turn*, and others that use what it leaves.

        Return False if all of these have been woken before, and have not run yet.
        """
        woken = False
        each = max(1, _MOST_WOKEN // len(self._waiting))
        for waiters in islice(self._waiting.values(), _MOST_WOKEN):
            for waiter in islice(waiters, each):
                if not waiter.woken.is_set():
                    waiter.turn = 0 if woken else turn
                    waiter.woken.set()
                    woken = True
        return woken


class Turns:
    """The turns of one event loop.

    A network is given a turn in one turn of the event loop.  In a later one, the connection that was woken first begins
    the turn, and gives the next.

    For example:

        loop_turns = turns.Turns(trio.Event)
        stream.share = loop_turns.share(addresses.limit_network(stream.limit_key))
        await stream.take_turn(turns.CONNECTION)
    """

    def __init__(self, flag: Callable[[], Flag]) -> None:
        """*flag* makes an object that a task can wait for, such as ``asyncio.Event``."""
        self.flag = flag
        self._shares: WeakValueDictionary[object, Share] = WeakValueDictionary()
        self._waiting: OrderedDict[Share, None] = OrderedDict()
        self.events = LogLimit(LINES_PER_NETWORK, LINES)
        """The log lines about connections without a session."""
        self._given = 0
        """The number of the last turn that was given."""
        self._current = 0
        """The number of the turn that was given and has not begun; 0 if there is none."""

    def share(self, network: object) -> Share:
        """Return the share of *network*, a ``mailauth.addresses.limit_network``."""
        share = self._shares.get(network)
        if share is None:
            share = self._shares[network] = Share(self)
        return share

    def add(self, share: Share) -> None:
        """Let *share* wait for turns, after those that wait already."""
        self._waiting.setdefault(share)

    def remove(self, share: Share) -> None:
        """Let *share* wait no more."""
        self._waiting.pop(share, None)

    def is_current(self, turn: int) -> bool:
        """Return whether *turn* was given and has not begun."""
        return turn == self._current != 0

    def ended(self, turn: int) -> None:
        """Give the next turn if *turn* is the current one, or if there is none."""
        if self._current not in (0, turn):
            return
        self._current = 0
        for share in self._waiting:
            if share.wake(self._given + 1):
                self._given = self._current = self._given + 1
                self._waiting.move_to_end(share)
                return
