"""A session that handles only passwords, with mechanisms that ask for SCRAM keys, tokens and certificates."""

from __future__ import annotations

from typing import assert_never

from mailauth import ACCEPT, Notice, Payload, pop3, sasl, smtp
from mailauth_io import on_asyncio


async def without_further_questions(connection: on_asyncio.AsyncServerConnection[smtp.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword() | sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret() as q:
                connection.answer(q, None)
            case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.StartTls() | smtp.Data() as q:
                connection.answer(q, ACCEPT)
            case smtp.MessageComplete() as q:
                connection.answer(q, ACCEPT)
            case Payload() | Notice():
                pass
            case unreachable:
                assert_never(unreachable)  # error: [arg-type]


async def without_scram(connection: on_asyncio.AsyncServerConnection[pop3.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword() | sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.BAD_CREDENTIALS)
            case sasl.CheckToken() | sasl.CheckExternal() as q:
                connection.answer(q, sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret() as q:
                connection.answer(q, None)
            case pop3.OpenMaildrop() as q:
                connection.answer(q, pop3.Maildrop())
            case pop3.Retrieve() | pop3.RetrieveMore() as q:
                connection.answer(q, q.unavailable)
            case pop3.Connected() | pop3.Stls() | pop3.Update() as q:
                connection.answer(q, ACCEPT)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)  # error: [arg-type]
