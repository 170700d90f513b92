"""The types of a SASL exchange: steps, questions, answers and notices, and the interfaces of mechanisms.

The mechanisms, the exchange, SMTP and POP3 share them.  A value with a field of a wrong type cannot be built: that is a
LocalProtocolError.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeVar

import attrs

from .._unchecked import new, slot_setters
from .._validators import integer, value_of
from .._values import shared_methods
from ..errors import LocalProtocolError, Malformed
from ..events import Accept, ExtensionQuestion, Notice, Question

A = TypeVar("A")


def _check_not_empty(identity: str) -> None:
    if not identity:
        raise Malformed("must not be empty; use the name whose credentials were verified")


_TEXT: Final = value_of(str)
_BYTES: Final = value_of(bytes)
_FLAG: Final = value_of(bool)

MIN_ITERATIONS: Final = 4096
"""Minimum iterations of SCRAM.  They slow down password guessing (RFC 5802 section 5.1, RFC 7677 section 4)."""


MAX_STORED_ITERATIONS: Final = 2**31 - 1
"""Maximum iterations of stored keys: OpenSSL cannot compute more."""


class Refusal(enum.Enum):
    """Why a login is refused: the application's answer to a question, or the result of a mechanism.

    For example:

        try:
            answer = ACCEPT if await is_valid(name, password) else sasl.Refusal.BAD_CREDENTIALS
        except OSError:  # the database does not answer
            answer = sasl.Refusal.TEMPORARY
    """

    BAD_CREDENTIALS = "authentication credentials invalid"
    """Unknown identity, wrong password or wrong digest.  All of them get the same reply after the same time."""
    NOT_AUTHORIZED = "not authorized to act as the requested identity"
    TEMPORARY = "temporary authentication failure"
    """The credentials cannot be checked now; the client may try again (454, ``[SYS/TEMP]``)."""
    TRANSITION_NEEDED = "a password transition is needed"
    """SMTP replies 432 4.7.12 (RFC 4954 section 6)."""
    TOO_WEAK = "the authentication mechanism is too weak"
    """SMTP replies 534 5.7.9 (RFC 4954 section 6)."""


class Fault(enum.Enum):
    """An error in the exchange itself, whether or not the credentials are right.

    MALFORMED counts as a failed login, as a wrong password does: after three in a session, or ``max_failed_logins`` of
    the settings, the server ends it.  The others count as a failed login only if the application was asked a question
    before.  Otherwise they count as an error, as an unknown command does.

    For example:

        case sasl.AuthenticationFailed(reason=sasl.Fault.CANCELLED):
            print("the client has cancelled the login")
    """

    CANCELLED = "authentication cancelled"
    UNDECODABLE = "invalid base64 data"
    UNEXPECTED_INITIAL_RESPONSE = "this mechanism takes no initial response"
    MALFORMED = "malformed authentication response"
    """A response that the mechanism does not allow, such as a name that SASLprep rejects.  It is a failed login because
    the server may find the error only after work (RFC 4954 section 9)."""
    TOO_LONG = "authentication exchange line is too long"


@shared_methods
@attrs.frozen(eq=False, repr=False)
class Challenge:
    """Send *data* to the client, in base64 if the protocol uses it, and wait for the response.

    For example:

        case sasl.Challenge(data=data):
            sock.sendall(b"334 " + sasl.encode_base64(data) + b"\\r\\n")
    """

    data: bytes = attrs.field(default=b"", validator=_BYTES)


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Success:
    """The credentials are verified.  An empty ``authorization_identity`` means the authentication identity itself.

    Raises LocalProtocolError for an empty ``authentication_identity``.

    For example:

        case sasl.Success(authentication_identity=name, authorization_identity=other):
            print(f"{name} acts as {other}")
    """

    authentication_identity: str = attrs.field(validator=value_of(str, _check_not_empty))
    """The identity whose credentials were verified."""
    authorization_identity: str = attrs.field(default="", validator=_TEXT)
    data: bytes = attrs.field(default=b"", validator=_BYTES)
    """The mechanism's final data for the client (SCRAM's ``v=``); empty for most mechanisms."""


class NonPasswordQuestion(Question[A]):
    """The base class of the questions that only SCRAM, bearer tokens and EXTERNAL ask.

    An application that offers none of these mechanisms needs one branch for all of them, with ``decline()``.

        case sasl.NonPasswordQuestion() as question:  # this server offers only mechanisms with passwords
            connection.decline(question)
    """

    __slots__ = ()


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckPassword(Question[Accept | Refusal]):
    """Asks whether *password* belongs to the identity.

    For an unknown identity, the answer must be the same as for a wrong password and take as long.

        case sasl.CheckPassword(authentication_identity=name, password=password) as question:
            valid = await is_valid(name, password)
            connection.answer(question, ACCEPT if valid else sasl.Refusal.BAD_CREDENTIALS)
    """

    authentication_identity: str = attrs.field(validator=_TEXT)
    password: bytes = attrs.field(repr=False, validator=_BYTES)
    """From PLAIN it is prepared by ``saslprep()`` (RFC 4616 section 2), so compare it with a prepared password.  The
    same is true for USER on a POP3 server that offers UTF8 (RFC 6856 section 2.2).  From LOGIN it is the bytes as
    received, since no RFC requires preparation.  It need not be UTF-8: from PLAIN and USER, other bytes are as received
    too, unless ``strict_syntax`` is set."""

    mechanism: str = attrs.field(validator=_TEXT)
    """The registered name of the mechanism; ``USER`` for USER and PASS."""
    tls: bool = attrs.field(validator=_FLAG)
    """Whether the connection uses TLS."""

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class FetchSecret(Question[bytes | None | Refusal]):
    """Asks for the shared secret of the identity, for CRAM-MD5 and APOP.  None: unknown identity, or no secret.

    For example:

        case sasl.FetchSecret(authentication_identity=name) as question:
            connection.answer(question, passwords.get(name))
    """

    authentication_identity: str = attrs.field(validator=_TEXT)
    mechanism: str = attrs.field(validator=_TEXT)
    tls: bool = attrs.field(validator=_FLAG)

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Authorize(Question[Accept | Refusal]):
    """Asks whether the authentication identity, which is verified, may act as the authorization identity.

    Asked only if the two differ (RFC 4422 section 3.4.1).

        case sasl.Authorize(authentication_identity=name) as question:
            connection.answer(question, ACCEPT if name == "admin" else sasl.Refusal.NOT_AUTHORIZED)
    """

    authentication_identity: str = attrs.field(validator=_TEXT)
    authorization_identity: str = attrs.field(validator=_TEXT)
    mechanism: str = attrs.field(validator=_TEXT)
    tls: bool = attrs.field(validator=_FLAG)

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ScramKeys:
    """The values that a server stores for SCRAM in place of a password (RFC 5802 section 3).  See ``scram_keys()``.

    With stolen keys an attacker can impersonate the server and guess passwords offline, but cannot log in.  Raises
    LocalProtocolError for an empty salt, too few iterations, and keys of a wrong length.

        >>> keys = sasl.scram_keys(b"pencil", salt=b"a random salt", iterations=4096)
        >>> len(keys.stored_key), len(keys.server_key)
        (32, 32)
    """

    salt: bytes = attrs.field(validator=value_of(bytes))
    iterations: int = attrs.field(validator=integer(MIN_ITERATIONS, MAX_STORED_ITERATIONS))
    """At least 4,096.  The client computes them at each login."""
    stored_key: bytes = attrs.field(repr=False, validator=value_of(bytes))
    """H(ClientKey), which verifies the client's proof."""
    server_key: bytes = attrs.field(repr=False, validator=value_of(bytes))
    """The key of the server's signature, which the client verifies."""

    def __attrs_post_init__(self) -> None:
        if not self.salt:
            raise LocalProtocolError("salt must not be empty; use secrets.token_bytes(16)")
        if len(self.stored_key) != len(self.server_key) or len(self.stored_key) not in (20, 32):
            raise LocalProtocolError("stored_key and server_key must both be 20 bytes (SHA-1) or 32 bytes (SHA-256)")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class FetchScramKeys(NonPasswordQuestion[ScramKeys | None | Refusal]):
    """Asks for the SCRAM keys of the identity.  None: unknown identity, or no keys; the client cannot detect this.

    A Refusal ends the login at once, so the client learns that this identity is treated differently.  Use TEMPORARY if
    no store can answer.

        case sasl.FetchScramKeys(authentication_identity=name, hash_name="sha256") as question:
            connection.answer(question, scram_keys_of.get(name))
    """

    authentication_identity: str = attrs.field(validator=_TEXT)
    """Prepared by ``saslprep()`` (RFC 5802 section 5.1)."""
    hash_name: str = attrs.field(validator=_TEXT)
    """The hash of the keys, as in ``hashlib``: ``sha1`` or ``sha256``."""
    mechanism: str = attrs.field(validator=_TEXT)
    tls: bool = attrs.field(validator=_FLAG)

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckToken(NonPasswordQuestion[str | Refusal]):
    """Asks which identity a bearer token was issued to.  The answer is that identity, or a Refusal.

    The identity in the answer counts as verified.  If the client asked to act as another one, Authorize follows.  If
    the account's name has several spellings, answer with the client's spelling.  A Refusal is first sent to the client
    in the mechanism's own format (RFC 7628 section 3.2.2).

        case sasl.CheckToken(token=token) as question:
            owner = await token_owner(token)
            connection.answer(question, owner or sasl.Refusal.BAD_CREDENTIALS)
    """

    authorization_identity: str = attrs.field(validator=_TEXT)
    """The identity that the client asks to act as, the only name that it sends; empty: the identity of the token."""
    token: bytes = attrs.field(repr=False, validator=_BYTES)
    """The complete bearer token in ASCII (RFC 6750 section 2.1)."""
    mechanism: str = attrs.field(validator=_TEXT)
    tls: bool = attrs.field(validator=_FLAG)
    host: str = attrs.field(default="", validator=_TEXT)
    """The host that the client connects to, as the client states it; empty if it states none."""
    port: int | None = attrs.field(default=None, validator=integer(0, 65_535, optional=True))
    """The port that the client connects to, as the client states it; None if it states none."""

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class CheckExternal(NonPasswordQuestion[str | Refusal]):
    """Asks which identity a client certificate belongs to.  The answer is that identity, or a Refusal.

    If the client asked to act as another one, Authorize follows (RFC 4422 appendix A).

        case sasl.CheckExternal(peer_certificate=certificate) as question:
            owner = owners.get(certificate["serialNumber"], sasl.Refusal.BAD_CREDENTIALS)
            connection.answer(question, owner)
    """

    authorization_identity: str = attrs.field(validator=_TEXT)
    """The identity that the client asks to act as; empty: the identity of the certificate."""
    peer_certificate: Mapping[str, object] = attrs.field(validator=value_of(Mapping))
    """The client's verified certificate, as in ``Tls.peer_certificate``."""
    mechanism: str = attrs.field(validator=_TEXT)
    tls: bool = attrs.field(validator=_FLAG)

    @property
    def unavailable(self) -> Refusal:
        return Refusal.TEMPORARY


