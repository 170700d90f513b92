"""What ends the body of ``serve``, or a session with SystemExit or Ctrl-C, is raised as it is, on both loops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
import trio

from mailauth import pop3, smtp
from mailauth_io import server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.listener import Listener, Session
from tests.io import loops
from tests.io.line_echo import dial


async def until_closed(connection: AsyncServerConnection[Any]) -> None:
    async for _ in connection:
        pass


def serve_smtp(session: Session[Any] = until_closed) -> AbstractAsyncContextManager[Listener]:
    return loops.current().adapter.serve_smtp(session, smtp.ServerSettings())


def serve_pop3() -> AbstractAsyncContextManager[Listener]:
    return loops.current().adapter.serve_pop3(until_closed, pop3.ServerSettings())


def serve_all() -> AbstractAsyncContextManager[server.RunningServer]:
    kept = server.Stores(
        accounts=stores.MemoryAccounts({}), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )
    return server.serve(server.Config(smtp=0, pop3=0), kept)


def caught(name: str, main: Callable[[], Awaitable[None]]) -> BaseException:
    try:
        loops.named(name).run(main)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("serve", [serve_smtp, serve_pop3, serve_all])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("one"),
        ExceptionGroup("a group of the body", [ValueError("one")]),
        KeyboardInterrupt(),
        SystemExit(3),
        BaseExceptionGroup("a group of the body", [KeyboardInterrupt()]),
    ],
    ids=repr,
)
def test_exception_in_the_body_is_raised_as_it_is(
    name: str, serve: Callable[[], AbstractAsyncContextManager[object]], error: BaseException
) -> None:
    async def main() -> None:
        async with serve():
            raise error

    assert caught(name, main) is error
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_trio_raises_what_ends_the_program_in_a_session_without_a_group(error: BaseException) -> None:
    """asyncio raises it out of the loop itself, so it never passes through ``serve``."""

    async def session(connection: AsyncServerConnection[Any]) -> None:
        raise error

    async def main() -> None:
        async with serve_smtp(session) as listener:
            with await loops.current().in_thread(dial, listener.port):
                await trio.sleep_forever()

    assert caught("trio", main) is error


def test_trio_raises_an_interrupt_of_the_accept_loop_without_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio raises KeyboardInterrupt in the task that runs when the signal arrives."""
    error = KeyboardInterrupt()

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        raise error

    monkeypatch.setattr(trio.SocketListener, "accept", accept)

    async def main() -> None:
        async with serve_smtp():
            await trio.sleep_forever()

    assert caught("trio", main) is error


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_cancellation_of_the_body_ends_at_its_scope(name: str) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with serve_smtp():
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    loops.named(name).run(main)


def test_trio_raises_two_exceptions_as_a_group() -> None:
    """Neither may be lost."""

    async def session(connection: AsyncServerConnection[Any]) -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with serve_smtp(session) as listener:
            with await loops.current().in_thread(dial, listener.port):
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError

    error = caught("trio", main)
    assert isinstance(error, BaseExceptionGroup)
    assert sorted(type(each).__name__ for each in error.exceptions) == ["SystemExit", "ValueError"]
