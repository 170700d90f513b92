"""Clients that others wrote: ``smtplib`` and ``poplib``, each visit in a thread of its own.

Knows how to drive them, and nothing of ``mailauth``.
"""

from __future__ import annotations

import contextlib
import poplib
import smtplib
import ssl
from collections.abc import Iterator
from typing import Final

from ..._loops import current
from .rows import Login, Way
from .visit import CLIENT_NAME, HOST, SENDER, TIMEOUT, ClientFailed, LoginRefused, ServerNotProved, Visit


class StandardLibrary:
    """The clients of Python's standard library."""

    name: Final = "the standard library"

    async def submit(
        self, visit: Visit, *, recipient: str, content: bytes, authenticate: bool, source: str = HOST
    ) -> int:
        """As ``Clients.submit`` says."""
        return await current().in_thread(_submit, visit, recipient, content, authenticate, source)

    async def collect(self, visit: Visit) -> bytes:
        """As ``Clients.collect`` says."""
        return await current().in_thread(_collect, visit)


@contextlib.contextmanager
def _one_kind_of_error() -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ServerNotProved(str(error)) from error
    except smtplib.SMTPAuthenticationError as error:
        raise LoginRefused(f"{error.smtp_code} {_text(error.smtp_error)}") from error
    except smtplib.SMTPResponseException as error:  # its str() is a tuple with octets in it
        raise ClientFailed(f"{error.smtp_code} {_text(error.smtp_error)}") from error
    except poplib.error_proto as error:
        raise ClientFailed(_text(error.args[0])) from error
    except (OSError, EOFError, smtplib.SMTPException) as error:
        raise ClientFailed(f"{type(error).__name__}: {error}") from error


def _text(said: bytes | str) -> str:
    return said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)


def _submit(visit: Visit, recipient: str, content: bytes, authenticate: bool, source: str) -> int:
    with _one_kind_of_error(), _smtp(visit, source) as client:
        client.ehlo()
        if visit.way is Way.UPGRADE:
            client.starttls(context=visit.trusted)
            client.ehlo()
        if authenticate:
            _authenticate(client, visit)
        code, _ = client.mail(SENDER)
        if code == 250:
            code, _ = client.rcpt(recipient)
        if code == 250:
            code, _ = client.data(content)
        return code


def _smtp(visit: Visit, source: str) -> smtplib.SMTP:
    if visit.way is Way.IMPLICIT:
        return smtplib.SMTP_SSL(
            HOST, visit.smtp, CLIENT_NAME, timeout=TIMEOUT, source_address=(source, 0), context=visit.trusted
        )
    return smtplib.SMTP(HOST, visit.smtp, CLIENT_NAME, timeout=TIMEOUT, source_address=(source, 0))


def _authenticate(client: smtplib.SMTP, visit: Visit) -> None:
    offered = client.esmtp_features.get("auth", "").split()
    if visit.login.value not in offered:
        raise ClientFailed(f"AUTH {visit.login.value} is not offered")
    client.user, client.password = visit.name, visit.password
    match visit.login:
        case Login.PLAIN:
            client.auth("PLAIN", client.auth_plain)
        case Login.LOGIN:
            client.auth("LOGIN", client.auth_login)
        case Login.CRAM_MD5:
            client.auth("CRAM-MD5", client.auth_cram_md5)
        case Login.USER | Login.APOP:
            raise ClientFailed(f"{visit.login.value} is no login of SMTP")


def _collect(visit: Visit) -> bytes:
    with _one_kind_of_error(), _pop3(visit) as client:
        if visit.way is Way.UPGRADE:
            client.stls(context=visit.trusted)
        _log_in(client, visit)
        messages, _ = client.stat()
        _, lines, _ = client.retr(messages)
        client.quit()
        return b"".join(line + b"\r\n" for line in lines)


def _log_in(client: poplib.POP3, visit: Visit) -> None:
    try:
        if visit.login is Login.APOP:
            client.apop(visit.name, visit.password)
        else:
            client.user(visit.name)
            client.pass_(visit.password)
    except poplib.error_proto as error:
        raise LoginRefused(_text(error.args[0])) from error


@contextlib.contextmanager
def _pop3(visit: Visit) -> Iterator[poplib.POP3]:
    if visit.way is Way.IMPLICIT:
        client: poplib.POP3 = poplib.POP3_SSL(HOST, visit.pop3, timeout=TIMEOUT, context=visit.trusted)
    else:
        client = poplib.POP3(HOST, visit.pop3, timeout=TIMEOUT)
    try:
        yield client
    finally:
        with contextlib.suppress(OSError):  # after a failed handshake it stumbles over a socket that is gone already
            client.close()
