"""What the two POP3 machines say to the application, beside the commands themselves; and the unions to match on."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .. import _events, sasl
from .._events import Accept, MessageChunk, TlsStarted
from .commands import Capa, Dele, List, Noop, Quit, Retrieve, Rset, Stat, Stls, Uidl, Utf8
from .maildrop import Maildrop
from .replies import Content, FallibleQuestion, Reply


@attrs.frozen(kw_only=True)
class Connected(FallibleQuestion[Accept]):
    """A client has connected: may it talk?  Asked before the greeting.

    Unavailable is said in the greeting's place, and ends the session.
    """


@attrs.frozen(kw_only=True)
class OpenMaildrop(FallibleQuestion[Maildrop]):
    """Lock the maildrop of *identity* and take its snapshot (RFC 1939 section 4).  Authenticated has come just before.

    Unavailable.LOGIN_DELAY says that this login comes too soon after the last.  The core has no clock: what
    ``ServerSettings.login_delay`` announces, the application enforces.

    A Maildrop opens TRANSACTION; everything but the text of messages and the commit is then computed from it.  Hold
    the lock until the connection's events end: whether QUIT was said or not, that is where the session is over.
    """

    identity: str
    """The authorization identity."""


@attrs.frozen(kw_only=True)
class RetrieveMore(FallibleQuestion[Content]):
    """The next piece of the message whose Retrieve was answered with ``Content(last=False)``.

    Unavailable closes the connection without the final dot: no other way is left to say that the message is not whole.
    """

    number: int
    offset: int
    """Octets of this message that were handed in so far."""


@attrs.frozen(kw_only=True)
class Update(FallibleQuestion[Accept]):
    """Remove the *deleted* messages for good (RFC 1939 section 6).  Asked once, at QUIT, and only when there are any.

    ACCEPT: all of them are gone.  Unavailable: some are not, and the client is told with -ERR.  A session that ends in
    any other way than QUIT never asks, and nothing may be removed then.
    """

    deleted: frozenset[int]
    """Message numbers."""


class CommandRejected(_events.CommandRejected[Reply]):
    __slots__ = ()
    __doc__ = _events.CommandRejected.__doc__


class ReplyReceived(_events.ReplyReceived[Reply]):
    __slots__ = ()
    __doc__ = _events.ReplyReceived.__doc__


class AuthenticationRejected(_events.AuthenticationRejected[Reply]):
    __slots__ = ()
    __doc__ = _events.AuthenticationRejected.__doc__


ProtocolQuestion: TypeAlias = Connected | OpenMaildrop | Retrieve | RetrieveMore | Update | Stls
"""POP3's own questions."""

ServerEvent: TypeAlias = (
    ProtocolQuestion
    | sasl.CheckPassword | sasl.FetchSecret | sasl.Authorize
    | Capa | Utf8 | Stat | List | Uidl | Dele | Rset | Noop | Quit | CommandRejected | TlsStarted
    | sasl.AuthenticationStarted | sasl.Authenticated | sasl.AuthenticationFailed
)  # fmt: skip
"""Everything that ``pop3.ServerConnection`` hands to the application."""

ExtendedServerEvent: TypeAlias = ServerEvent | sasl.ExtendedQuestion
"""Everything that ``pop3.ExtendedServerConnection`` hands to the application: SCRAM, tokens and certificates, too."""

ClientEvent: TypeAlias = ReplyReceived | MessageChunk | sasl.Authenticated | AuthenticationRejected
"""Everything that ``pop3.ClientConnection`` hands to the application."""
