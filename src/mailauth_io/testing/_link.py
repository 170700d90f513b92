"""A connection with network faults, between the socket of a client and the stream of the adapter.

``Link`` is a transport for the stream, and the protocol of the socket's own transport.  Deadlines, backpressure and
cancellation are those of the stream.  The link behaves as the network and the buffers of the sockets do: it accepts
data up to a limit, and what it has accepted arrives even if the server closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from .. import on_asyncio
from ..adapters import READ_SIZE, Limits, Peer
from ..adapters.connection import LINGER_TOTAL
from ..adapters.timekeeper import Timekeeper
from ._faults import DOWNSTREAM, Emit, Fault, Item, Signal, Stage

BUFFER: Final = 65_536
"""Bytes that a link holds in each direction before the sender has to wait."""

_SEND_RST: Final = struct.pack("ii", 1, 0)
"""The value of SO_LINGER that makes ``close()`` send an RST."""

_RESET_SECONDS: Final = 0.1
"""Seconds from the last byte to a reset.  A reset destroys what the client has not received.  It also lets the client's
``connect()`` fail if the client has not yet looked at the result."""


class KitStream(on_asyncio.TransportStream):
    """A stream that reports the connection and a failed TLS handshake.  With a link, it has faults."""

    __slots__ = ("_link", "_on_connect", "_on_tls_failure")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        made: Callable[[on_asyncio.TransportStream], None],
        timekeeper: Timekeeper,
        on_connect: Callable[[Peer], object],
        on_tls_failure: Callable[[Peer, OSError], object],
    ) -> None:
        super().__init__(loop, limits, made, timekeeper)
        self._on_connect = on_connect
        self._on_tls_failure = on_tls_failure
        self._link: Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = transport if isinstance(transport, Link) else None
        super().connection_made(transport)
        with contextlib.suppress(OSError):  # the client has already disconnected, and has no address
            self._on_connect(self.peer())

    def tls_failed(self, peer: Peer, error: OSError) -> None:
        super().tls_failed(peer, error)
        self._on_tls_failure(peer, error)

    def peer_closed(self) -> bool:
        found = None if self._link is None else self._link.end_received()
        return super().peer_closed() if found is None else found

    def input_waiting(self) -> bool:
        found = None if self._link is None else self._link.input_received()
        return super().input_waiting() if found is None else bool(found or self.unread or self.ended)


class Link(asyncio.Transport, asyncio.Protocol):
    """Carries the data between the socket of a client and the stream of its connection, with the faults."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: KitStream, faults: list[Fault], links: dict[Link, None]
    ) -> None:
        super().__init__()
        self._loop = loop
        self._stream = stream
        self._links = links
        self._client: asyncio.Transport
        self._downstream, self._send = self._chain(
            [fault for fault in faults if fault.direction == DOWNSTREAM], self._to_client
        )
        self._upstream, self._receive = self._chain(
            [fault for fault in faults if fault.direction != DOWNSTREAM], self._to_stream
        )
        self._received: deque[Item] = deque()
        """What has passed the upstream faults, and the stream has not read."""
        self._delivery: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True  # the stream reads
        self._writable = True  # the stream need not wait before it writes
        self._lost = False  # the connection with the client has ended
        self._ended = False  # the stream was told that the connection is lost, or has aborted it
        self._discarding = False  # data from the client is discarded
        self._sending = True  # False after the last byte of the server
        self._closing = False  # a FIN was sent, and data from the client is discarded until it closes its side
        self._client_ended = False  # the client has closed its side
        self._cut_upstream = False  # limit_data() has ended the data from the client

    def _chain(self, faults: list[Fault], end: Emit) -> tuple[list[Stage], Emit]:
        """Return the stages of *faults*, and the function that passes data to the first of them."""
        stages: list[Stage] = []
        for fault in reversed(faults):
            stage = fault.build(fault, self._loop, end)
            stages.insert(0, stage)
            end = stage.accept
        return stages, end

    # The protocol of the client's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client = cast(asyncio.Transport, transport)
        self._client.set_write_buffer_limits(high=0)
        if hasattr(transport, "max_size"):
            cast(Any, transport).max_size = READ_SIZE
        self._links[self] = None
        self._stream.connection_made(self)
        for stage in (*self._downstream, *self._upstream):
            if not self._ended:
                stage.start()

    def data_received(self, data: bytes) -> None:
        if not self._discarding:
            self._receive(data)
            self._regulate_reading()

    def eof_received(self) -> bool:
        self._client_ended = True
        if not self._discarding:
            self._receive(Signal.EOF)
        elif self._closing:
            self._finish_closing()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._sending = False
        self._cancel_timer()
        for stage in self._downstream:
            stage.stop()
        if self._ended:
            self._links.pop(self, None)
            return
        if exc is not None and not self._discarding:  # a write failed; the last data of the client may be unread
            found = self._client.get_extra_info("socket")
            if found is not None:
                with contextlib.suppress(OSError), found.dup() as duplicate:
                    if data := duplicate.recv(READ_SIZE):
                        self._receive(data)
        self._receive(Signal.LOST)
        self._regulate_writing()

    def resume_writing(self) -> None:
        if self._closing:
            self._finish_closing()
        self._regulate_writing()

    # The transport of the stream

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._client.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._ended

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Ignored: the limit is BUFFER."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes by which the data on its way to the client exceeds BUFFER."""
        if not self._sending:
            return 0
        held = sum(stage.held for stage in self._downstream) + self._client.get_write_buffer_size()
        return max(held - BUFFER, 0)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._sending and not self._ended:
            self._send(bytes(data))
            self._regulate_writing()

    def write_eof(self) -> None:
        if self._sending and not self._ended:
            self._send(Signal.EOF)

    def pause_reading(self) -> None:
        self._reading = False
        self._regulate_reading()

    def resume_reading(self) -> None:
        self._reading = True
        self._deliver_soon()
        self._regulate_reading()

    def abort(self) -> None:
        """End the connection for the stream.  Data on its way to the client still arrives."""
        if self._ended:
            if self._lost:
                self._links.pop(self, None)
            return
        self._ended = True
        self._stop_receiving()
        self._loop.call_soon(self._stream.connection_lost, None)
        self._discard()
        if self._lost:
            self._links.pop(self, None)
        elif self._sending:
            if (
                self._cut_upstream
                or self._client.get_write_buffer_size()
                or not all(stage.idle for stage in self._downstream)
            ):
                self._send(Signal.CLOSE)
            else:
                self._sending = False
                self._client.abort()

    def kill(self) -> None:
        """Close the connection at once, and cancel all timers."""
        self._ended = True
        self._sending = False
        self._stop_receiving()
        for stage in self._downstream:
            stage.stop()
        self._cancel_timer()
        self._client.abort()

    # What the stream asks about the socket, if data from it has faults

    def end_received(self) -> bool | None:
        """Return whether the end of the stream has passed the faults; None: ask the socket."""
        if self._ended or any(isinstance(item, Signal) for item in self._received):
            return True
        return False if self._upstream else None

    def input_received(self) -> bool | None:
        """Return whether data or the end of the stream has passed the faults; None: ask the socket."""
        if self._ended or self._received:
            return True
        return False if self._upstream else None

    # The ends of the chains

    def _to_client(self, item: Item) -> None:
        if not self._sending or self._client.is_closing():
            return
        if isinstance(item, bytes):
            self._client.write(item)
            self._regulate_writing()
        elif item is Signal.RESET:
            self._sending = False
            self._reset_later()
            self._regulate_writing()
        else:
            with contextlib.suppress(OSError):
                self._client.write_eof()
            if item is Signal.CLOSE:
                self._close()

    def _to_stream(self, item: Item) -> None:
        if item is Signal.LOST:
            self._lose()
            return
        if item is Signal.CLOSE:
            self._cut_upstream = True
            self._discard()
        self._received.append(item)
        self._deliver_soon()

    def _deliver_soon(self) -> None:
        """Pass one item to the stream in the next iteration, so that the stream can read each by itself."""
        if self._received and self._reading and self._delivery is None and not self._ended:
            self._delivery = self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        if self._received and self._reading:
            self._pass(self._received.popleft())
            self._regulate_reading()
            self._deliver_soon()

    def _pass(self, item: Item) -> None:
        if isinstance(item, bytes):
            self._stream.data_received(item)
        else:
            self._stream.eof_received()

    def _lose(self) -> None:
        """Tell the stream that the connection is lost, after all data that was received."""
        if self._ended:
            return
        while self._received:
            self._pass(self._received.popleft())
        self._ended = True
        self._stop_receiving()
        self._stream.connection_lost(None)

    # The end of the connection with the client

    def _close(self) -> None:
        """Wait, after a FIN was sent, until the client closes its side, and read and discard what it sends.

        Closing the socket at once would send an RST if the client still sends, and it could lose data that it has not
        read.
        """
        self._sending = False
        self._closing = True
        for stage in self._downstream:
            stage.stop()
        self._discard()
        if not self._ended:
            self._receive(Signal.LOST)
        self._regulate_writing()
        self._finish_closing()

    def _finish_closing(self) -> None:
        if self._lost or self._client.get_write_buffer_size():
            return
        if self._client_ended:
            self._client.abort()
        elif self._timer is None:
            self._timer = self._loop.call_later(LINGER_TOTAL, self._client.abort)

    def _reset_later(self) -> None:
        self._timer = self._loop.call_later(_RESET_SECONDS, self._reset)

    def _reset(self) -> None:
        """Reset the connection, unless data is still on its way to the client: then try again later."""
        self._timer = None
        found = self._client.get_extra_info("socket")
        with contextlib.suppress(OSError), found.dup() as duplicate:
            if self._client.get_write_buffer_size() or _unacknowledged(duplicate):
                self._reset_later()
                return
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _SEND_RST)
        self._client.abort()

    # Flow control

    def _regulate_reading(self) -> None:
        """Stop reading from the client if the stream does not read, or too much data is on its way to it."""
        if self._lost or self._client.is_closing():
            return
        if self._discarding:
            reads = True
        elif self._upstream:
            waiting = sum(len(item) for item in self._received if isinstance(item, bytes))
            reads = waiting + sum(stage.held for stage in self._upstream) < BUFFER
        else:
            reads = self._reading
        if reads:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    def _regulate_writing(self) -> None:
        """Pause the writing of the stream if too much data is on its way to the client."""
        writable = self.get_write_buffer_size() == 0
        if writable == self._writable or self._ended:
            return
        self._writable = writable
        if writable:
            self._stream.resume_writing()
        else:
            self._stream.pause_writing()

    def _discard(self) -> None:
        """Discard all data that the client sends from now on."""
        self._discarding = True
        self._regulate_reading()

    def _stop_receiving(self) -> None:
        for stage in self._upstream:
            stage.stop()
        self._received.clear()
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _unacknowledged(connection: socket.socket) -> int:
    """Return the number of bytes that were sent and not acknowledged; 0 if the system cannot tell."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)  # see tcp(7), SIOCOUTQ
