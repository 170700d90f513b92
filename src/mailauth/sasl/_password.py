"""What the mechanisms that send a password have in common on the server side: the question and what its answer means.

Knows no wire form.
"""

from __future__ import annotations

from typing import ClassVar

from .._errors import LocalProtocolError
from .._events import Accept
from ._messages import CheckPassword, PasswordStep, Refusal, Success


class PasswordServer:
    """Asks CheckPassword.  The password goes into the question and is not kept here."""

    __slots__ = ("_asked", "_authorization_identity", "authentication_identity", "tls")

    name: ClassVar[str]
    client_first: ClassVar[bool] = True

    def __init__(self, *, tls: bool) -> None:
        self.tls = tls
        self.authentication_identity: str | None = None
        self._authorization_identity = ""
        self._asked = False

    def _ask(self, password: bytes) -> CheckPassword:
        assert self.authentication_identity is not None
        self._asked = True
        return CheckPassword(
            authentication_identity=self.authentication_identity, password=password, mechanism=self.name, tls=self.tls
        )

    def resolve(self, answer: object) -> PasswordStep:
        """ACCEPT or a Refusal; LocalProtocolError for anything else, and when nothing was asked."""
        who = self.authentication_identity
        if not self._asked or who is None:
            raise LocalProtocolError("no question is open")
        if isinstance(answer, Refusal):
            return answer
        if not isinstance(answer, Accept):
            raise LocalProtocolError("CheckPassword is answered with ACCEPT or a Refusal")
        return Success(authentication_identity=who, authorization_identity=self._authorization_identity)
