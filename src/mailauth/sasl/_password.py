"""The common part of PLAIN, LOGIN and USER/PASS, server side: ask CheckPassword and use its answer."""

from __future__ import annotations

from typing import ClassVar

from ..errors import LocalProtocolError
from ..events import Accept
from .messages import CheckPassword, Refusal, Step, Success


class PasswordServer:
    """Base class of the mechanisms that ask CheckPassword.  The password is only in the question; it is not stored."""

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

    def resolve(self, answer: object) -> Step:
        """Return the result for the answer to CheckPassword: ACCEPT or a Refusal.

        Raises LocalProtocolError for any other answer, and if no question is open.
        """
        identity = self.authentication_identity
        if not self._asked or identity is None:
            raise LocalProtocolError("no question is open; call respond() first")
        if isinstance(answer, Refusal):
            return answer
        if not isinstance(answer, Accept):
            raise LocalProtocolError(f"answer CheckPassword with ACCEPT or a Refusal, not {type(answer).__name__}")
        return Success(authentication_identity=identity, authorization_identity=self._authorization_identity)
