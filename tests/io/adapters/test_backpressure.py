"""Backpressure: a client that does not read its replies is not read from, and memory stays bounded for any input."""

from __future__ import annotations

import contextlib
import socket
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mailauth import ACCEPT, Question, ServerMachine, pop3, smtp
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import READ_SIZE, Peer
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.time_machine import MemoryStream, beside, connected, run_in_no_time

on_each_loop = pytest.mark.parametrize("name", ["asyncio", "trio"])

LOG_IN = b"USER alice\r\nPASS secret\r\n"
TRANSACTION = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nDATA\r\n"
MESSAGE = b"a line of text that is as long as some lines are\r\n" * 200
FLAT = 1_500_000
"""Maximum bytes that a connection may allocate: a few times the sum of its buffers."""


def smtp_server() -> ServerMachine[Any]:
    settings = smtp.ServerSettings(
        max_junk_commands=10**6, max_errors=10**6, max_message_size=65_536, discard_limit=1_000_000
    )
    return smtp.ServerConnection(settings, entropy=bytes(32))


def pop3_server() -> ServerMachine[Any]:
    settings = pop3.ServerSettings(mechanisms_without_tls=frozenset({"USER"}), max_errors=10**6)
    return pop3.ServerConnection(settings, entropy=bytes(32))


async def serve(connection: AsyncServerConnection[Any], asked: list[str]) -> None:
    async for event in connection:
        match event:
            case pop3.OpenMaildrop():
                message = pop3.Message(size=len(MESSAGE), unique_id="x")
                connection.answer(event, pop3.Maildrop(messages=(message,)))
            case pop3.Retrieve():
                asked.append("RETR")
                connection.answer(event, pop3.Content(data=MESSAGE))
            case Question():
                connection.answer(event, ACCEPT)
            case smtp.Noop() | pop3.Noop():
                asked.append("NOOP")
    connection.abort()


@contextlib.contextmanager
def flat_memory() -> Iterator[None]:
    """Check that the peak of the memory allocated in the body stays below FLAT."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        assert tracemalloc.get_traced_memory()[1] - before < FLAT
    finally:
        tracemalloc.stop()


def meet(
    name: str, machine: ServerMachine[Any], says: Iterable[bytes], *, reads: bool, pause: float = 0.0
) -> tuple[int, list[str], float]:
    """Run a client that sends *says* piece by piece, *pause* seconds apart, and reads its replies if *reads* is true.

    Returns the bytes that it could send before nothing moved any more or the session ended, the events, and the seconds
    that it took.
    """
    asked: list[str] = []

    async def main() -> tuple[int, list[str], float]:
        stream, client = await connected(name, Limits())
        connection: AsyncServerConnection[Any] = AsyncServerConnection(
            machine, stream, Peer("192.0.2.1", 1), None, None
        )
        begun = stream.now()
        with client:
            try:
                said = await beside(lambda: serve(connection, asked), lambda: talk(client, says, reads, pause))
                return said, asked, stream.now() - begun
            finally:
                connection.abort()

    with flat_memory():
        return run_in_no_time(name, main)


async def talk(client: socket.socket, says: Iterable[bytes], reads: bool, pause: float) -> int:
    loop = loops.current()
    said = 0
    for piece in says:
        vain = 0
        while piece and vain < 3:
            try:
                while reads and client.recv(65_536):
                    pass
            except BlockingIOError:
                pass
            except OSError:
                return said
            try:
                sent = client.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:  # the server has ended the session
                return said
            vain = 0 if sent else vain + 1
            said += sent
            piece = piece[sent:]
            await loop.sleep(pause or (0.0 if sent else 1.0))
        if piece:
            return said
    return said


@on_each_loop
@pytest.mark.parametrize(
    ("machine", "before", "command"),
    [
        (smtp_server, b"HELO c\r\n", b"NOOP\r\n"),
        (pop3_server, LOG_IN, b"NOOP\r\n"),
        (pop3_server, LOG_IN, b"RETR 1\r\n"),
    ],
    ids=["smtp-noop", "pop3-noop", "pop3-retr"],
)
def test_client_that_does_not_read_replies_is_not_read_from(
    name: str, machine: Callable[[], ServerMachine[Any]], before: bytes, command: bytes
) -> None:
    """50,000 commands at once: only those are read that fit into the buffers of the kernel and one read."""
    everything = before + command * 50_000
    said, asked, _ = meet(name, machine(), [everything], reads=False)
    assert 0 < len(asked) * len(command) <= said <= 4 * READ_SIZE < len(everything)


@on_each_loop
@pytest.mark.parametrize("machine", [smtp_server, pop3_server])
def test_endless_line_does_not_increase_memory(name: str, machine: Callable[[], ServerMachine[Any]]) -> None:
    """It is discarded as it arrives, and has the deadline of a command (RFC 5321 section 4.5.3.1.4)."""
    said, _, _ = meet(name, machine(), [b"x" * 65_536] * 300, reads=True)
    assert said == 300 * 65_536


@on_each_loop
def test_endless_message_does_not_increase_memory_and_ends_the_session(name: str) -> None:
    """Content over SIZE is discarded, up to ``discard_limit``; then 421."""
    pieces = [TRANSACTION, *[b"x" * 65_534 + b"\r\n"] * 300]
    said, _, _ = meet(name, smtp_server(), pieces, reads=True)
    assert 10 * 65_536 <= said < 200 * 65_536


@on_each_loop
def test_one_byte_per_second_does_not_increase_memory_and_times_out(name: str) -> None:
    """As a command, and as content, which is then below the minimum rate."""
    for before, longest in ((b"HELO c\r\n", 302.0), (TRANSACTION, 305.0)):
        _, _, seconds = meet(name, smtp_server(), [before, *[b"x"] * 1_000], reads=True, pause=1.0)
        assert 299.0 <= seconds <= longest


class GoneClient(MemoryStream):
    """A client that sent many commands, and disconnected without reading a reply."""

    def __init__(self, *says: bytes) -> None:
        super().__init__()
        self.now = lambda: 0.0
        self._says = [*says, b""]

    def write(self, data: bytes) -> None:
        raise BrokenPipeError

    def take(self) -> bytes:
        return self._says.pop(0)

    async def wait_readable(self, due: float) -> None:
        pass


@on_each_loop
def test_replies_to_a_disconnected_client_let_other_tasks_run(name: str) -> None:
    """The replies to 64 KiB of RETR or UIDL are many megabytes.  While a session produces them for a client that has
    disconnected, no write waits, so other tasks must get their time by checkpoints.
    """
    asked: list[str] = []
    client = GoneClient(LOG_IN + b"RETR 1\r\n" * 100)
    connection: AsyncServerConnection[Any] = AsyncServerConnection(
        pop3_server(), client, Peer("192.0.2.1", 1), None, None
    )
    run_in_no_time(name, lambda: serve(connection, asked))
    assert len(asked) == 100
    assert client.turns >= len(MESSAGE) * 100 // READ_SIZE


@on_each_loop
def test_writes_that_never_wait_let_other_tasks_run(name: str) -> None:
    """If the system accepts each Send at once, no write waits either."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await loops.current().sleep(0)

    async def main() -> None:
        stream, client = await connected(name, Limits())
        with client:
            for _ in range(10):
                await stream.write_all(bytes(16_384))
                assert len(client.recv(READ_SIZE)) == 16_384
        stream.abort()
        assert turns >= 9  # either of the two alternating tasks may run first

    run_in_no_time(name, lambda: beside(others, main))
