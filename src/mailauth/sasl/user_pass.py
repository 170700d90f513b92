"""USER and PASS of POP3 as a mechanism, both sides (RFC 1939 section 7): the name, an empty challenge, the password.

Knows neither verb: the octets here are the arguments of the two commands.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._errors import Malformed
from ._fields import check_own_identity, check_own_password, check_password, decode_identity
from ._messages import Challenge, Fault, PasswordStep, Refusal
from ._password import PasswordServer


class UserPassServer(PasswordServer):
    """USER and PASS, server side."""

    __slots__ = ("_username",)

    name: ClassVar[str] = "USER"

    def __init__(self, *, tls: bool) -> None:
        super().__init__(tls=tls)
        self._username = False

    def respond(self, response: bytes | None) -> PasswordStep:
        """The name: an empty Challenge, whatever the name is.  The password: CheckPassword.

        To tell names apart at USER would reveal which exist (RFC 1939 section 13).  So octets that cannot be a name
        are a name that nobody has: Refusal.BAD_CREDENTIALS, but only at the password.
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


@attrs.define(kw_only=True, eq=False)
class UserPassClient:
    """USER and PASS, client side; there is no authorization identity.

    LocalProtocolError for fields that no line may carry.
    """

    name: ClassVar[str] = "USER"
    client_first: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=check_own_identity)
    _password: bytes = attrs.field(repr=False, validator=check_own_password)

    _responses: int = attrs.field(init=False, default=0, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """None: the name.  A challenge (the +OK to USER, whatever it says): the password.

        Raises Malformed on a second challenge.
        """
        if challenge is None:
            self._responses = 1
            return self.authentication_identity.encode()
        if self._responses != 1:
            raise Malformed("USER is followed by one PASS")
        self._responses = 2
        return self._password

    @property
    def needs_utf8(self) -> bool:
        """A name or password outside ASCII, which not every server takes in USER and PASS (RFC 6856 section 2.2)."""
        return not (self.authentication_identity.isascii() and self._password.isascii())

    @property
    def satisfied(self) -> bool:
        """True once the password was given; nothing is proved about the server."""
        return self._responses == 2
