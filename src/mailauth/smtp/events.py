"""What the two SMTP machines say to the application, beside the commands themselves; and the unions to match on."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from .. import sasl
from .._events import Command, MessageChunk, Notice, Payload, TlsStarted, Why
from .commands import (
    Data,
    Hello,
    Help,
    Mail,
    MessageComplete,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    VerdictQuestion,
    Vrfy,
)
from .replies import Reply


class ContentFault(enum.Enum):
    """Why a message whose content came to its end is refused all the same."""

    TOO_LARGE = "the message is larger than SIZE allows"
    BARE_LINE_END = "the content holds a bare CR, a bare LF or a NUL"
    """What SMTP smuggling is made of (CVE-2023-51764, CVE-2024-27305)."""


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
    """The content that was begun will not be completed: throw the application's part of it away."""

    why: Why | ContentFault


@attrs.frozen(kw_only=True)
class Refused(Notice):
    """A command was refused by the rules alone; the reply is on its way."""

    verb: str
    """The verb in capitals when it is one that this server knows, else empty."""

    line: bytes = attrs.field(repr=False)
    """The line as it came, without CRLF; empty for one too long, and cut behind the mechanism for AUTH.

    It is the client's word, and may be a secret that it sent at the wrong moment: keep it out of logs.
    """

    reply: Reply


@attrs.frozen(kw_only=True)
class Replied:
    """The reply to *command*, the very object that was sent.  None: the greeting, or a 421 nobody asked for."""

    command: Command | None
    reply: Reply


@attrs.frozen(kw_only=True)
class AuthenticationFailed(Notice):
    """The server refused the login; the connection may try again."""

    mechanism: str
    reply: Reply


ServerEvent: TypeAlias = (
    Connected
    | Mail
    | Rcpt
    | Data
    | MessageComplete
    | StartTls
    | sasl.CheckPassword
    | sasl.FetchSecret
    | sasl.Authorize
    | MessageChunk
    | MessageAborted
    | Hello
    | Rset
    | Noop
    | Vrfy
    | Help
    | Quit
    | Refused
    | sasl.AuthenticationStarted
    | sasl.Authenticated
    | sasl.AuthenticationFailed
    | TlsStarted
)
"""Everything that ``smtp.ServerConnection`` hands to the application."""

ClientEvent: TypeAlias = Replied | sasl.Authenticated | AuthenticationFailed
"""Everything that ``smtp.ClientConnection`` hands to the application."""
