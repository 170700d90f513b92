"""Send and collect mail, on asyncio, on trio, or without an event loop (``mailauth_io.client.sync``).

    from mailauth_io import client

    result = await client.submit(message, host="mail.example.org", login=("alice", "wonderland"))

``submit`` sends one message, and ``smtp_client`` several over one connection.  ``collect`` retrieves all messages of a
maildrop, and ``pop3_client`` gives access to single ones.  TLS is required unless ``tls="none"`` is passed.
"""

from ._message import MessageLike, envelope
from ._pop3 import CollectedMessage, Listed, Pop3Client, collect, pop3_client
from ._server import Login, LoginLike, TlsMode
from ._smtp import Address, Dsn, SmtpClient, SubmitResult, smtp_client, submit
from .errors import (
    AuthenticationFailed,
    ClientError,
    ConnectionFailed,
    DeliveryUnknown,
    MessageRejected,
    MessageTooLarge,
    NotSupported,
    ServerRejected,
)

__all__ = [
    "Address",
    "AuthenticationFailed",
    "ClientError",
    "CollectedMessage",
    "ConnectionFailed",
    "DeliveryUnknown",
    "Dsn",
    "Listed",
    "Login",
    "LoginLike",
    "MessageLike",
    "MessageRejected",
    "MessageTooLarge",
    "NotSupported",
    "Pop3Client",
    "ServerRejected",
    "SmtpClient",
    "SubmitResult",
    "TlsMode",
    "collect",
    "envelope",
    "pop3_client",
    "smtp_client",
    "submit",
]
