"""The adapters with the SMTP and POP3 machines, on both loops: with our clients, and those of the standard library."""

from __future__ import annotations

import poplib
import smtplib

import pytest

from mailauth import ACCEPT, MessageChunk, pop3, sasl, smtp
from mailauth_io.adapters.connection import AsyncClientConnection, AsyncServerConnection
from tests.io import loops
from tests.io.line_echo import on_both_loops
from tests.io.tls import client_context, server_context

SMTP = smtp.ServerSettings(host_name="localhost", starttls=True)
POP3 = pop3.ServerSettings(host_name="localhost", stls=True)
CONTENT = b"Subject: dots\r\n\r\n" + b".a line that begins with a dot\r\n" * 20_000


class Spool:
    """An SMTP session that keeps the messages it accepts."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.identities: list[str | None] = []

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        content = b""
        async for event in connection:
            match event:
                case sasl.CheckPassword() as question:
                    good = question.authentication_identity == "alice" and question.password == b"secret"
                    connection.answer(question, ACCEPT if good else sasl.Refusal.BAD_CREDENTIALS)
                case MessageChunk():
                    content += event.data
                case smtp.MessageComplete() as complete:
                    self.messages.append(content)
                    self.identities.append(connection.identity)
                    content = b""
                    connection.answer(complete, ACCEPT)
                case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data() | smtp.StartTls() as yes:
                    connection.answer(yes, ACCEPT)
                case sasl.FetchSecret() as secret:
                    connection.answer(secret, None)
                case sasl.Authorize() as authorize:
                    connection.answer(authorize, sasl.Refusal.NOT_AUTHORIZED)
                case _:
                    pass


async def maildrop(connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
    """A POP3 session that accepts every login, and has one message, which it returns in pieces."""
    async for event in connection:
        match event:
            case sasl.CheckPassword() | sasl.Authorize() as question:
                connection.answer(question, ACCEPT)
            case pop3.Connected() | pop3.Stls() | pop3.Update() as question:
                connection.answer(question, ACCEPT)
            case pop3.OpenMaildrop() as question:
                message = pop3.Message(size=len(CONTENT), unique_id="1")
                connection.answer(question, pop3.Maildrop(messages=(message,)))
            case pop3.Retrieve() as question:
                connection.answer(question, pop3.Content(data=CONTENT[:50_000], last=False))
            case pop3.RetrieveMore(offset=offset) as question:
                last = offset + 50_000 >= len(CONTENT)
                connection.answer(question, pop3.Content(data=CONTENT[offset : offset + 50_000], last=last))
            case sasl.FetchSecret() as question:
                connection.answer(question, None)
            case _:
                pass


async def reply(client: AsyncClientConnection[smtp.ClientEvent]) -> smtp.Reply:
    """Return the next reply."""
    event = await anext(client)
    assert isinstance(event, smtp.ReplyReceived)
    return event.reply


@on_both_loops
async def test_message_submitted_by_our_client_arrives_unchanged(loop: loops.Loop) -> None:
    """STARTTLS, AUTH PLAIN, a pipelined envelope, content in chunks with backpressure, QUIT."""
    spool = Spool()
    async with (
        loop.adapter.serve_smtp(spool.session, SMTP, ssl_context=server_context()) as listener,
        await loop.adapter.connect(
            smtp.ClientConnection(), "127.0.0.1", listener.port, ssl_context=client_context()
        ) as client,
    ):
        assert (await reply(client)).code == 220
        client.send(smtp.Hello(domain="client.example.org"))
        assert (await reply(client)).code == 250
        client.send(smtp.StartTls())
        assert (await reply(client)).code == 220
        assert client.tls is not None
        client.send(smtp.Hello(domain="client.example.org"))
        assert (await reply(client)).code == 250
        client.authenticate(sasl.PlainClient(authentication_identity="alice", password=b"secret"))
        assert isinstance(await anext(client), sasl.Authenticated)
        client.send(smtp.Mail(reverse_path=smtp.Mailbox("alice", "example.org")))
        client.send(smtp.Rcpt(forward_path=smtp.Mailbox("bob", "example.org")))
        client.send(smtp.Data())
        assert [(await reply(client)).code for _ in range(3)] == [250, 250, 354]
        for start in range(0, len(CONTENT), 30_000):
            client.send(MessageChunk(data=CONTENT[start : start + 30_000]))
            await client.flush()
        client.send(smtp.MessageComplete())
        assert (await reply(client)).code == 250
        client.send(smtp.Quit())
        assert (await reply(client)).code == 221
        with pytest.raises(StopAsyncIteration):
            await anext(client)
    assert spool.messages == [CONTENT]
    assert spool.identities == ["alice"]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_smtplib_submits_inside_tls(name: str, implicit: bool) -> None:
    """The standard library's client, by STARTTLS and on a TLS port."""
    spool = Spool()

    def submit(port: int) -> None:
        if implicit:
            client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", port, timeout=20, context=client_context())
        else:
            client = smtplib.SMTP("127.0.0.1", port, timeout=20)
            client.starttls(context=client_context())
        with client:
            client.login("alice", "secret")
            client.sendmail("alice@example.org", ["bob@example.org"], CONTENT)

    async def main() -> None:
        loop = loops.current()
        async with loop.adapter.serve_smtp(
            spool.session, SMTP, ssl_context=server_context(), implicit_tls=implicit
        ) as listener:
            await loop.in_thread(submit, listener.port)

    loops.named(name).run(main)
    assert spool.messages == [CONTENT]
    assert spool.identities == ["alice"]


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_poplib_retrieves_inside_tls(name: str, implicit: bool) -> None:
    """By STLS and on a TLS port; the message is sent in pieces, and arrives whole."""

    def retrieve(port: int) -> bytes:
        if implicit:
            client: poplib.POP3 = poplib.POP3_SSL("127.0.0.1", port, timeout=20, context=client_context())
        else:
            client = poplib.POP3("127.0.0.1", port, timeout=20)
            client.stls(context=client_context())
        client.user("alice")
        client.pass_("secret")
        _, lines, _ = client.retr(1)
        client.quit()
        return b"\r\n".join(lines) + b"\r\n"

    async def main() -> bytes:
        loop = loops.current()
        async with loop.adapter.serve_pop3(
            maildrop, POP3, ssl_context=server_context(), implicit_tls=implicit
        ) as listener:
            return await loop.in_thread(retrieve, listener.port)

    assert loops.named(name).run(main) == CONTENT


