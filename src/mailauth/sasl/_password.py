"""The common part of PLAIN, LOGIN and USER/PASS, server side: ask CheckPassword and use its answer."""

from __future__ import annotations

from typing import ClassVar

from .._validators import check_type
from ..errors import LocalProtocolError
from ..events import Accept
from .messages import CheckPassword, Refusal, Step, checked_password, checked_success


class PasswordServer:
    """Base class of the mechanisms that ask CheckPassword.  The password is only in the question; it is not stored."""

    __slots__ = ("_asked", "_authorization_identity", "authentication_identity", "tls")

    name: ClassVar[str]
    client_first: ClassVar[bool] = True

    def __init__(self, *, tls: bool) -> None:
        check_type("tls", bool, tls)
        self.tls = tls
        self.authentication_identity: str | None = None
        self._authorization_identity = ""
        self._asked = False

    def _ask(self, password: bytes) -> CheckPassword:
        assert self.authentication_identity is not None
        self._asked = True
        return checked_password(self.authentication_identity, password, self.name, self.tls)

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
        return checked_success(identity, self._authorization_identity)
