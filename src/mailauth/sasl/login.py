"""LOGIN, client and server side (draft-murchison-sasl-login, never an RFC): the name and the password, one prompt each.

Like PLAIN it sends the password itself, but it takes one more round trip.  It is meant for clients that support nothing
else.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._validators import check_type
from .._values import shared_repr
from ..errors import Malformed
from ._fields import check_password, decode_identity, validate_identity, validate_password
from ._password import PasswordServer
from .messages import Challenge, Fault, Step


class LoginServer(PasswordServer):
    """LOGIN, server side.  The name may come as the initial response, as many clients send it.

    Clients should ignore the text of the prompts, but some old ones require a certain text.

        >>> sasl.LoginServer(tls=True).respond(None)
        Challenge(data=b'Username:')
    """

    __slots__ = ("_name_prompt", "_password_prompt")

    name: ClassVar[str] = "LOGIN"

    def __init__(self, *, tls: bool, name_prompt: bytes = b"Username:", password_prompt: bytes = b"Password:") -> None:
        super().__init__(tls=tls)
        check_type("name_prompt", bytes, name_prompt)
        check_type("password_prompt", bytes, password_prompt)
        self._name_prompt = name_prompt
        self._password_prompt = password_prompt

    def respond(self, response: bytes | None) -> Step:
        """Return the prompt for the name, then the prompt for the password, then CheckPassword.

        Returns Fault.MALFORMED for an invalid name or password.
        """
        if response is None:
            return Challenge(self._name_prompt)
        try:
            if self.authentication_identity is None:
                self.authentication_identity = decode_identity(response)
                return Challenge(self._password_prompt)
            check_password(response)
        except Malformed:
            return Fault.MALFORMED
        return self._ask(response)


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class LoginClient:
    """LOGIN, client side.  It waits for both prompts and ignores their text, as the draft requires.

    LOGIN has no authorization identity.  Raises LocalProtocolError for a name or password that a server would reject.

        >>> mechanism = sasl.LoginClient(authentication_identity="alice", password=b"wonderland")
        >>> mechanism.respond(None), mechanism.respond(b"Username:"), mechanism.respond(b"Password:")
        (b'', b'alice', b'wonderland')
    """

    name: ClassVar[str] = "LOGIN"
    client_first: ClassVar[bool] = False
    ignores_challenges: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=validate_identity)
    _password: bytes = attrs.field(alias="password", repr=False, validator=validate_password)

    _responses: int = attrs.field(init=False, default=0, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """Return an empty response if *challenge* is None, then the name, then the password.

        Raises Malformed for a third prompt.
        """
        if challenge is None:
            self._responses = 0
            return b""
        if self._responses == 2:
            raise Malformed("LOGIN allows only two responses")
        self._responses += 1
        return self.authentication_identity.encode() if self._responses == 1 else self._password

    @property
    def satisfied(self) -> bool:
        """True after the password was returned.  The server is not authenticated by LOGIN."""
        return self._responses == 2
