"""An SMTP server that prints the messages of alice.  For tests on one machine: it accepts her password without TLS."""

import asyncio
import contextlib
from hmac import compare_digest

from mailauth import ACCEPT, Question, sasl, smtp
from mailauth_io.on_asyncio import AsyncServerConnection, serve_smtp

SETTINGS = smtp.ServerSettings(mechanisms_without_tls=frozenset({"PLAIN"}))


async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.CheckPassword(authentication_identity=name, password=password) as q:
                valid = compare_digest(password, b"wonderland") and name == "alice"
                connection.answer(q, ACCEPT if valid else sasl.Refusal.BAD_CREDENTIALS)
            case smtp.Rcpt() as q:
                connection.answer(q, ACCEPT if connection.identity else smtp.Reply(550, "5.7.1", "login required"))
            case smtp.Connected() | smtp.Mail() | smtp.Data() as q:
                connection.answer(q, ACCEPT)
            case smtp.MessageChunk(data=data):
                print(data.decode(errors="replace"), end="", flush=True)
            case smtp.MessageComplete() as q:
                connection.answer(q, smtp.Reply(250, "2.0.0", "printed"))
            case Question() as q:
                connection.decline(q)
            case _:  # what needs no answer, such as smtp.MessageAborted
                pass


async def main() -> None:
    async with serve_smtp(session, SETTINGS) as listener:
        print(f"listening on {listener.address}, port {listener.port}", flush=True)
        await asyncio.Event().wait()


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
