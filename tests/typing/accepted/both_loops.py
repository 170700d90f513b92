"""Type annotations for an application: a session and a client that run on either loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from mailauth import Tls, pop3, smtp
from mailauth_io import on_asyncio, on_trio

SmtpServer: TypeAlias = (
    on_asyncio.AsyncServerConnection[smtp.ServerEvent] | on_trio.AsyncServerConnection[smtp.ServerEvent]
)
Pop3Server: TypeAlias = (
    on_asyncio.AsyncServerConnection[pop3.ServerEvent] | on_trio.AsyncServerConnection[pop3.ServerEvent]
)
SmtpClient: TypeAlias = (
    on_asyncio.AsyncClientConnection[smtp.ClientEvent] | on_trio.AsyncClientConnection[smtp.ClientEvent]
)
Pop3Client: TypeAlias = (
    on_asyncio.AsyncClientConnection[pop3.ClientEvent] | on_trio.AsyncClientConnection[pop3.ClientEvent]
)


async def serve_on_asyncio(
    submit: Callable[[SmtpServer], Awaitable[None]], collect: Callable[[Pop3Server], Awaitable[None]]
) -> int:
    async with (
        on_asyncio.serve_smtp(submit, smtp.ServerSettings(), host="127.0.0.1", port=0) as first,
        on_asyncio.serve_pop3(collect, pop3.ServerSettings()) as second,
    ):
        return first.port + second.port


async def serve_on_trio(
    submit: Callable[[SmtpServer], Awaitable[None]], collect: Callable[[Pop3Server], Awaitable[None]]
) -> int:
    async with (
        on_trio.serve_smtp(submit, smtp.ServerSettings(), host="127.0.0.1", port=0) as first,
        on_trio.serve_pop3(collect, pop3.ServerSettings()) as second,
    ):
        return first.port + second.port


async def connect_on_asyncio(
    submit: Callable[[SmtpClient], Awaitable[None]], collect: Callable[[Pop3Client], Awaitable[None]], port: int
) -> None:
    async with await on_asyncio.connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await submit(client)
    async with await on_asyncio.connect(build, "127.0.0.1", port) as other:
        await collect(other)


async def connect_on_trio(
    submit: Callable[[SmtpClient], Awaitable[None]], collect: Callable[[Pop3Client], Awaitable[None]], port: int
) -> None:
    async with await on_trio.connect(smtp.ClientConnection(), "127.0.0.1", port) as client:
        await submit(client)
    async with await on_trio.connect(build, "127.0.0.1", port) as other:
        await collect(other)


def build(tls: Tls | None) -> pop3.ClientConnection:
    return pop3.ClientConnection(tls=tls)
