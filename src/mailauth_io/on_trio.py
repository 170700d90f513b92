"""The adapter for trio: a SocketStream and one task per connection, in a nursery per listener.

Knows the loop and its sockets; the pump, TLS and the end of a connection are in ``_adapter``.  Contains no protocol.
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


class _Timekeeper:
    """Ends the waits that last too long, for all streams of a run: a cancel scope for each wait would cost too much."""

    RESOLUTION: Final = 0.1
    """Least seconds between two looks at all streams, unless a wait begins that is due sooner."""

    def __init__(self) -> None:
        self.streams: set[_Stream] = set()
        self._scope = trio.CancelScope()
        self._next = math.inf

    def wake_by(self, due: float) -> None:
        """A wait begins that has to end by *due*."""
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
    """A SocketStream whose waits end in time, or when somebody calls.

    What one call can do goes to its socket directly: the stream's own bookkeeping costs a sixth of a message.
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
        except OSError:  # reset: nothing more will come
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
            raise BrokenPipeError("the connection is gone") from error
        finally:
            self.due = math.inf

    async def _write_on(self, data: memoryview) -> None:
        """What one call could not take: the time to do it is renewed as far as it goes on."""
        limits = self._limits
        while data:
            sent = await self._socket.send(data)
            data = data[sent:]
            self.due = min(trio.current_time() + limits.write_timeout, self.due + sent / limits.min_rate)

    def expire(self) -> None:
        """The wait that is under way has lasted too long."""
        self.due = math.inf
        self._expired = True
        self._interrupt()

    def _interrupt(self) -> None:
        # This closes nothing: whoever waits for the socket gets a ClosedResourceError.
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
    """What ``serve`` gives: where it listens, and how to end it."""

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        super().__init__(context, **options)
        self._accepting = trio.CancelScope()
        self._sessions = trio.CancelScope(shield=True)  # a cancelled server ends its sessions orderly, too
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
    """``trio.open_tcp_listeners`` for a port that other processes listen on, too."""
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
    sockets = await (_shared_listeners if reuse_port else trio.open_tcp_listeners)(port, host=host)
    listener.address, listener.port = sockets[0].socket.getsockname()[:2]
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener._listen, sockets, session, build)
        try:
            yield listener
        except Exception as error:
            failure = error  # raised below, lest the nursery wrap it in a group
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
    """Connect *machine*, or what it builds when it is a function of the TLS that the connection starts in.

    Raises OSError when the connection, or with *implicit_tls* its handshake, fails.  The certificate must be good for
    *server_hostname*, which is *host* unless given; *local_address* is the address to come from.
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
