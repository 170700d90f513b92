"""XOAUTH2, both sides (Google's protocol, never an RFC): a bearer token as it was sent before OAUTHBEARER.

Here for the clients and the servers that know nothing else.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import attrs

from .._errors import LocalProtocolError, Malformed
from ._fields import prepare_identity
from ._messages import CheckToken
from ._token import TokenClient, TokenServer, parse_authorization, parse_pairs

_RESPONSE: Final = re.compile(rb"user=(?P<who>[^\x01]+)\x01(?P<pairs>.*)\x01", re.DOTALL)


class Xoauth2Server(TokenServer):
    """XOAUTH2, server side.  *tls* says whether the exchange is inside TLS; it only goes into the question."""

    __slots__ = ()

    name: ClassVar[str] = "XOAUTH2"
    refused: ClassVar[bytes] = b'{"status":"401","schemes":"bearer"}'

    def _parse(self, response: bytes) -> CheckToken:
        """``user=identity^Aauth=Bearer token^A^A``."""
        found = _RESPONSE.fullmatch(response)
        if found is None:
            raise Malformed("not a response of XOAUTH2")
        return CheckToken(
            authorization_identity=prepare_identity(found["who"]),
            token=parse_authorization(parse_pairs(found["pairs"]).get(b"auth", b"")),
            mechanism=self.name,
            tls=self.tls,
        )


@attrs.define(kw_only=True, eq=False)
class Xoauth2Client(TokenClient):
    """XOAUTH2, client side.  LocalProtocolError for a token or an identity that a server would refuse.

    The identity must be named: the mechanism knows no token without one.
    """

    name: ClassVar[str] = "XOAUTH2"
    dummy: ClassVar[bytes] = b""

    def __attrs_post_init__(self) -> None:
        if not self.authorization_identity:
            raise LocalProtocolError("XOAUTH2 needs authorization_identity: whose mail it is")

    def _first(self) -> bytes:
        return b"user=%b\x01auth=Bearer %b\x01\x01" % (self.authorization_identity.encode("utf-8"), self._token)
