"""Interceptors: functions that see each question of a session before the server answers it, and may answer it.

Pass them to ``serve(config, stores, interceptors=[...])``.  docs/interceptors.md has examples, and says what the server
guarantees.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs

from mailauth import Accept, Question, Tls, pop3, sasl, smtp

from .._checks import check_function, check_number, check_type, field
from ..adapters import Peer
from ..stores import MessageContent

__all__ = [
    "DROP",
    "PASS",
    "Answer",
    "Decision",
    "Delay",
    "Drop",
    "Interceptor",
    "InterceptorFunction",
    "Pass",
    "ReceivedMessage",
    "SessionView",
]

MAX_DELAY: Final = 600.0
"""Maximum seconds of a Delay: clients wait at least ten minutes for the reply to a message (RFC 5321 section
4.5.3.2.6), and most of them less for other replies."""

MAX_TIMEOUT: Final = 60.0
"""Maximum timeout of an interceptor in seconds.  It holds a connection, and its client waits."""


@attrs.frozen
class Pass:
    """The type of PASS.

    For example:

        if not isinstance(question, smtp.Rcpt):
            return server.PASS
    """


@attrs.frozen
class Drop:
    """The type of DROP.

    For example:

        if isinstance(question, smtp.Connected):
            return server.DROP
    """


PASS: Final = Pass()
"""The decision to leave the question to the next interceptor and to the server."""

DROP: Final = Drop()
"""The decision to close the connection at once, without a reply."""

Answer: TypeAlias = Accept | smtp.Reply | pop3.Unavailable | sasl.Refusal | sasl.ScramKeys | bytes | str
"""What an interceptor can answer.  Each question has its own types: see docs/interceptors.md.

None, which some questions of a login allow, is not among them, because a function that forgets to return a decision
returns None."""


def _at_most(highest: float) -> Callable[[object, attrs.Attribute[float], float], None]:
    def check(instance: object, attribute: attrs.Attribute[float], seconds: float) -> None:
        if seconds > highest:
            raise ValueError(f"{attribute.name} must be at most {highest:g} seconds, not {seconds:g}")

    return check


def _check_then(instance: object, attribute: object, then: object) -> None:
    if isinstance(then, Delay):
        raise ValueError("then must not be a Delay; add its seconds to those of this one")


@attrs.frozen
class Delay:
    """The decision to wait before *then* is carried out.

    The delay ends early if the client disconnects or the server shuts down; the session then ends.  Raises ValueError
    if *seconds* is not 0 to 600.

    For example:

        if isinstance(question, smtp.Connected):
            return server.Delay(5, then=ACCEPT)
    """

    seconds: float = attrs.field(validator=[field(check_number, zero=True), _at_most(MAX_DELAY)])
    then: Answer | Pass | Drop = attrs.field(default=PASS, validator=_check_then)


Decision: TypeAlias = Pass | Drop | Delay | Answer
"""What an interceptor returns: PASS, DROP, a Delay, or an answer to the question."""


class ReceivedMessage:
    """The content of a message that was received completely and is not yet stored.

    For example:

        if view.message is not None and b"rabbit-hole" in view.message.content():
            return smtp.Reply(554, "5.6.0", "content rejected")
    """

    __slots__ = ("_content", "_queue_id", "_received_line")

    def __init__(self, content: MessageContent, queue_id: str, received_line: bytes) -> None:
        self._content = content
        self._queue_id = queue_id
        self._received_line = received_line

    @property
    def queue_id(self) -> str:
        """The id of the message in the log, in ``received_line``, and in the reply if the server stores the message."""
        return self._queue_id

    @property
    def received_line(self) -> bytes:
        """The ``Received:`` line of this server, with CRLF (RFC 5321 section 4.4).

        The server adds it to what it stores and relays.  An interceptor that sends the message on puts it before
        ``content()``; without it, a mail loop is not detected.
        """
        return self._received_line

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._content.size

    def content(self) -> bytes:
        """Return the whole message as the client sent it, with CRLF line ends.  Each call joins it in memory.

        Call it before the interceptor returns: what is read later may be changed.
        """
        return b"".join(self._content.chunks)

    def __repr__(self) -> str:
        return f"<ReceivedMessage of {self.size} bytes>"


@attrs.frozen(kw_only=True)
class SessionView:
    """What an interceptor sees of a session: its state before the question is answered.

    For example:

        async def require_tls(view, question):
            return server.DROP if isinstance(question, smtp.Mail) and view.tls is None else server.PASS
    """

    protocol: str
    """``"SMTP"`` or ``"POP3"``, in capitals, also on the ports with implicit TLS."""
    connection_id: str
    """The id of the connection in the log."""
    peer: Peer
    tls: Tls | None
    """The TLS session; None without TLS."""
    identity: str | None
    """The authorization identity; None before a login in this session.  A client that relays by a grant has none."""
    grant: str | None = None
    """The account whose grant permits the peer's address to relay (POP before SMTP), for a client without a login.

    It is looked up at Mail and again at each Rcpt, where the relay policy uses the result of the same lookup.  At Data
    and MessageComplete it is the last one found in the transaction; at other questions, and in POP3, it is None.

    It is None too if the grant store fails.  At Rcpt, the server then answers 451 to a remote recipient."""
    hello: smtp.Hello | None = None
    """The last EHLO or HELO; None before it and after STARTTLS, and in POP3."""
    mail: smtp.Mail | None = None
    """The MAIL command of the open transaction; None without one."""
    recipients: tuple[smtp.Rcpt, ...] = ()
    """The accepted recipients of the open transaction."""
    message: ReceivedMessage | None = None
    """The message, at MessageComplete."""


InterceptorFunction: TypeAlias = Callable[[SessionView, Question[Any]], Decision | Awaitable[Decision]]
"""An async function of a view and a question, or a plain one, which must not block."""


def _check_not_class(instance: object, attribute: object, function: object) -> None:
    if isinstance(function, type):
        raise TypeError(f"function must not be the class {function.__name__}; use {function.__name__}(...)")


@attrs.frozen
class Interceptor:
    """A function with what it may see and do.  A function that is passed to ``serve()`` has the defaults.

    Raises TypeError for a value that is not callable, and ValueError for a timeout that is not above 0 and at most 60.

    For example:

        >>> server.Interceptor(print, secrets=True).may_relay
        False
    """

    function: InterceptorFunction = attrs.field(validator=[field(check_function), _check_not_class])
    secrets: bool = attrs.field(default=False, kw_only=True, validator=field(check_type, bool))
    """Show the passwords and tokens in the questions of a login.  Without it, they are empty."""
    may_relay: bool = attrs.field(default=False, kw_only=True, validator=field(check_type, bool))
    """A positive answer to Rcpt accepts a remote recipient for which neither a login nor a grant permits relaying."""
    timeout: float = attrs.field(default=5.0, kw_only=True, validator=[field(check_number), _at_most(MAX_TIMEOUT)])
    """Seconds after which the call is cancelled, and the question is answered with ``question.unavailable``.  A plain
    function cannot be interrupted."""

    @property
    def name(self) -> str:
        """The name of the function, for the log."""
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)
