"""Verbs from outside the library in both adapters: an exception in a row is logged, and ends that connection alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeAlias

import attrs
import pytest
import trio

from mailauth import ACCEPT, Command, ExtensionNotice, Question, smtp
from mailauth_io import on_asyncio, on_trio
from tests.io.by_hand import read_line
from tests.io.line_echo import dial, read_all


@attrs.frozen
class Trigger(Command, ExtensionNotice):
    argument: str


def check(view: smtp.View, command: Trigger) -> smtp.Reply | None:
    raise KeyError(f"planted {command.argument}")


SETTINGS = smtp.ServerSettings(
    verbs=(
        smtp.Verb(
            "XTRIGGER", kind=Trigger, parse=Trigger, states={smtp.State.READY: smtp.State.READY},
            accepted=smtp.Reply(250), check=check, asks=False,
        ),
    )
)  # fmt: skip


Connection: TypeAlias = (
    on_asyncio.AsyncServerConnection[smtp.ServerEvent] | on_trio.AsyncServerConnection[smtp.ServerEvent]
)


async def session(connection: Connection) -> None:
    async for event in connection:
        if isinstance(event, smtp.Connected):
            connection.answer(event, ACCEPT)
        elif isinstance(event, Question):
            connection.decline(event)


async def on_the_loop_of_asyncio() -> bytes:
    async with on_asyncio.serve_smtp(session, SETTINGS) as listener:
        return await asyncio.to_thread(client, listener.port)


async def on_the_loop_of_trio() -> bytes:
    async with on_trio.serve_smtp(session, SETTINGS) as listener:
        return await trio.to_thread.run_sync(client, listener.port)


def client(port: int) -> bytes:
    with dial(port) as connection, dial(port) as other:
        assert read_line(connection).startswith(b"220 ")
        assert read_line(other).startswith(b"220 ")
        connection.sendall(b"HELO c\r\n")
        assert read_line(connection).startswith(b"250 ")
        connection.sendall(b"XTRIGGER it\r\n")
        assert read_all(connection) == b""
        other.sendall(b"QUIT\r\n")
        return read_all(other)


@pytest.mark.parametrize(
    "run",
    [lambda: asyncio.run(on_the_loop_of_asyncio()), lambda: trio.run(on_the_loop_of_trio)],
    ids=["asyncio", "trio"],
)
def test_exception_in_a_verb_check_is_logged_and_ends_one_connection(
    run: Callable[[], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """architecture.md, invariant 13: with its message and traceback, as any exception in a session."""
    assert run().startswith(b"221 ")
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert error.getMessage().startswith("session failed peer=127.0.0.1 ")
    assert "\nKeyError: 'planted it'" in caplog.text
