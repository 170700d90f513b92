"""PLAIN, client and server side (RFC 4616): one response with the identities and the password, separated by NUL.

The response is ``authorization identity NUL authentication identity NUL password``.  The password is readable on the
wire, so PLAIN is secure only with TLS.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from .._validators import check_type
from .._values import shared_repr
from ..errors import LocalProtocolError, Malformed
from ._fields import (
    check_password,
    is_utf_8,
    prepare_identity,
    prepare_password,
    validate_authorization_identity,
    validate_identity,
    validate_password,
)
from ._password import PasswordServer
from .messages import Challenge, Fault, Step


class PlainServer(PasswordServer):
    """PLAIN, server side.  *tls* says whether the connection uses TLS; it is only copied into the question.

    Identities and password are prepared by ``saslprep()`` as queries (RFC 4616 section 2), because keyboards
    and operating systems encode the same text differently.  A password that is not UTF-8, as some old clients send it,
    is passed on as received, unless *strict_syntax* is true.

        >>> sasl.PlainServer(tls=True).respond(b"\\0tim\\0tanstaaftanstaaf")
        CheckPassword(authentication_identity='tim', mechanism='PLAIN', tls=True)
    """

    __slots__ = ("_strict_syntax",)

    name: ClassVar[str] = "PLAIN"

    def __init__(self, *, tls: bool, strict_syntax: bool = False) -> None:
        super().__init__(tls=tls)
        check_type("strict_syntax", bool, strict_syntax)
        self._strict_syntax = strict_syntax

    def respond(self, response: bytes | None) -> Step:
        """Return an empty Challenge if *response* is None, else CheckPassword.

        Returns Fault.MALFORMED unless the response has three valid fields.  An authorization identity that
        equals the authentication identity counts as empty: mutt, git and Java send it.
        """
        if response is None:
            return Challenge()
        fields = response.split(b"\0")
        if len(fields) != 3:
            return Fault.MALFORMED
        acting_as, name, password = fields
        try:
            authentication_identity = prepare_identity(name)
            authorization_identity = prepare_identity(acting_as) if acting_as else ""
            password = self._prepared(password)
        except Malformed:
            return Fault.MALFORMED
        self.authentication_identity = authentication_identity
        if authorization_identity != authentication_identity:
            self._authorization_identity = authorization_identity
        return self._ask(password)

    def _prepared(self, password: bytes) -> bytes:
        try:
            return prepare_password(password, query=True)
        except Malformed:
            if self._strict_syntax or is_utf_8(password):
                raise
        check_password(password)
        return password


def _check_utf_8(instance: object, attribute: object, password: bytes) -> None:
    try:
        password.decode("utf-8")
    except UnicodeDecodeError:
        raise LocalProtocolError("password cannot be sent: PLAIN requires UTF-8") from None


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class PlainClient:
    """PLAIN, client side.  *password* is UTF-8.  Raises LocalProtocolError for fields that cannot be sent.

    Names and password are sent unchanged: the server prepares them (RFC 4616 section 2).

        >>> sasl.PlainClient(authentication_identity="tim", password=b"tanstaaftanstaaf").respond(None)
        b'\\x00tim\\x00tanstaaftanstaaf'
    """

    name: ClassVar[str] = "PLAIN"
    client_first: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=validate_identity)
    _password: bytes = attrs.field(alias="password", repr=False, validator=[validate_password, _check_utf_8])
    authorization_identity: str = attrs.field(default="", validator=validate_authorization_identity)
    """The identity to act as; empty: the one that the server derives from the authentication identity."""

    _responded: bool = attrs.field(init=False, default=False, repr=False)

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the only response; *challenge* must be None.  Raises Malformed for a challenge."""
        if challenge is not None:
            raise Malformed("PLAIN allows only one response")
        self._responded = True
        acting_as, name = self.authorization_identity.encode(), self.authentication_identity.encode()
        return b"\0".join((acting_as, name, self._password))

    @property
    def satisfied(self) -> bool:
        """True after the response was returned.  The server is not authenticated by PLAIN."""
        return self._responded
