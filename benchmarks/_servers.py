"""The servers that are measured, one a process: ``python benchmarks/_servers.py NAME CORE``.

Each prints its port and serves until its standard input ends.  All accept every message and keep none.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

from _load import AIOSMTPD, ASYNCIO, FLOOR, READY, TRIO
from mailauth import ACCEPT, Question, pop3, smtp
from mailauth_io import logs, on_asyncio, on_trio, server, stores

HOST: Final = "127.0.0.1"
SETTINGS: Final = smtp.ServerSettings(maximum_transactions=1_000_000_000)


async def accept(connection: on_asyncio.ServerConnection[smtp.ServerEvent]) -> None:
    """An application that says yes and looks at every chunk."""
    octets = 0
    async for event in connection:
        match event:
            case smtp.Mail() | smtp.Rcpt() | smtp.Data() as question:
                connection.answer(question, ACCEPT)
            case smtp.MessageChunk():
                octets += len(event.octets)
            case smtp.MessageComplete() as complete:
                connection.answer(complete, ACCEPT)
            case smtp.Connected() as question:
                connection.answer(question, ACCEPT)
            case Question() as question:
                connection.answer(question, question.unavailable)
            case _:
                pass


async def streams_session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The floor: every line read by ``readline``, as line protocols are on streams; canned replies, nothing parsed."""
    writer.write(b"220 floor\r\n")
    while line := await reader.readline():
        if line == b"DATA\r\n":
            writer.write(b"354 go on\r\n")
            while await reader.readline() != b".\r\n":
                pass
        writer.write(b"250 2.0.0 OK\r\n")
        await writer.drain()
        if line == b"QUIT\r\n":
            break
    writer.close()


async def serve_mailauth_asyncio(until: Callable[[int], Awaitable[None]]) -> None:
    async with on_asyncio.serve_smtp(accept, SETTINGS, grace=0) as listener:
        await until(listener.port)


async def serve_mailauth_trio(until: Callable[[int], Awaitable[None]]) -> None:
    async with on_trio.serve_smtp(accept, SETTINGS, grace=0) as listener:
        await until(listener.port)


class Nowhere:
    """Maildrops that take every message and keep none, so that a long run needs no memory."""

    async def open(self, name: str) -> stores.OpenedMaildrop | pop3.Unavailable:
        return pop3.Unavailable.TEMPORARY

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        return self

    async def reveal(self) -> None:
        pass

    def discard(self) -> None:
        pass


async def serve_ready(until: Callable[[int], Awaitable[None]]) -> None:
    """Policy, accounts, delivery, and a log to a file."""
    with tempfile.TemporaryFile() as log:
        logs.start("text", "info", log.fileno())
        accounts = stores.MemoryAccounts({"bob": b"secret"})
        kept = server.Stores(accounts=accounts, maildrops=Nowhere(), outbox=stores.MemoryOutbox())
        async with server.running(server.Config(smtp=0), kept) as pair:
            assert pair.smtp is not None
            await until(pair.smtp)


async def serve_streams(until: Callable[[int], Awaitable[None]]) -> None:
    server = await asyncio.start_server(streams_session, HOST, 0)
    await until(server.sockets[0].getsockname()[1])


async def serve_aiosmtpd(until: Callable[[int], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Sink(), loop=loop, hostname="localhost"), HOST, 0)
    await until(server.sockets[0].getsockname()[1])


ON_ASYNCIO: Final = {
    ASYNCIO: serve_mailauth_asyncio,
    READY: serve_ready,
    FLOOR: serve_streams,
    AIOSMTPD: serve_aiosmtpd,
}
ON_TRIO: Final = {TRIO: serve_mailauth_trio}


async def until_asyncio(port: int) -> None:
    print(port, flush=True)
    ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set_result, None)
    await ended
    os._exit(0)  # nothing to say to anybody: the measurement is over


async def until_trio(port: int) -> None:
    print(port, flush=True)
    await trio.lowlevel.wait_readable(sys.stdin)
    os._exit(0)


if __name__ == "__main__":
    name, core = sys.argv[1], int(sys.argv[2])
    os.sched_setaffinity(0, {core})
    if name in ON_TRIO:
        trio.run(ON_TRIO[name], until_trio)
    else:
        asyncio.run(ON_ASYNCIO[name](until_asyncio))
