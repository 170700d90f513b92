"""What an adapter asks of a loop: one stream of octets with four verbs, and the name of the peer at its other end.

Knows no protocol and no TLS; ``on_asyncio`` and ``on_trio`` each implement it once.
"""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs

READ_SIZE: Final = 65_536
"""Maximum bytes of one read: that and the buffers of the machine are all that a connection keeps."""

_CLOSED_BY_PEER: Final = getattr(select, "POLLRDHUP", 0)  # Linux; errors and hang-ups of both sides are told as well


@attrs.frozen
class Peer:
    """The other end as the socket names it, never as it names itself."""

    address: str
    """An IPv4 or IPv6 address in the usual notation, with its zone if it has one."""
    port: int


class Stream(ABC):
    """A connected TCP stream.  One task reads and writes; ``wake()`` and ``abort()`` come from anywhere."""

    __slots__ = ()

    started_at: float
    """When the connection began, as ``now()`` tells it."""

    now: Callable[[], float]
    """Seconds on the clock of the loop, which never steps back."""

    @abstractmethod
    def take(self) -> bytes | None:
        """The octets at hand; ``b""`` at the end of the stream (or of the connection), None for none yet."""

    @abstractmethod
    def wait_readable(self, due: float) -> Awaitable[None]:
        """Wait until ``take()`` has something to give, or until ``wake()`` comes.

        Raises TimeoutError when nothing came by *due*, which is a time as ``now()`` tells it.  Cancelled, it loses no
        octet.
        """

    async def read(self, due: float) -> bytes | None:
        """``take()``, waited for; None when ``wake()`` came instead."""
        await self.wait_readable(due)
        return self.take()

    @abstractmethod
    def write(self, data: bytes) -> Awaitable[None] | None:
        """Hand all *data* to the system: None when it has taken them, else what to await until it has.

        Raises OSError, now or when awaited, when the connection is gone, or the peer reads too slowly (``Limits``).
        """

    async def write_all(self, data: bytes) -> None:
        """``write()``, waited for."""
        waiting = self.write(data)
        if waiting is not None:
            await waiting

    @abstractmethod
    def checkpoint(self) -> Awaitable[None]:
        """Wait for nothing, and let others run."""

    @abstractmethod
    def put_back(self, data: bytes) -> None:
        """Octets that were taken and are for somebody else: the next ``take()`` gives them first."""

    @abstractmethod
    def drop_unread(self) -> int:
        """Forget what was read from the socket but not yet taken; how many octets that was."""

    @abstractmethod
    def wake(self) -> None:
        """End the wait that is under way, or else the next one."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor of the socket, negative when it is closed."""

    def peer_closed(self) -> bool:
        """Whether the peer has closed its side, even while bytes from it are still unread.

        Where the system cannot tell without reading them, False.
        """
        descriptor = self.fileno()
        if descriptor < 0:
            return True
        if not _CLOSED_BY_PEER:
            return False
        poll = select.poll()
        poll.register(descriptor, _CLOSED_BY_PEER)
        return bool(poll.poll(0))

    @abstractmethod
    def half_close(self) -> None:
        """No more will be written.  Does nothing on a connection that is gone."""

    @abstractmethod
    def abort(self) -> None:
        """Close now and drop what is unwritten.  Twice is once."""


def to_peer(name: Sequence[object] | None) -> Peer:
    """The Peer in a socket's ``getpeername()``.  Raises OSError when there is none any more."""
    if not name:
        raise OSError("the peer has gone already")
    return Peer(str(name[0]), int(str(name[1])))