PasswordQuestion: TypeAlias = CheckPassword | FetchSecret | Authorize
"""The questions of PLAIN, LOGIN, CRAM-MD5, USER and APOP."""

ServerQuestion: TypeAlias = PasswordQuestion | FetchScramKeys | CheckToken | CheckExternal | ExtensionQuestion[Any]
"""All questions of a login: those of this library by name, and those of mechanisms that an application adds."""

Step: TypeAlias = Challenge | ServerQuestion | Success | Refusal | Fault
"""The next step of a server mechanism."""


class ServerMechanism(Protocol):
    """The server side of one mechanism, for one exchange.

    The challenge or nonce is an argument of its constructor, so tests can fix it.

        def create(context: sasl.Context) -> sasl.ServerMechanism:
            return sasl.LoginServer(tls=context.tls, name_prompt=b"User Name\\0", password_prompt=b"Password\\0")
    """

    name: ClassVar[str]
    client_first: ClassVar[bool]
    """False: the server sends the first challenge, and an initial response is an error (RFC 4954 section 4)."""

    @property
    def tls(self) -> bool:
        """Whether the connection uses TLS.  It is copied into the questions."""
        ...

    @property
    def authentication_identity(self) -> str | None:
        """The identity that the client claims; None until it was sent."""
        ...

    def respond(self, response: bytes | None) -> Step:
        """Process the client's decoded response; None if it has sent none yet.  Does not raise for any bytes."""
        ...

    def resolve(self, answer: object) -> Step:
        """Process the application's answer to the question that ``respond()`` returned."""
        ...


