"""The four messages of SCRAM as octets (RFC 5802 section 7): parsed, and written where that takes more than a line.

Codec only: computes nothing, compares nothing, and knows no state.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from .._errors import Malformed
from ._base64 import decode_base64, encode_base64
from ._fields import unescape_name

_NONCE: Final = rb"[!-+\--~]+"
_BASE64: Final = rb"[A-Za-z0-9+/]+={0,2}"
_EXTENSIONS: Final = rb"(?:,[A-Za-ln-z]=[^,\x00]+)*"
"""What may follow and is not understood is passed over, but for ``m``, which says that it must not be."""

_CLIENT_FIRST: Final = re.compile(
    rb"(?P<header>(?:(?P<flag>[ny])|p=(?P<binding>[A-Za-z0-9.-]+)),(?:a=(?P<acting_as>[^,]+))?,)"
    rb"(?P<bare>n=(?P<who>[^,]+),r=(?P<nonce>" + _NONCE + rb")" + _EXTENSIONS + rb")"
)
_SERVER_FIRST: Final = re.compile(
    rb"r=(?P<nonce>" + _NONCE + rb"),s=(?P<salt>" + _BASE64 + rb"),i=(?P<iterations>[1-9][0-9]{0,9})" + _EXTENSIONS
)
_CLIENT_FINAL: Final = re.compile(
    rb"(?P<unproved>c=(?P<binding>" + _BASE64 + rb"),r=(?P<nonce>" + _NONCE + rb")" + _EXTENSIONS + rb")"
    rb",p=(?P<proof>" + _BASE64 + rb")"
)
_SERVER_FINAL: Final = re.compile(rb"v=(?P<signature>" + _BASE64 + rb")" + _EXTENSIONS)
_SERVER_ERROR: Final = re.compile(rb"e=(?P<error>[a-z0-9-]+)" + _EXTENSIONS)


@attrs.frozen(kw_only=True)
class ClientFirst:
    """Who the client is, and how it means to bind the channel."""

    header: bytes
    """The GS2 header as it came; it comes again inside the client's final message."""
    could_bind: bool
    """``y``: the client could bind the channel, but believes that the server cannot."""
    binding: str | None
    """``p``: the name of the binding that the client uses."""
    authorization_identity: str
    authentication_identity: str
    nonce: bytes
    bare: bytes
    """The message without its header, for the AuthMessage."""


@attrs.frozen(kw_only=True)
class ServerFirst:
    """What the client has to compute with."""

    nonce: bytes
    salt: bytes
    iterations: int

    def to_wire(self) -> bytes:
        """The message."""
        return b"r=%b,s=%b,i=%d" % (self.nonce, encode_base64(self.salt), self.iterations)


@attrs.frozen(kw_only=True)
class ClientFinal:
    """The client's proof."""

    binding: bytes
    """The GS2 header, and the channel binding data behind it."""
    nonce: bytes
    proof: bytes = attrs.field(repr=False)
    unproved: bytes = attrs.field(repr=False)
    """The message without its proof, for the AuthMessage."""


def parse_client_first(data: bytes) -> ClientFirst:
    """Raises Malformed for another form, a mandatory extension, and names that cannot be prepared."""
    found = _CLIENT_FIRST.fullmatch(data)
    if found is None:
        raise Malformed("not the first message of a SCRAM client")
    acting_as, who = found["acting_as"], found["who"]
    return ClientFirst(
        header=found["header"],
        could_bind=found["flag"] == b"y",
        binding=None if found["binding"] is None else found["binding"].decode("ascii"),
        authorization_identity="" if acting_as is None else unescape_name(acting_as),
        authentication_identity=unescape_name(who),
        nonce=found["nonce"],
        bare=found["bare"],
    )


def parse_server_first(data: bytes) -> ServerFirst:
    """Raises Malformed for another form, and for a mandatory extension."""
    found = _SERVER_FIRST.fullmatch(data)
    if found is None:
        raise Malformed("not the first message of a SCRAM server")
    return ServerFirst(nonce=found["nonce"], salt=decode_base64(found["salt"]), iterations=int(found["iterations"]))


def parse_client_final(data: bytes) -> ClientFinal:
    """Raises Malformed for another form, and for a mandatory extension."""
    found = _CLIENT_FINAL.fullmatch(data)
    if found is None:
        raise Malformed("not the final message of a SCRAM client")
    return ClientFinal(
        binding=decode_base64(found["binding"]),
        nonce=found["nonce"],
        proof=decode_base64(found["proof"]),
        unproved=found["unproved"],
    )


def parse_server_final(data: bytes) -> bytes:
    """The server's signature.  Raises Malformed for another form, and for an error, whose name is then the message."""
    found = _SERVER_FINAL.fullmatch(data)
    if found is not None:
        return decode_base64(found["signature"])
    error = _SERVER_ERROR.fullmatch(data)
    if error is not None:
        raise Malformed(f"the server says {error['error'][:40].decode('ascii')}")
    raise Malformed("not the final message of a SCRAM server")
