"""SCRAM, both sides (RFC 5802; SHA-256 by RFC 7677): each side proves that it knows the password, and neither says it.

The server keeps keys that are no password, and never sees one.  The -PLUS forms bind the login to the TLS channel, so
that nobody can stand in between.  Knows neither clock nor entropy: nonces and binding data are handed in.
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

from .._errors import LocalProtocolError, Malformed
from .._validators import between, matches, value_of
from ._base64 import encode_base64
from ._fields import (
    check_acting_as,
    check_own_identity,
    check_own_password,
    escape_name,
    prepare_identity,
    prepare_password,
)
from ._messages import MIN_ITERATIONS, Challenge, Fault, FetchScramKeys, Refusal, ScramKeys, Step, Success
from ._scram_messages import (
    ClientFirst,
    ServerFirst,
    parse_client_final,
    parse_client_first,
    parse_server_final,
    parse_server_first,
)

MAX_ITERATIONS: Final = 600_000
"""What a client computes by default, a third of a second or so: a server that asks for more is out to stop it."""

_BINDING: Final = re.compile(r"[A-Za-z0-9.-]+")  # RFC 5802 section 7, cb-name
_NO_BINDINGS: Final[Mapping[str, bytes]] = MappingProxyType({})


def scram_keys(password: bytes, salt: bytes, iterations: int, hash_name: str = "sha256") -> ScramKeys:
    """What a server keeps of *password* (UTF-8), to be made when it is set: never within a login, for it takes long.

    *salt* is 16 octets or so, random, of this password alone; *hash_name* is ``sha1`` or ``sha256``.  Raises
    LocalProtocolError for a password that SASLprep does not take as a stored string, and as ScramKeys does.
    """
    if iterations < MIN_ITERATIONS or hash_name not in ("sha1", "sha256"):
        raise LocalProtocolError(f"SCRAM here has {MIN_ITERATIONS} iterations or more of sha1 or sha256")
    try:
        prepared = prepare_password(password, query=False)
    except Malformed as error:
        raise LocalProtocolError(f"this password cannot be used: {error}") from None
    salted = hashlib.pbkdf2_hmac(hash_name, prepared, salt, iterations)
    client_key, server_key = _derive(hash_name, salted)
    return ScramKeys(salt=salt, iterations=iterations, stored_key=_hash(hash_name, client_key), server_key=server_key)


def _derive(hash_name: str, salted: bytes) -> tuple[bytes, bytes]:
    """ClientKey and ServerKey of a salted password."""
    return hmac.digest(salted, b"Client Key", hash_name), hmac.digest(salted, b"Server Key", hash_name)


def _hash(hash_name: str, data: bytes) -> bytes:
    return hashlib.new(hash_name, data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


@attrs.frozen(kw_only=True)
class ScramDecoy:
    """What an identity without keys is shown, always the same and like the others: a salt and a cost of its own.

    Raises LocalProtocolError for values that give it away.
    """

    key: bytes = attrs.field(repr=False)
    """16 octets or more that nobody else knows; to be kept as long as the accounts, for the salts change with it."""
    iterations: int = MIN_ITERATIONS
    """What most accounts have."""
    salt_size: int = 16
    """Octets, up to 32: what most accounts have."""

    def __attrs_post_init__(self) -> None:
        if len(self.key) < 16 or self.iterations < MIN_ITERATIONS or not 0 < self.salt_size <= 32:
            raise LocalProtocolError("a decoy needs a key of 16 octets, 4096 iterations, and 1 to 32 octets of salt")

    def keys(self, identity: str, hash_name: str) -> ScramKeys:
        """Keys that no password has."""
        seed = hmac.digest(self.key, f"{hash_name} {identity}".encode(), "sha256")
        none = hmac.digest(seed, b"no password has this key", hash_name)
        return ScramKeys(salt=seed[: self.salt_size], iterations=self.iterations, stored_key=none, server_key=none)


class ScramServer:
    """What the SCRAM mechanisms have in common, server side.

    *nonce* must never repeat and is not to be guessed.  An identity without keys costs and says the same as a wrong
    password: it goes through the whole exchange with the keys of *decoy*, and is refused whatever comes out.
    *channel_bindings* is what this connection can be bound by (for the -PLUS forms).  *plus_offered* says that the
    -PLUS form stood beside this one: a client that believes otherwise was lied to on the way (RFC 5802 section 6).
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
        """None: an empty Challenge.  The first message: FetchScramKeys.  The final one: Success, if it is proved."""
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
            raise Malformed("the -PLUS forms bind the channel, and the others do not")
        if first.binding is not None and first.binding not in self._bindings:
            raise Malformed("this connection cannot be bound by that")
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
        """The keys, None or a Refusal; LocalProtocolError for anything else, and when nothing was asked."""
        first = self._first
        if first is None or self._keys is not None:
            raise LocalProtocolError("no question is open")
        if isinstance(answer, Refusal):
            return answer
        decoy = self._decoy.keys(first.authentication_identity, self.hash_name)
        if isinstance(answer, ScramKeys):
            if len(answer.stored_key) != len(decoy.stored_key):
                raise LocalProtocolError(f"these are no keys for {self.hash_name}")
            self._keys = answer
        elif answer is None:
            self._keys = decoy
        else:
            raise LocalProtocolError("FetchScramKeys is answered with ScramKeys, None or a Refusal")
        self._known = answer is not None
        return Challenge(self._server_first(first, self._keys))

    def _server_first(self, first: ClientFirst, keys: ScramKeys) -> bytes:
        return ServerFirst(nonce=first.nonce + self._nonce, salt=keys.salt, iterations=keys.iterations).to_wire()

    def _prove(self, response: bytes) -> Step:
        first, keys = self._first, self._keys
        if first is None or keys is None:
            raise Malformed("out of turn")
        final = parse_client_final(response)
        if final.nonce != first.nonce + self._nonce or len(final.proof) != len(keys.stored_key):
            raise Malformed("the answer to another challenge")
        data = b"" if first.binding is None else self._bindings[first.binding]
        bound = hmac.compare_digest(final.binding, first.header + data)
        message = b",".join((first.bare, self._server_first(first, keys), final.unproved))
        client_key = _xor(final.proof, hmac.digest(keys.stored_key, message, self.hash_name))
        proved = hmac.compare_digest(_hash(self.hash_name, client_key), keys.stored_key)
        signature = hmac.digest(keys.server_key, message, self.hash_name)
        if not (bound and proved and self._known):
            return Refusal.BAD_CREDENTIALS
        acting_as, who = first.authorization_identity, first.authentication_identity
        return Success(
            authentication_identity=who,
            authorization_identity="" if acting_as == who else acting_as,  # mutt names itself twice
            data=b"v=" + encode_base64(signature),
        )


