"""connect(): its timeouts, its cancellation, and the socket that it owns from the start."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Iterator

import anyio
import pytest

from mailauth import smtp
from mailauth_io.adapters import Limits
from tests.io import loops
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