class ClientMechanism(Protocol):
    """The client side of one mechanism.

    For example:

        mechanism: sasl.ClientMechanism = sasl.ExternalClient()
        client.authenticate(mechanism)
    """

    name: ClassVar[str]
    """The registered name, in capitals: ``CRAM-MD5``."""
    client_first: ClassVar[bool]
    """True if the first response needs no challenge and may be sent with the AUTH command."""

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the response to *challenge*; None starts an exchange and returns the initial response.

        If the server sends the first challenge, the initial response is empty and is not sent.  Raises Malformed for a
        challenge that the mechanism does not accept or does not expect.
        """
        ...

    @property
    def satisfied(self) -> bool:
        """Whether a success reply can be trusted now.

        SCRAM is satisfied only after it has verified the server's signature.
        """
        ...


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class AuthenticationStarted(Notice):
    """The client started a login with *mechanism*.

    For example:

        case sasl.AuthenticationStarted(mechanism=mechanism):
            started[mechanism] += 1
    """

    mechanism: str = attrs.field(validator=_TEXT)


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Authenticated(Notice):
    """A login succeeded.

    For example:

        case sasl.Authenticated(mechanism=mechanism, identity=name):
            print(f"{name} has logged in with {mechanism}")
    """

    mechanism: str = attrs.field(validator=_TEXT)
    identity: str | None = attrs.field(default=None, validator=value_of(str, optional=True))
    """The authorization identity.  None on a client, since the server does not send it."""


def _check_reason(instance: object, attribute: attrs.Attribute[Any], reason: Any) -> None:
    if reason is not None and not isinstance(reason, Refusal | Fault):
        found = type(reason).__name__
        raise LocalProtocolError(f"reason must be a Refusal, a Fault or None, not {found}; use Refusal.BAD_CREDENTIALS")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class AuthenticationFailed(Notice):
    """A login failed on a server.  The reply to the client is already written.

    For example:

        case sasl.AuthenticationFailed(authentication_identity=name, reason=sasl.Refusal.BAD_CREDENTIALS):
            print(f"wrong password for {name!a}")
    """

    mechanism: str = attrs.field(validator=_TEXT)
    authentication_identity: str | None = attrs.field(validator=value_of(str, optional=True))
    """The identity that the client claimed; None if it sent none.  It is untrusted input: escape it in a log."""

    reason: Refusal | Fault | None = attrs.field(validator=_check_reason)
    """None: the session ended during the exchange."""


_set_proved, _set_acting_as, _set_final_data = slot_setters(
    Success, "authentication_identity", "authorization_identity", "data"
)
(_set_started,) = slot_setters(AuthenticationStarted, "mechanism")
_set_claimed, _set_password, _set_asking_mechanism, _set_tls = slot_setters(
    CheckPassword, "authentication_identity", "password", "mechanism", "tls"
)


# A login builds these from fields that are valid already.


def checked_success(authentication_identity: str, authorization_identity: str, data: bytes = b"") -> Success:
    """Return the Success with these fields, which were validated."""
    success = new(Success)
    _set_proved(success, authentication_identity)
    _set_acting_as(success, authorization_identity)
    _set_final_data(success, data)
    return success


def checked_password(authentication_identity: str, password: bytes, mechanism: str, tls: bool) -> CheckPassword:
    """Return the question with these fields, which were validated."""
    question = new(CheckPassword)
    _set_claimed(question, authentication_identity)
    _set_password(question, password)
    _set_asking_mechanism(question, mechanism)
    _set_tls(question, tls)
    return question


def authentication_started(mechanism: str) -> AuthenticationStarted:
    """Return the notice with this field, which was validated."""
    notice = new(AuthenticationStarted)
    _set_started(notice, mechanism)
    return notice
