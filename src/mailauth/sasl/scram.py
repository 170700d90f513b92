"""SCRAM, client and server side (RFC 5802; with SHA-256, RFC 7677).

Each side proves to the other that it knows the password or its keys, and the password is not sent.  The server stores
keys instead of the password.  The -PLUS forms bind the login to the TLS channel, which defeats a man in the middle.
Nonces and binding data are arguments.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

import attrs

from .._validators import check_integer, check_type, integer, matches, value_of
from .._values import shared_methods, shared_repr
from ..errors import LocalProtocolError, Malformed
from ._base64 import encode_base64
from ._fields import (
    escape_name,
    prepare_identity,
    prepare_password,
    validate_authorization_identity,
    validate_identity,
    validate_password,
)
from ._scram_messages import (
    ClientFirst,
    ServerFirst,
    is_server_error,
    parse_client_final,
    parse_client_first,
    parse_server_final,
    parse_server_first,
)
from .messages import (
    MAX_STORED_ITERATIONS,
    MIN_ITERATIONS,
    Challenge,
    Fault,
    FetchScramKeys,
    Refusal,
    ScramKeys,
    Step,
    Success,
)

MAX_ITERATIONS: Final = 600_000
"""Default limit of a client, about a third of a second of work.  A server that asks for more may be hostile."""

_BINDING: Final = re.compile(r"[A-Za-z0-9.-]+")  # RFC 5802 section 7, cb-name
_NO_BINDINGS: Final[Mapping[str, bytes]] = MappingProxyType({})


def scram_keys(password: bytes, salt: bytes, iterations: int, hash_name: str = "sha256") -> ScramKeys:
    """Compute the SCRAM keys that a server stores for *password* (UTF-8).

    This is slow: call it when the password is set, not during a login.  *salt* is about 16 random bytes that no other
    password shares; *hash_name* is ``sha1`` or ``sha256``.  Raises LocalProtocolError for a password that SASLprep does
    not accept as a stored string, for another *hash_name*, and as ScramKeys does.
    """
    check_type("password", bytes, password)
    check_type("salt", bytes, salt)
    check_integer("iterations", iterations, MIN_ITERATIONS, MAX_STORED_ITERATIONS)
    if hash_name not in ("sha1", "sha256"):
        raise LocalProtocolError(f"hash_name must be 'sha1' or 'sha256', not {hash_name!r}")
    if not salt:
        raise LocalProtocolError("salt must not be empty; use secrets.token_bytes(16)")
    try:
        prepared = prepare_password(password, query=False)
    except Malformed as error:
        raise LocalProtocolError(f"this password cannot be used: {error}") from None
    salted = hashlib.pbkdf2_hmac(hash_name, prepared, salt, iterations)
    client_key, server_key = _derive(hash_name, salted)
    return ScramKeys(salt=salt, iterations=iterations, stored_key=_hash(hash_name, client_key), server_key=server_key)


def _derive(hash_name: str, salted: bytes) -> tuple[bytes, bytes]:
    """Return ClientKey and ServerKey for a salted password."""
    return hmac.digest(salted, b"Client Key", hash_name), hmac.digest(salted, b"Server Key", hash_name)


def _hash(hash_name: str, data: bytes) -> bytes:
    return hashlib.new(hash_name, data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _check_key(key: bytes) -> None:
    if len(key) < 16:
        raise Malformed("must be at least 16 secret bytes; use secrets.token_bytes(32)")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ScramDecoy:
    """The salt and iterations that a server sends for an identity without keys.

    Each identity has its own salt, which is the same at each login, as with real keys.  So a client cannot detect
    whether the account exists.  Raises LocalProtocolError for a short key, too few iterations, or a wrong salt size.

        decoy = sasl.ScramDecoy(key=Path("decoy.key").read_bytes(), iterations=10_000)
        settings = smtp.ServerSettings(mechanisms=sasl.ALL_MECHANISMS, scram_decoy=decoy)
    """

    key: bytes = attrs.field(repr=False, validator=value_of(bytes, _check_key))
    """At least 16 secret bytes.  Keep it as long as the accounts, since the salts depend on it."""
    iterations: int = attrs.field(default=MIN_ITERATIONS, validator=integer(MIN_ITERATIONS, MAX_STORED_ITERATIONS))
    """Use the number that most accounts have."""
    salt_size: int = attrs.field(default=16, validator=integer(1, 32))
    """Bytes, 1 to 32.  Use the size that most accounts have."""

    def keys(self, identity: str, hash_name: str) -> ScramKeys:
        """Return keys for *identity* that match no password."""
        seed = hmac.digest(self.key, f"{hash_name} {identity}".encode(), "sha256")
        key = hmac.digest(seed, b"no password has this key", hash_name)
        return ScramKeys(salt=seed[: self.salt_size], iterations=self.iterations, stored_key=key, server_key=key)


class ScramServer:
    """Base class of the SCRAM mechanisms, server side.

    *nonce* must be unique and unpredictable.  An identity without keys takes as long as a wrong password and gets the
    same reply: the whole exchange is done with the keys of *decoy*, and the login is refused whatever the result.

    *channel_bindings* is the channel binding data of the connection, for the -PLUS forms.  *plus_offered* is True if
    the -PLUS form was offered too.  A client that supports it but did not see it offered is the victim of a downgrade
    attack (RFC 5802 section 6).
    """

    __slots__ = (
        "_bindings", "_decoy", "_first", "_keys", "_known", "_nonce", "_plus_offered", "authentication_identity",
        "tls",
    )  # fmt: skip

    name: ClassVar[str]
    hash_name: ClassVar[str]
    plus: ClassVar[bool] = False
    client_first: ClassVar[bool] = True

    def __init__(
        self,
        *,
        nonce: str,
        tls: bool,
        decoy: ScramDecoy,
        channel_bindings: Mapping[str, bytes] = _NO_BINDINGS,
        plus_offered: bool = False,
    ) -> None:
        check_type("nonce", str, nonce)
        check_type("decoy", ScramDecoy, decoy)
        check_type("tls", bool, tls)
        self.tls = tls
        self.authentication_identity: str | None = None
        self._nonce = nonce.encode("ascii")
        self._decoy = decoy
        self._bindings = channel_bindings
        self._plus_offered = plus_offered
        self._first: ClientFirst | None = None
        self._keys: ScramKeys | None = None
        self._known = False

    def respond(self, response: bytes | None) -> Step:
        """Return an empty Challenge if *response* is None.

        For a client-first message return FetchScramKeys; for a client-final message return Success if the proof is
        right.
        """
        if response is None:
            return Challenge()
        try:
            if self._first is None:
                return self._begin(parse_client_first(response))
            return self._prove(response)
        except Malformed:
            return Fault.MALFORMED

    def _begin(self, first: ClientFirst) -> Step:
        if self.plus != (first.binding is not None):
            raise Malformed("channel binding is required by the -PLUS forms, and not allowed in the others")
        if first.binding is not None and first.binding not in self._bindings:
            raise Malformed("unknown channel binding")
        self.authentication_identity = first.authentication_identity
        if first.could_bind and self._plus_offered:
            return Refusal.BAD_CREDENTIALS
        self._first = first
        return FetchScramKeys(
            authentication_identity=first.authentication_identity,
            hash_name=self.hash_name,
            mechanism=self.name,
            tls=self.tls,
        )

    def resolve(self, answer: object) -> Step:
        """Return the result for the answer to FetchScramKeys: ScramKeys, None or a Refusal.

        Raises LocalProtocolError for any other answer, and if no question is open.
        """
        first = self._first
        if first is None or self._keys is not None:
            raise LocalProtocolError("no question is open; call respond() first")
        if isinstance(answer, Refusal):
            return answer
        decoy = self._decoy.keys(first.authentication_identity, self.hash_name)
        if isinstance(answer, ScramKeys):
            if len(answer.stored_key) != len(decoy.stored_key):
                raise LocalProtocolError(f"answer FetchScramKeys with keys for {self.hash_name}")
            self._keys = answer
        elif answer is None:
            self._keys = decoy
        else:
            raise LocalProtocolError(
                f"answer FetchScramKeys with ScramKeys, None or a Refusal, not {type(answer).__name__}"
            )
        self._known = answer is not None
        return Challenge(self._server_first(first, self._keys))

    def _server_first(self, first: ClientFirst, keys: ScramKeys) -> bytes:
        return ServerFirst(nonce=first.nonce + self._nonce, salt=keys.salt, iterations=keys.iterations).to_wire()

    def _prove(self, response: bytes) -> Step:
        first, keys = self._first, self._keys
        if first is None or keys is None:
            raise Malformed("no challenge was sent")
        final = parse_client_final(response)
        if final.nonce != first.nonce + self._nonce or len(final.proof) != len(keys.stored_key):
            raise Malformed("not a response to this challenge")
        data = b"" if first.binding is None else self._bindings[first.binding]
        bound = hmac.compare_digest(final.binding, first.header + data)
        message = b",".join((first.bare, self._server_first(first, keys), final.unproved))
        client_key = _xor(final.proof, hmac.digest(keys.stored_key, message, self.hash_name))
        proved = hmac.compare_digest(_hash(self.hash_name, client_key), keys.stored_key)
        signature = hmac.digest(keys.server_key, message, self.hash_name)
        if not (bound and proved and self._known):
            return Refusal.BAD_CREDENTIALS
        acting_as, identity = first.authorization_identity, first.authentication_identity
        return Success(
            authentication_identity=identity,
            authorization_identity="" if acting_as == identity else acting_as,  # mutt sends its name as both
            data=b"v=" + encode_base64(signature),
        )


class ScramSha1Server(ScramServer):
    """SCRAM-SHA-1, server side (RFC 5802).

    For example:

        >>> mechanism = sasl.ScramSha1Server(nonce="3rfcNHYJY1", tls=True, decoy=sasl.ScramDecoy(key=bytes(range(16))))
        >>> mechanism.respond(b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL")
        FetchScramKeys(authentication_identity='user', hash_name='sha1', mechanism='SCRAM-SHA-1', tls=True)
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-1"
    hash_name: ClassVar[str] = "sha1"


class ScramSha1PlusServer(ScramSha1Server):
    """SCRAM-SHA-1-PLUS, server side (RFC 5802).

    For example:

        decoy = sasl.ScramDecoy(key=key)
        sasl.ScramSha1PlusServer(nonce=nonce, tls=True, decoy=decoy, channel_bindings=tls.channel_bindings)
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-1-PLUS"
    plus = True


class ScramSha256Server(ScramServer):
    """SCRAM-SHA-256, server side (RFC 7677).

    For example:

        >>> decoy = sasl.ScramDecoy(key=secrets.token_bytes(32))
        >>> mechanism = sasl.ScramSha256Server(nonce="k3hvYDpWUa2", tls=True, decoy=decoy)
        >>> question = mechanism.respond(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        >>> mechanism.resolve(None).data[:34]  # an unknown identity gets a challenge too
        b'r=rOprNGfwEbeRWgbNEkqOk3hvYDpWUa2,'
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-256"
    hash_name: ClassVar[str] = "sha256"


class ScramSha256PlusServer(ScramSha256Server):
    """SCRAM-SHA-256-PLUS, server side (RFC 7677).

    For example:

        context = sasl.Context.of(tls, nonce=nonce, host_name="mx.example", offered=offered, scram_decoy=decoy)
        mechanism = sasl.ALL_MECHANISMS.create("SCRAM-SHA-256-PLUS", context)  # a ScramSha256PlusServer
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-256-PLUS"
    plus = True


def _check_entropy(entropy: bytes) -> None:
    if len(entropy) < 16:
        raise Malformed("must be at least 16 random bytes, new for each client")


def check_entropy(entropy: bytes) -> None:
    """Raise LocalProtocolError for a value that a client cannot use as *entropy*."""
    check_type("entropy", bytes, entropy)
    try:
        _check_entropy(entropy)
    except Malformed as error:
        raise LocalProtocolError(f"entropy {error}") from None


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class ScramClient(ABC):
    """Base class of the SCRAM mechanisms, client side.

    *password* is UTF-8.  *entropy* is at least 16 secret random bytes; the nonce of each exchange is derived from it.
    Raises LocalProtocolError for names and passwords that SASLprep does not accept.
    """

    name: ClassVar[str]
    hash_name: ClassVar[str]
    client_first: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=validate_identity)
    _password: bytes = attrs.field(alias="password", repr=False, validator=validate_password)
    _entropy: bytes = attrs.field(alias="entropy", repr=False, validator=value_of(bytes, _check_entropy))
    authorization_identity: str = attrs.field(default="", validator=validate_authorization_identity)
    """The identity to act as; empty: the one that the server derives from the authentication identity."""

    max_iterations: int = attrs.field(default=MAX_ITERATIONS, validator=integer(MIN_ITERATIONS, MAX_STORED_ITERATIONS))
    """The limit for the number of iterations, which the server chooses and the client has to compute."""

    _exchanges: int = attrs.field(init=False, default=0, repr=False)
    _bare: bytes = attrs.field(init=False, default=b"", repr=False)
    _nonce: bytes = attrs.field(init=False, default=b"", repr=False)
    _expected: bytes = attrs.field(init=False, default=b"", repr=False)
    _satisfied: bool = attrs.field(init=False, default=False, repr=False)
    _refused: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            self._names()
            prepare_password(self._password, query=False)
        except Malformed as error:
            raise LocalProtocolError(
                f"authentication_identity, authorization_identity or password cannot be sent: {error}"
            ) from None

    def _names(self) -> tuple[bytes, bytes]:
        """Return authorization and authentication identity as the client-first message contains them."""
        acting_as, name = (
            escape_name(prepare_identity(identity.encode())) if identity else b""
            for identity in (self.authorization_identity, self.authentication_identity)
        )
        return acting_as, name

    @abstractmethod
    def _binding(self) -> tuple[bytes, bytes]:
        """Return the flag of the GS2 header and the channel binding data."""

    def _header(self) -> bytes:
        acting_as, _ = self._names()
        return b"%b,%b," % (self._binding()[0], acting_as and b"a=" + acting_as)

    def _make_nonce(self) -> bytes:
        return hmac.digest(self._entropy, b"%d" % self._exchanges, "sha256").hex()[:32].encode("ascii")

    def respond(self, challenge: bytes | None) -> bytes:
        """Return the client-first message if *challenge* is None, then client-final, then an empty response.

        The empty response follows the server-final message, once its signature is verified, and an error message
        (``e=``), by which the server refuses the login before it replies.  Raises Malformed if the server asks for too
        few or too many iterations, if its nonce does not extend the client's, or if its signature is wrong.
        """
        if challenge is None:
            self._satisfied = False
            self._expected = b""
            self._refused = False
            self._exchanges += 1
            self._nonce = self._make_nonce()
            self._bare = b"n=%b,r=%b" % (self._names()[1], self._nonce)
            return self._header() + self._bare
        if self._satisfied or self._refused or not self._bare:
            raise Malformed("SCRAM allows only two challenges")
        if is_server_error(challenge):
            self._refused = True
            return b""
        if not self._expected:
            return self._prove(challenge)
        if not hmac.compare_digest(parse_server_final(challenge), self._expected):
            raise Malformed("wrong signature: the server does not know the password")
        self._satisfied = True
        return b""

    def _prove(self, challenge: bytes) -> bytes:
        server = parse_server_first(challenge)
        if not server.nonce.startswith(self._nonce) or len(server.nonce) == len(self._nonce):
            raise Malformed("the server's nonce does not extend the client's")
        if not MIN_ITERATIONS <= server.iterations <= self.max_iterations:
            raise Malformed(f"the server asks for {server.iterations} iterations, which is too few or too many")
        password = prepare_password(self._password, query=False)
        salted = hashlib.pbkdf2_hmac(self.hash_name, password, server.salt, server.iterations)
        client_key, server_key = _derive(self.hash_name, salted)
        unproved = b"c=%b,r=%b" % (encode_base64(self._header() + self._binding()[1]), server.nonce)
        message = b",".join((self._bare, challenge, unproved))
        self._expected = hmac.digest(server_key, message, self.hash_name)
        signature = hmac.digest(_hash(self.hash_name, client_key), message, self.hash_name)
        return unproved + b",p=" + encode_base64(_xor(client_key, signature))

    @property
    def satisfied(self) -> bool:
        """True after the server's signature was verified."""
        return self._satisfied


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class _UnboundClient(ScramClient):
    could_bind: bool = attrs.field(default=False, validator=value_of(bool))
    """True: the client would use the -PLUS form, but the server did not offer it.  If the server did offer it, it then
    detects that an attacker removed it, and refuses the login."""

    def _binding(self) -> tuple[bytes, bytes]:
        return b"y" if self.could_bind else b"n", b""


@shared_repr
@attrs.define(kw_only=True, eq=False, repr=False)
class _BoundClient(ScramClient):
    channel_binding: str = attrs.field(
        validator=value_of(str, matches(_BINDING, "must consist of A-Z, a-z, 0-9, '.' and '-'"))
    )
    """The registered name of the channel binding, such as ``tls-exporter`` (RFC 9266)."""
    binding_data: bytes = attrs.field(repr=False, validator=value_of(bytes))
    """The data of this channel binding for the connection, from ``Tls.channel_bindings``."""

    def _binding(self) -> tuple[bytes, bytes]:
        return b"p=" + self.channel_binding.encode("ascii"), self.binding_data


class ScramSha1Client(_UnboundClient):
    """SCRAM-SHA-1, client side (RFC 5802).

    For example:

        >>> entropy = secrets.token_bytes(16)
        >>> mechanism = sasl.ScramSha1Client(authentication_identity="user", password=b"pencil", entropy=entropy)
        >>> mechanism.respond(None)[:11]
        b'n,,n=user,r'
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-1"
    hash_name: ClassVar[str] = "sha1"


class ScramSha1PlusClient(_BoundClient):
    """SCRAM-SHA-1-PLUS, client side (RFC 5802).

    For example:

        sasl.ScramSha1PlusClient(
            authentication_identity="alice", password=password, entropy=secrets.token_bytes(16),
            channel_binding="tls-server-end-point", binding_data=tls.channel_bindings["tls-server-end-point"],
        )
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-1-PLUS"
    hash_name: ClassVar[str] = "sha1"


class ScramSha256Client(_UnboundClient):
    """SCRAM-SHA-256, client side (RFC 7677).

    For example:

        entropy = secrets.token_bytes(16)
        client.authenticate(sasl.ScramSha256Client(authentication_identity="alice", password=password, entropy=entropy))
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-256"
    hash_name: ClassVar[str] = "sha256"


class ScramSha256PlusClient(_BoundClient):
    """SCRAM-SHA-256-PLUS, client side (RFC 7677).

    For example:

        >>> mechanisms = sasl.password_mechanisms("alice", b"wonderland", entropy=secrets.token_bytes(32), tls=Tls(
        ...     version="TLSv1.3", channel_bindings={"tls-server-end-point": bytes(32)}))
        >>> mechanisms[0].name, mechanisms[0].respond(None)[:33]
        ('SCRAM-SHA-256-PLUS', b'p=tls-server-end-point,,n=alice,r')
    """

    __slots__ = ()

    name: ClassVar[str] = "SCRAM-SHA-256-PLUS"
    hash_name: ClassVar[str] = "sha256"
