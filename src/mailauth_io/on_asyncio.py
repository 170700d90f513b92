"""The adapter for asyncio: a Protocol and one task per connection, woken by a future.

Knows the loop and its transports; the pump, TLS and the end of a connection are in ``_adapter``.  Contains no protocol.
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

from . import _listener
from ._adapter import Client as Client, ServerConnection as ServerConnection
from ._addresses import Network
from ._listener import (
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
from ._stream import READ_SIZE, Peer as Peer, Stream, to_peer
from .limits import ConnectionLimiter, Limits

E = TypeVar("E")

_EMPTY: Final = contextvars.Context()

_LARGE: Final = 16_384
"""Octets of a Send after which others have their turn, though the system took all of it at once: a peer that asks for
much and reads fast would have the loop for itself."""


class _Stream(asyncio.Protocol, Stream):
    """A transport pulled by one task.  Octets that come while nobody reads stop the reading."""

    __slots__ = (
        "_due",
        "_ended",
        "_gone",
        "_limits",
        "_looks_at",
        "_loop",
        "_made",
        "_paused",
        "_reader",
        "_timer",
        "_transport",
        "_unread",
        "_unwritten",
        "_woken",
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
        self.now = now  # the loop's: one bound method for all of them
        self.started_at = now()
        self._loop = loop
        self._limits = limits
        self._made = made
        self._unread = b""
        self._ended = False  # nothing more will come
        self._gone = False  # nothing more can go
        self._woken = False
        self._paused = False  # the transport does not read
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._unwritten = 0  # octets of the write that is under way, when it was last looked at
        self._due = math.inf  # when the read or write that is under way has lasted too long
        self._timer: asyncio.TimerHandle | None = None  # one for all of them: it looks at _due when it fires
        self._looks_at = math.inf  # when that will be

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # a Send is carried out when the system has all of it
        if hasattr(transport, "max_size"):
            transport.max_size = READ_SIZE  # asyncio's own 256 KiB costs a mapping of memory per read
        if self._made is not None:
            self._made(self)
            self._made = None

    def data_received(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        reader = self._reader
        if reader is None or reader.done():
            self._paused = True
            self._transport.pause_reading()
            return
        # End the wait of the task before this returns.  set_result() alone would have the loop do so in its next turn:
        # handle, turn and all a twentieth of a small message.  Where the future does not show who waits for it, it is
        # left at that.
        waiting = getattr(reader, "_callbacks", None)
        if not waiting or len(waiting) != 1:
            reader.set_result(None)
            return
        go_on, context = waiting[0]
        reader.remove_done_callback(go_on)
        reader.set_result(None)
        context.run(go_on, reader)

    def eof_received(self) -> bool:
        self._end()
        return True  # what was asked may still be answered

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not self._ended:
            # A write failed, and the transport reads no more; yet the peer's last words may be waiting.
            socket = self._transport.get_extra_info("socket")
            if socket is not None:
                with contextlib.suppress(OSError), socket.dup() as twin:
                    self._unread += twin.recv(READ_SIZE)
        self._gone = True
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
        reader: asyncio.Future[None] = asyncio.Future(loop=self._loop)  # what create_future() does, for less
        self._reader = reader
        if self._unread or self._woken or self._ended:
            self._woken = False
            reader.set_result(None)
            return reader
        self._due = due
        if due < self._looks_at:
            self._set_timer(due)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return reader

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look, context=_EMPTY)  # else it would copy that of the task
        self._looks_at = due

    def _look(self) -> None:
        """Has the read or write that is under way lasted too long?"""
        self._timer = None
        self._looks_at = math.inf
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
            raise BrokenPipeError("the connection is gone")
        if len(data) >= _LARGE:
            return self.checkpoint()
        return None

    async def _written(self, writer: asyncio.Future[None]) -> None:
        self._unwritten = self._transport.get_write_buffer_size()
        self._due = due = self.now() + self._limits.write_timeout
        if due < self._looks_at:
            self._set_timer(due)
        await writer
        if self._transport.is_closing():
            raise BrokenPipeError("the connection is gone")

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
        if not self._gone and not self._transport.is_closing():
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    def abort(self) -> None:
        self._gone = True
        self._transport.abort()
        self._end()


class Listener(_listener.Listener):
    """What ``serve`` gives: where it listens, and how to end it."""

    _server: asyncio.Server

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        super().__init__(context, **options)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline = math.inf

    async def _listen(
        self, session: Session[E], build: MachineFactory[E], host: str, port: int, reuse_port: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        # One bound method for all streams; and asyncio's own does no more than to call this.
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
        # A callback of the task would do it, and weigh as much as the stream.
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

    *ssl_context* is for BeginTls, or with *implicit_tls* for a handshake first.  Peers in the networks of *proxy_from*
    are proxies: each must begin with a valid PROXY header (``mailauth.proxy``) or is dropped, and the connection's peer
    is the client that it names.  How many peers there may be, and how slow, is said by *limits*; listeners that share a
    *limiter* share the bound on connections, and whoever comes beyond it gets the machine's refusal.  With *alpn* a TLS
    client that offers any protocol by ALPN must offer that one; ``serve_smtp`` and ``serve_pop3`` set it.  With
    *reuse_port* other processes of the same user may listen there, too.
    Raises OSError when it cannot listen, ValueError where no port can be shared.
    An exception from a session drops that connection alone.  It is logged with its message and traceback, as
    ``exc_info`` of a record of the logger ``mailauth_io``.
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
    """Connect *machine*, or what it builds when it is a function of the TLS that the connection starts in.

    Raises OSError when the connection, or with *implicit_tls* its handshake, fails.  The certificate must be good for
    *server_hostname*, which is *host* unless given; *local_address* is the address to come from.
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
