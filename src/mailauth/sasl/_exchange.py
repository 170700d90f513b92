"""One exchange of responses and challenges: the path that every login takes, for SMTP and POP3, whatever the mechanism.

Knows the words that both AUTH commands share (RFC 4954 section 4, RFC 5034 section 4): base64, ``=`` and ``*``.
Knows no command, no reply and no line end, and keeps no password longer than the mechanism does.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from .._errors import LocalProtocolError, Malformed
from .._events import Accept
from ._base64 import decode_base64, encode_base64
from ._messages import (
    Authorize,
    Challenge,
    CheckExternal,
    CheckPassword,
    CheckToken,
    ClientMechanism,
    Fault,
    FetchScramKeys,
    FetchSecret,
    Refusal,
    ScramKeys,
    ServerMechanism,
    ServerQuestion,
    Step,
    Success,
)

MAX_LINE: Final = 12_288 + 4
"""Octets of a line of an exchange, with CRLF and POP3's ``+ `` (RFC 4954 section 4; RFC 5034 section 4 names none)."""


class _Turn(enum.Enum):
    NOT_STARTED = "the exchange has not begun"
    CLIENT = "the client's response is awaited"
    APPLICATION = "a question is open"
    OVER = "the exchange is over"


def _answers(question: ServerQuestion | None, answer: object) -> bool:
    """Whether *answer* is of the type that *question* takes."""
    if isinstance(answer, Refusal):
        return True
    match question:
        case FetchSecret():
            return answer is None or isinstance(answer, bytes)
        case FetchScramKeys():
            return answer is None or isinstance(answer, ScramKeys)
        case CheckToken() | CheckExternal():
            return isinstance(answer, str) and answer != ""
        case CheckPassword() | Authorize():
            return isinstance(answer, Accept)
        case None:
            return False


class ServerExchange:
    """A login as a server sees it: responses and answers in, one Step out of each.

    Begin with ``begin()`` (AUTH) or with ``respond()`` (USER/PASS and APOP, which have no base64).  Then, by the Step:

    * Challenge: send it (``encode_base64`` makes a line of it) and hand the reply to ``receive()`` or ``respond()``;
    * a question: put it to the application and hand the answer to ``answer()``;
    * Success, Refusal, Fault: the exchange is over.

    The final Success always names who counts: ``authorization_identity`` is never empty and is the identity to act as,
    ``authentication_identity`` is who proved it.  They differ only if Authorize was answered with ACCEPT.  Its
    ``data`` are empty, since they were sent before.

    A call out of turn raises LocalProtocolError and changes nothing.
    """

    __slots__ = ("_mechanism", "_proved", "_question", "_turn", "_was_asked")

    def __init__(self, mechanism: ServerMechanism) -> None:
        self._mechanism = mechanism
        self._turn = _Turn.NOT_STARTED
        self._question: ServerQuestion | None = None
        self._proved: Success | None = None
        self._was_asked = False

    @property
    def mechanism(self) -> str:
        """The mechanism's registered name."""
        return self._mechanism.name

    @property
    def authentication_identity(self) -> str | None:
        """Who says they are logging in, as soon as that was said; not proved before Success."""
        return self._mechanism.authentication_identity

    @property
    def question(self) -> ServerQuestion | None:
        """The open question, the very object that was returned."""
        return self._question

    @property
    def was_asked(self) -> bool:
        """Whether a question was returned since the exchange began, open or answered."""
        return self._was_asked

    def begin(self, initial_response: bytes | None) -> Step:
        """The AUTH command with its initial response as on the wire: base64, ``=`` for an empty one, None for none."""
        self._expect(_Turn.NOT_STARTED)
        if initial_response is None:
            return self._take(self._mechanism.respond(None))
        if not self._mechanism.client_first:
            return self._take(Fault.UNEXPECTED_INITIAL_RESPONSE)
        if initial_response == b"=":
            return self._take(self._respond(b""))
        if initial_response == b"":
            return self._take(Fault.UNDECODABLE)  # an empty one is spelled "="
        return self._decode(initial_response)

    def receive(self, line: bytes) -> Step:
        """A response as on the wire, without its line end: base64, nothing for an empty one, ``*`` to cancel."""
        self._expect(_Turn.CLIENT)
        if line == b"*":
            return self._take(Fault.CANCELLED)
        return self._decode(line)

    def respond(self, response: bytes | None) -> Step:
        """A response as it is, for the forms without base64: what follows USER, PASS or APOP on its line."""
        self._expect(_Turn.NOT_STARTED, _Turn.CLIENT)
        return self._take(self._respond(response))

    def answer(self, answer: object) -> Step:
        """The application's answer to the open question.

        One of a wrong type is a LocalProtocolError, and the question stays open.
        """
        self._expect(_Turn.APPLICATION)
        question = self._question
        if not _answers(question, answer):
            raise LocalProtocolError(f"{type(question).__name__} cannot be answered with {type(answer).__name__}")
        if isinstance(question, Authorize):
            return self._take(answer if isinstance(answer, Refusal) else self._conclude())
        return self._take(self._mechanism.resolve(answer))

    def _expect(self, *turns: _Turn) -> None:
        if self._turn not in turns:
            raise LocalProtocolError(f"out of turn: {self._turn.value}")

    def _decode(self, line: bytes) -> Step:
        try:
            response = decode_base64(line)
        except Malformed:
            return self._take(Fault.UNDECODABLE)
        return self._take(self._respond(response))

    def _respond(self, response: bytes | None) -> Step:
        if self._proved is None:
            return self._mechanism.respond(response)
        # The mechanism's last word travelled as a challenge; all that is left for the client to say is nothing.
        return Fault.MALFORMED if response else attrs.evolve(self._proved, data=b"")

    def _take(self, step: Step) -> Step:
        """Note whose turn *step* makes it; a mechanism's Success is settled first."""
        if isinstance(step, Success) and self._proved is None:
            step = self._settle(step)
        self._question = None
        match step:
            case Challenge():
                self._turn = _Turn.CLIENT
            case Success() | Refusal() | Fault():
                self._turn = _Turn.OVER
            case question:
                self._was_asked = True
                self._question = question
                self._turn = _Turn.APPLICATION
        return step

    def _settle(self, success: Success) -> Step:
        """The credentials are proved: whom do they act as (RFC 4422 section 3.4.1)?"""
        who = success.authentication_identity
        acting_as = success.authorization_identity
        # Not evolve(): most logins come by here, and it costs as much as all the rest.
        self._proved = Success(authentication_identity=who, authorization_identity=acting_as or who, data=success.data)
        if acting_as in ("", who):
            return self._conclude()
        return Authorize(
            authentication_identity=who,
            authorization_identity=acting_as,
            mechanism=self._mechanism.name,
            tls=self._mechanism.tls,
        )

    def _conclude(self) -> Step:
        """Success; or first the mechanism's last octets, which 235 and +OK cannot carry (RFC 4954 section 4)."""
        proved = self._proved
        assert proved is not None
        return Challenge(proved.data) if proved.data else proved


