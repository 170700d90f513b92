"""The SASL exchange: the challenges and responses of one login, with any mechanism, for both SMTP and POP3.

This module implements what both AUTH commands share (RFC 4954 section 4, RFC 5034 section 4): base64, ``=`` for an
empty initial response, and ``*`` to cancel.  It does no I/O, and keeps a password no longer than the mechanism does.
"""

from __future__ import annotations

import enum
from typing import Final, cast

import attrs

from .._validators import check_type
from ..errors import LocalProtocolError, Malformed
from ..events import Accept, ExtensionQuestion, Question
from ._base64 import decode_base64, encode_base64
from .messages import (
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
    checked_success,
)

MAX_LINE: Final = 12_288 + 4
"""Maximum bytes of a line of an exchange, with CRLF and POP3's ``"+ "`` (RFC 4954 section 4; RFC 5034 has no limit)."""


class _Turn(enum.Enum):
    NOT_STARTED = "the exchange has not started"
    CLIENT = "the client's response is needed first"
    APPLICATION = "a question is open, call answer() first"
    OVER = "the exchange is over"


_NOT_STARTED, _CLIENT, _APPLICATION, _OVER = _Turn  # as attributes of their class they cost more


def _answers(question: ServerQuestion | None, answer: object) -> bool:
    """Return whether *answer* has a type that *question* accepts."""
    if isinstance(answer, Refusal):
        return True
    match question:
        case CheckPassword() | Authorize():
            return isinstance(answer, Accept)
        case FetchSecret():
            return answer is None or isinstance(answer, bytes)
        case FetchScramKeys():
            return answer is None or isinstance(answer, ScramKeys)
        case CheckToken() | CheckExternal():
            return isinstance(answer, str) and answer != ""
        case ExtensionQuestion():
            return True  # its mechanism checks the answer
        case None:
            return False


def _check_mechanism(mechanism: object, use: str) -> None:
    if isinstance(mechanism, type) or not hasattr(mechanism, "respond"):
        found = f"the class {mechanism.__name__}" if isinstance(mechanism, type) else type(mechanism).__name__
        raise LocalProtocolError(f"mechanism must be an object with the method respond(), not {found}; use {use}")


