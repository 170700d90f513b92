"""CRAM-MD5, both sides (RFC 2195): the server sends a msg-id, the client keys it with the shared secret.

The secret stays off the wire, but the server must keep it, and whoever listens can try passwords at home.
For old clients.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._errors import Malformed
from ._digest import DigestServer
from ._fields import check_own_identity, check_own_password
from ._md5 import keyed_md5, require_md5
from ._messages import Fault, PasswordStep


class CramMd5Server(DigestServer):
    """CRAM-MD5, server side.  *challenge* must never repeat; the caller makes it, so tests can fix it.

    Raises LocalProtocolError where the system has no MD5.
    """

    __slots__ = ("_challenged",)

    name: ClassVar[str] = "CRAM-MD5"

    def __init__(self, *, challenge: bytes, tls: bool) -> None:
        super().__init__(challenge=challenge, tls=tls, digest=keyed_md5)
        self._challenged = False

    def respond(self, response: bytes | None) -> PasswordStep:
        """None: the Challenge.  Then ``name digest``: FetchSecret.  A response before it is a Fault."""
        if response is not None and not self._challenged:
            return Fault.UNEXPECTED_INITIAL_RESPONSE
        self._challenged = True
        return super().respond(response)


@attrs.define(kw_only=True, eq=False)
class CramMd5Client:
    """CRAM-MD5, client side; there is no authorization identity.

    LocalProtocolError for fields that a server would refuse, and where the system has no MD5.
    """

    name: ClassVar[str] = "CRAM-MD5"
    client_first: ClassVar[bool] = False

    authentication_identity: str = attrs.field(validator=check_own_identity)
    _secret: bytes = attrs.field(repr=False, validator=check_own_password)

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require_md5()

    def respond(self, challenge: bytes | None) -> bytes:
        """None begins and says nothing; then ``name digest``.  Raises Malformed on an empty or a second challenge."""
        if challenge is None:
            self._responded = False
            return b""
        if self._responded or not challenge:
            raise Malformed("CRAM-MD5 has one challenge, and not an empty one")
        self._responded = True
        return self.authentication_identity.encode() + b" " + keyed_md5(self._secret, challenge)

    @property
    def satisfied(self) -> bool:
        """True once the digest was given; CRAM-MD5 proves nothing about the server."""
        return self._responded
