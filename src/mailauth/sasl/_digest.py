"""The common part of CRAM-MD5 and APOP, server side.

The response is ``name digest``.  To check it the server needs the secret itself, not a hash.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

from .._patterns import LazyPattern
from .._validators import check_type
from ..errors import LocalProtocolError, Malformed
from ._fields import decode_identity
from ._md5 import require_md5
from .messages import Challenge, Fault, FetchSecret, Refusal, Step, Success

Digest: TypeAlias = Callable[[bytes, bytes], bytes]
"""``(secret, challenge)`` -> 32 lower-case hexadecimal digits."""

_DIGEST: Final = LazyPattern(rb"[0-9a-f]{32}")
_DECOY_SECRET: Final = b"no identity has this secret"


class DigestServer:
    """Base class of CRAM-MD5 and APOP, server side: send a challenge, ask FetchSecret, compare the digests.

    An unknown identity, or one without a secret, takes as long as a wrong digest and gets the same reply: the digest
    is computed with a decoy secret and compared, and the login is refused whatever the result.
    """

    __slots__ = ("_challenge", "_claimed", "_digest", "authentication_identity", "tls")

    name: ClassVar[str]
    client_first: ClassVar[bool] = False

    def __init__(self, *, challenge: bytes, tls: bool, digest: Digest) -> None:
        require_md5()
        check_type("challenge", bytes, challenge)
        check_type("tls", bool, tls)
        self.tls = tls
        self.authentication_identity: str | None = None
        self._challenge = challenge
        self._digest = digest
        self._claimed: bytes | None = None

    def respond(self, response: bytes | None) -> Step:
        """Return the Challenge if *response* is None, else FetchSecret for ``name digest``.

        The response is split at its last space, since names may contain spaces.  Returns Fault.MALFORMED for any other
        form.
        """
        if response is None:
            return Challenge(self._challenge)
        name, space, claimed = response.rpartition(b" ")
        if not space or not _DIGEST.fullmatch(claimed):
            return Fault.MALFORMED
        try:
            self.authentication_identity = decode_identity(name)
        except Malformed:
            return Fault.MALFORMED
        self._claimed = claimed
        return FetchSecret(authentication_identity=self.authentication_identity, mechanism=self.name, tls=self.tls)

    def resolve(self, answer: object) -> Step:
        """Return the result for the answer to FetchSecret: the secret, None or a Refusal.

        Raises LocalProtocolError for any other answer, and if no question is open.
        """
        identity, claimed = self.authentication_identity, self._claimed
        if identity is None or claimed is None:
            raise LocalProtocolError("no question is open; call respond() first")
        if isinstance(answer, Refusal):
            return answer
        if not (answer is None or isinstance(answer, bytes)):
            raise LocalProtocolError(f"answer FetchSecret with bytes, None or a Refusal, not {type(answer).__name__}")
        known = bool(answer)  # anyone can compute a digest with an empty secret
        expected = self._digest(answer or _DECOY_SECRET, self._challenge)
        equal = hmac.compare_digest(expected, claimed)
        return Success(authentication_identity=identity) if equal and known else Refusal.BAD_CREDENTIALS
