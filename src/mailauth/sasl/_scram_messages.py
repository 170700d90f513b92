"""Parsers and serializers of the four SCRAM messages (RFC 5802 section 7)."""

from __future__ import annotations

from typing import Final

import attrs

from .._patterns import LazyPattern
from .._values import shared_methods
from ..errors import Malformed
from ._base64 import decode_base64, encode_base64
from ._fields import unescape_name

_NONCE: Final = rb"[!-+\--~]+"
_BASE64: Final = rb"[A-Za-z0-9+/]+={0,2}"
_EXTENSIONS: Final = rb"(?:,[A-Za-ln-z]=[^,\x00]+)*"
"""Unknown extensions are ignored, except ``m``: the RFC reserves it for extensions that must not be ignored."""

_CLIENT_FIRST: Final = LazyPattern(
    rb"(?P<header>(?:(?P<flag>[ny])|p=(?P<binding>[A-Za-z0-9.-]+)),(?:a=(?P<acting_as>[^,]+))?,)"
    rb"(?P<bare>n=(?P<name>[^,]+),r=(?P<nonce>" + _NONCE + rb")" + _EXTENSIONS + rb")"
)
_SERVER_FIRST: Final = LazyPattern(
    rb"r=(?P<nonce>" + _NONCE + rb"),s=(?P<salt>" + _BASE64 + rb"),i=(?P<iterations>[1-9][0-9]{0,9})" + _EXTENSIONS
)
_CLIENT_FINAL: Final = LazyPattern(
    rb"(?P<unproved>c=(?P<binding>" + _BASE64 + rb"),r=(?P<nonce>" + _NONCE + rb")" + _EXTENSIONS + rb")"
    rb",p=(?P<proof>" + _BASE64 + rb")"
)
_SERVER_FINAL: Final = LazyPattern(rb"v=(?P<signature>" + _BASE64 + rb")" + _EXTENSIONS)
_SERVER_ERROR: Final = LazyPattern(rb"e=(?P<error>[a-z0-9-]+)" + _EXTENSIONS)


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ClientFirst:
    """The client-first message: the identities, the client's nonce and its use of channel binding."""

    header: bytes
    """The GS2 header as received.  The client-final message repeats it."""
    could_bind: bool
    """``y``: the client supports channel binding, but the server did not offer it."""
    binding: str | None
    """``p``: the name of the channel binding that the client uses; None if it uses none."""
    authorization_identity: str
    authentication_identity: str
    nonce: bytes
    bare: bytes
    """The message without the GS2 header, for the AuthMessage."""


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ServerFirst:
    """The server-first message: the nonce, the salt and the number of iterations."""

    nonce: bytes
    salt: bytes
    iterations: int

    def to_wire(self) -> bytes:
        """Return the message as bytes."""
        return b"r=%b,s=%b,i=%d" % (self.nonce, encode_base64(self.salt), self.iterations)


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ClientFinal:
    """The client-final message, with the client's proof."""

    binding: bytes
    """The GS2 header, followed by the channel binding data."""
    nonce: bytes
    proof: bytes = attrs.field(repr=False)
    unproved: bytes = attrs.field(repr=False)
    """The message without the proof, for the AuthMessage."""


def parse_client_first(data: bytes) -> ClientFirst:
    """Parse a client-first message.

    Raises Malformed for another form, a mandatory extension, and names that cannot be prepared.
    """
    found = _CLIENT_FIRST.fullmatch(data)
    if found is None:
        raise Malformed("not a SCRAM client-first message")
    acting_as = found["acting_as"]
    return ClientFirst(
        header=found["header"],
        could_bind=found["flag"] == b"y",
        binding=None if found["binding"] is None else found["binding"].decode("ascii"),
        authorization_identity="" if acting_as is None else unescape_name(acting_as),
        authentication_identity=unescape_name(found["name"]),
        nonce=found["nonce"],
        bare=found["bare"],
    )


def parse_server_first(data: bytes) -> ServerFirst:
    """Parse a server-first message.  Raises Malformed for another form, and for a mandatory extension."""
    found = _SERVER_FIRST.fullmatch(data)
    if found is None:
        raise Malformed("not a SCRAM server-first message")
    return ServerFirst(nonce=found["nonce"], salt=decode_base64(found["salt"]), iterations=int(found["iterations"]))


def parse_client_final(data: bytes) -> ClientFinal:
    """Parse a client-final message.  Raises Malformed for another form, and for a mandatory extension."""
    found = _CLIENT_FINAL.fullmatch(data)
    if found is None:
        raise Malformed("not a SCRAM client-final message")
    return ClientFinal(
        binding=decode_base64(found["binding"]),
        nonce=found["nonce"],
        proof=decode_base64(found["proof"]),
        unproved=found["unproved"],
    )


def parse_server_final(data: bytes) -> bytes:
    """Return the signature in a server-final message.  Raises Malformed for another form."""
    found = _SERVER_FINAL.fullmatch(data)
    if found is None:
        raise Malformed("not a SCRAM server-final message")
    return decode_base64(found["signature"])


def is_server_error(data: bytes) -> bool:
    """Return whether *data* is the message by which a server refuses a login, such as ``e=invalid-proof``."""
    return _SERVER_ERROR.fullmatch(data) is not None
