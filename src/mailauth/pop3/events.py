"""The events of POP3 that are not commands, and the unions of all events of a server and of a client."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .. import sasl
from ..events import (
    Accept,
    AuthenticationRejected as BaseAuthenticationRejected,
    CommandRejected as BaseCommandRejected,
    ExtensionNotice,
    MessageChunk,
    ReplyReceived as BaseReplyReceived,
    TlsStarted,
)
from .commands import Auth, Capa, Dele, List, Noop, Quit, Retrieve, Rset, Stat, Stls, Uidl, Utf8
from .maildrop import Maildrop
from .replies import Content, FallibleQuestion, Reply


@attrs.frozen(kw_only=True)
class Connected(FallibleQuestion[Accept]):
    """A client has connected: accept or reject it.

    ACCEPT sends the greeting.  Unavailable sends -ERR instead and ends the session.

        case pop3.Connected() as question:
            connection.answer(question, pop3.Unavailable.TEMPORARY if overloaded else ACCEPT)
    """


@attrs.frozen(kw_only=True)
class OpenMaildrop(FallibleQuestion[Maildrop]):
    """Lock the maildrop of *identity* and answer with its messages (RFC 1939 section 4).  It follows Authenticated.

    A Maildrop opens TRANSACTION.  The replies to all commands are computed from it, except the text of messages and the
    commit.  Keep the lock until the events of the connection end, whether or not the client sends QUIT.

    Unavailable becomes -ERR with its response code, and the session is in AUTHORIZATION again.  Answer
    Unavailable.LOGIN_DELAY if this login comes too soon after the last.  The application enforces
    ``ServerSettings.login_delay``, because the core has no clock.

        case pop3.OpenMaildrop(identity=name) as question:
            messages = tuple(pop3.Message(size=size, unique_id=key) for key, size in sizes_of(name).items())
            connection.answer(question, pop3.Maildrop(messages=messages))
    """

    identity: str
    """The authorization identity."""


@attrs.frozen(kw_only=True)
class RetrieveMore(FallibleQuestion[Content]):
    """Provide the next piece of the message whose Retrieve was answered with ``Content(last=False)``.

    Unavailable closes the connection without the final dot, which tells the client that the message is incomplete.

        case pop3.RetrieveMore(number=number, offset=offset) as question:
            connection.answer(question, await maildrop.read(number, offset))
    """

    number: int
    offset: int
    """The number of bytes of this message passed in Content so far."""


@attrs.frozen(kw_only=True)
class Update(FallibleQuestion[Accept]):
    """Remove the *deleted* messages permanently (RFC 1939 section 6).  Asked once, at QUIT, if any are marked.

    Answer ACCEPT if all were removed.  Unavailable sends -ERR: some were not removed.  A session that ends without QUIT
    does not ask this question, and no message may be removed then.

        case pop3.Update(deleted=numbers) as question:
            await maildrop.update(numbers)
            connection.answer(question, ACCEPT)
    """

    deleted: frozenset[int]
    """Message numbers."""


class CommandRejected(BaseCommandRejected[Reply]):
    """The server rejected a command without asking the application.  The reply is already written.

    For example:

        case pop3.CommandRejected(verb="", reply=reply):
            print(f"unknown command: {reply}")
    """

    __slots__ = ()


class ReplyReceived(BaseReplyReceived[Reply]):
    """The reply to *command*, which is the object that was passed to ``send()``.

    *command* is None for the greeting, and for an unsolicited reply that announces the end of the session.

        case pop3.ReplyReceived(command=pop3.Dele(number=number), reply=reply) if not reply.positive:
            print(f"message {number} was not deleted: {reply.text}")
    """

    __slots__ = ()


class AuthenticationRejected(BaseAuthenticationRejected[Reply]):
    """The server rejected the login.  The client may try again on this connection.

    For example:

        case pop3.AuthenticationRejected(reply=pop3.Reply(response_code="IN-USE")):
            print("another session has the maildrop; try again later")
    """

    __slots__ = ()


ServerEvent: TypeAlias = (
    Connected | OpenMaildrop | Retrieve | RetrieveMore | Update | Stls
    | sasl.ServerQuestion | ExtensionNotice
    | Auth | Capa | Utf8 | Stat | List | Uidl | Dele | Rset | Noop | Quit | CommandRejected | TlsStarted
    | sasl.AuthenticationStarted | sasl.Authenticated | sasl.AuthenticationFailed
)  # fmt: skip
"""All events of ``pop3.ServerConnection`` except actions."""

ClientEvent: TypeAlias = ReplyReceived | MessageChunk | sasl.Authenticated | AuthenticationRejected
"""All events of ``pop3.ClientConnection`` except actions."""
