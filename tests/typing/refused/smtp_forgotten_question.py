"""First the branch for Rcpt is missing, then the one for content: ``case Notice()`` matches neither."""

from __future__ import annotations

from typing import assert_never

from mailauth import ACCEPT, Notice, sasl, smtp
from mailauth_io import on_asyncio


async def without_rcpt(connection: on_asyncio.AsyncServerConnection[smtp.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword() | sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret() as q:
                connection.answer(q, None)
            case smtp.MessageChunk() | smtp.MessageAborted():
                pass
            case smtp.MessageComplete() as q:
                connection.answer(q, ACCEPT)
            case smtp.Connected() | smtp.Mail() | smtp.StartTls() | smtp.Data() as q:
                connection.answer(q, ACCEPT)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)  # error: [arg-type]


async def without_content(connection: on_asyncio.AsyncServerConnection[smtp.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword() | sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret() as q:
                connection.answer(q, None)
            case smtp.MessageComplete() as q:
                connection.answer(q, ACCEPT)
            case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.StartTls() | smtp.Data() as q:
                connection.answer(q, ACCEPT)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)  # error: [arg-type]
