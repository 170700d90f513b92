"""The exceptions of the clients.  ``str()`` of each is one sentence that says what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailauth import pop3, smtp

if TYPE_CHECKING:
    from ._smtp import SubmitResult

__all__ = [
    "AuthenticationFailed",
    "ClientError",
    "ConnectionFailed",
    "DeliveryUnknown",
    "MessageRejected",
    "MessageTooLarge",
    "NotSupported",
    "ServerRejected",
]


class ClientError(Exception):
    """The base class of all errors of ``mailauth_io.client``, except those of the caller (ValueError, TypeError).

    For example:

        try:
            result = await submit(message, host="mail.example.org", login=("alice", "wonderland"))
        except ClientError as error:
            print(f"not sent: {error}")
    """


class ConnectionFailed(ClientError):
    """The connection could not be made, was lost, timed out, or the server violated the protocol.

    The cause is ``__cause__``: an OSError (ssl.SSLError and TimeoutError are OSErrors) or a RemoteProtocolError.
    Trying again later may succeed.

    For example:

        try:
            result = await submit(message, host="mail.example.org", timeout=20)
        except ConnectionFailed as error:
            print(f"try again later: {error}")
    """


class DeliveryUnknown(ConnectionFailed):
    """The connection was lost after the whole message was sent and before the server replied.

    The server may have accepted the message (RFC 1047): sending it again can deliver it twice.

    For example:

        try:
            result = await session.send(message)
        except DeliveryUnknown:
            print("the message may have arrived; look before you send it again")
    """


class NotSupported(ClientError):
    """The server does not offer what the call or the message needs, such as STARTTLS, DSN, SMTPUTF8 or the size.

    For example:

        try:
            result = await session.send(message, dsn=Dsn(notify=("FAILURE",)))
        except NotSupported:
            result = await session.send(message)
    """


class ServerRejected(ClientError):
    """The server rejected the session or a command; ``reply`` is its reply.

    ``temporary`` is true for a 4yz reply: trying again later may succeed.

    For example:

        try:
            raw = await maildrop.retrieve(1)
        except ServerRejected as error:
            print("later" if error.temporary else "never", error.reply)
    """

    def __init__(self, text: str, reply: smtp.Reply | pop3.Reply) -> None:
        super().__init__(text)
        self.reply = reply

    @property
    def temporary(self) -> bool:
        """Whether the same command may succeed later: SMTP replies 4yz, POP3 [SYS/TEMP], [IN-USE], [LOGIN-DELAY]."""
        if isinstance(self.reply, smtp.Reply):
            return 400 <= self.reply.code < 500
        return self.reply.response_code.upper() in ("SYS/TEMP", "IN-USE", "LOGIN-DELAY")


class AuthenticationFailed(ServerRejected):
    """The server rejected the login.

    For example:

        try:
            result = await submit(message, host="mail.example.org", login=("alice", "queen of hearts"))
        except AuthenticationFailed as error:
            print(f"wrong password: {error.reply}")
    """


class MessageRejected(ClientError):
    """Raised by ``SubmitResult.raise_for_rejected()``: at least one recipient was rejected; see ``result``.

    For example:

        try:
            result.raise_for_rejected()
        except MessageRejected as error:
            print(f"rejected for: {', '.join(error.result.rejected)}")
    """

    def __init__(self, result: SubmitResult) -> None:
        rejected = "; ".join(f"{name}: {' '.join(str(reply).split())}" for name, reply in result.rejected.items())
        super().__init__(f"rejected for {len(result.rejected)} of {len(result.replies)} recipients: {rejected}")
        self.result = result


class MessageTooLarge(ClientError):
    """A message is longer than ``max_message_size``.

    If LIST has announced it, the session can go on.  Otherwise the connection is closed, and nothing is deleted.

    For example:

        try:
            raw = await maildrop.retrieve(1)
        except MessageTooLarge as error:
            print(f"raise max_message_size: {error}")
    """
