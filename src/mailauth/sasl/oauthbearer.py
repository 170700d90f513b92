"""OAUTHBEARER, client and server side (RFC 7628): an OAuth 2.0 bearer token instead of a password."""

from __future__ import annotations

import re
from typing import ClassVar, Final

import attrs

from .._patterns import LazyPattern
from .._validators import between, value_of
from .._values import shared_repr
from ..errors import Malformed
from ._fields import escape_name, unescape_name
from ._token import TokenClient, TokenServer, parse_authorization, parse_pairs
from .messages import CheckToken

_RESPONSE: Final = LazyPattern(rb"[ny],(?:a=(?P<acting_as>[^,\x01]+))?,\x01(?P<pairs>.*)\x01", re.DOTALL)
_HOST: Final = LazyPattern(r"[!-~]{1,255}")


def _port(value: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,5}", value) or int(value) > 65_535:
        raise Malformed("invalid port")
    return int(value)


class OauthBearerServer(TokenServer):
    """OAUTHBEARER, server side.  *tls* says whether the connection uses TLS; it is only copied into the question.

    For example:

        >>> question = sasl.OauthBearerServer(tls=True).respond(b"n,a=alice,\\x01auth=Bearer vF9dft4q\\x01\\x01")
        >>> question.authorization_identity, question.token
        ('alice', b'vF9dft4q')
    """

    __slots__ = ()

    name: ClassVar[str] = "OAUTHBEARER"
    refused: ClassVar[bytes] = b'{"status":"invalid_token","schemes":"bearer"}'

    def _parse(self, response: bytes) -> CheckToken:
        """Parse ``n,a=identity,^Ahost=...^Aport=...^Aauth=Bearer token^A^A`` (RFC 7628 section 3.1)."""
        found = _RESPONSE.fullmatch(response)
        if found is None:
            raise Malformed("not an OAUTHBEARER response")
        acting_as = found["acting_as"]
        pairs = parse_pairs(found["pairs"])
        host = pairs.get(b"host", b"").decode("ascii")
        if host and not _HOST.fullmatch(host):
            raise Malformed("invalid host")
        port = pairs.get(b"port")
        return CheckToken(
            authorization_identity="" if acting_as is None else unescape_name(acting_as),
            token=parse_authorization(pairs.get(b"auth", b"")),
            mechanism=self.name,
            tls=self.tls,
            host=host,
            port=None if port is None else _port(port),
        )


def _check_host(host: str) -> None:
    if host and not _HOST.fullmatch(host):
        raise Malformed("must be up to 255 printable ASCII characters without spaces")


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class OauthBearerClient(TokenClient):
    """OAUTHBEARER, client side.  Raises LocalProtocolError for a token or an identity that a server would reject.

    For example:

        >>> sasl.OauthBearerClient(token=b"vF9dft4q", host="mx.example", port=587).respond(None)
        b'n,,\\x01host=mx.example\\x01port=587\\x01auth=Bearer vF9dft4q\\x01\\x01'
    """

    name: ClassVar[str] = "OAUTHBEARER"
    dummy: ClassVar[bytes] = b"\x01"

    host: str = attrs.field(default="", validator=value_of(str, _check_host))
    """The server that the token is for, with its *port*; a server may check them.  Empty and None are not sent."""
    port: int | None = attrs.field(default=None, validator=value_of(int, between(1, 65_535), optional=True))

    def _first(self) -> bytes:
        acting_as = escape_name(self.authorization_identity)
        pairs = [
            *([b"host=" + self.host.encode("ascii")] if self.host else []),
            *([b"port=%d" % self.port] if self.port is not None else []),
            b"auth=Bearer " + self._token,
        ]
        return b"n,%b,\x01%b\x01\x01" % (acting_as and b"a=" + acting_as, b"\x01".join(pairs))
