"""EXTERNAL, both sides (RFC 4422 appendix A): the TLS certificate of the client has proved who it is already.

All that is said here is whom the client would act as.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from .._errors import LocalProtocolError, Malformed
from ._fields import check_acting_as, prepare_identity
from ._messages import Challenge, CheckExternal, Fault, Refusal, Step, Success


class ExternalServer:
    """EXTERNAL, server side.  *peer_certificate* is the client's, verified; None refuses, for nothing was proved."""

    __slots__ = ("_acting_as", "_certificate", "authentication_identity", "tls")

    name: ClassVar[str] = "EXTERNAL"
    client_first: ClassVar[bool] = True

    def __init__(self, *, peer_certificate: Mapping[str, object] | None, tls: bool) -> None:
        self.tls = tls
        self.authentication_identity: str | None = None
        self._certificate = peer_certificate
        self._acting_as: str | None = None

    def respond(self, response: bytes | None) -> Step:
        """None: an empty Challenge.  Else CheckExternal; an empty response asks to act as the certificate's owner."""
        if response is None:
            return Challenge()
        try:
            self._acting_as = prepare_identity(response) if response else ""
        except Malformed:
            return Fault.MALFORMED
        if not self._certificate:
            return Refusal.BAD_CREDENTIALS
        return CheckExternal(
            authorization_identity=self._acting_as,
            peer_certificate=self._certificate,
            mechanism=self.name,
            tls=self.tls,
        )

    def resolve(self, answer: object) -> Step:
        """An identity or a Refusal; LocalProtocolError for anything else, and when nothing was asked."""
        if self._acting_as is None:
            raise LocalProtocolError("no question is open")
        if isinstance(answer, Refusal):
            return answer
        if not isinstance(answer, str) or not answer:
            raise LocalProtocolError("CheckExternal is answered with an identity or a Refusal")
        self.authentication_identity = answer
        return Success(authentication_identity=answer, authorization_identity=self._acting_as)


@attrs.define(kw_only=True, eq=False)
class ExternalClient:
    """EXTERNAL, client side.  LocalProtocolError for an identity that a server would refuse."""

    name: ClassVar[str] = "EXTERNAL"
    client_first: ClassVar[bool] = True

    authorization_identity: str = attrs.field(default="", validator=check_acting_as)
    """Whom to act as; empty: whoever the server derives from the certificate."""

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """The one response, first to None.  Raises Malformed when the server asks for more."""
        if challenge is not None:
            raise Malformed("EXTERNAL has one response")
        self._responded = True
        return self.authorization_identity.encode("utf-8")

    @property
    def satisfied(self) -> bool:
        """True once the response was given; what proves the server is TLS."""
        return self._responded
