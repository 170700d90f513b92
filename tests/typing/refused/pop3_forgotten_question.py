"""The branch for RetrieveMore is missing: a client would get only the first part of a message."""

from __future__ import annotations

from typing import assert_never

from mailauth import ACCEPT, Notice, pop3, sasl
from mailauth_io import on_trio


async def without_the_rest(connection: on_trio.AsyncServerConnection[pop3.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword() | sasl.Authorize() as q:
                connection.answer(q, sasl.Refusal.BAD_CREDENTIALS)
            case sasl.FetchSecret() as q:
                connection.answer(q, None)
            case pop3.OpenMaildrop() as q:
                connection.answer(q, pop3.Maildrop())
            case pop3.Retrieve() as q:
                connection.answer(q, q.unavailable)
            case pop3.Connected() | pop3.Stls() | pop3.Update() as q:
                connection.answer(q, ACCEPT)
            case Notice():
                pass
            case unreachable:
                assert_never(unreachable)  # error: [arg-type]
