"""A busy connection lets other tasks run: after each login, and regularly without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mailauth import ACCEPT, Question, ServerMachine, Tls, pop3, sasl, smtp
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import Peer, Stream
from mailauth_io.adapters.turns import EVENTS_PER_TURN
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.line_echo import cancel_when_blocked
from tests.io.time_machine import MemoryStream, beside, connected, run_in_no_time

on_each_loop = pytest.mark.parametrize("name", ["asyncio", "trio"])

TLS = Tls(version="TLSv1.3")
LONG_NAME = "\u0149".encode() * 85  # as long as SASLprep may make it
WRONG = sasl.encode_base64(b"\0" + LONG_NAME + b"\0x")

MESSAGE = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\nx\r\n.\r\n"


def smtp_server() -> ServerMachine[Any]:
    return smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32), tls=TLS)


def pop3_server() -> ServerMachine[Any]:
    return pop3.ServerConnection(pop3.ServerSettings(), entropy=bytes(32), tls=TLS)


class Client(MemoryStream):
    """A client that sends everything at once."""

    def __init__(self, says: bytes) -> None:
        super().__init__()
        self.now = lambda: 0.0
        self._says = [says, b""]

    def take(self) -> bytes:
        return self._says.pop(0)

    async def wait_readable(self, due: float) -> None:
        pass


def wrap(machine: ServerMachine[Any], stream: Stream) -> AsyncServerConnection[Any]:
    return AsyncServerConnection(machine, stream, Peer("192.0.2.1", 1), None, None)


async def serve(connection: AsyncServerConnection[Any], told: Callable[[object], None]) -> None:
    """Reject each login, accept everything else, and call *told* with each event."""
    async for event in connection:
        told(event)
        if isinstance(event, sasl.CheckPassword):
            connection.answer(event, sasl.Refusal.BAD_CREDENTIALS)
        elif isinstance(event, sasl.FetchSecret):
            connection.answer(event, None)
        elif isinstance(event, Question):
            connection.answer(event, ACCEPT)


LOGINS = [
    pytest.param(smtp_server, b"EHLO c\r\n", b"AUTH PLAIN " + WRONG + b"\r\n", id="smtp: AUTH with its response"),
    pytest.param(smtp_server, b"EHLO c\r\n", b"AUTH PLAIN\r\n" + WRONG + b"\r\n", id="smtp: AUTH, then the response"),
    pytest.param(pop3_server, b"", b"AUTH PLAIN " + WRONG + b"\r\n", id="pop3: AUTH"),
    pytest.param(pop3_server, b"", b"USER " + LONG_NAME + b"\r\nPASS x\r\n", id="pop3: USER and PASS"),
    pytest.param(pop3_server, b"", b"USER " + LONG_NAME + b"\r\n", id="pop3: USER without PASS"),
    pytest.param(pop3_server, b"", b"APOP " + LONG_NAME + b" " + b"0" * 32 + b"\r\n", id="pop3: APOP"),
]


@on_each_loop
@pytest.mark.parametrize(("server", "before", "login"), LOGINS)
def test_each_pipelined_login_is_followed_by_a_checkpoint(
    name: str, server: Callable[[], ServerMachine[Any]], before: bytes, login: bytes
) -> None:
    client = Client(before + login * 3)
    turns: list[int] = []

    def told(event: object) -> None:
        if isinstance(event, sasl.AuthenticationStarted):
            turns.append(client.turns)

    run_in_no_time(name, lambda: serve(wrap(server(), client), told))
    assert turns == [0, 1, 2]
    assert client.turns == 3


@on_each_loop
@pytest.mark.parametrize(("server", "before", "login"), LOGINS)
def test_another_task_runs_between_pipelined_logins(
    name: str, server: Callable[[], ServerMachine[Any]], before: bytes, login: bytes
) -> None:
    """The same over a socket.  With trio, either task may run first in each round, hence three logins."""
    runs = 0
    seen: list[int] = []

    async def others() -> None:
        nonlocal runs
        while True:
            runs += 1
            await loops.current().sleep(0)

    def told(event: object) -> None:
        if isinstance(event, sasl.AuthenticationStarted):
            seen.append(runs)

    async def main() -> None:
        stream, client = await connected(name, Limits())
        with client:
            client.sendall(before + login * 3)
            client.shutdown(1)
            await serve(wrap(server(), stream), told)
        stream.abort()

    run_in_no_time(name, lambda: beside(others, main))
    first, _, third = seen
    assert first < third


@on_each_loop
def test_commands_without_a_login_run_checkpoints_periodically(name: str) -> None:
    """Nothing else makes this connection wait, since the system accepts each reply at once."""
    client = Client(b"EHLO c\r\n" + b"NOOP\r\n" * 5 * EVENTS_PER_TURN)
    run_in_no_time(name, lambda: serve(wrap(smtp_server(), client), lambda event: None))
    assert client.turns == 5


@on_each_loop
def test_five_messages_run_no_checkpoint(name: str) -> None:
    client = Client(b"EHLO c\r\n" + MESSAGE * 5 + b"QUIT\r\n")
    run_in_no_time(name, lambda: serve(wrap(smtp_server(), client), lambda event: None))
    assert client.heard.count(b"250 2.0.0 message accepted") == 5
    assert client.turns == 0


class Waiting(Client):
    """The first checkpoint never returns, as if other tasks ran for long."""

    async def checkpoint(self) -> None:
        await super().checkpoint()
        if self.turns == 1:
            await loops.current().sleep_forever()


@on_each_loop
def test_cancelled_checkpoint_loses_no_event(name: str) -> None:
    client = Waiting(b"AUTH PLAIN " + WRONG + b"\r\nQUIT\r\n")
    events: list[object] = []

    async def main() -> None:
        connection = wrap(pop3_server(), client)
        connected_first = await anext(connection)
        assert isinstance(connected_first, pop3.Connected)
        connection.answer(connected_first, ACCEPT)
        events.append(await anext(connection))
        await cancel_when_blocked(lambda: anext(connection))
        await serve(connection, events.append)

    run_in_no_time(name, main)
    kinds = [sasl.AuthenticationStarted, sasl.CheckPassword, sasl.AuthenticationFailed, pop3.Quit]
    assert [type(event) for event in events] == kinds
