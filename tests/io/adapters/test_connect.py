"""connect(): its timeouts, its cancellation, the lookup of the name, and the socket that it owns from the start."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import attrs
import pytest
import trio

from mailauth import smtp
from mailauth_io import _daemon_threads
from mailauth_io.adapters import Limits
from mailauth_io.client import ConnectionFailed, sync
from tests.io import loops
from tests.io.grant_stores import on_both_loops as on_each_loop
from tests.io.line_echo import on_both_loops
from tests.io.tls import client_context


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port that does not answer: the system drops the packets of new connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listener.getsockname()[1]
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """A server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


@on_both_loops
async def test_host_that_does_not_answer_raises_timeout_error(loop: loops.Loop) -> None:
    with full_backlog() as port, pytest.raises(TimeoutError):
        await loop.adapter.connect(smtp.ClientConnection(), "127.0.0.1", port, limits=Limits(connect_timeout=0.05))
    gc.collect()  # a socket left open is a ResourceWarning, which fails the test


async def connect(loop: loops.Loop, listener: socket.socket, limits: Limits) -> None:
    host, port = listener.getsockname()[:2]
    await loop.adapter.connect(
        lambda tls: smtp.ClientConnection(tls=tls),
        host,
        port,
        ssl_context=client_context(),
        implicit_tls=True,
        limits=limits,
    )


@on_both_loops
async def test_silent_handshake_raises_timeout_error_and_closes_the_socket(loop: loops.Loop) -> None:
    with silent() as listener:
        with pytest.raises(TimeoutError):
            await connect(loop, listener, Limits(handshake_timeout=0.05))
        await peer_is_closed(loop, listener)


@on_both_loops
async def test_cancelled_connect_closes_the_socket(loop: loops.Loop) -> None:
    """It is cancelled in the handshake."""
    with silent() as listener:

        def handshake_begins() -> socket.socket:
            connection, _ = listener.accept()
            connection.settimeout(20)
            assert connection.recv(1)
            return connection

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect, loop, listener, Limits())
            connection = await loop.in_thread(handshake_begins)
            tasks.cancel_scope.cancel()
        await loop.in_thread(read_to_end, connection)


def read_to_end(connection: socket.socket) -> None:
    """Check that the client closes *connection*."""
    with connection, contextlib.suppress(ConnectionError):  # closed with a reset
        while connection.recv(4096):
            pass


async def peer_is_closed(loop: loops.Loop, listener: socket.socket) -> None:
    """Check that the client of the waiting connection has closed it."""

    def accept_and_read() -> None:
        connection, _ = listener.accept()
        connection.settimeout(20)
        read_to_end(connection)

    await loop.in_thread(accept_and_read)


@attrs.define
class NameServer:
    """Looks up names in place of the system.  It answers for ``hung<number>.test`` only when it is told to."""

    waiting: int = 0
    answered: int = 0
    answer: threading.Event = attrs.field(factory=threading.Event)
    addresses: tuple[str, ...] = ("127.0.0.1",)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def look_up(
        self, name: str | bytes, port: int, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        host = name if isinstance(name, str) else name.decode()  # trio encodes it
        if not host.endswith(".test"):
            return GETADDRINFO(host, port, family, type, proto, flags)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        if host.startswith("hung"):
            with self._lock:
                self.waiting += 1
            self.answer.wait(20)
            with self._lock:
                self.waiting -= 1
                self.answered += 1
        return [row for each in self.addresses for row in GETADDRINFO(each, port, family, type, proto, flags)]


GETADDRINFO = socket.getaddrinfo
HUNG = 33  # more than the executor of asyncio has threads, and less than trio allows


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.look_up)
    try:
        yield server
    finally:
        server.answer.set()


async def connect_to(loop: loops.Loop, host: str, port: int, timeout: float = 20.0) -> None:
    limits = Limits(connect_timeout=timeout)
    connection = await loop.adapter.connect(smtp.ClientConnection(), host, port, limits=limits)
    connection.abort()


@on_each_loop
async def test_names_that_are_not_answered_do_not_delay_another(loop: loops.Loop, names: NameServer) -> None:
    with silent() as listener:
        port: int = listener.getsockname()[1]
        async with anyio.create_task_group() as tasks:
            for number in range(HUNG):
                tasks.start_soon(connect_to, loop, f"hung{number}.test", port)
            while names.waiting < HUNG:
                await anyio.sleep(0.001)
            await connect_to(loop, "good.test", port)
            assert names.answered == 0
            tasks.cancel_scope.cancel()


@on_each_loop
async def test_lookup_that_is_abandoned_keeps_its_place_until_it_ends(
    loop: loops.Loop, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_daemon_threads.LOOKUPS, "most", 1)
    if loop.name == "trio":
        trio.to_thread.current_default_thread_limiter().total_tokens = 1
    with silent() as listener:
        port: int = listener.getsockname()[1]
        for host in ("hung1.test", "hung2.test"):
            with pytest.raises(TimeoutError):
                await connect_to(loop, host, port, 0.05)
        assert (names.waiting, names.answered) == (1, 0)
        names.answer.set()
        await connect_to(loop, "good.test", port)
        assert (names.waiting, names.answered) == (0, 1)


@on_each_loop
async def test_every_address_of_a_name_is_tried(loop: loops.Loop, names: NameServer) -> None:
    names.addresses = ("127.0.0.3", "127.0.0.1")  # nothing listens at the first one
    with silent() as listener:
        port: int = listener.getsockname()[1]
        await connect_to(loop, "good.test", port)
    with pytest.raises(ConnectionRefusedError):
        await connect_to(loop, "good.test", port)
    with pytest.raises(socket.gaierror, match="unknown name"):
        await connect_to(loop, "unknown.test", port)


def test_call_without_an_event_loop_does_not_wait_for_a_name_server(names: NameServer) -> None:
    """Nor does the end of the process: the thread is a daemon."""
    with pytest.raises(ConnectionFailed, match="timed out"):
        sync.submit(b"", "alice@example.org", ["bob@example.org"], host="hung.test", tls="none", timeout=0.05)
    assert (names.waiting, names.answered) == (1, 0)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "mailauth lookup"] == [True]
