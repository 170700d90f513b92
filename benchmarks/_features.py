"""The features of the adapter for asyncio that ``features.py`` leaves out, one for each server process.

Each function replaces the code of one feature.  It raises AttributeError if that code has moved, so that no row shows a
feature that is still there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

READY_WITHOUT_LOG: Final = "`mailauth serve`, nothing stored, without log"


def replace(owner: Any, name: str, value: object) -> None:
    """Set the existing attribute *name* of *owner*."""
    getattr(owner, name)
    setattr(owner, name, value)


def nothing() -> None:
    """The same code: the row shows how much of the other rows is noise."""


def deadlines() -> None:
    """No read or write times out: no timer is set."""
    from mailauth_io import on_asyncio

    replace(on_asyncio._Timekeeper, "wake_by", lambda self, due: None)


def limiter() -> None:
    """Connections are not counted."""
    from mailauth_io.limits import ConnectionLimiter

    replace(ConnectionLimiter, "acquire", lambda self, address: True)
    replace(ConnectionLimiter, "release", lambda self, address: None)


def turns() -> None:
    """The event loop's time is not shared between networks."""
    from mailauth_io.adapters import turns
    from mailauth_io.adapters.listener import Listener

    replace(turns, "EVENTS_PER_TURN", 2**60)
    replace(Listener, "_share_turns", lambda self, stream, peer: None)


def peer() -> None:
    """All connections have one peer object."""
    from mailauth_io import on_asyncio
    from mailauth_io.adapters import Peer

    same = Peer("127.0.0.1", 1)
    replace(on_asyncio.TransportStream, "peer", lambda self: same)


def linger() -> None:
    """The server closes at once, without waiting for the end of the client's data."""
    from mailauth_io.adapters.connection import AsyncConnection

    async def close_at_once(self: object) -> None:
        pass

    replace(AsyncConnection, "_linger", close_at_once)


def checkpoints() -> None:
    """Other tasks need not run after a large write."""
    from mailauth_io import on_asyncio

    replace(on_asyncio, "LARGE_WRITE", math.inf)


FEATURES: Final[dict[str, Callable[[], None]]] = {
    "a control: nothing is left out": nothing,
    "without deadlines": deadlines,
    "without the connection limiter": limiter,
    "without fair turns": turns,
    "without a peer object": peer,
    "without lingering at the end": linger,
    "without checkpoints after large writes": checkpoints,
}
