"""EXTERNAL, client and server side (RFC 4422 appendix A): the client is authenticated by its TLS certificate.

The response is only the identity that the client asks to act as.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from .._validators import check_type
from .._values import shared_repr
from ..errors import LocalProtocolError, Malformed
from ._fields import prepare_identity, validate_authorization_identity
from .messages import Challenge, CheckExternal, Fault, Refusal, Step, Success


class ExternalServer:
    """EXTERNAL, server side.  *peer_certificate* is the client's verified certificate; None refuses every login.

    For example:

        mechanism = sasl.ExternalServer(peer_certificate=tls.peer_certificate, tls=True)
        question = mechanism.respond(b"")  # CheckExternal
    """

    __slots__ = ("_acting_as", "_certificate", "authentication_identity", "tls")

    name: ClassVar[str] = "EXTERNAL"
    client_first: ClassVar[bool] = True

    def __init__(self, *, peer_certificate: Mapping[str, object] | None, tls: bool) -> None:
        check_type("peer_certificate", Mapping, peer_certificate, optional=True)
        check_type("tls", bool, tls)
        self.tls = tls
        self.authentication_identity: str | None = None
        self._certificate = peer_certificate
        self._acting_as: str | None = None

    def respond(self, response: bytes | None) -> Step:
        """Return an empty Challenge if *response* is None, else CheckExternal.

        An empty response asks to act as the identity that the certificate belongs to.
        """
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
        """Return the result for the answer to CheckExternal: an identity or a Refusal.

        Raises LocalProtocolError for any other answer, and if no question is open.
        """
        if self._acting_as is None:
            raise LocalProtocolError("no question is open; call respond() first")
        if isinstance(answer, Refusal):
            return answer
        if not isinstance(answer, str) or not answer:
            raise LocalProtocolError("answer CheckExternal with an identity (a non-empty str) or a Refusal")
        self.authentication_identity = answer
        return Success(authentication_identity=answer, authorization_identity=self._acting_as)


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class ExternalClient:
    """EXTERNAL, client side.  Raises LocalProtocolError for an identity that a server would reject.

    For example:

        >>> sasl.ExternalClient(authorization_identity="alice").respond(None)
        b'alice'
    """

    name: ClassVar[str] = "EXTERNAL"
    client_first: ClassVar[bool] = True

    authorization_identity: str = attrs.field(default="", validator=validate_authorization_identity)
    """The identity to act as; empty: the one that the server derives from the certificate."""

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the only response; *challenge* must be None.  Raises Malformed for a challenge."""
        if challenge is not None:
            raise Malformed("EXTERNAL allows only one response")
        self._responded = True
        return self.authorization_identity.encode("utf-8")

    @property
    def satisfied(self) -> bool:
        """True after the response was returned.  The server is authenticated by TLS."""
        return self._responded
