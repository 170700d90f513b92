"""APOP of POP3 as a mechanism, client and server side (RFC 1939 section 7).

The challenge is the timestamp of the greeting, and the response is the argument of the command.  The digest is the MD5
of the timestamp followed by the secret.

APOP is broken: an attacker who poses as the server and chooses the timestamps learns the password character by
character (CVE-2007-1558).  It is meant for old clients, and should be used without TLS only if that risk is accepted.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from .._validators import check_type
from .._values import shared_repr
from ..errors import LocalProtocolError, Malformed
from ._digest import DigestServer
from ._fields import is_message_id, is_utf_8, prepare_identity, prepare_password, validate_identity, validate_password
from ._md5 import plain_md5, require_md5

_BLOCK: Final = 64
"""Bytes that MD5 processes in one step."""


def _constant_cost_md5(secret: bytes, timestamp: bytes) -> bytes:
    """Return plain_md5().  It takes the same number of MD5 steps for every secret of up to 64 bytes.

    Otherwise the time would reveal how long the secret is, and whether the identity has one.
    """
    hashed = len(timestamp) + len(secret)
    plain_md5(b"", bytes(max(0, _steps(len(timestamp) + _BLOCK) - _steps(hashed)) * _BLOCK))
    return plain_md5(secret, timestamp)


def _steps(size: int) -> int:
    """Return the number of MD5 steps for *size* bytes; MD5 adds at least nine (RFC 1321 sections 3.1 and 3.2)."""
    return (size + 9 + _BLOCK - 1) // _BLOCK


class ApopServer(DigestServer):
    """APOP, server side.  *timestamp* is that of the greeting, with its angle brackets; it must be unique.

    ``respond(None)`` returns it as a Challenge.  If the greeting has already sent it, call ``respond(b"name digest")``
    first.  Raises LocalProtocolError for a timestamp that is not a msg-id, and if MD5 is not available.

        >>> mechanism = pop3.ApopServer(timestamp=b"<1896.697170952@dbc.mtview.ca.us>", tls=False)
        >>> mechanism.respond(b"mrose c4c9334bac560ecc979e58001b3e22fb")
        FetchSecret(authentication_identity='mrose', mechanism='APOP', tls=False)
        >>> mechanism.resolve(b"tanstaaf")
        Success(authentication_identity='mrose', authorization_identity='', data=b'')
    """

    __slots__ = ()

    name: ClassVar[str] = "APOP"

    def __init__(self, *, timestamp: bytes, tls: bool) -> None:
        check_type("timestamp", bytes, timestamp)
        if not is_message_id(timestamp):
            raise LocalProtocolError("timestamp must be a msg-id, such as <1896.697170952@mail.example.com>")
        super().__init__(challenge=timestamp, tls=tls, digest=_constant_cost_md5)


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class ApopClient:
    """APOP, client side.  It has no authorization identity.

    Raises LocalProtocolError for a name or password that cannot be sent, and if MD5 is not available.

        >>> mechanism = pop3.ApopClient(authentication_identity="mrose", password=b"tanstaaf")
        >>> mechanism.respond(b"<1896.697170952@dbc.mtview.ca.us>")
        b'mrose c4c9334bac560ecc979e58001b3e22fb'
    """

    name: ClassVar[str] = "APOP"
    client_first: ClassVar[bool] = False

    authentication_identity: str = attrs.field(validator=validate_identity)
    _password: bytes = attrs.field(alias="password", repr=False, validator=validate_password)

    _name: str = attrs.field(init=False, default="", repr=False)
    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        require_md5()
        self._prepare()

    def _prepare(self) -> None:
        """Prepare the name and the password.

        Both sides compute over the prepared password, so it is prepared as a stored string (RFC 6856 section 2.2).  A
        password that is not UTF-8 is in some older encoding, and is used unchanged.
        """
        try:
            if not self._password.isascii() and is_utf_8(self._password):
                self._password = prepare_password(self._password, query=False)
            self._name = prepare_identity(self.authentication_identity.encode("utf-8"))
        except Malformed as error:
            raise LocalProtocolError(f"authentication_identity or password cannot be used: {error}") from None

    def respond(self, challenge: bytes | None) -> bytes:
        """Return an empty response if *challenge* is None, and ``name digest`` for a timestamp.

        Raises Malformed for a timestamp that is not strictly a msg-id in ASCII: the MD5 collisions that reveal a
        password (CVE-2007-1558) need bytes that a msg-id cannot contain.
        """
        if challenge is None:
            self._responded = False
            return b""
        if self._responded or not is_message_id(challenge):
            raise Malformed("the APOP timestamp is not a msg-id")
        self._responded = True
        return self._name.encode() + b" " + plain_md5(self._password, challenge)

    @property
    def needs_utf8(self) -> bool:
        """Whether the name is not ASCII; not every server accepts such a name in APOP (RFC 6856 section 2.2)."""
        return not self._name.isascii()

    @property
    def satisfied(self) -> bool:
        """True after the digest was returned.  The server is not authenticated by APOP."""
        return self._responded