class ScramSha1Server(ScramServer):
    """SCRAM-SHA-1, server side (RFC 5802)."""

    __slots__ = ()

    name = "SCRAM-SHA-1"
    hash_name = "sha1"


class ScramSha1PlusServer(ScramSha1Server):
    """SCRAM-SHA-1-PLUS, server side (RFC 5802)."""

    __slots__ = ()

    name = "SCRAM-SHA-1-PLUS"
    plus = True


class ScramSha256Server(ScramServer):
    """SCRAM-SHA-256, server side (RFC 7677)."""

    __slots__ = ()

    name = "SCRAM-SHA-256"
    hash_name = "sha256"


class ScramSha256PlusServer(ScramSha256Server):
    """SCRAM-SHA-256-PLUS, server side (RFC 7677)."""

    __slots__ = ()

    name = "SCRAM-SHA-256-PLUS"
    plus = True


def _check_entropy(entropy: bytes) -> None:
    if len(entropy) < 16:
        raise Malformed("16 octets or more, new for each client")


@attrs.define(kw_only=True, eq=False)
class ScramClient(ABC):
    """What the SCRAM mechanisms have in common, client side.

    *password* is UTF-8.  *entropy* is 16 octets or more that nobody else has: the nonce of each exchange is made of it.
    LocalProtocolError for names and passwords that SASLprep does not take.
    """

    name: ClassVar[str]
    hash_name: ClassVar[str]
    client_first: ClassVar[bool] = True

    authentication_identity: str = attrs.field(validator=check_own_identity)
    _password: bytes = attrs.field(repr=False, validator=check_own_password)
    _entropy: bytes = attrs.field(repr=False, validator=value_of(bytes, _check_entropy))
    authorization_identity: str = attrs.field(default="", validator=check_acting_as)
    """Whom to act as; empty: whoever the server derives from the authentication identity."""

    max_iterations: int = attrs.field(
        default=MAX_ITERATIONS, validator=value_of(int, between(MIN_ITERATIONS, 2**31 - 1))
    )
    """More than that are not computed: the server alone chooses how long the client works."""

    _exchanges: int = attrs.field(init=False, default=0, repr=False)
    _bare: bytes = attrs.field(init=False, default=b"", repr=False)
    _nonce: bytes = attrs.field(init=False, default=b"", repr=False)
    _expected: bytes = attrs.field(init=False, default=b"", repr=False)
    _satisfied: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            self._names()
            prepare_password(self._password, query=False)
        except Malformed as error:
            raise LocalProtocolError(
                f"authentication_identity, authorization_identity or password cannot be sent: {error}"
            ) from None

    def _names(self) -> tuple[bytes, bytes]:
        """The two identities as the first message has them."""
        acting_as, who = (
            escape_name(prepare_identity(identity.encode())) if identity else b""
            for identity in (self.authorization_identity, self.authentication_identity)
        )
        return acting_as, who

    @abstractmethod
    def _binding(self) -> tuple[bytes, bytes]:
        """The flag of the GS2 header, and the channel binding data."""

    def _header(self) -> bytes:
        acting_as, _ = self._names()
        return b"%b,%b," % (self._binding()[0], acting_as and b"a=" + acting_as)

    def _make_nonce(self) -> bytes:
        return hmac.digest(self._entropy, b"%d" % self._exchanges, "sha256").hex()[:32].encode("ascii")

    def respond(self, challenge: bytes | None) -> bytes:
        """None: the first message.  The server's first: the proof.  The server's final: nothing, once it is verified.

        Raises Malformed on a server that asks for less work than is safe or more than is wanted, that does not take up
        our nonce, or that does not know the password either.
        """
        if challenge is None:
            self._satisfied = False
            self._expected = b""
            self._exchanges += 1
            self._nonce = self._make_nonce()
            self._bare = b"n=%b,r=%b" % (self._names()[1], self._nonce)
            return self._header() + self._bare
        if self._satisfied or not self._bare:
            raise Malformed("SCRAM has two challenges")
        if not self._expected:
            return self._prove(challenge)
        if not hmac.compare_digest(parse_server_final(challenge), self._expected):
            raise Malformed("the server does not know the password")
        self._satisfied = True
        return b""

    def _prove(self, challenge: bytes) -> bytes:
        server = parse_server_first(challenge)
        if not server.nonce.startswith(self._nonce) or len(server.nonce) == len(self._nonce):
            raise Malformed("the server's nonce does not extend ours")
        if not MIN_ITERATIONS <= server.iterations <= self.max_iterations:
            raise Malformed(f"{server.iterations} iterations are too few or too many")
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
        """True once the server has proved that it knows the password, too."""
        return self._satisfied


