"""An adapter for blocking sockets and threads: one thread for each connection.

Its coroutines never suspend: where the other adapters wait for an event loop, this one blocks its thread.  So ``run()``
runs any of them to its end, and a session may call blocking functions:

    async def main() -> None:
        async with serve_smtp(session, settings, port=2525):
            threading.Event().wait()

    run(main())
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar, Unpack

from mailauth_io import adapters
from mailauth_io.adapters import READ_SIZE, ConnectionLimiter, Limits, MachineFactory, Peer, Session

E = TypeVar("E")
T = TypeVar("T")

POLL_SECONDS = 0.1
"""Seconds between two checks of the accepting thread whether the listener is closing."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* in this thread.  It may await only what this adapter provides."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("only coroutines of this adapter can be awaited in a thread; call a blocking function instead")


class Stream(adapters.Stream):
    """A non-blocking socket; a selector waits for it, and for ``_alarm``, which ``wake()`` writes to."""

    now = staticmethod(time.monotonic)

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        super().__init__(limits)
        self.owner = threading.current_thread()
        self._socket = connection
        self._alarm, self._bell = socket.socketpair()
        for each in (self._socket, self._alarm, self._bell):
            each.setblocking(False)

    def _wait(self, event: int, due: float, *others: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, event)
            for each in others:
                selector.register(each, selectors.EVENT_READ)
            if not selector.select(max(due - self.now(), 0.0)):
                raise TimeoutError

    async def wait_readable(self, due: float) -> None:
        if not (self.unread or self.ended or self.woken):
            self._wait(selectors.EVENT_READ, due, self._alarm)
            try:
                self.unread = self._socket.recv(READ_SIZE)
                self.ended = not self.unread
            except BlockingIOError:  # only wake() was called
                pass
            except OSError:  # reset: no more data will arrive
                self.ended = True
        with contextlib.suppress(OSError):
            self._alarm.recv(READ_SIZE)  # a call of wake() between this line and the next ends the next wait
        self.woken = False

    async def write(self, data: bytes) -> None:
        left = memoryview(data)
        due = self.now() + self.limits.write_timeout
        while left:
            try:
                sent = self._socket.send(left)
            except BlockingIOError:
                self._wait(selectors.EVENT_WRITE, due)
            else:
                left = left[sent:]
                due = self.extend_deadline(due, sent)

    async def checkpoint(self) -> None:
        """Do nothing: threads take turns anyway."""

    def wake(self) -> None:
        self.woken = True
        with contextlib.suppress(OSError):  # it was called many times before, or the connection is closed
            self._bell.send(b"\0")

    def peer(self) -> Peer:
        return adapters.to_peer(self._socket.getpeername())

    def fileno(self) -> int:
        return self._socket.fileno()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        self.ended = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends a wait of the owner
        if threading.current_thread() is self.owner:  # in another thread, the owner may be using the sockets
            for each in (self._socket, self._alarm, self._bell):
                each.close()


class Limiter(ConnectionLimiter):
    """Connections of several threads are counted one at a time."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._lock = threading.Lock()

    def acquire(self, address: str) -> bool:
        with self._lock:
            return super().acquire(address)

    def release(self, address: str) -> None:
        with self._lock:
            super().release(address)


class Listener(adapters.Listener):
    """One thread accepts, and each connection has its own thread."""

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[adapters.ListenerOptions]) -> None:
        if options["limiter"] is None:
            options["limiter"] = Limiter(options["limits"])
        super().__init__(context, **options)
        self._deadline = float("inf")
        self._threads: dict[adapters.Stream, threading.Thread] = {}

    @contextlib.asynccontextmanager
    async def listen(
        self, session: Session[E], build: MachineFactory[E], host: str, port: int, *, reuse_port: bool
    ) -> AsyncGenerator[None, None]:
        with socket.create_server((host, port), reuse_port=reuse_port) as listening:
            listening.settimeout(POLL_SECONDS)
            self.address, self.port = listening.getsockname()[:2]
            self._accepting = threading.Thread(target=self._accept, args=(listening, session, build))
            self._accepting.start()
            try:
                yield
            finally:
                await self.aclose()

    def _accept(self, listening: socket.socket, session: Session[E], build: MachineFactory[E]) -> None:
        while not self.closing:
            try:
                stream = Stream(listening.accept()[0], self.limits)
            except TimeoutError:
                continue
            except OSError:  # too many file descriptors, for example
                time.sleep(POLL_SECONDS)
                continue
            stream.owner = threading.Thread(target=run, args=(self.handle(stream, session, build),))
            self._threads[stream] = stream.owner
            stream.owner.start()

    def connection_ended(self, stream: adapters.Stream) -> None:
        super().connection_ended(stream)
        del self._threads[stream]

    def stop_accepting(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + self.grace)

    async def aclose(self) -> None:
        self.shut_down()
        self._accepting.join()
        for thread in list(self._threads.values()):
            thread.join(max(self._deadline - time.monotonic(), 0.0))
        for stream, thread in list(self._threads.items()):
            stream.abort()  # ends the session if it waits for its peer; one that waits for something else is awaited
            thread.join()


async def open_stream(host: str, port: int, local_address: str | None, limits: Limits) -> Stream:
    source = (local_address, 0) if local_address else None
    return Stream(socket.create_connection((host, port), source_address=source), limits)


serve = adapters.make_serve(Listener)
serve_smtp = adapters.make_serve_smtp(serve)
serve_pop3 = adapters.make_serve_pop3(serve)
connect = adapters.make_connect(open_stream)
