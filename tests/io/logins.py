"""Logins by the library's own clients to a server on four ports, and their result."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trustme

from mailauth import LocalProtocolError, pop3, sasl, smtp
from mailauth_io import server
from mailauth_io.adapters.connection import AsyncClientConnection
from mailauth_io.adapters.tls import certificates
from tests.io import loops
from tests.io.tls import authority


@functools.cache
def client_authority() -> trustme.CA:
    return trustme.CA()


def context(*identities: str, issuer: trustme.CA | None = None, common_name: str | None = None) -> ssl.SSLContext:
    """Return a client's context, with a certificate for *identities* if there are any."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no authorities of the system: they take 20 ms
    authority().configure_trust(made)
    if identities:
        (issuer or client_authority()).issue_cert(*identities, common_name=common_name).configure_cert(made)
    return made


def server_context() -> ssl.SSLContext:
    """Return a server's context that verifies client certificates, like that of ``--client-ca``."""
    made = certificates.server_context()
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(made)
    client_authority().configure_trust(made)
    made.verify_mode = ssl.CERT_OPTIONAL
    return made


async def smtp_login(
    ports: server.RunningServer, tls: ssl.SSLContext, mechanism: sasl.ClientMechanism, upgrade: bool
) -> str:
    """Log in by SMTP; return ``ok``, the reply code, or ``not offered``."""
    assert ports.smtp is not None
    assert ports.smtps is not None
    async with await loops.current().adapter.connect(
        lambda tls: smtp.ClientConnection(tls=tls), "127.0.0.1", ports.smtp if upgrade else ports.smtps,
        ssl_context=tls, implicit_tls=not upgrade,
    ) as client:  # fmt: skip
        await replied(client)
        for command in [smtp.Hello(domain="c"), *([smtp.StartTls(), smtp.Hello(domain="c")] if upgrade else [])]:
            client.send(command)
            await replied(client)
        return await outcome(client, mechanism)


async def pop3_login(
    ports: server.RunningServer, tls: ssl.SSLContext, mechanism: sasl.ClientMechanism, upgrade: bool
) -> str:
    """Log in by POP3; return ``ok``, the response code, or ``not offered``."""
    assert ports.pop3 is not None
    assert ports.pop3s is not None
    async with await loops.current().adapter.connect(
        lambda tls: pop3.ClientConnection(tls=tls), "127.0.0.1", ports.pop3 if upgrade else ports.pop3s,
        ssl_context=tls, implicit_tls=not upgrade,
    ) as client:  # fmt: skip
        await replied(client)
        for command in [*([pop3.Stls()] if upgrade else []), pop3.Capa()]:
            client.send(command)
            await replied(client)
        return await outcome(client, mechanism)


async def replied(client: AsyncClientConnection[smtp.ClientEvent] | AsyncClientConnection[pop3.ClientEvent]) -> None:
    async for event in client:
        assert isinstance(event, smtp.ReplyReceived | pop3.ReplyReceived)
        return


async def outcome(
    client: AsyncClientConnection[smtp.ClientEvent] | AsyncClientConnection[pop3.ClientEvent],
    mechanism: sasl.ClientMechanism,
) -> str:
    try:
        client.authenticate(mechanism)
    except LocalProtocolError:
        return "not offered"
    async for event in client:
        match event:
            case sasl.Authenticated():
                return "ok"
            case smtp.AuthenticationRejected(reply=reply):
                return str(reply.code)
            case pop3.AuthenticationRejected(reply=reply):
                return reply.response_code
    return "closed"


Login: TypeAlias = Callable[[server.RunningServer, ssl.SSLContext, sasl.ClientMechanism, bool], Awaitable[str]]


def refused(login: Login) -> str:
    """Return the result of a login with bad credentials (RFC 4954 section 6, RFC 3206 section 6)."""
    return "535" if login is smtp_login else "AUTH"


by_both_protocols = pytest.mark.parametrize("login", [smtp_login, pop3_login], ids=["smtp", "pop3"])
on_both_ports = pytest.mark.parametrize("upgrade", [False, True], ids=["implicit", "upgraded"])
