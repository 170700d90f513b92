"""APOP of POP3 as a mechanism, both sides (RFC 1939 section 7): MD5 over the greeting's timestamp and the secret.

Knows neither greeting nor verb: the challenge is the timestamp, the response is the argument of the command.

MD5 is broken, and this use of it with it: a false server that may choose timestamps learns a password letter by letter
(CVE-2007-1558).  For old clients; outside TLS only where that is wanted.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from .._errors import LocalProtocolError, Malformed
from ._digest import DigestServer
from ._fields import check_own_identity, check_own_password, is_message_id, is_utf_8, prepare_identity, prepare_password
from ._md5 import plain_md5, require_md5

_BLOCK: Final = 64
"""Octets that MD5 takes in one step."""


def _even_md5(secret: bytes, timestamp: bytes) -> bytes:
    """As plain_md5(), in as many steps for every secret of up to 64 octets: their number would tell how long it is, and
    so that an identity has none."""
    hashed = len(timestamp) + len(secret)
    plain_md5(b"", bytes(max(0, _steps(len(timestamp) + _BLOCK) - _steps(hashed)) * _BLOCK))
    return plain_md5(secret, timestamp)


def _steps(size: int) -> int:
    """With the nine octets at least that MD5 adds (RFC 1321 section 3.1 and 3.2)."""
    return (size + 9 + _BLOCK - 1) // _BLOCK


class ApopServer(DigestServer):
    """APOP, server side.  *timestamp* is what the greeting carried, brackets included, and must never repeat.

    ``respond(None)`` gives it as a Challenge; where the greeting has sent it, ``respond(b"name digest")`` comes first.
    Raises LocalProtocolError for a timestamp that is no msg-id, and where the system has no MD5.
    """

    __slots__ = ()

    name: ClassVar[str] = "APOP"

    def __init__(self, *, timestamp: bytes, tls: bool) -> None:
        if not is_message_id(timestamp):
            raise LocalProtocolError("an APOP timestamp is a msg-id")
        super().__init__(challenge=timestamp, tls=tls, digest=_even_md5)


@attrs.define(kw_only=True, eq=False)
class ApopClient:
    """APOP, client side; there is no authorization identity.

    LocalProtocolError for fields that no line may carry, and where the system has no MD5.
    """

    name: ClassVar[str] = "APOP"
    client_first: ClassVar[bool] = False

    authentication_identity: str = attrs.field(validator=check_own_identity)
    _secret: bytes = attrs.field(repr=False, validator=check_own_password)

    _name: str = attrs.field(init=False, default="", repr=False)
    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require_md5()
        self._prepare()

    def _prepare(self) -> None:
        """Both sides compute over the prepared secret, so it is one that may be stored (RFC 6856 section 2.2).

        What is no UTF-8 is in some older encoding, and stays as it is.
        """
        try:
            if not self._secret.isascii() and is_utf_8(self._secret):
                self._secret = prepare_password(self._secret, query=False)
            self._name = prepare_identity(self.authentication_identity.encode("utf-8"))
        except Malformed as error:
            raise LocalProtocolError(f"authentication_identity or secret cannot be used: {error}") from None

    def respond(self, challenge: bytes | None) -> bytes:
        """None begins and says nothing; then, to the timestamp, ``name digest``.

        Raises Malformed on a timestamp that is not strictly a msg-id in ASCII: the colliding octets that steal a
        password (CVE-2007-1558) fit into no msg-id.
        """
        if challenge is None:
            self._responded = False
            return b""
        if self._responded or not is_message_id(challenge):
            raise Malformed("the APOP timestamp is not a msg-id")
        self._responded = True
        return self._name.encode() + b" " + plain_md5(self._secret, challenge)

    @property
    def needs_utf8(self) -> bool:
        """A name outside ASCII, which not every server takes in APOP (RFC 6856 section 2.2)."""
        return not self._name.isascii()

    @property
    def satisfied(self) -> bool:
        """True once the digest was given; APOP proves nothing about the server."""
        return self._responded
