"""What the two SMTP machines say to the application, beside the commands themselves; and the unions to match on."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from .. import _events, sasl
from .._events import CloseReason, MessageChunk, Payload, TlsStarted
from .commands import Data, Hello, Help, Mail, MessageComplete, Noop, Quit, Rcpt, Rset, StartTls, VerdictQuestion, Vrfy
from .replies import Reply


class ContentFault(enum.Enum):
    """Why a message whose content was begun is not taken."""

    TOO_LARGE = "the message is larger than SIZE allows"
    BARE_LINE_END = "the content holds a bare CR, a bare LF or a NUL"
    """What SMTP smuggling is made of (CVE-2023-51764, CVE-2024-27305)."""
    LONG_LINE = "a line of the content is longer than it may be"
    ABANDONED = "the client gave it up between two chunks"
    """By RSET, EHLO or QUIT behind BDAT (RFC 3030 section 2)."""


@attrs.frozen(kw_only=True)
class Connected(VerdictQuestion):
    """A client has connected: may it talk?  Asked before the greeting.

    ACCEPT greets with 220; 421 closes; another no, usually 554, leaves the client only QUIT (RFC 5321 section 3.1).
    """

    @property
    def unavailable(self) -> Reply:
        return Reply(421, "4.3.2", "service not available, try again later")


@attrs.frozen(kw_only=True)
class MessageAborted(Payload):
    """The content that was begun will not be completed: throw the application's part of it away.

    Content that can only be refused (see ContentFault) is aborted at its first fault; the client may go on to send for
    a while, and hears the reply at the end.
    """

    reason: CloseReason | ContentFault


class CommandRejected(_events.CommandRejected[Reply]):
    __slots__ = ()
    __doc__ = _events.CommandRejected.__doc__


class ReplyReceived(_events.ReplyReceived[Reply]):
    __slots__ = ()
    __doc__ = _events.ReplyReceived.__doc__

    @property
    def temporary(self) -> bool:
        """Whether the same may be tried again later: 4yz, and 552 to RCPT, by which older servers mean the 452 of too
        many recipients (RFC 5321 section 4.5.3.1.10).
        """
        code = self.reply.code
        return 400 <= code < 500 or (code == 552 and isinstance(self.command, Rcpt))


class AuthenticationRejected(_events.AuthenticationRejected[Reply]):
    __slots__ = ()
    __doc__ = _events.AuthenticationRejected.__doc__


ServerEvent: TypeAlias = (
    Connected | Mail | Rcpt | Data | MessageComplete | StartTls
    | sasl.CheckPassword | sasl.FetchSecret | sasl.Authorize
    | MessageChunk | MessageAborted
    | Hello | Rset | Noop | Vrfy | Help | Quit | CommandRejected | TlsStarted
    | sasl.AuthenticationStarted | sasl.Authenticated | sasl.AuthenticationFailed
)  # fmt: skip
"""Everything that ``smtp.ServerConnection`` hands to the application."""

ExtendedServerEvent: TypeAlias = ServerEvent | sasl.ExtendedQuestion
"""Everything that ``smtp.ExtendedServerConnection`` hands to the application: SCRAM, tokens and certificates, too."""

ClientEvent: TypeAlias = ReplyReceived | sasl.Authenticated | AuthenticationRejected
"""Everything that ``smtp.ClientConnection`` hands to the application."""
