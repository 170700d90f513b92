"""The common part of the bearer token mechanisms: OAUTHBEARER (RFC 7628) and XOAUTH2, its predecessor by Google.

Anyone who reads a token can use it like a password, so these mechanisms are secure only with TLS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

import attrs

from .._patterns import LazyPattern
from .._validators import check_type, value_of
from .._values import shared_repr
from ..errors import LocalProtocolError, Malformed
from ._fields import validate_authorization_identity
from .messages import Challenge, CheckToken, Fault, Refusal, Step, Success

MAX_TOKEN: Final = 8192
"""Maximum bytes of a token.  In base64 with the other fields, it fits in 12,288 bytes (RFC 4954 section 4)."""

_TOKEN: Final = LazyPattern(rb"[A-Za-z0-9._~+/-]+=*")
_AUTHORIZATION: Final = LazyPattern(rb"(?i:bearer) +(?P<token>[A-Za-z0-9._~+/-]+=*)")
_PAIRS: Final = LazyPattern(rb"(?:[A-Za-z]+=[\t\n\r -~]*\x01)*")


def parse_pairs(data: bytes) -> Mapping[bytes, bytes]:
    """Parse a sequence of ``key=value^A``.  Return the values by key in lower case.

    Raises Malformed for another form, and for a duplicate key.
    """
    if not _PAIRS.fullmatch(data):
        raise Malformed("not a list of key=value pairs")
    pairs = [pair.split(b"=", 1) for pair in data.split(b"\x01")[:-1]]
    found = {key.lower(): value for key, value in pairs}
    if len(found) != len(pairs):
        raise Malformed("duplicate key")
    return found


def parse_authorization(value: bytes) -> bytes:
    """Return the token in ``Bearer token`` (RFC 6750 section 2.1); empty if *value* is empty.

    Raises Malformed for another form, and for a token that is too long.
    """
    if not value:
        return b""
    found = _AUTHORIZATION.fullmatch(value)
    if found is None or len(found["token"]) > MAX_TOKEN:
        raise Malformed("invalid bearer token")
    return found["token"]


class TokenServer(ABC):
    """Base class of the bearer token mechanisms, server side: ask CheckToken.

    A Refusal is first sent to the client as a challenge in JSON.  The login fails after the client's next response,
    whatever it is.  The token is only in the question; it is not stored.
    """

    __slots__ = ("_acting_as", "_refusal", "authentication_identity", "tls")

    name: ClassVar[str]
    client_first: ClassVar[bool] = True
    refused: ClassVar[bytes]
    """The JSON that reports the failure to the client."""

    def __init__(self, *, tls: bool) -> None:
        check_type("tls", bool, tls)
        self.tls = tls
        self.authentication_identity: str | None = None
        self._acting_as: str | None = None
        self._refusal: Refusal | None = None

    @abstractmethod
    def _parse(self, response: bytes) -> CheckToken:
        """Return the question for *response*; its token may be empty.  Raises Malformed for another form."""

    def respond(self, response: bytes | None) -> Step:
        """Return an empty Challenge if *response* is None, else CheckToken.

        A client may omit the token to receive only the JSON (RFC 7628 section 3.1).  The application is not asked then.
        """
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
        """Return the result for the answer to CheckToken: an identity or a Refusal.

        Raises LocalProtocolError for any other answer, and if no question is open.
        """
        if self._acting_as is None:
            raise LocalProtocolError("no question is open; call respond() first")
        if isinstance(answer, Refusal):
            return self._refuse(answer)
        if not isinstance(answer, str) or not answer:
            raise LocalProtocolError("answer CheckToken with an identity (a non-empty str) or a Refusal")
        self.authentication_identity = answer
        return Success(authentication_identity=answer, authorization_identity=self._acting_as)

    def _refuse(self, refusal: Refusal) -> Step:
        if refusal is Refusal.TEMPORARY:
            return refusal  # the JSON would make the client discard a token that may be valid
        self._refusal = refusal
        return Challenge(self.refused)


def _check_token(token: bytes) -> None:
    if len(token) > MAX_TOKEN:
        raise Malformed(
            f"must be at most {MAX_TOKEN} bytes, not {len(token)}: with the other fields, in base64, it has to fit in"
            " the 12288 bytes of a response (RFC 4954 section 4); use a shorter token"
        )
    if not _TOKEN.fullmatch(token):
        raise Malformed("must be one or more of A-Z, a-z, 0-9, -._~+/ and, at the end only, = (RFC 6750 section 2.1)")


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class TokenClient(ABC):
    """Base class of the bearer token mechanisms, client side.  The token is sent in the first response."""

    name: ClassVar[str]
    client_first: ClassVar[bool] = True
    dummy: ClassVar[bytes]
    """The response to the JSON.  The server waits for it before it refuses the login."""

    _token: bytes = attrs.field(alias="token", repr=False, validator=value_of(bytes, _check_token))
    authorization_identity: str = attrs.field(default="", validator=validate_authorization_identity)
    """The identity to act as; empty: the identity that the token belongs to."""

    failure: bytes | None = attrs.field(init=False, default=None)
    """The JSON in which the server reported a failure (RFC 7628 section 3.2.2); None if it reported none."""

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    @abstractmethod
    def _first(self) -> bytes:
        """Return the first response."""

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the response with the token if *challenge* is None, else ``dummy``.

        A challenge is the JSON that reports that the token was refused.

        Raises Malformed for a second challenge.
        """
        if challenge is None:
            self._responded = True
            self.failure = None
            return self._first()
        if not self._responded or self.failure is not None:
            raise Malformed(f"{self.name} allows only one challenge")
        self.failure = challenge
        return self.dummy

    @property
    def satisfied(self) -> bool:
        """True after the token was sent, unless it was refused.  The server is not authenticated by the mechanism."""
        return self._responded and self.failure is None
