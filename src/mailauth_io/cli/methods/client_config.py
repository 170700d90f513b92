"""What a client needs to know before it sets out, and what the two kinds of clients have in common.

Values only: no socket, and no idea of what the server will say.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from typing import Final, Protocol

import attrs

from .rows import Login, TlsMode

HOST: Final = "127.0.0.1"
"""Where the servers listen, and where clients come from unless told otherwise."""

CLIENT_NAME: Final = "client.test"
SENDER: Final = "sender@elsewhere.test"

TIMEOUT: Final = 10.0
"""Seconds that a client waits for a reply before its step counts as failed."""


class ClientFailed(Exception):
    """The client got no further: refused where it must not be, the connection lost, an offer missing."""


class AuthenticationRejected(ClientFailed):
    """The server did not take the credentials."""


class ServerNotProved(ClientFailed):
    """The client hung up during the handshake: no authority that it trusts has signed the server's certificate."""


@attrs.frozen(kw_only=True)
class ClientConfig:
    """Whom to visit and how."""

    smtp: int
    """The port for SMTP on HOST."""
    pop3: int
    """The port for POP3 on HOST."""
    tls_mode: TlsMode
    login: Login
    name: str
    password: str = attrs.field(repr=False)
    trusted: ssl.SSLContext = attrs.field(repr=False)


class Clients(Protocol):
    """One kind of clients; both come back with plain values, so that the steps are written once."""

    @property
    def name(self) -> str:
        """What the report calls them."""

    def submit(
        self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> Awaitable[int]:
        """Try to hand over one message by SMTP: the code of the reply that decided, 250 when it was taken.

        *authenticate*: log in by AUTH first.  *source* is the client's own address.  Raises ClientFailed.
        """

    def collect(self, client_config: ClientConfig) -> Awaitable[bytes]:
        """Log in by POP3, retrieve the newest message, quit; the message whole.  Raises ClientFailed."""
