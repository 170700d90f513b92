"""The adapter for trio: a socket and one task for each connection, in one nursery for each listener.

This module contains what depends on the loop and its sockets; ``adapters`` contains the rest.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable
from typing import Final, TypeVar, Unpack, cast

import trio

from . import adapters
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


class _Timekeeper(Timekeeper):
    """The deadlines of all streams in a run of the loop.

    A cancel scope for each wait would add 40 % to the cost of a write and a read.
    """

    __slots__ = ("_scope", "streams")

    def __init__(self) -> None:
        self.streams: dict[_Stream, None] = {}  # takes half of the memory of a set
        super().__init__(self.streams)
        self._scope = trio.CancelScope()

    def set_timer(self, when: float) -> None:
        self._scope.deadline = when

    async def run(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.check(trio.current_time())) as self._scope:
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


class _Iterations(trio.abc.Instrument):
    """Reports each iteration of the loop to the turns."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def before_io_wait(self, timeout: float) -> None:
        self._turns.fresh = True


_turns: Final[trio.lowlevel.RunVar[Turns]] = trio.lowlevel.RunVar("mailauth_io.turns")


def _current_turns() -> Turns:
    """Return the turns of the running loop, which its listeners share."""
    try:
        return _turns.get()
    except LookupError:
        turns = Turns(trio.Event)
        _turns.set(turns)
        trio.lowlevel.add_instrument(_Iterations(turns))
        return turns


class _Stream(Stream, trio.abc.AsyncResource):
    """A socket whose waits have deadlines and can be woken.

    The socket is read and written directly: trio's own sockets try to read before they wait, and let other tasks run
    after each write.  That takes a third of the CPU time of a message.
    """

    __slots__ = ("_aborted", "_expired", "_reading", "_socket", "_timekeeper", "due")

    now = staticmethod(trio.current_time)

    def __init__(self, stream: trio.SocketStream, limits: Limits) -> None:
        super().__init__(limits)
        theirs = stream.socket
        self._socket = socket.socket(theirs.family, theirs.type, theirs.proto, theirs.detach())
        self._socket.setblocking(False)
        self._reading = False
        self._expired = False
        self._aborted = False
        self.due = math.inf
        self._timekeeper = _current_timekeeper()
        self._timekeeper.streams[self] = None

    async def wait_readable(self, due: float) -> None:
        if self.woken or self.unread or self.ended:
            self.woken = False
            return
        self._expired = False
        self.due = due
        self._timekeeper.wake_by(due)
        self._reading = True
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    self.unread = self._socket.recv(READ_SIZE)
                except BlockingIOError:  # the system was mistaken, or another process has read the data
                    continue
                self.ended = not self.unread
                return
        except trio.ClosedResourceError:
            if self._expired and not self._aborted:
                self._expired = False
                raise TimeoutError from None
            self.woken = False
        except OSError:  # reset: no more data will arrive
            self.ended = True
        finally:
            self._reading = False
            self.due = math.inf

    def write(self, data: bytes) -> Awaitable[None] | None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            return self._write_on(memoryview(data)[sent:])
        return self.checkpoint() if sent >= LARGE_WRITE else None

    async def _write_on(self, data: memoryview) -> None:
        """Write data that the system did not accept at once.  Progress extends the deadline (``Limits.min_rate``)."""
        self._expired = False
        self.due = due = trio.current_time() + self.limits.write_timeout
        self._timekeeper.wake_by(due)
        try:
            while data:
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    sent = self._socket.send(data)
                except BlockingIOError:
                    continue
                data = data[sent:]
                self.due = self.extend_deadline(self.due, sent)
        except trio.ClosedResourceError as error:
            if self._expired and not self._aborted:
                self._expired = False
                raise TimeoutError from None
            raise BrokenPipeError("the connection is lost") from error
        finally:
            self.due = math.inf

    def expire(self) -> None:
        """End the pending wait: its deadline has passed.

        A write whose socket has just become writable does not wait any more.  So the deadline stays until the write has
        ended, and the timekeeper calls this again if the write then waits and its deadline has still passed.
        """
        self._expired = True
        self._interrupt_wait()

    def _interrupt_wait(self) -> None:
        """Raise ClosedResourceError in the task that waits for the socket, which stays open.

        ``notify_closing()`` does only this: it is meant to be called before a socket is closed, but closes nothing.  It
        needs no cancel scope for each wait, and costs nothing until it is called (see ``_Timekeeper``).
        """
        trio.lowlevel.notify_closing(self._socket)

    def checkpoint(self) -> Awaitable[None]:
        return trio.lowlevel.checkpoint()

    def wake(self) -> None:
        self.woken = True
        if self._reading and not self._aborted:
            self._interrupt_wait()

    def peer(self) -> Peer:
        return to_peer(self._socket.getpeername())

    def fileno(self) -> int:
        return self._socket.fileno()

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        self._aborted = self.ended = True
        self._timekeeper.streams.pop(self, None)
        if self._socket.fileno() >= 0:
            self._interrupt_wait()
            self._socket.close()

    async def aclose(self) -> None:
        self.abort()