class ServerExchange:
    """The server side of one login: takes the client's responses and the application's answers, and returns Steps.

    Start with ``begin()`` (AUTH), or with ``respond()`` (USER/PASS and APOP, which do not use base64).  Then act on the
    Step:

    * Challenge: send it (encoded with ``encode_base64()`` where the protocol uses base64), and pass the client's
      response to ``receive()`` or ``respond()``;
    * a question: ask the application, and pass its answer to ``answer()``;
    * Success, Refusal or Fault: the exchange is over.

    In the final Success, ``authorization_identity`` is never empty: it is the identity to act as.
    ``authentication_identity`` is the identity whose credentials were verified.  They differ only if Authorize was
    answered with ACCEPT.  ``data`` is empty, since the mechanism's data was sent as a challenge.

    A method that is called in the wrong order raises LocalProtocolError and changes nothing.

        >>> exchange = sasl.ServerExchange(sasl.PlainServer(tls=True))
        >>> exchange.begin(b"AHRpbQB0YW5zdGFhZnRhbnN0YWFm")
        CheckPassword(authentication_identity='tim', mechanism='PLAIN', tls=True)
        >>> exchange.answer(ACCEPT)
        Success(authentication_identity='tim', authorization_identity='tim', data=b'')
    """

    __slots__ = ("_mechanism", "_proved", "_question", "_strict_syntax", "_turn", "_was_asked")

    def __init__(self, mechanism: ServerMechanism, *, strict_syntax: bool = False) -> None:
        """If *strict_syntax* is true, blanks at the end of a response are an error; otherwise they are ignored."""
        _check_mechanism(mechanism, "sasl.PlainServer(tls=True)")
        self._mechanism = mechanism
        self._strict_syntax = strict_syntax
        self._turn = _NOT_STARTED
        self._question: ServerQuestion | None = None
        self._proved: Success | None = None
        self._was_asked = False

    @property
    def mechanism(self) -> str:
        """The registered name of the mechanism."""
        return self._mechanism.name

    @property
    def authentication_identity(self) -> str | None:
        """The identity that the client claims; None until it was sent.  It is not verified before Success."""
        return self._mechanism.authentication_identity

    @property
    def question(self) -> ServerQuestion | None:
        """The open question, as the same object that was returned; None if no question is open."""
        return self._question

    @property
    def was_asked(self) -> bool:
        """Whether the exchange has returned any question so far, open or answered."""
        return self._was_asked

    def begin(self, initial_response: bytes | None) -> Step:
        """Start the exchange with the initial response of the AUTH command, as on the wire.

        *initial_response* is base64, ``=`` for an empty response, or None if the command has no initial response.
        """
        if self._turn is not _NOT_STARTED:
            raise self._out_of_order()
        if initial_response is None:
            return self._take(self._mechanism.respond(None))
        if not self._mechanism.client_first:
            return self._take(Fault.UNEXPECTED_INITIAL_RESPONSE)
        initial_response = self._without_blanks(initial_response)
        if initial_response == b"=":
            return self._take(self._respond(b""))
        if initial_response == b"":
            return self._take(Fault.UNDECODABLE)  # RFC 4954 section 4: an empty response is sent as "="
        return self._decode(initial_response)

    def receive(self, line: bytes) -> Step:
        """Process a response as on the wire, without its line end.

        *line* is base64, empty for an empty response, or ``*`` to cancel.
        """
        if self._turn is not _CLIENT:
            raise self._out_of_order()
        line = self._without_blanks(line)
        if line == b"*":
            return self._take(Fault.CANCELLED)
        return self._decode(line)

    def respond(self, response: bytes | None) -> Step:
        """Process a response that is not base64: the argument of USER, PASS or APOP.

        Raises LocalProtocolError if *response* is not bytes or None.
        """
        if self._turn is not _NOT_STARTED and self._turn is not _CLIENT:
            raise self._out_of_order()
        check_type("response", bytes, response, optional=True)
        return self._take(self._respond(response))

    def answer(self, answer: object) -> Step:
        """Process the application's answer to the open question.

        Raises LocalProtocolError for an answer of the wrong type; the question then stays open.
        """
        if self._turn is not _APPLICATION:
            raise self._out_of_order()
        question = self._question
        if not _answers(question, answer):
            raise LocalProtocolError(f"{type(question).__name__} cannot be answered with {type(answer).__name__}")
        if isinstance(question, Authorize):
            return self._take(answer if isinstance(answer, Refusal) else self._conclude())
        return self._take(self._mechanism.resolve(answer))

    def _out_of_order(self) -> LocalProtocolError:
        return LocalProtocolError(f"this call is not allowed now: {self._turn.value}")

    def _without_blanks(self, line: bytes) -> bytes:
        return line if self._strict_syntax else line.rstrip(b" \t")

    def _decode(self, line: bytes) -> Step:
        try:
            response = decode_base64(line)
        except Malformed:
            return self._take(Fault.UNDECODABLE)
        return self._take(self._respond(response))

    def _respond(self, response: bytes | None) -> Step:
        if self._proved is None:
            return self._mechanism.respond(response)
        # The mechanism's final data was sent as a challenge, which the client answers with an empty response.
        return Fault.MALFORMED if response else attrs.evolve(self._proved, data=b"")

    def _take(self, step: Step) -> Step:
        """Record what the exchange waits for after *step*.  A Success of the mechanism goes through _settle() first."""
        if isinstance(step, Success) and self._proved is None:
            step = self._settle(step)
        self._question = None
        match step:
            case Challenge():
                self._turn = _CLIENT
            case Success() | Refusal() | Fault():
                self._turn = _OVER
            case question:
                if not isinstance(cast(object, question), Question):
                    found = f"{self._mechanism.name} returned {type(question).__name__}"
                    raise LocalProtocolError(f"{found}, not a step; return a Challenge, a question or a result")
                self._was_asked = True
                self._question = question
                self._turn = _APPLICATION
        return step

    def _settle(self, success: Success) -> Step:
        """Return the next Step for verified credentials.

        It is Authorize if the client asks to act as another identity (RFC 4422 section 3.4.1).
        """
        identity = success.authentication_identity
        acting_as = success.authorization_identity
        self._proved = checked_success(identity, acting_as or identity, success.data)
        if acting_as in ("", identity):
            return self._conclude()
        return Authorize(
            authentication_identity=identity,
            authorization_identity=acting_as,
            mechanism=self._mechanism.name,
            tls=self._mechanism.tls,
        )

    def _conclude(self) -> Step:
        """Return Success, or first a Challenge with the mechanism's final data.

        235 and +OK cannot carry that data (RFC 4954 section 4).
        """
        proved = self._proved
        assert proved is not None
        return Challenge(proved.data) if proved.data else proved


