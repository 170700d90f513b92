"""A minimal protocol that uses every action: each line is a question, and its answer is sent back as a line.

Each test chooses the timeouts and the size of an answer, so none waits for the timeouts of a real protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, Unpack

import attrs
import pytest
import trio
import trio.testing

from mailauth import Action, CloseReason, Command, LocalProtocolError, NeedData, Notice, Question, Tls, TlsStarted, sasl
from mailauth._client import ClientMachine
from mailauth._machine import Phase
from mailauth._server import ServerMachine
from mailauth_io.adapters import ConnectOptions, Listener, ServeOptions, Session
from mailauth_io.adapters.connection import AsyncClientConnection, AsyncServerConnection
from tests.io import loops


@attrs.frozen(kw_only=True)
class Line(Command, Question[bytes]):
    """A line; the answer is sent back as a line."""

    text: bytes

    @property
    def unavailable(self) -> bytes:
        return b"unavailable"


@attrs.frozen(kw_only=True)
class Ended(Notice):
    """The session is about to be closed."""

    reason: CloseReason


EchoEvent: TypeAlias = Line | Ended | TlsStarted
ClientEvent: TypeAlias = Line | TlsStarted


class Echo(ServerMachine[EchoEvent]):
    """The server: sends a greeting, asks about every line, and sends ``bye`` at the end."""

    def __init__(self, *, entropy: bytes, tls: Tls | None = None, timeout: float = 300.0) -> None:
        super().__init__(entropy=entropy, tls=tls)
        self.timeout = timeout
        self._write(b"hello in TLS\r\n" if tls else b"hello\r\n", due=True)

    def _advance(self) -> EchoEvent | Action | None:
        line = self._input.take_line(1_000)
        if line is None:
            return self._need_more_data(NeedData(timeout=self.timeout))
        if line == b"QUIT":
            self._write(b"bye\r\n", due=True)
            self._close(CloseReason.QUIT)
            return Ended(reason=CloseReason.QUIT)
        self._question = question = Line(text=line)
        return question

    def _resolve(self, question: object, answer: object) -> None:
        if not isinstance(question, Line) or not isinstance(answer, bytes):
            raise LocalProtocolError("the answer to a Line must be bytes")
        if question.text == b"STARTTLS":
            self._write(b"go\r\n", due=True)
            self._expect_tls()
        else:
            self._write(answer + b"\r\n", due=True)

    def _send_shutdown_reply(self) -> None:
        self._write(b"closing: %s\r\n" % self._reason.name.encode(), due=True)

    def _on_tls_started(self, tls: Tls) -> None:
        self._events.append(self._drop_clear_text(tls))

    def _at_end_of_stream(self) -> None:
        self._close(CloseReason.PEER_CLOSED)
        self._events.append(Ended(reason=CloseReason.PEER_CLOSED))

    def _challenge(self, data: bytes) -> None:
        raise NotImplementedError

    def _accept_login(self, success: sasl.Success) -> None:
        raise NotImplementedError

    def _reject_login(self, reason: sasl.Refusal | sasl.Fault, *, counts: bool) -> None:
        raise NotImplementedError


class EchoClient(ClientMachine[ClientEvent]):
    """The client: its events are the lines of the server."""

    def __init__(self, *, tls: Tls | None = None, timeout: float = 300.0) -> None:
        super().__init__(tls=tls, max_unanswered=1_000)
        self.timeout = timeout

    def send(self, command: Command) -> None:
        self._check_open()
        if not isinstance(command, Line):
            raise LocalProtocolError("command must be a Line")
        self._write(command.text + b"\r\n", due=False)
        self._unanswered.append(command)

    def _advance(self) -> ClientEvent | Action | None:
        text = self._input.take_line(2_000_000)
        if text is None:
            return self._need_more_data(NeedData(timeout=self.timeout))
        answered = self._unanswered.popleft() if self._unanswered else None
        if answered == Line(text=b"STARTTLS"):
            self._phase = Phase.TLS_REPLY
        self._greeted = True
        return Line(text=text)

    def _begin_shutdown(self) -> None:
        self._write(b"QUIT\r\n", due=True)
        self._close(self._reason)

    def _on_tls_started(self, tls: Tls) -> None:
        self._events.append(TlsStarted(tls=tls, dropped=self._input.clear()))

    def _may_follow(self) -> bool:
        return True

    def _ends_session(self, command: Command) -> bool:
        return False

    def _check_login_allowed(self) -> None:
        raise NotImplementedError

    def _offers(self, mechanism: str) -> bool:
        raise NotImplementedError

    def _start_login(self, exchange: sasl.ClientExchange) -> None:
        raise NotImplementedError


def on_both_loops(test: Callable[[loops.Loop], Awaitable[None]]) -> Callable[[str], None]:
    """Run an async test on asyncio, on trio, and on asyncio with uvloop; its argument is the running Loop."""
    return _on(("asyncio", "trio", "uvloop"), test)


def not_on_uvloop(test: Callable[[loops.Loop], Awaitable[None]]) -> Callable[[str], None]:
    """As ``on_both_loops``, for a test that depends on when asyncio's own loop accepts and reads."""
    return _on(("asyncio", "trio"), test)


