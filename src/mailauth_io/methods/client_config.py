"""The configuration of a client, and the protocol that both kinds of clients implement."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import Final, Protocol

import attrs

from .rows import Login, TlsMode

HOST: Final = "127.0.0.1"
"""The address of the servers, and the default address of the clients."""

CLIENT_NAME: Final = "client.test"
SENDER: Final = "sender@remote.test"

TIMEOUT: Final = 10.0
"""Seconds that a client waits for a reply before its step counts as failed."""


class ClientFailed(Exception):
    """The client cannot continue: a command was rejected, the connection was lost, or an extension is missing."""


class AuthenticationRejected(ClientFailed):
    """The server rejected the credentials."""


class ServerNotProved(ClientFailed):
    """The client aborted the TLS handshake: the server's certificate is not signed by a trusted CA."""


@attrs.frozen(kw_only=True)
class ClientConfig:
    """The server to connect to, the connection mode, and the credentials."""

    smtp: int
    """The SMTP port on HOST."""
    pop3: int
    """The POP3 port on HOST."""
    tls_mode: TlsMode
    login: Login
    name: str
    password: str = attrs.field(repr=False)
    trusted: ssl.SSLContext = attrs.field(repr=False)


class Clients(Protocol):
    """One kind of client.  The results are plain values, so that the steps are the same for both kinds."""

    @property
    def name(self) -> str:
        """The name in the report."""
        ...

    def submit(
        self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> Awaitable[int]:
        """Submit one message by SMTP.  Returns the code of the reply that ended the transaction: 250 if accepted.

        With *authenticate*, log in with AUTH first.  *source* is the client's address.  Raises ClientFailed.
        """
        ...

    def collect(self, client_config: ClientConfig) -> Awaitable[bytes]:
        """Log in by POP3, retrieve the newest message, and quit.  Returns the whole message.  Raises ClientFailed."""
        ...
