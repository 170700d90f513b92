"""What a mechanism says and asks: the vocabulary that the mechanisms, the exchange and both protocols share.

Knows nothing of SMTP or POP3, of base64 or of lines.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar, Final, Protocol, TypeAlias

import attrs

from .._errors import LocalProtocolError
from .._events import Accept, Notice, Question

MIN_ITERATIONS: Final = 4096
"""The least work a SCRAM password may cost whoever tries passwords (RFC 5802 section 5.1, RFC 7677 section 4)."""


class Refusal(enum.Enum):
    """Why a login is not granted: an application's answer to a question, and a mechanism's own verdict."""

    BAD_CREDENTIALS = "authentication credentials invalid"
    """Unknown identity, wrong password, wrong digest: one text and one cost for all of them."""
    NOT_AUTHORIZED = "not authorized to act as the requested identity"
    TEMPORARY = "temporary authentication failure"
    """The store cannot tell now; the client may try again (454, ``[SYS/TEMP]``)."""
    TRANSITION_NEEDED = "a password transition is needed"
    """SMTP says 432 4.7.12 (RFC 4954 section 4.7.12 of the registry)."""
    TOO_WEAK = "the authentication mechanism is too weak"
    """SMTP says 534 5.7.9."""


class Fault(enum.Enum):
    """What was wrong with the exchange itself; the password was not even looked at."""

    CANCELLED = "authentication cancelled"
    UNDECODABLE = "invalid base64 data"
    UNEXPECTED_INITIAL_RESPONSE = "this mechanism takes no initial response"
    MALFORMED = "the response is not what the mechanism asks for"
    TOO_LONG = "authentication exchange line is too long"


@attrs.frozen
class Challenge:
    """The server's turn: *data* go to the client (base64 or not is the protocol's affair)."""

    data: bytes = b""


@attrs.frozen(kw_only=True)
class Success:
    """The mechanism is satisfied.  An empty authorization identity means: the authentication identity itself."""

    authentication_identity: str
    authorization_identity: str = ""
    data: bytes = b""
    """What the mechanism still has to say with its success (SCRAM's ``v=``); empty for most."""


@attrs.frozen(kw_only=True)
class CheckPassword(Question[Accept | Refusal]):
    """Is this the password of that identity?  An unknown identity must cost and say the same as a wrong password."""

    authentication_identity: str
    password: bytes = attrs.field(repr=False)
    """PLAIN gives it in UTF-8 and prepared by ``saslprep()`` (RFC 4616 section 2), so compare it with one that was
    prepared, too; so does USER of a POP3 server that offers UTF8 (RFC 6856 section 2.2).  LOGIN, which no RFC says that
    of, gives the octets as they came."""

    mechanism: str
    tls: bool

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@attrs.frozen(kw_only=True)
class FetchSecret(Question[bytes | None | Refusal]):
    """What secret does that identity share with us?  For CRAM-MD5 and APOP.  None: no such identity, or no secret."""

    authentication_identity: str
    mechanism: str
    tls: bool

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@attrs.frozen(kw_only=True)
class Authorize(Question[Accept | Refusal]):
    """May the proved authentication identity act as the other?  Asked only if they differ (RFC 4422 section 3.4.1)."""

    authentication_identity: str
    authorization_identity: str
    mechanism: str
    tls: bool

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@attrs.frozen(kw_only=True)
class ScramKeys:
    """What a server keeps of a password for SCRAM (RFC 5802 section 3); ``scram_keys()`` makes it of one.

    Whoever steals it can pose as the server, and try passwords at home, but cannot log in.  Raises LocalProtocolError
    for an empty salt, too few iterations, and keys that are no digests.
    """

    salt: bytes
    iterations: int
    """4,096 at least; the client pays them at each login."""
    stored_key: bytes = attrs.field(repr=False)
    """H(ClientKey): what a login is checked with."""
    server_key: bytes = attrs.field(repr=False)
    """What the server proves itself with."""

    def __attrs_post_init__(self) -> None:
        if not self.salt or self.iterations < MIN_ITERATIONS:
            raise LocalProtocolError(f"SCRAM needs a salt and {MIN_ITERATIONS} iterations")
        if len(self.stored_key) != len(self.server_key) or len(self.stored_key) not in (20, 32):
            raise LocalProtocolError("the keys of SCRAM are digests of SHA-1 or SHA-256")


@attrs.frozen(kw_only=True)
class FetchScramKeys(Question[ScramKeys | None | Refusal]):
    """What SCRAM keys do we keep for that identity?  None: no such identity, or no keys; the client is not told so.

    A Refusal ends the login at once, and so tells this identity from others: TEMPORARY when no store can tell.
    """

    authentication_identity: str
    """Prepared by ``saslprep()`` (RFC 5802 section 5.1)."""
    hash_name: str
    """The hash of the keys as ``hashlib`` calls it: ``sha1``, ``sha256``."""
    mechanism: str
    tls: bool

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@attrs.frozen(kw_only=True)
class CheckToken(Question[str | Refusal]):
    """Whose token is this?  The answer is the identity that it was issued to, or a Refusal.

    The identity that the token is good for counts as proved.  When the client asked for another, Authorize comes next;
    so answer in the client's spelling where there are two of one name.  A Refusal is told in the mechanism's own words
    first (RFC 7628 section 3.2.2).
    """

    authorization_identity: str
    """Whom the client asks to act as, which is all that it says of itself; empty: whoever the token belongs to."""
    token: bytes = attrs.field(repr=False)
    """The bearer token in ASCII, whole (RFC 6750 section 2.1)."""
    mechanism: str
    tls: bool
    host: str = ""
    """The server that the client believes to talk to, empty when it did not say; then *port*, None likewise."""
    port: int | None = None

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@attrs.frozen(kw_only=True)
class CheckExternal(Question[str | Refusal]):
    """Whose certificate is this?  The answer is the identity that it proves, or a Refusal.

    When the client asked to act as another, Authorize comes next (RFC 4422 appendix A).
    """

    authorization_identity: str
    """Whom the client asks to act as; empty: whoever the certificate belongs to."""
    peer_certificate: Mapping[str, object]
    """The client's certificate, verified, as ``Tls`` has it."""
    mechanism: str
    tls: bool

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


PasswordQuestion: TypeAlias = CheckPassword | FetchSecret | Authorize
"""All that is asked where identities are proved by passwords alone: what PLAIN, LOGIN, CRAM-MD5, USER and APOP ask."""

ExtendedQuestion: TypeAlias = FetchScramKeys | CheckToken | CheckExternal
"""What SCRAM, tokens and certificates ask beside Authorize."""

ServerQuestion: TypeAlias = PasswordQuestion | ExtendedQuestion
"""Everything a mechanism or the exchange can ask; closed, so that an application's ``match`` can be complete."""

PasswordStep: TypeAlias = Challenge | PasswordQuestion | Success | Refusal | Fault
"""What a server mechanism says next that asks about passwords alone."""

Step: TypeAlias = PasswordStep | ServerQuestion
"""What a server mechanism says next."""


class ServerMechanism(Protocol):
    """One exchange of one mechanism, server side: a value per login, with its challenge handed in."""

    name: ClassVar[str]
    client_first: ClassVar[bool]
    """False: the server speaks first, and an initial response is an error (RFC 4954 section 4)."""

    @property
    def tls(self) -> bool:
        """Whether the exchange is inside TLS, for the questions."""

    @property
    def authentication_identity(self) -> str | None:
        """Who says they are logging in, once that was said."""

    def respond(self, response: bytes | None) -> Step:
        """The client's response, decoded; None: it sent none yet.  Any octets give a Step, never an exception."""

    def resolve(self, answer: object) -> Step:
        """The application's answer to the question that ``respond`` returned."""


class PasswordMechanism(ServerMechanism, Protocol):
    """A ServerMechanism that asks nothing but a PasswordQuestion."""

    def respond(self, response: bytes | None) -> PasswordStep:
        """As the base says."""

    def resolve(self, answer: object) -> PasswordStep:
        """As the base says."""


class ClientMechanism(Protocol):
    """One exchange of one mechanism, client side."""

    @property
    def name(self) -> str:
        """As registered, in capitals: ``CRAM-MD5``."""

    @property
    def client_first(self) -> bool:
        """True when the first response needs no challenge and may travel with the AUTH command."""

    def respond(self, challenge: bytes | None) -> bytes:
        """The response to *challenge*; None begins (anew) and gives the initial response.

        That one is empty, and not to be sent, when the server speaks first.  Raises Malformed on a challenge it cannot
        take, and on one more than there can be.
        """

    @property
    def satisfied(self) -> bool:
        """Whether success may be believed now; SCRAM stays unsatisfied until the server has proved itself."""


@attrs.frozen(kw_only=True)
class AuthenticationStarted(Notice):
    """The client chose a mechanism."""

    mechanism: str


@attrs.frozen(kw_only=True)
class Authenticated(Notice):
    """A login succeeded.  In a client *identity* is None: the server knows whom it took us for, we do not."""

    mechanism: str
    identity: str | None = None


@attrs.frozen(kw_only=True)
class AuthenticationFailed(Notice):
    """A login failed on a server, which has already said so to the client."""

    mechanism: str
    authentication_identity: str | None
    """Who tried, when the exchange got as far as a name.  It is the client's word: escape it in a log."""

    reason: Refusal | Fault | None
    """None: the session ended in the middle of the exchange."""
