"""A password as it is stored: what can be proved against it, what that costs, and how each is checked.

Knows the schemes of Dovecot's passwd-file as ``doveadm pw`` writes them; passlib (the package libpass) and hashlib
compute the hashes.  Whatever is asked may block for as long as a hash takes; no secret is in any repr or error.
"""

from __future__ import annotations

import binascii
import contextlib
import enum
import hashlib
import hmac
import re
import secrets
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, Final

import attrs

from mailauth import LocalProtocolError, sasl
from mailauth._errors import Malformed

SALT_SIZE: Final = 16
"""Octets of the salts made here, as ``doveadm pw`` makes them."""

ITERATIONS: Final = 4096
"""Of the keys derived here, as ``doveadm pw`` has it: the least that RFC 7677 section 4 wants, paid by every client."""

MAX_PASSWORD: Final = 1024
"""Octets: no login brings more."""

BCRYPT_BYTES: Final = 72
"""All that bcrypt looks at of a password."""


class Proof(enum.Enum):
    """A way to prove an identity, by what the server must have for it."""

    PASSWORD = "the password, compared or hashed"
    SECRET = "the password as it is"
    SCRAM_SHA_1 = "sha1"
    SCRAM_SHA_256 = "sha256"
    TOKEN = "a bearer token"
    CERTIFICATE = "a client certificate"


class CredentialError(ValueError):
    """This is no stored password; the text says why, behind ``line 3 of users``, and shows nothing of it."""


class HashesMissing(CredentialError):
    """The package that knows this scheme is not installed; the text says how to get it."""


def prepared(password: bytes) -> bytes | None:
    """*password* in the form in which passwords are compared and hashed (RFC 4013), whichever mechanism brought it.

    One that has no such form stays as it is.  None for what no password can be: it is empty, it holds a NUL, or it has
    more than MAX_PASSWORD octets.  This is checked here, on what is hashed, because SASLprep can make 33 octets of
    three.
    """
    if len(password) > MAX_PASSWORD:
        return None  # not prepared: that would be work without a bound
    with contextlib.suppress(Malformed, UnicodeDecodeError):
        longest = 11 * MAX_PASSWORD  # so that one that grows too long is not taken for one without a form
        password = sasl.saslprep(password.decode("utf-8"), query=True, limit=longest).encode("utf-8")
    return password if 0 < len(password) <= MAX_PASSWORD and b"\0" not in password else None


class Credential(ABC):
    """One stored password."""

    PROOFS: ClassVar[frozenset[Proof]]
    """What can be proved against one of its scheme."""
    slow: ClassVar[bool] = True
    """Whether checking it is work for a thread."""

    @property
    def proofs(self) -> frozenset[Proof]:
        """What can be proved against it."""
        return self.PROOFS

    @property
    @abstractmethod
    def kind(self) -> str:
        """Scheme and cost: two of one kind take the same time to check."""

    @abstractmethod
    def check(self, password: bytes) -> bool:
        """Whether this is the password, *password* being ``prepared()``."""

    @abstractmethod
    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        """The keys for SCRAM; None when it has none of that hash."""


@attrs.frozen
class Plain(Credential):
    """The password as it is.  Its SCRAM keys are derived once and kept; their salts last as long as the process."""

    PROOFS: ClassVar[frozenset[Proof]] = frozenset(
        {Proof.PASSWORD, Proof.SECRET, Proof.SCRAM_SHA_1, Proof.SCRAM_SHA_256}
    )
    slow: ClassVar[bool] = False

    password: bytes = attrs.field(repr=False)
    _derived: dict[str, sasl.ScramKeys | None] = attrs.field(factory=dict, init=False, repr=False, eq=False)
    _digest: bytes = attrs.field(init=False, repr=False, eq=False)

    @_digest.default
    def _digest_of_prepared(self) -> bytes:
        return hashlib.sha256(prepared(self.password) or self.password).digest()

    @property
    def proofs(self) -> frozenset[Proof]:
        return self.PROOFS if _storable(self.password) else self.PROOFS - {Proof.SCRAM_SHA_1, Proof.SCRAM_SHA_256}

    @property
    def kind(self) -> str:
        return "{PLAIN}"

    def check(self, password: bytes) -> bool:
        # Digests first: compare_digest tells the lengths of what it compares.
        return hmac.compare_digest(hashlib.sha256(password).digest(), self._digest)

    def has_derived(self, hash_name: str) -> bool:
        """Whether its keys for SCRAM are there already, so that they cost nothing."""
        return hash_name in self._derived

    def derive(self, hash_name: str) -> sasl.ScramKeys | None:
        """Keys with a new salt; None for a password that has no form in SCRAM, at no cost."""
        return _derive(self.password, hash_name, ITERATIONS)

    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        if hash_name not in self._derived:
            keys = self.derive(hash_name)
            self._derived.setdefault(hash_name, keys)  # two threads at once: the salts of the first one stay
        return self._derived[hash_name]