class _SocketListener(trio.abc.Listener[_Stream]):
    """Returns streams of this module, so that trio keeps no other object for each connection."""

    def __init__(self, listener: trio.SocketListener, limits: Limits) -> None:
        self._listener = listener
        self._limits = limits

    async def accept(self) -> _Stream:
        return _Stream(await self._listener.accept(), self._limits)

    async def aclose(self) -> None:
        await self._listener.aclose()


def _without_groups(error: BaseException) -> BaseException:
    """Return the only exception in *error*, a group; or else *error*."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _without_groups(group.exceptions[0]) if len(group.exceptions) == 1 else group


@contextlib.asynccontextmanager
async def _open_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery that raises a single exception as it is, and not in a group.

    It may be in several groups: ``trio.serve_listeners()`` has a nursery too.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
        return
    except BaseExceptionGroup as group:
        error = _without_groups(group)
        if error is group:
            raise
    raise error  # outside the except block: the group is not its context


class Listener(adapters.Listener):
    """The value of the ``serve`` context: the address and port, and methods to close the listener.

    For example:

        async with on_trio.serve_smtp(session, settings, port=0) as listener:
            client = await on_trio.connect(smtp.ClientConnection(), listener.address, listener.port)
    """

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[adapters.ListenerOptions]) -> None:
        super().__init__(context, **options)
        self._accepting = trio.CancelScope()
        self._sessions = trio.CancelScope(shield=True)  # the sessions can end normally after a cancellation
        self._ended = trio.Event()

    @contextlib.asynccontextmanager
    async def listen(
        self, session: Session[E], build: adapters.MachineFactory[E], host: str, port: int, *, reuse_port: bool
    ) -> AsyncGenerator[None]:
        self.turns = _current_turns()
        sockets = await (_shared_listeners if reuse_port else trio.open_tcp_listeners)(port, host=host)
        self.address, self.port = sockets[0].socket.getsockname()[:2]
        failure: BaseException | None = None
        async with _open_nursery() as nursery:
            nursery.start_soon(self._accept, sockets, session, build)
            try:
                yield
            except BaseException as error:
                if nursery.cancel_scope.cancel_called:
                    raise  # a session has raised the exception that ends the program
                failure = error  # raised after the nursery, which would wrap it in a group
            finally:
                self.shut_down()
        if failure is not None:
            raise failure

    async def _accept(
        self, sockets: list[trio.SocketListener], session: Session[E], build: adapters.MachineFactory[E]
    ) -> None:
        def one(stream: _Stream) -> Awaitable[None]:
            return self.handle(stream, session, build)

        listeners = [_SocketListener(each, self.limits) for each in sockets]
        try:
            with self._sessions:
                async with _open_nursery() as nursery:
                    with self._accepting:
                        await trio.serve_listeners(one, listeners, handler_nursery=nursery)
        finally:
            self._ended.set()

    def stop_accepting(self) -> None:
        self._accepting.cancel()
        self._sessions.deadline = min(self._sessions.deadline, trio.current_time() + self.grace)

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


async def _open_stream(host: str, port: int, local_address: str | None, limits: Limits) -> Stream:
    try:
        with trio.move_on_after(limits.connect_timeout):
            return _Stream(await trio.open_tcp_stream(host, port, local_address=local_address), limits)
    except OSError as error:
        raise _error_of_attempts(error) from None
    raise TimeoutError


def _error_of_attempts(error: OSError) -> OSError:
    """Return the error of each address that was tried, if it is the same, or else *error*, which has no number."""
    cause = error.__cause__
    attempts = cast("ExceptionGroup[Exception]", cause).exceptions if isinstance(cause, ExceptionGroup) else ()
    errors = [each for each in attempts if isinstance(each, OSError)]
    return errors[0] if len({each.errno for each in errors}) == 1 else error


serve = adapters.make_serve(Listener)
serve_smtp = adapters.make_serve_smtp(serve)
serve_pop3 = adapters.make_serve_pop3(serve)
connect = adapters.make_connect(_open_stream)
