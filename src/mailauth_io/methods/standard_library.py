"""Independent clients: ``smtplib`` and ``poplib`` of the standard library, each connection in its own thread."""

from __future__ import annotations

import contextlib
import poplib
import smtplib
import ssl
from collections.abc import Generator

from anyio import to_thread

from .client_config import (
    CLIENT_NAME,
    HOST,
    SENDER,
    TIMEOUT,
    AuthenticationRejected,
    ClientConfig,
    ClientFailed,
    ServerNotProved,
)
from .rows import Login, TlsMode


class StandardLibrary:
    """The clients of Python's standard library."""

    name = "the standard library"

    async def submit(
        self, client_config: ClientConfig, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> int:
        """See ``Clients.submit``."""
        return await to_thread.run_sync(_submit, client_config, recipient, content, authenticate, source)

    async def collect(self, client_config: ClientConfig) -> bytes:
        """See ``Clients.collect``."""
        return await to_thread.run_sync(_collect, client_config)


@contextlib.contextmanager
def _one_kind_of_error() -> Generator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ServerNotProved(str(error)) from error
    except smtplib.SMTPAuthenticationError as error:
        raise AuthenticationRejected(f"{error.smtp_code} {_text(error.smtp_error)}") from error
    except smtplib.SMTPResponseException as error:  # its str() is a tuple that contains bytes
        raise ClientFailed(f"{error.smtp_code} {_text(error.smtp_error)}") from error
    except poplib.error_proto as error:
        raise ClientFailed(_text(error.args[0])) from error
    except (OSError, EOFError, smtplib.SMTPException) as error:
        raise ClientFailed(f"{type(error).__name__}: {error}") from error


def _text(reply: bytes | str) -> str:
    return reply.decode("ascii", "replace") if isinstance(reply, bytes) else str(reply)


def _submit(client_config: ClientConfig, recipient: str, content: bytes, authenticate: bool, source: str) -> int:
    with _one_kind_of_error(), _smtp(client_config, source) as client:
        client.ehlo()
        if client_config.tls_mode is TlsMode.UPGRADE:
            client.starttls(context=client_config.trusted)
            client.ehlo()
        if authenticate:
            _authenticate(client, client_config)
        code, _ = client.mail(SENDER)
        if code == 250:
            code, _ = client.rcpt(recipient)
        if code == 250:
            code, _ = client.data(content)
        return code


def _smtp(client_config: ClientConfig, source: str) -> smtplib.SMTP:
    if client_config.tls_mode is TlsMode.IMPLICIT:
        return smtplib.SMTP_SSL(
            HOST,
            client_config.smtp,
            CLIENT_NAME,
            timeout=TIMEOUT,
            source_address=(source, 0),
            context=client_config.trusted,
        )
    return smtplib.SMTP(HOST, client_config.smtp, CLIENT_NAME, timeout=TIMEOUT, source_address=(source, 0))


def _authenticate(client: smtplib.SMTP, client_config: ClientConfig) -> None:
    offered = client.esmtp_features.get("auth", "").split()
    if client_config.login.value not in offered:
        raise ClientFailed(f"AUTH {client_config.login.value} is not offered")
    client.user, client.password = client_config.name, client_config.password
    match client_config.login:
        case Login.PLAIN:
            client.auth("PLAIN", client.auth_plain)
        case Login.LOGIN:
            client.auth("LOGIN", client.auth_login)
        case Login.CRAM_MD5:
            client.auth("CRAM-MD5", client.auth_cram_md5)
        case Login.USER | Login.APOP:
            raise ClientFailed(f"{client_config.login.value} is not an SMTP mechanism")


def _collect(client_config: ClientConfig) -> bytes:
    with _one_kind_of_error(), _pop3(client_config) as client:
        if client_config.tls_mode is TlsMode.UPGRADE:
            client.stls(context=client_config.trusted)
        _log_in(client, client_config)
        messages, _ = client.stat()
        _, lines, _ = client.retr(messages)
        client.quit()
        return b"".join(line + b"\r\n" for line in lines)


def _log_in(client: poplib.POP3, client_config: ClientConfig) -> None:
    try:
        if client_config.login is Login.APOP:
            client.apop(client_config.name, client_config.password)
        else:
            client.user(client_config.name)
            client.pass_(client_config.password)
    except poplib.error_proto as error:
        raise AuthenticationRejected(_text(error.args[0])) from error


@contextlib.contextmanager
def _pop3(client_config: ClientConfig) -> Generator[poplib.POP3]:
    if client_config.tls_mode is TlsMode.IMPLICIT:
        client: poplib.POP3 = poplib.POP3_SSL(HOST, client_config.pop3, timeout=TIMEOUT, context=client_config.trusted)
    else:
        client = poplib.POP3(HOST, client_config.pop3, timeout=TIMEOUT)
    try:
        yield client
    finally:
        with contextlib.suppress(OSError):  # raised if the socket was closed by a failed handshake
            client.close()