def _storable(password: bytes) -> bool:
    """Whether SCRAM has a form for *password*: not for one in Latin-1, nor for a character younger than Unicode 3.2."""
    try:
        return sasl.saslprep(password.decode("utf-8")) != ""
    except (Malformed, UnicodeDecodeError):
        return False


def _derive(password: bytes, hash_name: str, iterations: int) -> sasl.ScramKeys | None:
    try:
        return sasl.scram_keys(password, secrets.token_bytes(SALT_SIZE), iterations, hash_name)
    except LocalProtocolError:
        return None  # no client can send this one by SCRAM either


@attrs.frozen
class Scram(Credential):
    """``{SCRAM-SHA-256}``: the keys of RFC 7677, against which a password can be checked, too."""

    PROOFS: ClassVar[frozenset[Proof]] = frozenset({Proof.PASSWORD, Proof.SCRAM_SHA_256})
    _HASH: ClassVar[str] = "sha256"

    keys: sasl.ScramKeys = attrs.field(repr=False)

    @property
    def kind(self) -> str:
        return f"{{SCRAM-SHA-256}} of {self.keys.iterations} iterations"

    def check(self, password: bytes) -> bool:
        try:
            keys = sasl.scram_keys(password, self.keys.salt, self.keys.iterations, self._HASH)
        except LocalProtocolError:
            return False
        return hmac.compare_digest(keys.stored_key, self.keys.stored_key)

    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        return self.keys if hash_name == self._HASH else None


@attrs.frozen
class Hashed(Credential):
    """A hash that passlib knows."""

    PROOFS: ClassVar[frozenset[Proof]] = frozenset({Proof.PASSWORD})

    scheme: str
    kind: str
    text: str = attrs.field(repr=False)
    _hash: Any = attrs.field(repr=False, eq=False)

    def check(self, password: bytes) -> bool:
        try:
            return bool(self._hash.verify(_as_hashed(self._hash.name, password), self.text))
        except ValueError:  # passlib takes no NUL and nothing over 4,096 octets, and neither does SASL
            return False

    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        return None


def _as_hashed(name: str, password: bytes) -> bytes:
    """crypt(3) leaves away what bcrypt does not look at, and so hashes in use were made; the library refuses it."""
    return password[:BCRYPT_BYTES] if name == "bcrypt" else password


_FIELD: Final = re.compile(rb"\{([A-Za-z0-9.-]{1,32})\}")
_SCRAM: Final = re.compile(r"([1-9][0-9]{3,8}),([A-Za-z0-9+/=]+),([A-Za-z0-9+/=]+),([A-Za-z0-9+/=]+)")

_HASHES: Final[Mapping[str, tuple[str, ...]]] = {
    "SHA512-CRYPT": ("sha512_crypt",),
    "SHA256-CRYPT": ("sha256_crypt",),
    "BLF-CRYPT": ("bcrypt",),
    "ARGON2ID": ("argon2",),
    "ARGON2I": ("argon2",),
    "CRYPT": ("sha512_crypt", "sha256_crypt", "bcrypt"),
}
"""A scheme, and passlib's names for the hashes that it may hold."""

_KNOWN: Final = ", ".join(f"{{{name}}}" for name in ("PLAIN", "SCRAM-SHA-256", *_HASHES))


def read_credential(field: bytes) -> Credential:
    """The credential that a password field of a passwd-file holds: ``{SCHEME}`` and what belongs to it.

    Raises CredentialError; HashesMissing, which is one, without the extra ``hashes`` where it is needed.
    """
    found = _FIELD.match(field)
    if found is None:
        raise CredentialError(
            "names no password scheme; write {PLAIN} in front of the password, or use mailauth passwd"
        )
    scheme, rest = found[1].decode("ascii").upper(), field[found.end() :]
    if scheme == "PLAIN":
        if not rest:
            raise CredentialError("has no password; write one")
        return Plain(rest)
    if scheme != "SCRAM-SHA-256" and scheme not in _HASHES:
        raise CredentialError(f"uses a password scheme that is not known here; these are: {_KNOWN}")
    try:
        text = rest.decode("ascii")
    except UnicodeDecodeError:
        raise _not_one(scheme) from None
    return _read_scram(text) if scheme == "SCRAM-SHA-256" else _read_hash(scheme, text)


