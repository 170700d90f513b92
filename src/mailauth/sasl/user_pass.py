"""USER and PASS of POP3 as a mechanism, client and server side (RFC 1939 section 7).

The responses are the arguments of the two commands.  The challenge between them is empty.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._values import shared_repr
from ..errors import Malformed
from ._fields import check_password, decode_identity, validate_identity, validate_password
from ._password import PasswordServer
from .messages import Challenge, Fault, Refusal, Step


class UserPassServer(PasswordServer):
    """USER and PASS, server side.

    For example:

        >>> mechanism = pop3.UserPassServer(tls=True)
        >>> mechanism.respond(b"alice")
        Challenge(data=b'')
        >>> mechanism.respond(b"wonderland")
        CheckPassword(authentication_identity='alice', mechanism='USER', tls=True)
    """

    __slots__ = ("_username",)

    name: ClassVar[str] = "USER"

    def __init__(self, *, tls: bool) -> None:
        super().__init__(tls=tls)
        self._username = False

    def respond(self, response: bytes | None) -> Step:
        """Return an empty Challenge for the name, then CheckPassword for the password.

        The reply to USER must not show which names exist (RFC 1939 section 13).  So an invalid name is handled like an
        unknown one: Refusal.BAD_CREDENTIALS, but only after the password.
        """
        if response is None:
            return Challenge()
        if not self._username:
            self._username = True
            try:
                self.authentication_identity = decode_identity(response)
            except Malformed:
                self.authentication_identity = None
            return Challenge()
        try:
            check_password(response)
        except Malformed:
            return Fault.MALFORMED
        return Refusal.BAD_CREDENTIALS if self.authentication_identity is None else self._ask(response)


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class UserPassClient:
    """USER and PASS, client side.  They have no authorization identity.

    Raises LocalProtocolError for a name or password that cannot be sent.

        >>> mechanism = pop3.UserPassClient(authentication_identity="alice", password=b"wonderland")
        >>> mechanism.respond(None), mechanism.respond(b"")
        (b'alice', b'wonderland')
    """

    name: ClassVar[str] = "USER"
    client_first: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=validate_identity)
    _password: bytes = attrs.field(alias="password", repr=False, validator=validate_password)

    _responses: int = attrs.field(init=False, default=0, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the name if *challenge* is None, and the password for a challenge.

        The challenge is the +OK to USER; its text is ignored.  Raises Malformed for a second challenge.
        """
        if challenge is None:
            self._responses = 1
            return self.authentication_identity.encode()
        if self._responses != 1:
            raise Malformed("USER allows only one PASS")
        self._responses = 2
        return self._password

    @property
    def needs_utf8(self) -> bool:
        """Whether the name or password is not ASCII, which not every server accepts here (RFC 6856 section 2.2)."""
        return not (self.authentication_identity.isascii() and self._password.isascii())

    @property
    def satisfied(self) -> bool:
        """True after the password was returned.  The server is not authenticated by USER and PASS."""
        return self._responses == 2
