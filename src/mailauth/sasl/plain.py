"""PLAIN, both sides (RFC 4616): ``authorization identity NUL authentication identity NUL password`` in one response.

The password is readable for whoever reads the line: fit for use inside TLS.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._errors import LocalProtocolError, Malformed
from ._fields import check_acting_as, check_own_identity, check_own_password, prepare_identity, prepare_password
from ._messages import Challenge, Fault, PasswordStep
from ._password import PasswordServer


class PlainServer(PasswordServer):
    """PLAIN, server side.  *tls* says whether the exchange is inside TLS; it only goes into the question.

    Identities and password are prepared by ``saslprep()`` as what somebody says now (RFC 4616 section 2), so whatever
    keyboard and system a name or password was typed on, it is the same.
    """

    __slots__ = ()

    name: ClassVar[str] = "PLAIN"

    def respond(self, response: bytes | None) -> PasswordStep:
        """None: an empty Challenge.  Else CheckPassword, or Fault.MALFORMED unless it is three good fields of UTF-8.

        An authorization identity equal to the authentication identity counts as empty: mutt, git and Java send it so.
        """
        if response is None:
            return Challenge()
        fields = response.split(b"\0")
        if len(fields) != 3:
            return Fault.MALFORMED
        acting_as, who, password = fields
        try:
            authentication_identity = prepare_identity(who)
            authorization_identity = prepare_identity(acting_as) if acting_as else ""
            password = prepare_password(password, query=True)
        except Malformed:
            return Fault.MALFORMED
        self.authentication_identity = authentication_identity
        if authorization_identity != authentication_identity:
            self._authorization_identity = authorization_identity
        return self._ask(password)


def _check_utf_8(instance: object, attribute: object, password: bytes) -> None:
    try:
        password.decode("utf-8")
    except UnicodeDecodeError:
        raise LocalProtocolError("password cannot be sent: PLAIN carries it as UTF-8") from None


@attrs.define(kw_only=True, eq=False)
class PlainClient:
    """PLAIN, client side.  The password is UTF-8; LocalProtocolError for fields that no line may carry.

    Names and password go as they are: to prepare them is the server's part (RFC 4616 section 2).
    """

    name: ClassVar[str] = "PLAIN"
    client_first: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=check_own_identity)
    _password: bytes = attrs.field(repr=False, validator=[check_own_password, _check_utf_8])
    authorization_identity: str = attrs.field(default="", validator=check_acting_as)
    """Whom to act as; empty: whoever the server derives from the authentication identity."""

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """The one response, first to None.  Raises Malformed when the server asks for more."""
        if challenge is not None:
            raise Malformed("PLAIN has one response")
        self._responded = True
        acting_as, who = self.authorization_identity.encode(), self.authentication_identity.encode()
        return b"\0".join((acting_as, who, self._password))

    @property
    def satisfied(self) -> bool:
        """True once the response was given; PLAIN proves nothing about the server."""
        return self._responded
