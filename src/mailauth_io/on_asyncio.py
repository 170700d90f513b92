"""The adapter for asyncio: a Protocol and one task for each connection.

This module contains what depends on the loop and its transports; ``adapters`` contains the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar, Unpack, cast
from weakref import WeakKeyDictionary

from . import adapters
from ._daemon_threads import LOOKUPS
from ._lookup import resolve
from .adapters import (
    LARGE_WRITE,
    READ_SIZE,
    AsyncClientConnection,
    AsyncServerConnection,
    Peer,
    Session,
    Stream,
    to_peer,
)
from .adapters.timekeeper import Timekeeper
from .adapters.turns import Turns
from .limits import Limits

__all__ = [
    "AsyncClientConnection", "AsyncServerConnection", "Listener", "Peer",
    "connect", "serve", "serve_pop3", "serve_smtp",
]  # fmt: skip

E = TypeVar("E")

_EMPTY: Final = contextvars.Context()

_TASK_NAME: Final = "mailauth_io session"
"""The name of the task of each connection: the default is a number, which takes memory for each task."""

ACCEPTS_PER_TURN: Final = 16
"""Connections that a listener accepts in one turn of the loop.  asyncio accepts as many as its *backlog* before
anything else runs, by default 100.  Each needs a descriptor, also if it is then refused."""

_BACKLOG: Final = 0xFFFF
"""Connections that the system keeps until they are accepted, if it has no lower limit.  trio uses the same number.  The
clients of others try again after a second or more."""


class _Timekeeper(Timekeeper):
    """The deadlines of all streams of a listener, or of one client."""

    __slots__ = ("_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, streams: Iterable[Stream]) -> None:
        super().__init__(cast("Iterable[TransportStream]", streams))
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when < math.inf:
            self._timer = self._loop.call_at(when, self._on_timer, context=_EMPTY)  # saves a copy of the context

    def _on_timer(self) -> None:
        self._timer = None
        self.set_timer(self.check(self._loop.time()))


class _Flag:
    """Like asyncio.Event, for one task that waits once, at half of the cost."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def is_set(self) -> bool:
        return self._future.done()

    def wait(self) -> Awaitable[None]:
        return self._future


def _refresh_soon(turns: Turns) -> None:
    """Call ``turns.refresh()`` in the next iteration of the loop."""
    asyncio.get_running_loop().call_soon(turns.refresh, turns.begun, context=_EMPTY)


_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()


