"""The interface between the adapters and an event loop: a byte stream, and the address of its peer.

Each adapter implements it once.  TLS is added by ``tls.layer``.
"""

from __future__ import annotations

import logging
import select
import selectors
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import attrs

from .._checks import check_port, check_text, field
from ..limits import Limits
from .turns import Share

__all__ = ["LARGE_WRITE", "READ_SIZE", "Peer", "Stream", "to_peer"]

READ_SIZE: Final = 65_536
"""Maximum bytes of one read.  A connection buffers at most this much, besides the buffers of its machine.  uvloop
reads up to 256,000 bytes."""

LARGE_WRITE: Final = 16_384
"""Size in bytes of a write after which other tasks run, even if the system accepted all of it at once.  Otherwise a
peer that requests much data and reads fast could block the other tasks."""

_CLOSED_BY_PEER: Final = getattr(select, "POLLRDHUP", 0)  # Linux; poll() also reports POLLERR and POLLHUP
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)  # Windows has no poll()


@attrs.frozen
class Peer:
    """The address of the peer as the socket reports it, not as the peer claims it.

    Raises TypeError or ValueError for a wrong value.

    For example:

        >>> adapters.to_peer(("192.0.2.1", 4321))
        Peer(address='192.0.2.1', port=4321)
    """

    address: str = attrs.field(validator=field(check_text))
    """An IPv4 or IPv6 address in the usual notation, with its zone if it has one."""
    port: int = attrs.field(validator=field(check_port))


class Stream(ABC):
    """A connected TCP stream.  One task reads and writes; any task may call ``wake()`` and ``abort()``.

    An adapter implements the abstract methods with the operations of its loop.  It appends the data that it receives to
    ``unread``, and sets ``ended`` at the end of the stream.  ``now`` must be set before ``__init__()`` of this class
    runs, such as by a class attribute.

        while data := await stream.read(stream.now() + 60.0):
            await stream.write_all(data)
    """

    __slots__ = ("ended", "limit_key", "limits", "share", "started_at", "unread", "woken")

    now: Callable[[], float]
    """Returns the time of the loop in seconds; the clock is monotonic."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.started_at = self.now()
        """The time when the connection started, on the clock of ``now()``."""
        self.unread = b""
        """Data that was received and not yet taken."""
        self.ended = False
        """Whether no data will arrive after ``unread``: the peer has closed its side, or the connection is lost."""
        self.woken = False
        """Whether ``wake()`` was called since the last wait."""
        self.share = Share()
        """The events that this connection may cause, which it shares with the other connections of its network."""
        self.limit_key: object = None
        """The ``mailauth.addresses.limit_key`` of the peer: the addresses of a share are served in rotation."""

    def take(self) -> bytes | None:
        """Return the data received so far; ``b""`` at the end of the stream or connection, None if no data arrived."""
        if data := self.unread:
            self.unread = b""
            return data
        return b"" if self.ended else None

    @abstractmethod
    def wait_readable(self, due: float) -> Awaitable[None]:
        """Wait until ``take()`` has something to return, or ``wake()`` is called.

        If ``unread``, ``ended`` or ``woken`` is set, return at once.  ``woken`` is False afterwards.  Raises
        TimeoutError if nothing happens by *due*, a time on the clock of ``now()``.  Cancellation loses no data.
        """

    async def read(self, due: float) -> bytes | None:
        """Wait for data and ``take()`` it; None if ``wake()`` was called instead.  Raises TimeoutError at *due*."""
        await self.wait_readable(due)
        return self.take()

    @abstractmethod
    def write(self, data: bytes) -> Awaitable[None] | None:
        """Pass *data* to the system.  Returns None if it accepted all of it at once, else an awaitable for the rest.

        Raises OSError, now or when awaited, if the connection is lost or the peer reads too slowly (``Limits``).
        """

    async def write_all(self, data: bytes) -> None:
        """Write *data*, and wait until the system has accepted all of it.  Raises as ``write()``."""
        waiting = self.write(data)
        if waiting is not None:
            await waiting

    @abstractmethod
    def checkpoint(self) -> Awaitable[None]:
        """Let other tasks run, without waiting for anything."""

    async def take_turn(self, events: int) -> None:
        """Wait for a turn if ``share`` has no events left; then count *events* of it."""
        share = self.share
        if share.left <= 0 and not share.renew():
            await share.wait(self.limit_key, self.checkpoint)
        share.left -= events

    def put_back(self, data: bytes) -> None:
        """Undo a ``take()``: the next one returns *data* first."""
        self.unread = data + self.unread

    def drop_unread(self) -> int:
        """Discard data that was read from the socket but not yet taken.  Returns the number of bytes."""
        dropped, self.unread = len(self.unread), b""
        return dropped

    def extend_deadline(self, due: float, written: int) -> float:
        """Return the new deadline of a write that had the deadline *due* and has written *written* bytes since.

        The first deadline is ``limits.write_timeout`` seconds after the start of the write.  ``limits.min_rate`` is the
        rate at which the peer must read.
        """
        return min(self.now() + self.limits.write_timeout, due + written / self.limits.min_rate)

    @abstractmethod
    def wake(self) -> None:
        """End the pending wait in ``wait_readable()``.  If no task waits, the next call returns at once."""

    @abstractmethod
    def peer(self) -> Peer:
        """Return the address of the peer.  Raises OSError if it has already disconnected."""

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor of the socket; negative if it is closed."""

    def peer_closed(self) -> bool:
        """Return whether the peer has closed its sending side, even if data from it is still unread.

        Always False on a system that cannot report this without reading (POLLRDHUP exists on Linux only).
        """
        descriptor = self.fileno()
        if descriptor < 0:
            return True
        if not _CLOSED_BY_PEER:
            return False
        poll = select.poll()
        poll.register(descriptor, _CLOSED_BY_PEER)
        return bool(poll.poll(0))

    def input_waiting(self) -> bool:
        """Return whether data or the end of the stream can be read without waiting.  Nothing is read."""
        if self.unread or self.ended:
            return True
        descriptor = self.fileno()
        if descriptor < 0:
            return True
        with _Selector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            return bool(selector.select(0))

    def tls_failed(self, peer: Peer, error: OSError) -> None:
        """Log that the TLS handshake with *peer* failed, unless its network has caused many such lines."""
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
        self.share.log(logging.INFO, "TLS failed", {"peer": peer.address, "port": peer.port, "reason": reason})

    @abstractmethod
    def half_close(self) -> None:
        """Close the sending side.  Does nothing on a connection that is lost."""

    @abstractmethod
    def abort(self) -> None:
        """Close now, and discard data that is not yet written.  A second call does nothing."""


def to_peer(name: Sequence[object] | None) -> Peer:
    """Return the Peer for *name*, a result of ``getpeername()``.  Raises OSError if *name* is empty or None.

    A link-local IPv6 address gets its zone, the number of the interface: another client may have it on another link.
    """
    if not name:
        raise OSError("the peer has already disconnected")
    address, port = name[:2]
    if len(name) == 4 and name[3]:
        address = f"{address}%{name[3]}"
    return Peer(cast(str, address), cast(int, port))  # which checks the types