@attrs.define(kw_only=True, eq=False)
class _UnboundClient(ScramClient):
    could_bind: bool = attrs.field(default=False, validator=value_of(bool))
    """True: the -PLUS form would have been used, had the server offered it.  A server that did offer it then knows that
    somebody in between has taken it out, and refuses."""

    def _binding(self) -> tuple[bytes, bytes]:
        return b"y" if self.could_bind else b"n", b""


@attrs.define(kw_only=True, eq=False)
class _BoundClient(ScramClient):
    channel_binding: str = attrs.field(validator=value_of(str, matches(_BINDING, "letters, digits, '.' and '-'")))
    """The binding's registered name: ``tls-exporter`` (RFC 9266), ``tls-server-end-point`` (RFC 5929)."""
    binding_data: bytes = attrs.field(repr=False, validator=value_of(bytes))
    """What this connection has for it, as in ``Tls.channel_bindings``."""

    def _binding(self) -> tuple[bytes, bytes]:
        return b"p=" + self.channel_binding.encode("ascii"), self.binding_data


class ScramSha1Client(_UnboundClient):
    """SCRAM-SHA-1, client side (RFC 5802)."""

    __slots__ = ()

    name = "SCRAM-SHA-1"
    hash_name = "sha1"


class ScramSha1PlusClient(_BoundClient):
    """SCRAM-SHA-1-PLUS, client side (RFC 5802)."""

    __slots__ = ()

    name = "SCRAM-SHA-1-PLUS"
    hash_name = "sha1"


class ScramSha256Client(_UnboundClient):
    """SCRAM-SHA-256, client side (RFC 7677)."""

    __slots__ = ()

    name = "SCRAM-SHA-256"
    hash_name = "sha256"


class ScramSha256PlusClient(_BoundClient):
    """SCRAM-SHA-256-PLUS, client side (RFC 7677)."""

    __slots__ = ()

    name = "SCRAM-SHA-256-PLUS"
    hash_name = "sha256"
