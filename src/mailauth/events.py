"""The events of all connections: actions, questions, notices and payload.

An adapter performs the five actions and passes every other event to the application.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final, Generic, TypeAlias, TypeVar

import attrs

from ._validators import value_of
from ._values import shared_methods

A = TypeVar("A")
R = TypeVar("R")


class Command:
    """A command that a client can ``send()``.  There is one class for each verb, which parses and serializes itself.

    For example:

        commands: list[Command] = [smtp.Noop(), smtp.Rset(), smtp.Quit()]
        for command in commands:
            client.send(command)
    """

    __slots__ = ()


class Notice:
    """An event that only informs the application, which may ignore it.  Any reply is already written.

    For example:

        case Notice():
            print(event)  # such as smtp.Hello, whose reply is already written
    """

    __slots__ = ()


class Payload:
    """Message content, or the report that it will not be completed.

    It is not a Notice, so that a handler that ignores all notices does not lose mail.

        case MessageChunk(data=data):
            file.write(data)
        case Payload():  # MessageAborted: nothing else ends a message early
            file.truncate(0)
    """

    __slots__ = ()


class Question(Generic[A]):
    """A decision that the application must make.

    The connection is paused until the application calls ``answer(question, answer)``.  *A* is the type of the answer.

        case Question() as question:  # after the cases of the questions that the session handles
            connection.decline(question)
    """

    __slots__ = ()

    @property
    @abstractmethod
    def unavailable(self) -> A:
        """The answer that reports a temporary failure, for use when a store has failed, and in tests and fuzzers."""


class ExtensionQuestion(Question[A]):
    """The base class of the questions of verbs and mechanisms that an application adds.

    Verbs are added with ``ServerSettings(verbs=...)``, mechanisms with ``sasl.Mechanisms``.  A session that does not
    handle the question calls ``decline()``.

        class Etrn(Command, ExtensionQuestion[smtp.Verdict]):
            @property
            def unavailable(self) -> smtp.Reply:
                return smtp.Reply(458, "4.3.0", "unable to queue messages")
    """

    __slots__ = ()


class ExtensionNotice(Notice):
    """The base class of the notices of verbs and mechanisms that an application adds.

    For example:

        class XIdle(Command, ExtensionNotice):
            verb = "XIDLE"

        case XIdle():
            print("the client is idle")
    """

    __slots__ = ()


class CloseReason(enum.Enum):
    """Why a session ended, or why something in progress (a message, a login) was not completed.

    For example:

        case Closed(reason=CloseReason.TIMED_OUT):
            print("the peer took too long")
    """

    QUIT = "the client sent QUIT"
    PEER_CLOSED = "the peer closed the connection"
    SHUT_DOWN = "the session was shut down on this side"
    TIMED_OUT = "the peer took too long"
    TOO_MANY_ERRORS = "the client made too many errors"
    ABORTED = "an operation in progress could not be completed"


@shared_methods
@attrs.frozen(eq=False, repr=False)
class Accept:
    """The type of ACCEPT.

    For example:

        def may_relay(identity: str | None) -> Accept | smtp.Reply:
            return ACCEPT if identity else smtp.Reply(550, "5.7.1", "relaying denied")
    """


ACCEPT: Final = Accept()
"""The positive answer to a question.  The server sends the standard reply of the protocol."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Tls:
    """The TLS layer as the adapter reports it.  The core does not verify it.

    For example:

        >>> client = smtp.ClientConnection(tls=Tls(version="TLSv1.3"))  # on port 465
        >>> client.tls.version
        'TLSv1.3'
    """

    version: str = attrs.field(validator=value_of(str))
    """The name that the ssl module uses, such as ``TLSv1.3``."""

    cipher: str = attrs.field(default="", validator=value_of(str))
    """The name of the cipher suite, as in ``ssl.SSLSocket.cipher()``."""

    peer_certificate: Mapping[str, object] | None = attrs.field(
        default=None, validator=value_of(Mapping, optional=True)
    )
    """The peer's verified certificate, as returned by ``ssl.SSLSocket.getpeercert()``; None without one."""

    channel_bindings: Mapping[str, bytes] = attrs.field(
        factory=dict[str, bytes], repr=False, validator=value_of(Mapping)
    )
    """Channel binding data by its registered name, such as ``tls-server-end-point`` (RFC 5929)."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Send:
    """Write all of *data* before the next call of ``next_event()``.

    For example:

        case Send(data=data):
            sock.sendall(data)
    """

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes>")
    """May contain a password, so the repr shows only the length."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class NeedData:
    """Read from the peer and call ``receive_data()``.  At the timeout, call ``shut_down(CloseReason.TIMED_OUT)``.

    A NeedData that directly follows another continues the same wait: an incomplete line does not restart the timeout.

        case NeedData(timeout=timeout):
            sock.settimeout(timeout)
            machine.receive_data(sock.recv(65_536))
    """

    timeout: float
    """The maximum length of the wait, in seconds."""

    min_rate: float | None = None
    """The minimum average rate of message content, in bytes per second; None for any other wait.

    All waits for the content of one message share a time budget, which starts at *timeout* seconds.  Waiting reduces
    it, and each byte received adds 1 / *min_rate* seconds, up to *timeout*.  The wait times out when nothing is left.
    Other events in between do not reset the budget.  The wait for a command between two BDAT chunks of one message uses
    the same budget."""

    until: float = float("inf")
    """A second deadline, in seconds since the connection was opened.  It limits the time before a login."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class BeginTls:
    """Stop reading, write *data* in clear text, do the TLS handshake, then call ``tls_started()``.

    Report a failed handshake with ``receive_data(b"")``.  Data read before the handshake must not be passed to
    ``receive_data()`` after it.

        case BeginTls(data=data):
            sock.sendall(data)
            sock = context.wrap_socket(sock, server_side=True)
            machine.tls_started(Tls(version=sock.version()))
    """

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes>")


@shared_methods
@attrs.frozen(eq=False, repr=False)
class Paused:
    """No event is returned until the open question is answered, or ``tls_started()`` is called.

    For example:

        case Paused():
            machine.answer(question, await decision)  # of a task that was started for the question
    """


PAUSED: Final = Paused()


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Closed:
    """The session is over: close the connection.  Each further ``next_event()`` returns it again.

    For example:

        case Closed(reason=reason, unanswered=commands):
            sock.close()
            print(f"{reason.value}; {len(commands)} commands have no reply")
    """

    reason: CloseReason
    unanswered: tuple[Command, ...] = ()
    """On a client: the commands without a reply, in the order of ``send()``, including those not yet written."""


Action: TypeAlias = Send | NeedData | BeginTls | Paused | Closed


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class TlsStarted(Notice):
    """TLS has started after STARTTLS or STLS.  Everything learned before is discarded (RFC 3207 section 4.2).

    For example:

        case TlsStarted(dropped=dropped) if dropped:
            print(f"{dropped} bytes were sent in clear text after STARTTLS")
    """

    tls: Tls
    dropped: int = 0
    """Bytes received between the command and the handshake, which were discarded.

    More than 0 indicates an attack: commands injected in clear text."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageChunk(Command, Payload):
    """A piece of message content, without dot-stuffing and with CRLF line ends.

    Content may be split into chunks anywhere, also between CR and LF: only the concatenation of the chunks has a
    meaning.  An SMTP server refuses other line ends, except with BODY=BINARYMIME or if its settings allow them.  A POP3
    client returns what the server has sent.

        client.send(MessageChunk(data=b"Subject: test\\r\\n\\r\\n"))

        case MessageChunk(data=data):
            file.write(data)
    """

    data: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes>", validator=value_of(bytes))


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class CommandRejected(Notice, Generic[R]):
    """The server rejected a command without asking the application.  The reply is already written."""

    verb: str
    """The verb in upper case; empty if this server does not have it."""

    line: bytes = attrs.field(repr=False)
    """The line as received, without CRLF; empty for a line that was too long.

    The argument of a login command is removed.  The line may still contain a secret that the client sent out of
    sequence, so do not log it."""

    reply: R
    """The reply that was sent to the client."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReplyReceived(Generic[R]):
    """The reply to *command*, which is the object that was passed to ``send()``.

    *command* is None for the greeting, and for an unsolicited reply that announces the end of the session.
    """

    command: Command | None
    reply: R


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class AuthenticationRejected(Notice, Generic[R]):
    """The server rejected the login.  The client may try again on this connection."""

    mechanism: str
    """The mechanism that was tried last."""
    reply: R
    channel_binding: str = ""
    """The channel binding of this mechanism, such as ``tls-unique``; empty without one."""
    earlier: tuple[AuthenticationRejected[R], ...] = ()
    """The logins that the server rejected before, in this call of ``authenticate()``."""

    @property
    def channel_bindings(self) -> tuple[str, ...]:
        """The channel bindings that were rejected.  If the password is right, the server may not support them."""
        tried = dict.fromkeys(event.channel_binding for event in (*self.earlier, self))
        return tuple(binding for binding in tried if binding)
