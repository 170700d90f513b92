"""The clients of ``mailauth_io.client``."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from mailauth import ProtocolError

from .. import client
from .client_config import HOST, SENDER, AuthenticationRejected, ClientConfig, ClientFailed, ServerNotProved
from .rows import TlsMode

_TLS: Final[dict[TlsMode, client.TlsMode]] = {
    TlsMode.CLEAR: "none",
    TlsMode.UPGRADE: "starttls",
    TlsMode.IMPLICIT: "implicit",
}


class MailauthClients:
    """``client.smtp_client`` and ``client.pop3_client``."""

    name = "the mailauth clients"

    async def submit(
        self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> int:
        """See ``Clients.submit``."""
        with _one_kind_of_error():
            async with client.smtp_client(
                host=HOST,
                port=client_config.smtp,
                login=_login(client_config) if authenticate else None,
                tls=_TLS[client_config.tls_mode],
                ssl_context=_context(client_config),
                local_address=source,
            ) as session:
                result = await session.send(content, SENDER, [recipient])
                return result.replies[recipient].code

    async def collect(self, client_config: ClientConfig) -> bytes:
        """See ``Clients.collect``."""
        with _one_kind_of_error():
            async with client.pop3_client(
                host=HOST,
                port=client_config.pop3,
                login=_login(client_config),
                tls=_TLS[client_config.tls_mode],
                ssl_context=_context(client_config),
            ) as maildrop:
                return await maildrop.retrieve((await maildrop.listing())[-1].number)


def _login(client_config: ClientConfig) -> client.Login:
    mechanism = client_config.login.value
    return client.Login(client_config.name, client_config.password, mechanisms=(mechanism,))


def _context(client_config: ClientConfig) -> ssl.SSLContext | None:
    return None if client_config.tls_mode is TlsMode.CLEAR else client_config.trusted


@contextmanager
def _one_kind_of_error() -> Generator[None]:
    try:
        yield
    except client.AuthenticationFailed as error:
        raise AuthenticationRejected(str(error.reply)) from error
    except (client.ClientError, ProtocolError) as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise ServerNotProved(str(error)) from error
        raise ClientFailed(str(error)) from error
