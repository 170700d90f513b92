"""The events of SMTP that are not commands, and the unions of all events of a server and of a client."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from .. import sasl
from .._values import shared_methods
from ..events import (
    AuthenticationRejected as BaseAuthenticationRejected,
    CloseReason,
    CommandRejected as BaseCommandRejected,
    ExtensionNotice,
    MessageChunk,
    Payload,
    ReplyReceived as BaseReplyReceived,
    TlsStarted,
)
from .commands import Data, Hello, Help, Mail, MessageComplete, Noop, Quit, Rcpt, Rset, StartTls, VerdictQuestion, Vrfy
from .replies import Reply


class ContentFault(enum.Enum):
    """Why a message was refused or abandoned after its content had begun.

    For example:

        case smtp.MessageAborted(reason=smtp.ContentFault.BARE_LINE_END):
            print(f"{connection.peer.address} may attempt SMTP smuggling")
    """

    TOO_LARGE = "the message is larger than SIZE allows"
    BARE_LINE_END = "the content contains a bare CR, a bare LF or a NUL"
    """These allow SMTP smuggling (CVE-2023-51764, CVE-2024-27305)."""
    LONG_LINE = "a line of the content is too long"
    ABANDONED = "the client abandoned the message between two chunks"
    """By RSET, EHLO or QUIT after BDAT (RFC 3030 section 2)."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Connected(VerdictQuestion):
    """A client has connected: asks, before the greeting, whether it is accepted.

    ACCEPT sends the greeting 220.  A Reply of 421 closes the session.  After any other negative Reply, usually 554, the
    client may only send QUIT (RFC 5321 section 3.1).

        case smtp.Connected() as question:
            blocked = connection.peer.address in blocklist
            connection.answer(question, smtp.Reply(554, "5.7.1", "access denied") if blocked else ACCEPT)
    """

    @property
    def unavailable(self) -> Reply:
        return Reply(421, "4.3.2", "service not available, try again later")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageAborted(Payload):
    """The content will not be completed: discard the part that was received.

    Content that must be refused (see ContentFault) is aborted at its first fault.  The client may continue to send, and
    gets the reply at the end of the content.

        case smtp.MessageAborted(reason=reason):
            file.close()
            print(f"not received: {reason.value}")
    """

    reason: CloseReason | ContentFault


class CommandRejected(BaseCommandRejected[Reply]):
    """The server rejected a command without asking the application.  The reply is already written.

    For example:

        case smtp.CommandRejected(verb="AUTH", reply=reply):
            print(f"no login: {reply}")
    """

    __slots__ = ()


class ReplyReceived(BaseReplyReceived[Reply]):
    """The reply to *command*, which is the object that was passed to ``send()``.

    *command* is None for the greeting, and for an unsolicited reply that announces the end of the session.

        case smtp.ReplyReceived(command=smtp.Rcpt(forward_path=mailbox), reply=reply) if not reply.positive:
            print(f"{mailbox} was refused: {reply}")
    """

    __slots__ = ()

    @property
    def temporary(self) -> bool:
        """Whether the command may be tried again later: 4yz, and 552 to RCPT.

        Older servers reply 552 to RCPT for too many recipients, where RFC 5321 requires 452 (section 4.5.3.1.10).
        """
        code = self.reply.code
        return 400 <= code < 500 or (code == 552 and isinstance(self.command, Rcpt))


class AuthenticationRejected(BaseAuthenticationRejected[Reply]):
    """The server rejected the login.  The client may try again on this connection.

    For example:

        case smtp.AuthenticationRejected(mechanism=mechanism, reply=reply):
            print(f"{mechanism}: {reply}")  # PLAIN: 535 5.7.8 authentication credentials invalid
    """

    __slots__ = ()


ServerEvent: TypeAlias = (
    Connected | Mail | Rcpt | Data | MessageComplete | StartTls
    | sasl.ServerQuestion | ExtensionNotice
    | MessageChunk | MessageAborted
    | Hello | Rset | Noop | Vrfy | Help | Quit | CommandRejected | TlsStarted
    | sasl.AuthenticationStarted | sasl.Authenticated | sasl.AuthenticationFailed
)  # fmt: skip
"""Every event that ``smtp.ServerConnection`` returns to the application."""

ClientEvent: TypeAlias = ReplyReceived | sasl.Authenticated | AuthenticationRejected
"""Every event that ``smtp.ClientConnection`` returns to the application."""
