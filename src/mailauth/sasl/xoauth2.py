"""XOAUTH2, client and server side: Google's predecessor of OAUTHBEARER, never an RFC.

It is meant for clients and servers that support nothing else.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import attrs

from .._patterns import LazyPattern
from .._values import shared_repr
from ..errors import LocalProtocolError, Malformed
from ._fields import prepare_identity
from ._token import TokenClient, TokenServer, parse_authorization, parse_pairs
from .messages import CheckToken

_RESPONSE: Final = LazyPattern(rb"user=(?P<name>[^\x01]+)\x01(?P<pairs>.*)\x01", re.DOTALL)


class Xoauth2Server(TokenServer):
    """XOAUTH2, server side.  *tls* says whether the connection uses TLS; it is only copied into the question.

    For example:

        >>> question = sasl.Xoauth2Server(tls=True).respond(b"user=alice\\x01auth=Bearer vF9dft4q\\x01\\x01")
        >>> question.authorization_identity, question.mechanism
        ('alice', 'XOAUTH2')
    """

    __slots__ = ()

    name: ClassVar[str] = "XOAUTH2"
    refused: ClassVar[bytes] = b'{"status":"401","schemes":"bearer"}'

    def _parse(self, response: bytes) -> CheckToken:
        """Parse ``user=identity^Aauth=Bearer token^A^A``."""
        found = _RESPONSE.fullmatch(response)
        if found is None:
            raise Malformed("not an XOAUTH2 response")
        return CheckToken(
            authorization_identity=prepare_identity(found["name"]),
            token=parse_authorization(parse_pairs(found["pairs"]).get(b"auth", b"")),
            mechanism=self.name,
            tls=self.tls,
        )


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class Xoauth2Client(TokenClient):
    """XOAUTH2, client side.  Unlike OAUTHBEARER, it requires an authorization identity.

    Raises LocalProtocolError for a token or an identity that a server would reject.

        >>> sasl.Xoauth2Client(token=b"vF9dft4q", authorization_identity="alice").respond(None)
        b'user=alice\\x01auth=Bearer vF9dft4q\\x01\\x01'
    """

    name: ClassVar[str] = "XOAUTH2"
    dummy: ClassVar[bytes] = b""

    def __attrs_post_init__(self) -> None:
        if not self.authorization_identity:
            raise LocalProtocolError("XOAUTH2 needs an authorization_identity; pass the name of the mailbox")

    def _first(self) -> bytes:
        return b"user=%b\x01auth=Bearer %b\x01\x01" % (self.authorization_identity.encode("utf-8"), self._token)