class ClientExchange:
    """A login as a client sees it, with base64 on both sides; the mechanism holds the secret and the state.

    A mechanism may be used for one exchange after another: ``begin()`` starts it anew.
    """

    __slots__ = ("_kept", "_mechanism")

    def __init__(self, mechanism: ClientMechanism) -> None:
        self._mechanism = mechanism
        self._kept: bytes | None = None

    @property
    def mechanism(self) -> str:
        """The mechanism's registered name."""
        return self._mechanism.name

    @property
    def satisfied(self) -> bool:
        """Whether the server's success may be believed now."""
        return self._kept is None and self._mechanism.satisfied

    def begin(self, room: int | None = None) -> bytes | None:
        """The initial response as on the wire (an empty one is ``=``), or None when the AUTH command goes without.

        One longer than *room* octets is kept for the server's empty challenge, as RFC 4954 section 4 and RFC 5034
        section 4 want it of a line that would grow too long.
        """
        self._kept = None
        response = self._mechanism.respond(None)
        if not self._mechanism.client_first:
            return None
        line = encode_base64(response) or b"="
        if room is None or len(line) <= room:
            return line
        self._kept = response
        return None

    def say(self, challenge: bytes | None) -> bytes:
        """A response as it is, for the forms without base64: USER's name, PASS's password, APOP's argument."""
        return self._mechanism.respond(challenge)

    def respond(self, line: bytes) -> bytes:
        """The line that answers a challenge, both in base64 and without line end.

        Raises Malformed on what is not base64 and on a challenge that the mechanism cannot take: cancel with ``*``.
        """
        challenge = decode_base64(line)
        if self._kept is None:
            return encode_base64(self._mechanism.respond(challenge))
        if challenge:
            raise Malformed("a challenge where the client speaks first")
        response, self._kept = self._kept, None
        return encode_base64(response)
