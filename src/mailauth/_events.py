"""What every connection speaks: actions, questions, notices, payload.

Knows no protocol and does no I/O.  An adapter carries out the five actions and hands on everything else.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Generic, TypeAlias, TypeVar

import attrs

from ._validators import value_of

A = TypeVar("A")
R = TypeVar("R")


class Command:
    """What a client may ``send()``: one class per verb, and its own codec."""

    __slots__ = ()


class Notice:
    """It happened and is already answered; whoever cares may look."""

    __slots__ = ()


class Payload:
    """Message content or its abrupt end.  No Notice, so that a catch-all for notices can drop no mail."""

    __slots__ = ()


class Question(Generic[A]):
    """Only the application can decide this; nothing advances until ``answer(question, answer)`` with an *A*."""

    __slots__ = ()

    @property
    @abstractmethod
    def unavailable(self) -> A:
        """The temporary failure that answers this question: for a store that failed, for doubles and for fuzzers."""


class CloseReason(enum.Enum):
    """Why a session ended, or why something that was begun came to no end of its own."""

    QUIT = "the client said QUIT"
    PEER_CLOSED = "the peer closed the connection"
    SHUT_DOWN = "this side was asked to shut down"
    TIMED_OUT = "the peer took too long"
    TOO_MANY_ERRORS = "the client spent its budget of errors"
    ABORTED = "something begun could not be finished"


@attrs.frozen
class Accept:
    """The type of ACCEPT."""


ACCEPT: Final = Accept()
"""Yes: the positive answer to a question, said in the protocol's standing words."""


@attrs.frozen(kw_only=True)
class Tls:
    """The TLS layer as the adapter found it; the core believes it and never asks."""

    version: str
    """As the ssl module names it: ``TLSv1.3``."""

    cipher: str = ""
    peer_certificate: Mapping[str, object] | None = None
    """The peer's verified certificate as ``ssl.SSLSocket.getpeercert()`` gives it; None when there is none."""

    channel_bindings: Mapping[str, bytes] = attrs.field(factory=dict, repr=False)
    """Channel binding data by its registered name, such as ``tls-server-end-point`` (RFC 5929)."""


@attrs.frozen(kw_only=True)
class Send:
    """Write *data*, all of them, before the next ``next_event()``."""

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} octets>")
    """A client's may hold a password; to see them, ask for them."""


@attrs.frozen(kw_only=True)
class NeedData:
    """Read, then ``receive_data()``; when the wait has lasted too long, ``shut_down(CloseReason.TIMED_OUT)``.

    A wait goes on over every NeedData that follows another one directly: octets that make nothing whole renew nothing.
    """

    timeout: float
    """Seconds that the wait may last."""

    min_rate: float | None = None
    """For content, whose waits are all one however many events come between: octets a second that it has to bring in
    the long run.  Waiting spends the patience; each octet earns the time it may take, and there are never more than
    *timeout* seconds in hand.  The wait for a command between two chunks of one message (BDAT) is one of these waits.
    None: octets earn nothing."""

    until: float = float("inf")
    """Seconds since the beginning of the connection at which the wait ends, too: the time before a login."""


@attrs.frozen(kw_only=True)
class BeginTls:
    """Stop reading, write *data* in clear, do the handshake, then ``tls_started()``.

    A handshake that fails is told as ``receive_data(b"")``.  What was read before it may not be handed in after it.
    """

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} octets>")


@attrs.frozen
class Paused:
    """Nothing can happen before the open question is answered (or TLS has started)."""


PAUSED: Final = Paused()


@attrs.frozen(kw_only=True)
class Closed:
    """The session is over: close the connection.  Every further ``next_event()`` says so again."""

    reason: CloseReason
    unanswered: tuple[Command, ...] = ()
    """Commands of a client that the server, saying 421, will not answer any more."""


Action: TypeAlias = Send | NeedData | BeginTls | Paused | Closed


@attrs.frozen(kw_only=True)
class TlsStarted(Notice):
    """STARTTLS or STLS has upgraded the connection; all that was known before is forgotten (RFC 3207 section 4.2)."""

    tls: Tls
    dropped: int = 0
    """Octets that came between the command and the handshake and were thrown away: above 0 is the sign of an attack."""


@attrs.frozen(kw_only=True)
class MessageChunk(Command, Payload):
    """Some octets of message content, dots unstuffed; chunks have no meaning of their own, only their sequence has."""

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} octets>", validator=value_of(bytes))


@attrs.frozen(kw_only=True)
class CommandRejected(Notice, Generic[R]):
    """A command was refused by the rules alone; the reply is on its way."""

    verb: str
    """The verb in capitals when it is one that this server knows, else empty."""

    line: bytes = attrs.field(repr=False)
    """The line as it came, without CRLF; empty for one too long, and without what may be secret behind a login's verb.

    It is the client's word, and may be a secret that it sent at the wrong moment: keep it out of logs.
    """

    reply: R


@attrs.frozen(kw_only=True)
class ReplyReceived(Generic[R]):
    """The reply to *command*, the very object that was sent.  None: the greeting, or a last word nobody asked for."""

    command: Command | None
    reply: R


@attrs.frozen(kw_only=True)
class AuthenticationRejected(Notice, Generic[R]):
    """The server refused a client's login; the connection may try again."""

    mechanism: str
    reply: R
