"""A server with network faults in a thread of its own, whose clock may stand still; and what its clients see."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import math
import queue
import select
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, Self, TypeVarTuple

import attrs

from mailauth import ServerMachine, Tls
from mailauth_io import adapters
from mailauth_io.adapters import AsyncServerConnection, Limits, Peer
from mailauth_io.testing._network import Listener, Network
from tests.io.line_echo import Echo, EchoEvent, Ended, Line, dial
from tests.io.tls import client_context, server_context

Ts = TypeVarTuple("Ts")

TIMEOUT = 20.0
"""Seconds after which a test that waits in vain fails.  A passing test never waits so long."""

Build = Callable[[bytes, Tls | None], ServerMachine[Any]]


class _StandingSelector(selectors.DefaultSelector):
    """A selector that no timer wakes: only input does, and another thread that advances the clock."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0 if timeout == 0 else None)


class _Loop(asyncio.SelectorEventLoop):
    """A loop that remembers its timers; its clock may stand still until a test advances it."""

    def __init__(self, *, standing: bool) -> None:
        self.seconds = 0.0
        self._standing = standing
        self.timers: list[asyncio.TimerHandle] = []
        self.errors: list[object] = []
        super().__init__(_StandingSelector() if standing else None)
        self.set_exception_handler(lambda loop, context: self.errors.append(context))

    def time(self) -> float:
        return self.seconds if self._standing else super().time()

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    def pending(self, before: float = math.inf) -> list[asyncio.TimerHandle]:
        """Return the timers for a time before *before* that have neither run nor been cancelled."""
        return [each for each in self.timers if not each.cancelled() and self.time() < each.when() < before]


class RecordingEcho(Echo):
    """An Echo that records the pieces of data that it receives; ``b""`` is the end of the stream."""

    def __init__(self, *, entropy: bytes, tls: Tls | None = None) -> None:
        super().__init__(entropy=entropy, tls=tls, timeout=1e9)
        self.pieces: list[bytes] = []

    def receive_data(self, data: bytes) -> None:
        self.pieces.append(data)
        super().receive_data(data)


@attrs.define(eq=False, kw_only=True)
class FaultServer:
    """A running server."""

    network: Network
    loop: _Loop
    listener: Listener
    machines: list[RecordingEcho]
    ended: queue.Queue[object]
    """The reason of each session that has ended, or its exception."""
    connected: list[Peer]
    failed: list[tuple[Peer, OSError]]

    @property
    def port(self) -> int:
        return self.listener.port

    def call(self, function: Callable[[], Any]) -> Any:
        """Call *function* in the thread of the loop, and return its result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(TIMEOUT)

    def settle(self) -> None:
        """Wait until the server has done all that it can do at this time of its clock."""

        async def iterations() -> None:
            for _ in range(60):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(iterations(), self.loop).result(TIMEOUT)

    def advance(self, seconds: float) -> None:
        """Advance a clock that stands still."""

        def move() -> None:
            self.loop.seconds += seconds

        self.settle()
        self.call(move)
        self.settle()

    def advance_to_end(self) -> None:
        """Advance the clock until no connection is left: a reset waits until the client's system has all data."""
        due = time.monotonic() + TIMEOUT
        while not self.connected or self.call(lambda: self.listener.connected):
            assert time.monotonic() < due, "a connection is left"
            self.advance(0.1)

    def received(self) -> bytes:
        """Return what the machine of the first connection has received."""
        self.settle()
        return b"".join(self.machines[0].pieces)


async def echo(connection: AsyncServerConnection[EchoEvent], ended: queue.Queue[object]) -> None:
    try:
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, event.text)
            elif isinstance(event, Ended):
                ended.put(event.reason)
    except BaseException as error:
        ended.put(type(error))
        raise


