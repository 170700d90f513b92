"""What CRAM-MD5 and APOP have in common: ``name digest`` as the response, and a secret that the server must know.

Knows no wire form but that one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

from .._errors import LocalProtocolError, Malformed
from ._fields import decode_identity
from ._md5 import require_md5
from ._messages import Challenge, Fault, FetchSecret, PasswordStep, Refusal, Success

Digest: TypeAlias = Callable[[bytes, bytes], bytes]
"""(secret, challenge) -> 32 lower-case hexadecimal digits."""

_DIGEST: Final = re.compile(rb"[0-9a-f]{32}")
_DECOY_SECRET: Final = b"no identity has this secret"


class DigestServer:
    """Sends the challenge, asks FetchSecret, compares.

    An identity without a secret costs and says the same as a wrong digest: it is computed and compared against a secret
    that nobody has, and refused whatever comes out.
    """

    __slots__ = ("_challenge", "_claimed", "_digest", "authentication_identity", "tls")

    name: ClassVar[str]
    client_first: ClassVar[bool] = False

    def __init__(self, *, challenge: bytes, tls: bool, digest: Digest) -> None:
        require_md5()
        self.tls = tls
        self.authentication_identity: str | None = None
        self._challenge = challenge
        self._digest = digest
        self._claimed: bytes | None = None

    def respond(self, response: bytes | None) -> PasswordStep:
        """None: the Challenge.  Then ``name digest``, split at the last blank, since names may hold blanks."""
        if response is None:
            return Challenge(self._challenge)
        name, blank, claimed = response.rpartition(b" ")
        if not blank or not _DIGEST.fullmatch(claimed):
            return Fault.MALFORMED
        try:
            self.authentication_identity = decode_identity(name)
        except Malformed:
            return Fault.MALFORMED
        self._claimed = claimed
        return FetchSecret(authentication_identity=self.authentication_identity, mechanism=self.name, tls=self.tls)

    def resolve(self, answer: object) -> PasswordStep:
        """The secret, None or a Refusal; LocalProtocolError for anything else, and when nothing was asked."""
        who, claimed = self.authentication_identity, self._claimed
        if who is None or claimed is None:
            raise LocalProtocolError("no question is open")
        if isinstance(answer, Refusal):
            return answer
        if not (answer is None or isinstance(answer, bytes)):
            raise LocalProtocolError("FetchSecret is answered with bytes, None or a Refusal")
        known = bool(answer)  # an empty secret is no secret: anybody could compute with it
        expected = self._digest(answer or _DECOY_SECRET, self._challenge)
        equal = hmac.compare_digest(expected, claimed)
        return Success(authentication_identity=who) if equal and known else Refusal.BAD_CREDENTIALS