def _turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Return the turns of *loop*, which its listeners share."""
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = Turns(_Flag, _refresh_soon)
    return turns


class TransportStream(asyncio.Protocol, Stream):
    """A transport that one task reads.  If data arrives while the task does not read, the transport is paused."""

    __slots__ = (
        *("_loop", "_on_connected", "_paused", "_reader", "_timekeeper"),
        *("_transport", "_unwritten", "_writer", "due", "now", "task"),
    )

    _transport: asyncio.Transport
    task: asyncio.Task[None]
    """The task of a listener that handles the connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        made: Callable[[TransportStream], None] | None = None,
        timekeeper: Timekeeper | None = None,
    ) -> None:
        # asyncio's own time() only calls time.monotonic(), so skip that call.
        self.now = time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
        super().__init__(limits)
        self._loop = loop
        self._on_connected = made
        self._paused = False  # the transport does not read
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._unwritten = 0  # unwritten bytes of the pending write at the last check
        self.due = math.inf  # the deadline of the pending read or write
        self._timekeeper = _Timekeeper(loop, (self,)) if timekeeper is None else timekeeper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # a Send is complete when the system has accepted all of it
        if hasattr(transport, "max_size"):
            cast(Any, transport).max_size = READ_SIZE  # the default of 256 KiB costs a memory mapping per read
        if self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        self.unread = self.unread + data if self.unread else data
        if self._reader is None or self._reader.done():
            self._paused = True
            self._transport.pause_reading()
        else:
            self._reader.set_result(None)

    def eof_received(self) -> bool:
        self._end()
        return True  # keep the transport open: replies may still be written

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.ended:
            # A write failed, and the transport does not read any more; the peer's last data may still be unread.
            socket = self._transport.get_extra_info("socket")
            if socket is not None:
                with contextlib.suppress(OSError), socket.dup() as duplicate:
                    self.unread += duplicate.recv(READ_SIZE)
        self._end()
        self.resume_writing()
        if self._on_connected is None:
            self._timekeeper.set_timer(math.inf)

    def pause_writing(self) -> None:
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    def _end(self) -> None:
        self.ended = True
        self._end_wait()

    def wait_readable(self, due: float) -> Awaitable[None]:
        reader: asyncio.Future[None] = asyncio.Future(loop=self._loop)  # the same as create_future(), but faster
        self._reader = reader
        if self.unread or self.woken or self.ended:
            self.woken = False
            reader.set_result(None)
            return reader
        self.due = due
        self._timekeeper.wake_by(due)
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():  # uvloop raises RuntimeError
                self._transport.resume_reading()
        return reader

    def expire(self) -> None:
        waiting = next((each for each in (self._writer, self._reader) if each is not None and not each.done()), None)
        if waiting is None:
            self.due = math.inf  # the wait has ended
            return
        if waiting is self._writer:
            unwritten = self._transport.get_write_buffer_size()
            self.due = self.extend_deadline(self.due, self._unwritten - unwritten)
            self._unwritten = unwritten
        if self.now() >= self.due:
            self.due = math.inf
            waiting.set_exception(TimeoutError())

    def write(self, data: bytes) -> Awaitable[None] | None:
        transport = self._transport
        try:
            transport.write(data)
        except RuntimeError as error:  # uvloop raises it if the connection is lost; asyncio ignores the call
            if not transport.is_closing():
                raise
            raise BrokenPipeError("the connection is lost") from error
        if self._writer is not None:
            return self._written(self._writer)
        if transport.is_closing():
            raise BrokenPipeError("the connection is lost")
        return self.checkpoint() if len(data) >= LARGE_WRITE else None

    async def _written(self, writer: asyncio.Future[None]) -> None:
        self._unwritten = self._transport.get_write_buffer_size()
        self.due = due = self.now() + self.limits.write_timeout
        self._timekeeper.wake_by(due)
        await writer
        if self._transport.is_closing():
            raise BrokenPipeError("the connection is lost")

    def checkpoint(self) -> Awaitable[None]:
        return asyncio.sleep(0)

    def wake(self) -> None:
        self.woken = True
        self._end_wait()

    def _end_wait(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def peer(self) -> Peer:
        return to_peer(self._transport.get_extra_info("peername"))

    def fileno(self) -> int:
        found = self._transport.get_extra_info("socket")
        return -1 if found is None else int(found.fileno())

    def half_close(self) -> None:
        if not self._transport.is_closing():
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    def abort(self) -> None:
        self._transport.abort()
        self._end()


class Listener(adapters.Listener):
    """The value of the ``serve`` context: the address and port, and methods to close the listener.

    For example:

        async with on_asyncio.serve_smtp(session, settings) as listener:
            await asyncio.sleep(3600)
            await listener.aclose()  # no new connections; sessions have the grace period to end
    """

    _server: asyncio.Server

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[adapters.ListenerOptions]) -> None:
        super().__init__(context, **options)
        self._deadline = math.inf

    @contextlib.asynccontextmanager
    async def listen(
        self, session: Session[E], build: adapters.MachineFactory[E], host: str, port: int, *, reuse_port: bool
    ) -> AsyncGenerator[None]:
        loop = asyncio.get_running_loop()
        self.turns = _turns_of(loop)
        timekeeper = _Timekeeper(loop, self._connections)

        def made(stream: TransportStream) -> None:
            if self.closing:
                stream.abort()
            else:
                self._connections[stream] = None
                stream.task = loop.create_task(self.handle(stream, session, build), name=_TASK_NAME)

        factory = self._stream_factory(loop, made, timekeeper)
        # If create_server() itself started to listen, a cancellation during its last step would leave the sockets open.
        self._server = await loop.create_server(
            factory, host, port, reuse_port=reuse_port, start_serving=False, backlog=ACCEPTS_PER_TURN
        )
        try:
            self.address, self.port = self._server.sockets[0].getsockname()[:2]
            await self._server.start_serving()
            for each in self._server.sockets:
                with socket.fromfd(each.fileno(), each.family, each.type) as duplicate:
                    duplicate.listen(_BACKLOG)
            yield
        finally:
            try:
                await self.aclose()
            finally:
                timekeeper.set_timer(math.inf)

    def _stream_factory(
        self, loop: asyncio.AbstractEventLoop, made: Callable[[TransportStream], None], timekeeper: Timekeeper
    ) -> Callable[[], asyncio.BaseProtocol]:
        """Return the function that makes the stream of each connection, or a protocol that passes data to one.

        *made* must be called with the stream when it is connected.
        """
        return lambda: TransportStream(loop, self.limits, made, timekeeper)

    def is_stray_cancellation(self, error: BaseException) -> bool:
        task = asyncio.current_task()
        return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()

    def stop_accepting(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._server.sockets:
            with contextlib.suppress(NotImplementedError):  # not on the loop of Windows
                loop.remove_reader(each)
        # asyncio accepts a connection in one turn of the loop and makes its transport in the next.  If the server is
        # closed in between, asyncio leaves the connection open.
        loop.call_soon(self._server.close)
        self._deadline = min(self._deadline, loop.time() + self.grace)

    async def aclose(self) -> None:
        self.shut_down()
        try:
            await asyncio.sleep(0)  # until the server is closed
            if tasks := self._tasks():
                left = self._deadline - asyncio.get_running_loop().time()
                await asyncio.wait(tasks, timeout=max(left, 0.0))
        finally:
            await self._cancel_sessions()

    def _tasks(self) -> set[asyncio.Task[None]]:
        """Return the tasks of all connections.  They are not kept in a set of their own, to save memory."""
        return {cast(TransportStream, stream).task for stream in self._connections}

    async def _cancel_sessions(self) -> None:
        """Cancel the sessions that have not ended, and wait for them, as on trio, even if the caller is cancelled."""
        cancelled: asyncio.CancelledError | None = None
        left = self._tasks()
        for task in left:
            task.cancel()
        while left:
            try:
                _, left = await asyncio.wait(left)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


async def _look_up(host: str, port: int) -> list[str]:
    """Return the IP addresses of *host*, the preferred one first.  Raises OSError."""
    try:
        return resolve(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:  # not an IP address
        return await LOOKUPS.run(lambda: resolve(host, port))


async def _open_stream(host: str, port: int, local_address: str | None, limits: Limits) -> Stream:
    loop = asyncio.get_running_loop()
    local = (local_address, 0) if local_address else None
    errors: list[OSError] = []
    async with asyncio.timeout(limits.connect_timeout):
        for address in await _look_up(host, port):
            try:
                _, stream = await loop.create_connection(
                    lambda: TransportStream(loop, limits), address, port, local_addr=local
                )
            except OSError as error:
                errors.append(error)
            else:
                return stream
    raise _error_of_attempts(errors, host)


def _error_of_attempts(errors: list[OSError], host: str) -> OSError:
    """Return the error of each address that was tried, if it is the same, or else one without a number."""
    if len({each.errno for each in errors}) == 1:
        return errors[0]
    return OSError(f"cannot connect to any address of {host}: {'; '.join(map(str, errors))}")


serve = adapters.make_serve(Listener)
serve_smtp = adapters.make_serve_smtp(serve)
serve_pop3 = adapters.make_serve_pop3(serve)
connect = adapters.make_connect(_open_stream)
