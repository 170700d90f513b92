"""A TCP proxy that forwards all bytes unchanged and keeps a copy.

It connects to the server from the client's address, so that the server sees the same peer as without the proxy.  It
does not parse any protocol: TLS and STARTTLS are forwarded like other data.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Final, Self

from .wire import Conversation

TIMEOUT: Final = 10.0
"""Seconds that ``close()`` waits for connections to end before it closes them."""


class _Passage:
    """One forwarded connection: two sockets, two threads, two copies of the data."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._from_client, self._from_server = bytearray(), bytearray()
        self._threads = [
            threading.Thread(target=self._pass_on, args=arguments, daemon=True)
            for arguments in ((client, server, self._from_client), (server, client, self._from_server))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, copy: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                copy += data
                target.sendall(data)
        with contextlib.suppress(OSError):  # after an error too, the other end must see the end of the stream
            target.shutdown(socket.SHUT_WR)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT)
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    @property
    def conversation(self) -> Conversation:
        return Conversation(from_client=bytes(self._from_client), from_server=bytes(self._from_server))


class RecordingProxy:
    """A context manager that listens on a free port of *host*, and forwards to *port* of *host*.

    Its exit waits for the connections to end, so it must not run in the thread of the server.  After the exit the
    record is complete.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._passages: list[_Passage] = []
        self._closing = False
        self._listener = socket.create_server((host, 0))
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def record(self) -> list[Conversation]:
        """The data forwarded so far, one conversation per connection, in the order in which they were accepted."""
        return [passage.conversation for passage in self._passages]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and wait for the connections to end.  A second call does nothing."""
        if self._closing:
            return
        self._closing = True
        socket.create_connection(self._listener.getsockname()[:2], TIMEOUT).close()  # wakes accept() on all platforms
        self._accepting.join()
        self._listener.close()
        for passage in self._passages:
            passage.finish()

    def _accept(self) -> None:
        while True:
            client, (address, *_) = self._listener.accept()
            if self._closing:
                client.close()
                return
            try:
                server = socket.create_connection(self._target, TIMEOUT, source_address=(address, 0))
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._passages.append(_Passage(client, server))