def _on(names: Sequence[str], test: Callable[[loops.Loop], Awaitable[None]]) -> Callable[[str], None]:
    @pytest.mark.parametrize("name", names)
    def run(name: str) -> None:
        async def main() -> None:
            await test(loops.current())

        loops.named(name).run(main)

    run.__doc__ = test.__doc__
    return run


def serving(
    loop: loops.Loop,
    session: Session[EchoEvent],
    *,
    build: Callable[[bytes, Tls | None], Echo] = lambda entropy, tls: Echo(entropy=entropy, tls=tls),
    **options: Unpack[ServeOptions],
) -> AbstractAsyncContextManager[Listener]:
    """Serve an Echo."""
    return loop.adapter.serve(session, build, **options)


def impatient(entropy: bytes, tls: Tls | None) -> Echo:
    """Return an Echo with a very short timeout."""
    return Echo(entropy=entropy, tls=tls, timeout=0.01)


async def echo(connection: AsyncServerConnection[EchoEvent]) -> None:
    """Send every line back."""
    async for event in connection:
        if isinstance(event, Line):
            connection.answer(event, event.text)


async def connecting(
    loop: loops.Loop, port: int, *, timeout: float = 300.0, **options: Unpack[ConnectOptions]
) -> AsyncClientConnection[ClientEvent]:
    """Return a connected EchoClient."""

    def build(tls: Tls | None) -> EchoClient:
        return EchoClient(tls=tls, timeout=timeout)

    return await loop.adapter.connect(build, "127.0.0.1", port, **options)


def dial(port: int) -> socket.socket:
    """Return a blocking socket connected to *port*; no test waits for its timeout."""
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def talk(port: int, data: bytes) -> bytes:
    """Send *data*, half-close, and return everything that is received."""
    with dial(port) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def listen_only(port: int) -> bytes:
    """Send nothing, and return everything that is received."""
    with dial(port) as connection:
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Return everything up to the end of the stream."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def read_all_or_reset(connection: socket.socket) -> bytes:
    """Return everything up to the end of the stream, or up to a reset."""
    data = b""
    try:
        while piece := connection.recv(1_000_000):
            data += piece
    except ConnectionResetError:
        pass
    return data


async def cancel_when_blocked(
    function: Callable[[], Awaitable[object]], ready: Callable[[], bool] = lambda: True
) -> None:
    """Start *function* in a new task, and cancel it when it is blocked and *ready* returns True."""
    if loops.current().name == "trio":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            await trio.testing.wait_all_tasks_blocked()
            while not ready():
                await trio.sleep(0)
            nursery.cancel_scope.cancel()
    else:

        async def run() -> None:
            await function()

        task = asyncio.create_task(run())
        for _ in range(10):
            await asyncio.sleep(0)
        while not ready():
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