@contextlib.contextmanager
def fault_server(
    *,
    standing: bool = False,
    tls: bool = False,
    protocol: Literal["SMTP", "POP3"] | None = None,
    session: Callable[[AsyncServerConnection[Any]], Any] | None = None,
    build: Build | None = None,
    limits: Limits | None = None,
) -> Iterator[FaultServer]:
    """Serve an Echo, or another machine, in a thread, and check that nothing is left when it ends.

    *standing*: its clock stands still.  *tls*: connections begin with a handshake.
    """
    started: Future[FaultServer] = Future()
    stopped = asyncio.Event()
    result: Future[None] = Future()
    machines: list[RecordingEcho] = []
    ended: queue.Queue[object] = queue.Queue()
    connected: list[Peer] = []
    failed: list[tuple[Peer, OSError]] = []
    network = Network()

    def build_echo(entropy: bytes, tls_session: Tls | None) -> ServerMachine[Any]:
        machines.append(RecordingEcho(entropy=entropy, tls=tls_session))
        return machines[-1]

    async def main(loop: _Loop) -> None:
        listener_type = functools.partial(
            Listener,
            network=network,
            protocol=protocol,
            on_connect=connected.append,
            on_tls_failure=lambda peer, error: failed.append((peer, error)),
        )
        async with adapters.make_serve(listener_type)(
            session or functools.partial(echo, ended=ended), build or build_echo, grace=0.0,
            ssl_context=server_context(), implicit_tls=tls, limits=limits or Limits(handshake_timeout=1e9),
        ) as listener:  # fmt: skip
            assert isinstance(listener, Listener)
            started.set_result(
                FaultServer(
                    network=network,
                    loop=loop,
                    listener=listener,
                    machines=machines,
                    ended=ended,
                    connected=connected,
                    failed=failed,
                )
            )
            await stopped.wait()
        assert not listener.connected
        assert loop.pending() == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert loop.errors == []

    def run() -> None:
        loop = _Loop(standing=standing)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main(loop))
        except BaseException as error:
            (result if started.done() else started).set_exception(error)
        else:
            result.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    server = started.result(TIMEOUT)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(stopped.set)
        result.result(TIMEOUT)


def connect(server: FaultServer, *, tls: bool = False) -> socket.socket:
    """Return a blocking client, inside TLS if *tls* is set.  It sends at once, even if data is not acknowledged."""
    client = dial(server.port)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return client
    try:
        return client_context().wrap_socket(client, server_hostname="localhost")
    except BaseException:
        client.close()
        raise


def read_exactly(client: socket.socket, size: int) -> bytes:
    """Read *size* bytes, or fewer if the stream ends."""
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def exchange(client: socket.socket, data: bytes, size: int) -> bytes:
    """Send *data* while reading *size* bytes, in one thread: one ssl object cannot be used in two."""
    received = b""
    client.setblocking(False)
    while len(received) < size:
        blocked = 0
        try:
            data = data[client.send(data[:65_536]) :] if data else b""
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            blocked += 1
        try:
            piece = client.recv(65_536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            blocked += 1
        else:
            if not piece:
                break
            received += piece
        if blocked == 2 or (blocked and not data):
            select.select([client], [client] if data else [], [], TIMEOUT)
    client.settimeout(TIMEOUT)
    return received


def arrived(server: FaultServer, client: socket.socket) -> bytes:
    """Return what has arrived at *client* when the server has done all that it can do now; the end is ``b""`` too."""
    server.settle()
    client.setblocking(False)
    data = b""
    try:
        while piece := client.recv(65_536):
            data += piece
    except BlockingIOError:
        pass
    finally:
        client.settimeout(TIMEOUT)
    return data


def read_to_end(client: socket.socket) -> tuple[bytes, type[OSError] | None]:
    """Return everything that arrives, and ConnectionResetError if the end is a reset, or None if it is a FIN."""
    data = b""
    while True:
        try:
            piece = client.recv(65_536)
        except ConnectionResetError as error:
            return data, type(error)
        if not piece:
            return data, None
        data += piece


class TlsByHand:
    """A TLS client that counts the bytes below TLS."""

    def __init__(self, server: FaultServer) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = client_context().wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._socket = dial(server.port)
        self._size = 0
        self._sent = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def exchange(self, lines: bytes, *, until: int) -> None:
        """Do a handshake, send *lines*, and read until *until* bytes have arrived."""
        while self._size < until:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._session.do_handshake()
                if not self._sent:
                    self._sent = True
                    self._session.write(lines)
                self._session.read(65_536)
            if self._outgoing.pending:
                self._socket.sendall(self._outgoing.read())
            piece = self._socket.recv(65_536)
            self._size += len(piece)
            self._incoming.write(piece)

    def read_to_end(self) -> tuple[int, type[OSError] | None]:
        """Return as the function of this name, but the number of all bytes so far."""
        data, error = read_to_end(self._socket)
        return self._size + len(data), error
