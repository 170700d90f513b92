"""LOGIN, both sides (draft-murchison-sasl-login, never an RFC): the name, then the password, each to a prompt.

As readable as PLAIN, and one round trip slower; here for the clients that know nothing else.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._errors import Malformed
from ._fields import check_own_identity, check_own_password, check_password, decode_identity
from ._messages import Challenge, Fault, PasswordStep
from ._password import PasswordServer


class LoginServer(PasswordServer):
    """LOGIN, server side.  The name may come as the initial response, as many clients send it.

    Clients ignore what the prompts say, or should; some old ones want words of their own.
    """

    __slots__ = ("_name_prompt", "_password_prompt")

    name: ClassVar[str] = "LOGIN"

    def __init__(self, *, tls: bool, name_prompt: bytes = b"Username:", password_prompt: bytes = b"Password:") -> None:
        super().__init__(tls=tls)
        self._name_prompt = name_prompt
        self._password_prompt = password_prompt

    def respond(self, response: bytes | None) -> PasswordStep:
        """Two prompts, then CheckPassword.  Fault.MALFORMED for a name or a password that cannot be one."""
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


@attrs.define(kw_only=True, eq=False)
class LoginClient:
    """LOGIN, client side.  Waits for both prompts and ignores their text, as the draft asks.

    There is no authorization identity in LOGIN.  LocalProtocolError for fields that a server would refuse.
    """

    name: ClassVar[str] = "LOGIN"
    client_first: ClassVar[bool] = False

    authentication_identity: str = attrs.field(validator=check_own_identity)
    _password: bytes = attrs.field(repr=False, validator=check_own_password)

    _responses: int = attrs.field(init=False, default=0, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """None begins and says nothing; then the name, then the password.  Raises Malformed on a third prompt."""
        if challenge is None:
            self._responses = 0
            return b""
        if self._responses == 2:
            raise Malformed("LOGIN has two responses")
        self._responses += 1
        return self.authentication_identity.encode() if self._responses == 1 else self._password

    @property
    def satisfied(self) -> bool:
        """True once the password was given; LOGIN proves nothing about the server."""
        return self._responses == 2
