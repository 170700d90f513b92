"""What the two mechanisms that send a bearer token have in common (RFC 7628, and Google's older XOAUTH2).

The token is a password for whoever reads it: fit for use inside TLS.  Knows neither wire form.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

import attrs

from .._errors import LocalProtocolError, Malformed
from .._validators import value_of
from ._fields import check_acting_as
from ._messages import Challenge, CheckToken, Fault, Refusal, Step, Success

MAX_TOKEN: Final = 8192
"""Octets; what fits into a line of 12,288 in base64 (RFC 4954 section 4) beside the rest."""

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_AUTHORIZATION: Final = re.compile(rb"(?i:bearer) +(?P<token>[A-Za-z0-9._~+/-]+=*)")
_PAIRS: Final = re.compile(rb"(?:[A-Za-z]+=[\t\n\r -~]*\x01)*")


def parse_pairs(data: bytes) -> Mapping[bytes, bytes]:
    """``key=value^A`` again and again.  Raises Malformed for another form, and for a key that comes twice."""
    if not _PAIRS.fullmatch(data):
        raise Malformed("not pairs of keys and values")
    pairs = [pair.split(b"=", 1) for pair in data.split(b"\x01")[:-1]]
    found = {key.lower(): value for key, value in pairs}
    if len(found) != len(pairs):
        raise Malformed("a key comes twice")
    return found


def parse_authorization(value: bytes) -> bytes:
    """The token in ``Bearer token`` (RFC 6750 section 2.1); nothing of nothing.  Raises Malformed for another form."""
    if not value:
        return b""
    found = _AUTHORIZATION.fullmatch(value)
    if found is None or len(found["token"]) > MAX_TOKEN:
        raise Malformed("no bearer token")
    return found["token"]


class TokenServer(ABC):
    """Asks CheckToken.  A Refusal is told as a challenge first, which the client answers with whatever it is.

    The token goes into the question and is not kept here.
    """

    __slots__ = ("_acting_as", "_refusal", "authentication_identity", "tls")

    name: ClassVar[str]
    client_first: ClassVar[bool] = True
    refused: ClassVar[bytes]
    """The JSON that tells a client of its failure."""

    def __init__(self, *, tls: bool) -> None:
        self.tls = tls
        self.authentication_identity: str | None = None
        self._acting_as: str | None = None
        self._refusal: Refusal | None = None

    @abstractmethod
    def _parse(self, response: bytes) -> CheckToken:
        """The question in *response*, its token empty if there is none.  Raises Malformed for another form."""

    def respond(self, response: bytes | None) -> Step:
        """None: an empty Challenge.  Then CheckToken; a client without a token only wants to hear how it fails."""
        if response is None:
            return Challenge()
        if self._refusal is not None:
            return self._refusal
        try:
            question = self._parse(response)
        except Malformed:
            return Fault.MALFORMED
        self.authentication_identity = question.authorization_identity or None
        if not question.token:
            return self._refuse(Refusal.BAD_CREDENTIALS)
        self._acting_as = question.authorization_identity
        return question

    def resolve(self, answer: object) -> Step:
        """An identity or a Refusal; LocalProtocolError for anything else, and when nothing was asked."""
        if self._acting_as is None:
            raise LocalProtocolError("no question is open")
        if isinstance(answer, Refusal):
            return self._refuse(answer)
        if not isinstance(answer, str) or not answer:
            raise LocalProtocolError("CheckToken is answered with an identity or a Refusal")
        self.authentication_identity = answer
        return Success(authentication_identity=answer, authorization_identity=self._acting_as)

    def _refuse(self, refusal: Refusal) -> Step:
        if refusal is Refusal.TEMPORARY:
            return refusal  # nothing is wrong with the token, so the client shall not fetch another
        self._refusal = refusal
        return Challenge(self.refused)


def _check_token(token: bytes) -> None:
    if not _TOKEN.fullmatch(token) or len(token) > MAX_TOKEN:
        raise Malformed(f"a bearer token is up to {MAX_TOKEN} octets of ASCII without blanks")


@attrs.define(kw_only=True, eq=False)
class TokenClient(ABC):
    """Sends the token in its first response, and hears in JSON why it was refused."""

    name: ClassVar[str]
    client_first: ClassVar[bool] = True
    dummy: ClassVar[bytes]
    """The answer to the JSON; the refusal comes only after it."""

    _token: bytes = attrs.field(repr=False, validator=value_of(bytes, _check_token))
    authorization_identity: str = attrs.field(default="", validator=check_acting_as)
    """Whose mail it is; empty: whoever the token belongs to."""

    failure: bytes | None = attrs.field(init=False, default=None)
    """What the server said of its refusal, in JSON (RFC 7628 section 3.2.2); None when it did not."""

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    @abstractmethod
    def _first(self) -> bytes:
        """The first response."""

    def respond(self, challenge: bytes | None) -> bytes:
        """None: the token.  A challenge says that it was refused: the dummy.  Raises Malformed on a second one."""
        if challenge is None:
            self._responded = True
            self.failure = None
            return self._first()
        if not self._responded or self.failure is not None:
            raise Malformed(f"{self.name} has one challenge")
        self.failure = challenge
        return self.dummy

    @property
    def satisfied(self) -> bool:
        """True once the token was sent and not refused; nothing is proved about the server."""
        return self._responded and self.failure is None
