"""The adapter for trio: a SocketStream and one task for each connection, in one nursery for each listener.

This module contains what depends on the loop and its sockets; ``_adapter`` contains the rest.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Collection
from typing import Final, TypeVar, Unpack

import trio

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


class _Timekeeper:
    """Enforces the deadlines of all streams in a run of the loop.  A cancel scope for each wait would be too slow."""

    RESOLUTION: Final = 0.1
    """Minimum seconds between two checks of all streams, unless a wait with an earlier deadline begins."""

    def __init__(self) -> None:
        self.streams: set[_Stream] = set()
        self._scope = trio.CancelScope()
        self._next = math.inf

    def wake_by(self, due: float) -> None:
        """Check the streams no later than *due*."""
        if due < self._next:
            self._next = self._scope.deadline = due

    async def run(self) -> None:
        while True:
            now = trio.current_time()
            soonest = math.inf
            for stream in self.streams:
                if stream.due <= now:
                    stream.expire()
                elif stream.due < soonest:
                    soonest = stream.due
            self._next = max(soonest, now + self.RESOLUTION)
            with trio.CancelScope(deadline=self._next) as self._scope:
                await trio.sleep_forever()


_timekeeper: Final[trio.lowlevel.RunVar[_Timekeeper]] = trio.lowlevel.RunVar("mailauth_io.timekeeper")


def _current_timekeeper() -> _Timekeeper:
    try:
        return _timekeeper.get()
    except LookupError:
        timekeeper = _Timekeeper()
        _timekeeper.set(timekeeper)
        trio.lowlevel.spawn_system_task(timekeeper.run, name="mailauth_io timekeeper")
        return timekeeper


class _Stream(Stream):
    """A SocketStream whose waits have deadlines and can be woken.

    Its socket is used directly, since SocketStream takes a sixth of the time of a message.
    """

    __slots__ = (
        "_aborted",
        "_expired",
        "_limits",
        "_reading",
        "_socket",
        "_timekeeper",
        "_unread",
        "_woken",
        "due",
        "started_at",
    )

    now = staticmethod(trio.current_time)

    def __init__(self, stream: trio.SocketStream, limits: Limits) -> None:
        self.started_at = trio.current_time()
        self._socket = stream.socket
        self._limits = limits
        self._reading = False
        self._unread: bytes | None = None
        self._woken = False
        self._expired = False
        self._aborted = False
        self.due = math.inf
        self._timekeeper = _current_timekeeper()
        self._timekeeper.streams.add(self)

    def take(self) -> bytes | None:
        data, self._unread = self._unread, None
        return data

    async def wait_readable(self, due: float) -> None:
        if self._woken or self._unread is not None:
            self._woken = False
            return
        self._expired = False
        self.due = due
        self._timekeeper.wake_by(due)
        self._reading = True
        try:
            self._unread = await self._socket.recv(READ_SIZE)
        except trio.ClosedResourceError:
            if self._aborted:
                self._unread = b""
            elif self._expired:
                self._expired = False
                raise TimeoutError from None
            self._woken = False
        except OSError:  # reset: no more data will arrive
            self._unread = b""
        finally:
            self._reading = False
            self.due = math.inf

    async def write(self, data: bytes) -> None:
        self.due = due = trio.current_time() + self._limits.write_timeout
        self._timekeeper.wake_by(due)
        try:
            sent = await self._socket.send(data)
            if sent < len(data):
                await self._write_on(memoryview(data)[sent:])
        except trio.ClosedResourceError as error:
            raise BrokenPipeError("the connection is lost") from error
        finally:
            self.due = math.inf

    async def _write_on(self, data: memoryview) -> None:
        """Write the data that the first call did not send.  Progress extends the deadline (``Limits.min_rate``)."""
        limits = self._limits
        while data:
            sent = await self._socket.send(data)
            data = data[sent:]
            self.due = min(trio.current_time() + limits.write_timeout, self.due + sent / limits.min_rate)

    def expire(self) -> None:
        """End the pending wait: its deadline has passed."""
        self.due = math.inf
        self._expired = True
        self._interrupt()

    def _interrupt(self) -> None:
        # This closes nothing: it raises ClosedResourceError in the task that waits for the socket.
        trio.lowlevel.notify_closing(self._socket)

    def checkpoint(self) -> Awaitable[None]:
        return trio.lowlevel.checkpoint()

    def put_back(self, data: bytes) -> None:
        if data:
            self._unread = data + (self._unread or b"")

    def drop_unread(self) -> int:
        dropped, self._unread = len(self._unread or b""), None
        return dropped

    def wake(self) -> None:
        self._woken = True
        if self._reading and not self._aborted:
            self._interrupt()

    def fileno(self) -> int:
        return self._socket.fileno()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(trio.socket.SHUT_WR)

    def abort(self) -> None:
        self._aborted = True
        self._timekeeper.streams.discard(self)
        self._socket.close()


class Listener(_listener.Listener):
    """The value of the ``serve`` context: the address and port, and methods to close the listener."""

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        super().__init__(context, **options)
        self._accepting = trio.CancelScope()
        self._sessions = trio.CancelScope(shield=True)  # the sessions can end normally after a cancellation
        self._ended = trio.Event()

    async def _listen(self, sockets: list[trio.SocketListener], session: Session[E], build: MachineFactory[E]) -> None:
        def one(stream: trio.SocketStream) -> Awaitable[None]:
            try:
                peer = to_peer(stream.socket.getpeername())
            except OSError:
                return trio.aclose_forcefully(stream)
            return self._run(_Stream(stream, self._limits), peer, session, build)

        try:
            with self._sessions:
                async with trio.open_nursery() as nursery:
                    with self._accepting:
                        await trio.serve_listeners(one, sockets, handler_nursery=nursery)
        finally:
            self._ended.set()

    def _stop_accepting(self) -> None:
        self._accepting.cancel()
        self._sessions.deadline = min(self._sessions.deadline, trio.current_time() + self._grace)

    async def aclose(self) -> None:
        self.shut_down()
        await self._ended.wait()


async def _shared_listeners(port: int, *, host: str) -> list[trio.SocketListener]:
    """Like ``trio.open_tcp_listeners``, with SO_REUSEPORT: other processes may listen on the same port."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE)
    with contextlib.ExitStack() as opened:
        made = [
            opened.enter_context(
                socket.create_server(address, family=family, backlog=socket.SOMAXCONN, reuse_port=True)
            )
            for family, _, _, _, address in found
        ]
        opened.pop_all()
    return [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in made]


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
    sockets = await (_shared_listeners if reuse_port else trio.open_tcp_listeners)(port, host=host)
    listener.address, listener.port = sockets[0].socket.getsockname()[:2]
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener._listen, sockets, session, build)
        try:
            yield listener
        except Exception as error:
            failure = error  # raised after the nursery, which would wrap it in a group
        finally:
            listener.shut_down()
    if failure is not None:
        raise failure


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
    stream = await trio.open_tcp_stream(host, port, local_address=local_address)
    peer = to_peer(stream.socket.getpeername())
    return await start_client(
        machine,
        _Stream(stream, CLIENT_LIMITS),
        peer,
        ssl_context,
        implicit_tls=implicit_tls,
        hostname=server_hostname or host,
    )
