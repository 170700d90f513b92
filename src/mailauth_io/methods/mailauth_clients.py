"""The SMTP and POP3 clients of mailauth, run by the adapter of the current loop."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

from mailauth import Command, LocalProtocolError, MessageChunk, RemoteProtocolError, pop3, sasl, smtp

from .._event_loop import current_adapter
from ..adapters.connection import AsyncClientConnection
from ..adapters.functions import ClientFactory
from .client_config import (
    CLIENT_NAME,
    HOST,
    SENDER,
    AuthenticationRejected,
    ClientConfig,
    ClientFailed,
    ServerNotProved,
)
from .rows import Login, TlsMode

E = TypeVar("E")


class MailauthClients:
    """``smtp.ClientConnection`` and ``pop3.ClientConnection``."""

    name = "the mailauth clients"

    async def submit(
        self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> int:
        """See ``Clients.submit``."""
        settings = smtp.ClientSettings(tls_required=client_config.tls_mode is not TlsMode.CLEAR)
        with _one_kind_of_error():
            async with await _connect(
                client_config, client_config.smtp, lambda tls: smtp.ClientConnection(settings, tls=tls), source
            ) as client:
                return await _submit(client, client_config, recipient, content, authenticate)

    async def collect(self, client_config: ClientConfig) -> bytes:
        """See ``Clients.collect``."""
        settings = pop3.ClientSettings(tls_required=client_config.tls_mode is not TlsMode.CLEAR)
        with _one_kind_of_error():
            async with await _connect(
                client_config, client_config.pop3, lambda tls: pop3.ClientConnection(settings, tls=tls), HOST
            ) as client:
                return await _collect(client, client_config)


@contextmanager
def _one_kind_of_error() -> Generator[None]:
    try:
        yield
    except (OSError, LocalProtocolError, RemoteProtocolError) as error:
        if isinstance(error, ssl.SSLCertVerificationError) or isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise ServerNotProved(str(error)) from error
        raise ClientFailed(f"{type(error).__name__}: {error}") from error


async def _connect(
    client_config: ClientConfig, port: int, build: ClientFactory[E], source: str
) -> AsyncClientConnection[E]:
    return await current_adapter().connect(
        build,
        HOST,
        port,
        ssl_context=client_config.trusted,
        implicit_tls=client_config.tls_mode is TlsMode.IMPLICIT,
        local_address=source,
    )


async def _submit(
    client: AsyncClientConnection[smtp.ClientEvent],
    client_config: ClientConfig,
    recipient: str,
    content: bytes,
    authenticate: bool,
) -> int:
    hello = smtp.Hello(domain=CLIENT_NAME)
    await _smtp_reply(client, None)
    await _smtp_reply(client, hello)
    if client_config.tls_mode is TlsMode.UPGRADE:
        await _smtp_reply(client, smtp.StartTls())
        await _smtp_reply(client, hello)
    if authenticate:
        await _log_in(client, client_config)
    code = 0
    for command in (
        smtp.Mail(reverse_path=smtp.Mailbox.parse(SENDER)),
        smtp.Rcpt(forward_path=smtp.Mailbox.parse(recipient)),
        smtp.Data(),
    ):
        code = (await _smtp_reply(client, command)).code
        if code >= 400:
            break
    else:
        for start in range(0, len(content), 1000):  # in chunks, as a program that reads a file would
            client.send(MessageChunk(data=content[start : start + 1000]))
            await client.flush()
        code = (await _smtp_reply(client, smtp.MessageComplete())).code
    await _smtp_reply(client, smtp.Quit())
    return code


async def _smtp_reply(client: AsyncClientConnection[smtp.ClientEvent], command: Command | None) -> smtp.Reply:
    """Send *command*, and return its reply.  If *command* is None, return the greeting."""
    if command is not None:
        client.send(command)
    async for event in client:
        if isinstance(event, smtp.ReplyReceived):
            if event.command is not command:
                raise ClientFailed(f"unexpected reply: {event.reply}")
            return event.reply
    raise ClientFailed("the server closed the connection")


async def _log_in(client: AsyncClientConnection[E], client_config: ClientConfig) -> None:
    client.authenticate(_mechanism(client_config))
    async for event in client:
        if isinstance(event, sasl.Authenticated):
            return
        if isinstance(event, smtp.AuthenticationRejected | pop3.AuthenticationRejected):
            raise AuthenticationRejected(str(event.reply))
    raise ClientFailed("the server closed the connection during the login")


def _mechanism(client_config: ClientConfig) -> sasl.ClientMechanism:
    name, password = client_config.name, client_config.password.encode()
    match client_config.login:
        case Login.USER:
            return sasl.UserPassClient(authentication_identity=name, password=password)
        case Login.APOP:
            return sasl.ApopClient(authentication_identity=name, password=password)
        case Login.PLAIN:
            return sasl.PlainClient(authentication_identity=name, password=password)
        case Login.LOGIN:
            return sasl.LoginClient(authentication_identity=name, password=password)
        case Login.CRAM_MD5:
            return sasl.CramMd5Client(authentication_identity=name, password=password)


async def _collect(client: AsyncClientConnection[pop3.ClientEvent], client_config: ClientConfig) -> bytes:
    await _pop3_reply(client, None)
    if client_config.tls_mode is TlsMode.UPGRADE:
        await _pop3_reply(client, pop3.Stls())
    await _log_in(client, client_config)
    messages = int((await _pop3_reply(client, pop3.Stat())).text.split()[0])
    chunks: list[bytes] = []
    await _pop3_reply(client, pop3.Retrieve(number=messages), chunks)
    await _pop3_reply(client, pop3.Quit())
    return b"".join(chunks)


async def _pop3_reply(
    client: AsyncClientConnection[pop3.ClientEvent], command: Command | None, chunks: list[bytes] | None = None
) -> pop3.Reply:
    """Send *command*, and return its reply.  If *command* is None, return the greeting.

    Content is appended to *chunks*.
    """
    if command is not None:
        client.send(command)
    async for event in client:
        if isinstance(event, MessageChunk) and chunks is not None:
            chunks.append(event.data)
        elif isinstance(event, pop3.ReplyReceived):
            if event.command is not command or not event.reply.positive:
                raise ClientFailed(f"unexpected reply: {event.reply}")
            return event.reply
    raise ClientFailed("the server closed the connection")
