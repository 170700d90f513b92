"""What a mechanism says and asks: the vocabulary that the mechanisms, the exchange and both protocols share.

Knows nothing of SMTP or POP3, of base64 or of lines.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Protocol, TypeAlias

import attrs

from .._events import Accept, Notice, Question


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
    """The server's turn: *octets* go to the client (base64 or not is the protocol's affair)."""

    octets: bytes = b""


@attrs.frozen(kw_only=True)
class Success:
    """The mechanism is satisfied.  An empty authorization identity means: the authentication identity itself."""

    authentication_identity: str
    authorization_identity: str = ""
    octets: bytes = b""
    """What the mechanism still has to say with its success (SCRAM's ``v=``); empty for most."""


@attrs.frozen(kw_only=True)
class CheckPassword(Question[Accept | Refusal]):
    """Is this the password of that identity?  An unknown identity must cost and say the same as a wrong password."""

    authentication_identity: str
    password: bytes = attrs.field(repr=False)
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


ServerQuestion: TypeAlias = CheckPassword | FetchSecret | Authorize
"""Everything a mechanism or the exchange can ask; closed, so that an application's ``match`` can be complete."""

Step: TypeAlias = Challenge | ServerQuestion | Success | Refusal | Fault
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

    why: Refusal | Fault | None
    """None: the session ended in the middle of the exchange."""
