"""The adapter for asyncio: a Protocol and one task for each connection.

This module contains what depends on the loop and its transports; ``_adapter`` contains the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Final, TypeVar, Unpack, cast

from mailauth import ClientMachine

from ._addresses import Network
from .adapters import listener as _listener
from .adapters.connection import Client as Client, ServerConnection as ServerConnection
from .adapters.listener import (
    CLIENT_LIMITS,
    GRACE,
    SERVER_LIMITS,
    ClientFactory,
    ListenerOptions,
    MachineFactory,
    Session,
    pop3_server,
    smtp_server,
    start_client,
)
from .adapters.stream import READ_SIZE, Peer as Peer, Stream, to_peer
from .limits import ConnectionLimiter, Limits

E = TypeVar("E")

_EMPTY: Final = contextvars.Context()

_LARGE: Final = 16_384
"""Size in bytes of a Send after which other tasks run, even if the system accepted all of it at once.  Otherwise a peer
that requests much data and reads fast could block the other tasks."""


class _Stream(asyncio.Protocol, Stream):
    """A transport that one task reads.  If data arrives while the task does not read, the transport is paused."""

    __slots__ = (
        "_due",
        "_ended",
        "_limits",
        "_loop",
        "_on_connected",
        "_paused",
        "_reader",
        "_timer",
        "_timer_due",
        "_transport",
        "_unread",
        "_unwritten",
        "_woken",
        "_write_closed",
        "_writer",
        "now",
        "started_at",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        limits: Limits,
        made: Callable[[_Stream], None] | None = None,
    ) -> None:
        self.now = now  # the same bound method for all streams
        self.started_at = now()
        self._loop = loop
        self._limits = limits
        self._on_connected = made
        self._unread = b""
        self._ended = False  # no more data will arrive
        self._write_closed = False  # no more data can be sent
        self._woken = False
        self._paused = False  # the transport does not read
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._unwritten = 0  # unwritten bytes of the pending write at the last check
        self._due = math.inf  # the deadline of the pending read or write
        self._timer: asyncio.TimerHandle | None = None  # one for all waits: it checks _due when it fires
        self._timer_due = math.inf  # when the timer fires

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # a Send is complete when the system has accepted all of it
        if hasattr(transport, "max_size"):
            transport.max_size = READ_SIZE  # the default of 256 KiB costs a memory mapping per read
        if self._on_connected is not None:
            self._on_connected(self)
            self._on_connected = None

    def data_received(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        reader = self._reader
        if reader is None or reader.done():
            self._paused = True
            self._transport.pause_reading()
            return
        # Resume the waiting task before this method returns.  set_result() alone would resume it in the next iteration
        # of the loop, which adds a twentieth to the time of a small message.  If the future does not expose its
        # callbacks, set_result() alone is used.
        waiting = getattr(reader, "_callbacks", None)
        if not waiting or len(waiting) != 1:
            reader.set_result(None)
            return
        callback, context = waiting[0]
        reader.remove_done_callback(callback)
        reader.set_result(None)
        context.run(callback, reader)

    def eof_received(self) -> bool:
        self._end()
        return True  # keep the transport open: replies may still be written

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not self._ended:
            # A write failed, and the transport does not read any more; the peer's last data may still be unread.
            socket = self._transport.get_extra_info("socket")
            if socket is not None:
                with contextlib.suppress(OSError), socket.dup() as duplicate:
                    self._unread += duplicate.recv(READ_SIZE)
        self._write_closed = True
        self._end()
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def pause_writing(self) -> None:
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    def _end(self) -> None:
        self._ended = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def take(self) -> bytes | None:
        if data := self._unread:
            self._unread = b""
            return data
        return b"" if self._ended else None

    def wait_readable(self, due: float) -> Awaitable[None]:
        reader: asyncio.Future[None] = asyncio.Future(loop=self._loop)  # the same as create_future(), but faster
        self._reader = reader
        if self._unread or self._woken or self._ended:
            self._woken = False
            reader.set_result(None)
            return reader
        self._due = due
        if due < self._timer_due:
            self._set_timer(due)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return reader

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._check_deadline, context=_EMPTY)  # saves a copy of the context
        self._timer_due = due

    def _check_deadline(self) -> None:
        """End the pending read or write with TimeoutError if its deadline has passed."""
        self._timer = None
        self._timer_due = math.inf
        waiting = self._writer
        if waiting is None or waiting.done():
            waiting = self._reader
        if waiting is None or waiting.done():
            return  # the next wait sets the timer
        now = self.now()
        if waiting is self._writer:
            limits = self._limits
            unwritten = self._transport.get_write_buffer_size()
            earned = (self._unwritten - unwritten) / limits.min_rate
            self._due = min(now + limits.write_timeout, self._due + earned)
            self._unwritten = unwritten
        if now >= self._due:
            waiting.set_exception(TimeoutError())
        else:
            self._set_timer(self._due)

    def write(self, data: bytes) -> Awaitable[None] | None:
        transport = self._transport
        transport.write(data)
        if self._writer is not None:
            return self._written(self._writer)
        if transport.is_closing():
            raise BrokenPipeError("the connection is lost")
        if len(data) >= _LARGE:
            return self.checkpoint()
        return None

    async def _written(self, writer: asyncio.Future[None]) -> None:
        self._unwritten = self._transport.get_write_buffer_size()
        self._due = due = self.now() + self._limits.write_timeout
        if due < self._timer_due:
            self._set_timer(due)
        await writer
        if self._transport.is_closing():
            raise BrokenPipeError("the connection is lost")

    def checkpoint(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def put_back(self, data: bytes) -> None:
        self._unread = data + self._unread

    def drop_unread(self) -> int:
        dropped, self._unread = len(self._unread), b""
        return dropped

    def wake(self) -> None:
        self._woken = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def fileno(self) -> int:
        found = self._transport.get_extra_info("socket")
        return -1 if found is None else int(found.fileno())

    def half_close(self) -> None:
        if not self._write_closed and not self._transport.is_closing():
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    def abort(self) -> None:
        self._write_closed = True
        self._transport.abort()
        self._end()


class Listener(_listener.Listener):
    """The value of the ``serve`` context: the address and port, and methods to close the listener."""

    _server: asyncio.Server

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        super().__init__(context, **options)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline = math.inf

    async def _listen(
        self, session: Session[E], build: MachineFactory[E], host: str, port: int, reuse_port: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        # One bound method for all streams.  asyncio's own time() only calls time.monotonic(), so skip that call.
        now = time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time

        def made(stream: _Stream) -> None:
            if self._closing:
                return stream.abort()
            try:
                peer = to_peer(stream._transport.get_extra_info("peername"))
            except OSError:
                return stream.abort()
            self._tasks.add(loop.create_task(self._run(stream, peer, session, build)))

        self._server = await loop.create_server(
            lambda: _Stream(loop, now, self._limits, made), host, port, reuse_port=reuse_port
        )
        self.address, self.port = self._server.sockets[0].getsockname()[:2]

    def _forget(self, stream: Stream) -> None:
        super()._forget(stream)
        # A done callback of the task could do this, but would use as much memory as the stream.
        self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _stray_cancellation(self, error: BaseException) -> bool:
        task = asyncio.current_task()
        return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()

    def _stop_accepting(self) -> None:
        self._server.close()
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + self._grace)

    async def aclose(self) -> None:
        self.shut_down()
        try:
            if self._tasks:
                left = self._deadline - asyncio.get_running_loop().time()
                await asyncio.wait(self._tasks, timeout=max(left, 0.0))
        finally:
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@contextlib.asynccontextmanager
async def serve(
    session: Session[E],
    build: MachineFactory[E],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    ssl_context: ssl.SSLContext | None = None,
    implicit_tls: bool = False,
    grace: float = GRACE,
    proxy_from: Collection[Network] = (),
    reuse_port: bool = False,
    limits: Limits = SERVER_LIMITS,
    limiter: ConnectionLimiter | None = None,
    alpn: str | None = None,
) -> AsyncIterator[Listener]:
    """Listen, and run *session* on a machine from *build* for each connection, until the context is left.

    *ssl_context* is used for BeginTls, or, with *implicit_tls*, for a handshake at the start of each connection.

    *grace* is the number of seconds that sessions have to end after the context is left.

    Peers in the networks *proxy_from* are proxies.  Each must first send a valid PROXY header (``mailauth.proxy``), or
    its connection is closed.  The peer of the connection is then the client that the header names.

    *limits* sets the maximum number of connections and the timeouts.  Listeners with the same *limiter* share the
    limits on connections.  A connection over the limit gets a refusal from the machine; with *implicit_tls* it is
    closed without one.

    With *alpn*, a TLS client that offers protocols by ALPN must offer this one; ``serve_smtp`` and ``serve_pop3`` set
    it.  With *reuse_port*, other processes of the same user may listen on the same port.

    Raises OSError if it cannot listen, and ValueError if the system cannot share ports.  An exception in a session ends
    only its own connection.  It is logged with its message and traceback, as ``exc_info`` of a record of the logger
    ``mailauth_io``.
    """
    listener = Listener(
        ssl_context,
        implicit_tls=implicit_tls,
        grace=grace,
        proxy_from=proxy_from,
        limits=limits,
        limiter=limiter,
        alpn=alpn,
    )
    await listener._listen(session, build, host, port, reuse_port)
    try:
        yield listener
    finally:
        await listener.aclose()


serve_smtp = smtp_server(serve)
serve_pop3 = pop3_server(serve)


async def connect(
    machine: ClientMachine[E] | ClientFactory[E],
    host: str,
    port: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
    implicit_tls: bool = False,
    server_hostname: str | None = None,
    local_address: str | None = None,
) -> Client[E]:
    """Connect to *host* and *port*, and return a Client that runs *machine*.

    *machine* may also be a function that builds the machine from the TLS session in which the connection starts (None
    without TLS).  The server's certificate must be valid for *server_hostname*, by default *host*.  *local_address* is
    the source address.

    Raises OSError if the connection, or with *implicit_tls* the handshake, fails.
    """
    loop = asyncio.get_running_loop()
    transport, stream = await loop.create_connection(
        lambda: _Stream(loop, loop.time, CLIENT_LIMITS),
        host,
        port,
        local_addr=(local_address, 0) if local_address else None,
    )
    peer = to_peer(transport.get_extra_info("peername"))
    return await start_client(
        machine, stream, peer, ssl_context, implicit_tls=implicit_tls, hostname=server_hostname or host
    )
