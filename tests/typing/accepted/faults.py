"""A test double: faults planted in front of any application, by the kind of the event that they meet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

from mailauth import Command, smtp
from mailauth_io import on_asyncio, on_trio

Connection: TypeAlias = on_asyncio.ServerConnection[smtp.ServerEvent] | on_trio.ServerConnection[smtp.ServerEvent]


class Faults:
    def __init__(self) -> None:
        self.fail_next: dict[type[Command], smtp.Reply] = {}
        self.drop: set[type[object]] = set()


async def with_faults(connection: Connection, faults: Faults) -> AsyncIterator[smtp.ServerEvent]:
    async for event in connection:
        if type(event) in faults.drop:
            connection.abort()
            return
        if isinstance(event, smtp.Mail | smtp.Rcpt | smtp.Data | smtp.StartTls):
            reply = faults.fail_next.pop(type(event), None)
            if reply is not None:
                connection.answer(event, reply)
                continue
        yield event
