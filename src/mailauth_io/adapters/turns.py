"""Share the time of the event loop fairly between networks (architecture.md, invariant 4).

A client can have hundreds of connections, and send 64 KiB of commands on each.  If the event loop processed all of them
first, the next client would wait for seconds.  So the connections of one network (IPv4: /24, IPv6: /48), which usually
has one owner, share a number of events.  When these are used up, they wait for the next turn of their network, which
renews the number.  Networks that wait get turns in rotation.  If none waits, the next turn begins at once.  At most one
turn begins in each iteration of the event loop.
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

A typical group of pipelined commands causes fewer events, so it is not interrupted."""

CONNECTION: Final = 8
"""The start of a connection counts as this many events, since it takes as much CPU time."""

HANDSHAKE: Final = EVENTS_PER_TURN
"""A TLS handshake counts as this many events: a signature with RSA takes a millisecond or more."""

LOGIN: Final = EVENTS_PER_TURN
"""A login counts as this many events, since it may take as much CPU time (SASLprep, SCRAM)."""

LINES_PER_NETWORK: Final = 10
LINES: Final = 100
"""Maximum log lines a minute about connections without a session, such as failed TLS handshakes: for each network, and
in all.  A client can cause each with a few bytes."""

_MOST_WOKEN: Final = 32
"""Maximum number of connections that are woken for one turn.  A client that waits for each reply uses only two events
at a time, a read and a command, so one connection would not use up the turn."""


class Flag(Protocol):
    """An event that one task waits for and another task sets, such as ``asyncio.Event`` or ``trio.Event``.

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
    """The number of the turn that this task begins; 0 if it was woken to use events that are left in a turn."""


_NONE: Final[OrderedDict[object, deque[_Waiter]]] = OrderedDict()  # of a share without turns; it stays empty


class Share:
    """The events that the connections of one network may cause until its next turn: *left* is their number.

    It falls below zero if the last event counts as more than one.  ``Share()`` is for a single connection: waiting for
    it only lets other tasks run.

    For example:

        if stream.share.left <= 0:
            await stream.share.wait(stream.limit_key, stream.checkpoint)
        stream.share.left -= 1
    """

    __slots__ = ("__weakref__", "_turns", "_waiting", "left")

    def __init__(self, turns: Turns | None = None) -> None:
        self.left = EVENTS_PER_TURN
        self._turns = turns
        self._waiting: OrderedDict[object, deque[_Waiter]] = _NONE if turns is None else OrderedDict()
        """By address, without empty ones."""

    def renew(self) -> bool:
        """Begin a turn at once, if no network waits and none has begun a turn in this iteration of the event loop.

        Returns False if it could not begin.
        """
        turns = self._turns
        if turns is None or not turns.fresh or not turns.idle:
            return False
        turns.begin(self)
        return True

    async def wait(self, key: object, checkpoint: Callable[[], Awaitable[None]]) -> None:
        """Wait until *left* is above zero.  Other tasks run at least once meanwhile.

        *key* is the ``mailauth.addresses.limit_key`` of the connection: the addresses of a network are served in
        rotation.  *checkpoint* lets other tasks run.
        """
        turns = self._turns
        if turns is None:
            await checkpoint()
            self.left = EVENTS_PER_TURN
            return
        waiter = _Waiter(turns.flag())
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
        waiting.append(waiter)
        turns.add(self)
        try:
            while True:
                turns.ended(waiter.turn)
                await (checkpoint() if waiter.woken.is_set() else waiter.woken.wait())
                if turns.is_current(waiter.turn):
                    turns.begin(self)
                if self.left > 0:
                    return
                waiter.woken = turns.flag()
        finally:
            self._remove(waiter, key)
            if not self._waiting:
                turns.remove(self)
            turns.ended(waiter.turn)

    def log(self, level: int, name: str, fields: Mapping[str, object]) -> None:
        """Log an event of a connection without a session, at most ten a minute for each network and 100 in all."""
        if self._turns is None:
            LOGGER.log(level, Event(name, dict(fields)))
        else:
            self._turns.log_limit.log(level, name, fields, self)

    def _remove(self, waiter: _Waiter, key: object) -> None:
        """Remove *waiter*, and move its address to the end."""
        waiting = self._waiting[key]
        waiting.remove(waiter)
        if waiting:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]

    def wake(self, turn: int) -> bool:
        """Wake the connection that begins the turn with the number *turn*, and others for the events that it leaves.

        Return False if all of them were already woken and have not run since.
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
    """The turns of the networks on one event loop.

    A network gets a turn when one of its connections is woken for it.  When this connection runs, in a later iteration
    of the event loop, the turn begins: the events of the network are renewed, and the next network gets a turn.  If no
    network waits, ``Share.renew()`` begins a turn without this wait, which takes as long as several events.

    For example:

        loop_turns = turns.Turns(trio.Event)
        stream.share = loop_turns.share(addresses.limit_network(stream.limit_key))
        await stream.take_turn(turns.CONNECTION)
    """

    def __init__(self, flag: Callable[[], Flag], on_begin: Callable[[Turns], None] | None = None) -> None:
        """*flag* makes an object that a task can wait for, such as ``asyncio.Event``.

        *on_begin* is called when a turn begins; it can arrange that ``refresh()`` is called in the next iteration of
        the loop.
        """
        self.flag = flag
        self._on_begin = on_begin
        self._shares: WeakValueDictionary[object, Share] = WeakValueDictionary()
        self._waiting: OrderedDict[Share, None] = OrderedDict()
        self.log_limit = LogLimit(LINES_PER_NETWORK, LINES)
        """Limits the log lines about connections without a session."""
        self.begun = 0
        """The number of turns that have begun."""
        self.fresh = False
        """Whether no turn has begun in this iteration of the loop.  Always False if
        ``refresh()`` is never called."""
        self._given = 0
        """The number of the last turn that was given."""
        self._current = 0
        """The number of the turn that was given and has not begun, or 0."""

    def share(self, network: object) -> Share:
        """Return the share of *network*, a ``mailauth.addresses.limit_network``."""
        share = self._shares.get(network)
        if share is None:
            share = self._shares[network] = Share(self)
        return share

    @property
    def idle(self) -> bool:
        """Whether no network waits for a turn, and none was given one that it has not begun."""
        return not self._waiting and not self._current

    def begin(self, share: Share) -> None:
        """Renew the events of *share*."""
        share.left = EVENTS_PER_TURN
        self.begun += 1
        self.fresh = False
        if self._on_begin is not None:
            self._on_begin(self)

    def refresh(self, begun: int) -> None:
        """Note that an iteration of the loop has begun after the turn with the number *begun*."""
        if begun == self.begun:
            self.fresh = True

    def add(self, share: Share) -> None:
        """Let *share* wait for a turn, after those that already wait."""
        self._waiting.setdefault(share)

    def remove(self, share: Share) -> None:
        """End the wait of *share*."""
        self._waiting.pop(share, None)

    def is_current(self, turn: int) -> bool:
        """Return whether *turn* was given and has not begun."""
        return turn == self._current != 0

    def ended(self, turn: int) -> None:
        """Give the next turn if *turn* is the current one, or if no turn is pending."""
        if self._current not in (0, turn):
            return
        self._current = 0
        for share in self._waiting:
            if share.wake(self._given + 1):
                self._given = self._current = self._given + 1
                self._waiting.move_to_end(share)
                return
