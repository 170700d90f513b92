"""CRAM-MD5, client and server side (RFC 2195): the response is an HMAC-MD5 of the challenge, keyed with the secret.

The secret is not sent, but the server has to store it, and an eavesdropper can guess it offline.  CRAM-MD5 is meant for
old clients.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._values import shared_repr
from ..errors import Malformed
from ._digest import DigestServer
from ._fields import validate_identity, validate_password
from ._md5 import keyed_md5, require_md5
from .messages import Fault, Step


class CramMd5Server(DigestServer):
    """CRAM-MD5, server side.  *challenge* must be unique; it is an argument so that tests can fix it.

    Raises LocalProtocolError if MD5 is not available.

        >>> mechanism = sasl.CramMd5Server(challenge=b"<1896.697170952@postoffice.reston.mci.net>", tls=False)
        >>> mechanism.respond(None)
        Challenge(data=b'<1896.697170952@postoffice.reston.mci.net>')
        >>> mechanism.respond(b"tim b913a602c7eda7a495b4e6e7334d3890")
        FetchSecret(authentication_identity='tim', mechanism='CRAM-MD5', tls=False)
    """

    __slots__ = ("_challenged",)

    name: ClassVar[str] = "CRAM-MD5"

    def __init__(self, *, challenge: bytes, tls: bool) -> None:
        super().__init__(challenge=challenge, tls=tls, digest=keyed_md5)
        self._challenged = False

    def respond(self, response: bytes | None) -> Step:
        """Return the Challenge if *response* is None, else FetchSecret for ``name digest``.

        Returns a Fault for a response before the challenge.
        """
        if response is not None and not self._challenged:
            return Fault.UNEXPECTED_INITIAL_RESPONSE
        self._challenged = True
        return super().respond(response)


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class CramMd5Client:
    """CRAM-MD5, client side.  It has no authorization identity.

    Raises LocalProtocolError for a name or password that a server would reject, and if MD5 is not available.

        >>> mechanism = sasl.CramMd5Client(authentication_identity="tim", password=b"tanstaaftanstaaf")
        >>> mechanism.respond(b"<1896.697170952@postoffice.reston.mci.net>")
        b'tim b913a602c7eda7a495b4e6e7334d3890'
    """

    name: ClassVar[str] = "CRAM-MD5"
    client_first: ClassVar[bool] = False

    authentication_identity: str = attrs.field(validator=validate_identity)
    _password: bytes = attrs.field(alias="password", repr=False, validator=validate_password)

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require_md5()

    def respond(self, challenge: bytes | None) -> bytes:
        """Return an empty response if *challenge* is None, and ``name digest`` for the challenge.

        Raises Malformed for an empty or a second challenge.
        """
        if challenge is None:
            self._responded = False
            return b""
        if self._responded or not challenge:
            raise Malformed("CRAM-MD5 allows only one challenge, which must not be empty")
        self._responded = True
        return self.authentication_identity.encode() + b" " + keyed_md5(self._password, challenge)

    @property
    def satisfied(self) -> bool:
        """True after the digest was returned.  The server is not authenticated by CRAM-MD5."""
        return self._responded