class ClientExchange:
    """The client side of one login, with base64 in both directions.  The mechanism holds the secret and the state.

    A mechanism may be used for several exchanges, one after another: ``begin()`` restarts it.

    Some servers send text in place of base64 where a challenge has no meaning: where it asks for the first response,
    and in each prompt of LOGIN.  Such text is accepted, unless *strict_syntax* is true.

        >>> mechanism = sasl.PlainClient(authentication_identity="tim", password=b"tanstaaftanstaaf")
        >>> sasl.ClientExchange(mechanism).begin()
        b'AHRpbQB0YW5zdGFhZnRhbnN0YWFm'
    """

    __slots__ = ("_deferred_response", "_mechanism", "_strict_syntax")

    def __init__(self, mechanism: ClientMechanism, *, strict_syntax: bool = False) -> None:
        _check_mechanism(mechanism, "sasl.PlainClient(...)")
        check_type("strict_syntax", bool, strict_syntax)
        self._mechanism = mechanism
        self._strict_syntax = strict_syntax
        self._deferred_response: bytes | None = None

    @property
    def mechanism(self) -> str:
        """The registered name of the mechanism."""
        return self._mechanism.name

    @property
    def satisfied(self) -> bool:
        """Whether a success reply from the server can be trusted now."""
        return self._deferred_response is None and self._mechanism.satisfied

    def begin(self, max_length: int | None = None) -> bytes | None:
        """Start the exchange.  Return the initial response as on the wire, or None if the AUTH command carries none.

        An empty response is ``=``.  If the line is longer than *max_length* bytes, it returns None, and ``respond()``
        returns the response to the server's empty challenge.  RFC 4954 section 4 and RFC 5034 section 4 require this if
        the command line would be too long.
        """
        self._deferred_response = None
        response = self._mechanism.respond(None)
        if not self._mechanism.client_first:
            return None
        line = encode_base64(response) or b"="
        if max_length is None or len(line) <= max_length:
            return line
        self._deferred_response = response
        return None

    def respond_raw(self, challenge: bytes | None) -> bytes:
        """Return a response that is not base64: the argument of USER, PASS or APOP."""
        return self._mechanism.respond(challenge)

    def respond(self, line: bytes) -> bytes:
        """Return the response to the challenge *line*.  Both are in base64, without a line end.

        Raises Malformed for a challenge that is not base64 or that the mechanism does not accept; then cancel with
        ``*``.
        """
        challenge = self._decode(line)
        if self._deferred_response is None:
            return encode_base64(self._mechanism.respond(challenge))
        if challenge and self._strict_syntax:
            raise Malformed("the challenge before the client's first response must be empty")
        response, self._deferred_response = self._deferred_response, None
        return encode_base64(response)

    def _decode(self, line: bytes) -> bytes:
        """Return the challenge *line*.  If its content has no meaning, text that is not base64 is returned unchanged.

        Several lines are not one prompt, so they are Malformed.
        """
        try:
            return decode_base64(line)
        except Malformed:
            meaningless = self._deferred_response is not None or getattr(self._mechanism, "ignores_challenges", False)
            if self._strict_syntax or not meaningless or b"\n" in line:
                raise
            return line
