"""The recording proxy forwards and records all bytes unchanged, and the server sees the client's address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mailauth_io.methods.proxy import RecordingProxy


@contextmanager
def server(serve: Callable[[socket.socket, str], None]) -> Iterator[int]:
    """Listen on loopback, and pass the only connection to *serve*.  Yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, (address, _) = listener.accept()
            with connection:
                serve(connection, address)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_proxy_forwards_and_records_all_bytes() -> None:
    question, answer = bytes(range(256)) * 4096, bytes(range(255, -1, -1)) * 4096
    received: list[bytes] = []

    def serve(connection: socket.socket, address: str) -> None:
        received.append(read_all(connection))
        connection.sendall(answer)

    with server(serve) as port, RecordingProxy("127.0.0.1", port) as proxy:
        with connect(proxy.port) as client:
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == answer
        proxy.close()
        (conversation,) = proxy.record
    assert received == [question]
    assert (conversation.from_client, conversation.from_server) == (question, answer)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_the_server_sees_the_address_of_the_client(source: str) -> None:
    seen: list[str] = []
    with (
        server(lambda connection, address: seen.append(address)) as port,
        RecordingProxy("127.0.0.1", port) as proxy,
        connect(proxy.port, source) as client,
    ):
        assert read_all(client) == b""
    assert seen == [source]


def test_close_by_the_server_is_forwarded_to_the_client() -> None:
    def serve(connection: socket.socket, address: str) -> None:
        connection.sendall(b"421 later\r\n")

    with (
        server(serve) as port,
        RecordingProxy("127.0.0.1", port) as proxy,
        connect(proxy.port) as client,
    ):
        assert read_all(client) == b"421 later\r\n"


def test_client_connection_is_closed_if_the_server_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # reserves a port without listening on it
        with RecordingProxy("127.0.0.1", taken.getsockname()[1]) as proxy, connect(proxy.port) as client:
            assert client.recv(1) == b""
        assert proxy.record == []


def test_close_is_idempotent() -> None:
    with RecordingProxy("127.0.0.1", 9) as proxy:
        proxy.close()
        proxy.close()