def _not_one(scheme: str) -> CredentialError:
    return CredentialError(f"holds nothing that {{{scheme}}} could be; make it anew with mailauth passwd")


def _read_scram(text: str) -> Scram:
    found = _SCRAM.fullmatch(text)
    if found is None:
        raise _not_one("SCRAM-SHA-256")
    try:
        salt, stored_key, server_key = (b64decode(part, validate=True) for part in found.groups()[1:])
        if len(stored_key) != hashlib.sha256().digest_size:
            raise _not_one("SCRAM-SHA-256")
        keys = sasl.ScramKeys(salt=salt, iterations=int(found[1]), stored_key=stored_key, server_key=server_key)
    except (binascii.Error, LocalProtocolError):
        raise _not_one("SCRAM-SHA-256") from None
    return Scram(keys)


def _passlib(scheme: str) -> ModuleType:
    try:
        import passlib.hash
    except ImportError:
        raise HashesMissing(f"needs the package libpass for {{{scheme}}}: pip install 'mailauth[hashes]'") from None
    return passlib.hash


def _read_hash(scheme: str, text: str) -> Hashed:
    hashes = _passlib(scheme)
    for name in _HASHES[scheme]:
        hash_: Any = getattr(hashes, name)
        if not hash_.identify(text):
            continue
        try:
            parsed = hash_.from_string(text)
            hash_.get_backend()
        except ValueError:
            break
        except RuntimeError:  # passlib's MissingBackendError
            raise HashesMissing(f"needs more for {{{scheme}}}: pip install 'mailauth[hashes]'") from None
        if parsed.checksum is None:
            break
        costs = [f"{cost}={getattr(parsed, cost)}" for cost in _COSTS if hasattr(parsed, cost)]
        return Hashed(scheme, f"{{{scheme}}} of {', '.join(costs)}", text, hash_)
    raise _not_one(scheme)


_COSTS: Final = ("rounds", "memory_cost", "parallelism")


def write_credential(scheme: str, password: bytes) -> str:
    """The password field for *password* by PLAIN, SCRAM-SHA-256 or a scheme of hashes.

    Raises CredentialError for one that it cannot take, and HashesMissing as ``read_credential`` does.
    """
    prepared_password = prepared(password)
    if prepared_password is None or b"\n" in prepared_password:
        raise CredentialError(f"must have 1 to {MAX_PASSWORD} octets, none of them NUL or a line end")
    password = prepared_password
    try:
        password.decode("utf-8")
    except UnicodeDecodeError:
        raise CredentialError("is no UTF-8") from None
    if scheme == "PLAIN":
        if b":" in password:
            raise CredentialError("has a colon, where the file would end it; take another scheme")
        return "{PLAIN}" + password.decode("utf-8")
    if scheme == "SCRAM-SHA-256":
        keys = _derive(password, "sha256", ITERATIONS)
        if keys is None:
            raise CredentialError("holds characters that SCRAM does not take (RFC 4013); take another")
        parts = (b64encode(part).decode("ascii") for part in (keys.salt, keys.stored_key, keys.server_key))
        return f"{{SCRAM-SHA-256}}{keys.iterations},{','.join(parts)}"
    if scheme == "BLF-CRYPT" and len(password) > BCRYPT_BYTES:
        raise CredentialError(f"has over {BCRYPT_BYTES} octets, all that BLF-CRYPT looks at; take another scheme")
    hash_: Any = getattr(_passlib(scheme), _HASHES[scheme][0])
    try:
        return f"{{{scheme}}}{hash_.using(**_SETTINGS.get(scheme, {})).hash(password)}"
    except RuntimeError:
        raise HashesMissing(f"needs more for {{{scheme}}}: pip install 'mailauth[hashes]'") from None


_SETTINGS: Final[Mapping[str, Mapping[str, object]]] = {"ARGON2ID": {"type": "ID"}, "BLF-CRYPT": {"ident": "2y"}}