@on_both_loops
async def test_our_client_retrieves_a_message_sent_in_pieces(loop: loops.Loop) -> None:
    """RETR through the client machine: chunks, then the reply."""
    async with (
        loop.adapter.serve_pop3(maildrop, POP3, ssl_context=server_context(), implicit_tls=True) as listener,
        await loop.adapter.connect(
            lambda tls: pop3.ClientConnection(tls=tls),
            "127.0.0.1",
            listener.port,
            ssl_context=client_context(),
            implicit_tls=True,
        ) as client,
    ):
        greeting = await anext(client)
        assert isinstance(greeting, pop3.ReplyReceived)
        client.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"secret"))
        assert isinstance(await anext(client), sasl.Authenticated)
        client.send(pop3.Retrieve(number=1))
        content = b""
        async for event in client:
            if isinstance(event, MessageChunk):
                content += event.data
            else:
                break
        assert content == CONTENT


@on_both_loops
async def test_starttls_and_stls_settings_require_an_ssl_context(loop: loops.Loop) -> None:
    """Settings with STARTTLS or STLS, but without an ssl_context, are refused at once."""
    with pytest.raises(ValueError, match="starttls"):
        loop.adapter.serve_smtp(Spool().session, SMTP)
    with pytest.raises(ValueError, match="stls"):
        loop.adapter.serve_pop3(maildrop, POP3)
