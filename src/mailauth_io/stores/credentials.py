"""Stored passwords: their schemes, the proofs that each supports, and the check of a password.

The schemes are those of Dovecot's passwd-file, as ``doveadm pw`` writes them.  passlib (the package libpass) and
hashlib compute the hashes.  A check blocks while a hash is computed.  No repr or error contains a secret.
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
from mailauth.errors import Malformed

from .._checks import check_type

SALT_SIZE: Final = 16
"""Bytes of a generated salt, as in ``doveadm pw``."""

ITERATIONS: Final = 4096
"""Iterations of the SCRAM keys in a new ``{SCRAM-SHA-256}``, as in ``doveadm pw``.

This is the minimum of RFC 7677 section 4; every client has to compute them at each login.
"""

MAX_PASSWORD: Final = 1024
"""Maximum bytes of a password."""

BCRYPT_BYTES: Final = 72
"""The bytes of a password that bcrypt uses; it ignores the rest."""


class Proof(enum.Enum):
    """A kind of login, identified by what the server needs to check it.

    For example:

        >>> credential = stores.read_credential(b"{PLAIN}wonderland")
        >>> stores.Proof.SECRET in credential.proofs, stores.Proof.TOKEN in credential.proofs
        (True, False)
    """

    PASSWORD = "a password or its hash"
    SECRET = "a plain-text password"
    SCRAM_SHA_1 = "sha1"
    SCRAM_SHA_256 = "sha256"
    TOKEN = "a bearer token"
    CERTIFICATE = "a client certificate"


class CredentialError(ValueError):
    """Not a valid stored password.

    The text is a predicate that follows, for example, ``line 3 of users``.  It does not quote the password.

        try:
            credential = stores.read_credential(b"wonderland")
        except stores.CredentialError as error:
            print(f"the password {error}")  # the password has no password scheme; write {PLAIN} before ...
    """


class HashesMissing(CredentialError):
    """The package for this scheme is not installed.  The text says how to install it."""


def prepared(password: bytes) -> bytes | None:
    """Return *password* prepared with SASLprep (RFC 4013), the form that is compared and hashed by every mechanism.

    A password that SASLprep rejects is returned unchanged.  Returns None for an invalid password: empty, with a NUL, or
    longer than MAX_PASSWORD bytes.  The length is checked after SASLprep too, which can turn 3 bytes into 33
    (architecture.md, invariant 5).
    """
    check_type("password", password, bytes)
    if len(password) > MAX_PASSWORD:
        return None  # before SASLprep, whose work would be unbounded
    with contextlib.suppress(Malformed, UnicodeDecodeError):
        # No result is longer.  With a lower limit, a long result would be handled like a rejection by SASLprep.
        longest = 11 * MAX_PASSWORD
        password = sasl.saslprep(password.decode("utf-8"), query=True, limit=longest).encode("utf-8")
    return password if 0 < len(password) <= MAX_PASSWORD and b"\0" not in password else None


class Credential(ABC):
    """One stored password.

    For example:

        >>> credential = stores.read_credential(stores.write_credential("SCRAM-SHA-256", b"wonderland").encode())
        >>> credential.kind, credential.check(b"wonderland")
        ('{SCRAM-SHA-256} with 4096 iterations', True)
    """

    PROOFS: ClassVar[frozenset[Proof]]
    """The proofs that the scheme supports."""
    slow: ClassVar[bool] = True
    """Whether it must be checked in a thread."""

    @property
    def proofs(self) -> frozenset[Proof]:
        """The proofs that this password supports."""
        return self.PROOFS

    @property
    @abstractmethod
    def kind(self) -> str:
        """Scheme and cost.  Two credentials of the same kind take the same time to check."""

    @abstractmethod
    def check(self, password: bytes) -> bool:
        """Return whether *password* is the right one.

        It is prepared with SASLprep (RFC 4013) if that is possible, not empty, and contains no NUL.  Called in a
        thread, unless ``slow`` is false.
        """

    @abstractmethod
    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        """Return the stored SCRAM keys for *hash_name*, or None."""


def _digest(credential: Plain) -> bytes:
    return hashlib.sha256(prepared(credential.password) or credential.password).digest()


@attrs.frozen
class Plain(Credential):
    """``{PLAIN}``: the password itself.  It has no stored SCRAM keys; ``derive`` computes them."""

    PROOFS: ClassVar[frozenset[Proof]] = frozenset(
        {Proof.PASSWORD, Proof.SECRET, Proof.SCRAM_SHA_1, Proof.SCRAM_SHA_256}
    )
    slow: ClassVar[bool] = False

    password: bytes = attrs.field(repr=False)
    _digest: bytes = attrs.field(default=attrs.Factory(_digest, takes_self=True), init=False, repr=False, eq=False)

    @property
    def proofs(self) -> frozenset[Proof]:
        return self.PROOFS if _storable(self.password) else self.PROOFS - {Proof.SCRAM_SHA_1, Proof.SCRAM_SHA_256}

    @property
    def prohibited(self) -> bool:
        """Whether PLAIN refuses the password, since SASLprep prohibits it (RFC 4616 section 2)."""
        try:
            _check_usable(self.password)
        except CredentialError:
            return self.utf8
        return False

    @property
    def utf8(self) -> bool:
        """Whether the password is UTF-8.  If it is not, clients must send the same bytes."""
        try:
            self.password.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

    @property
    def kind(self) -> str:
        return "{PLAIN}"

    def check(self, password: bytes) -> bool:
        # Compare digests, since the time of compare_digest() depends on the lengths.
        return hmac.compare_digest(hashlib.sha256(password).digest(), self._digest)

    def derive(self, hash_name: str, salt: bytes, iterations: int) -> sasl.ScramKeys | None:
        """Derive the SCRAM keys.  Returns None, without hashing, if SCRAM does not allow the password."""
        return _derive(self.password, hash_name, salt, iterations)

    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        return None


def _storable(password: bytes) -> bool:
    """Return whether SCRAM allows *password*.  It does not allow Latin-1, or characters newer than Unicode 3.2."""
    try:
        return sasl.saslprep(password.decode("utf-8")) != ""
    except (Malformed, UnicodeDecodeError):
        return False


def _check_usable(password: bytes) -> None:
    """Raise CredentialError for a password that PLAIN, the most common mechanism, refuses (RFC 4616 section 2)."""
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        raise CredentialError("is not valid UTF-8; use another password") from None
    if _CONTROL.search(text):
        raise CredentialError("contains a control character, such as CR or TAB, which logins do not allow (RFC 4013)")
    try:
        sasl.saslprep(text, query=True)
    except Malformed as error:
        raise CredentialError(f"cannot be used to log in: {error} (RFC 4013); use another password") from None


def _derive(password: bytes, hash_name: str, salt: bytes, iterations: int) -> sasl.ScramKeys | None:
    try:
        return sasl.scram_keys(password, salt, iterations, hash_name)
    except LocalProtocolError:
        return None  # no client can use this password with SCRAM either


@attrs.frozen
class Scram(Credential):
    """``{SCRAM-SHA-256}``: the keys of RFC 7677.  A plain password can be checked against them too."""

    PROOFS: ClassVar[frozenset[Proof]] = frozenset({Proof.PASSWORD, Proof.SCRAM_SHA_256})
    _HASH: ClassVar[str] = "sha256"

    keys: sasl.ScramKeys = attrs.field(repr=False)

    @property
    def kind(self) -> str:
        return f"{{SCRAM-SHA-256}} with {self.keys.iterations} iterations"

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
    """A hash that passlib checks."""

    PROOFS: ClassVar[frozenset[Proof]] = frozenset({Proof.PASSWORD})

    scheme: str
    _kind: str
    text: str = attrs.field(repr=False)
    _hash: Any = attrs.field(repr=False, eq=False)

    @property
    def kind(self) -> str:
        return self._kind

    def check(self, password: bytes) -> bool:
        try:
            return bool(self._hash.verify(_as_hashed(self._hash.name, password), self.text))
        except ValueError:  # passlib allows no NUL and at most 4,096 bytes, like SASL
            return False

    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        return None


def _as_hashed(name: str, password: bytes) -> bytes:
    """Truncate a bcrypt password as crypt(3) does; existing hashes were made that way, but passlib rejects it."""
    return password[:BCRYPT_BYTES] if name == "bcrypt" else password


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
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
"""The passlib names of the hashes that each scheme may hold."""

_PLAIN: Final = frozenset({"PLAIN", "CLEAR", "CLEARTEXT"})
"""The names of one scheme: Dovecot reads all three, and files from other programs have the last two."""

_KNOWN: Final = ", ".join(f"{{{name}}}" for name in ("PLAIN", "SCRAM-SHA-256", *_HASHES))


def read_credential(field: bytes) -> Credential:
    """Parse the password field of a passwd-file: ``{SCHEME}``, then the password or its hash.

    ``{CLEAR}`` and ``{CLEARTEXT}`` are other names of ``{PLAIN}``.

    Raises CredentialError, also if the scheme needs the extra ``hashes`` and it is not installed.
    """
    check_type("field", field, bytes)
    found = _FIELD.match(field)
    if found is None:
        raise CredentialError("has no password scheme; write {PLAIN} before the password, or use mailauth passwd")
    scheme, rest = found[1].decode("ascii").upper(), field[found.end() :]
    if scheme in _PLAIN:
        if not rest:
            raise CredentialError("has no password; set one")
        return Plain(rest)
    if scheme != "SCRAM-SHA-256" and scheme not in _HASHES:
        raise CredentialError(f"has an unknown password scheme; use one of {_KNOWN}")
    try:
        text = rest.decode("ascii")
    except UnicodeDecodeError:
        raise _invalid(scheme) from None
    return _read_scram(text) if scheme == "SCRAM-SHA-256" else _read_hash(scheme, text)


def _invalid(scheme: str) -> CredentialError:
    return CredentialError(f"has an invalid {{{scheme}}} value; create a new one with mailauth passwd")


def _read_scram(text: str) -> Scram:
    found = _SCRAM.fullmatch(text)
    if found is None:
        raise _invalid("SCRAM-SHA-256")
    try:
        salt, stored_key, server_key = (b64decode(part, validate=True) for part in found.groups()[1:])
        if len(stored_key) != hashlib.sha256().digest_size:
            raise _invalid("SCRAM-SHA-256")
        keys = sasl.ScramKeys(salt=salt, iterations=int(found[1]), stored_key=stored_key, server_key=server_key)
    except (binascii.Error, LocalProtocolError):
        raise _invalid("SCRAM-SHA-256") from None
    return Scram(keys)


def _passlib(scheme: str) -> ModuleType:
    try:
        import passlib.hash
    except ImportError:
        raise HashesMissing(
            f"uses {{{scheme}}}, which requires the package libpass; run: pip install 'mailauth[hashes]'"
        ) from None
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
            raise HashesMissing(
                f"uses {{{scheme}}}, which requires a passlib backend; run: pip install 'mailauth[hashes]'"
            ) from None
        if parsed.checksum is None:
            break
        costs = [f"{cost}={getattr(parsed, cost)}" for cost in _COSTS if hasattr(parsed, cost)]
        return Hashed(scheme, f"{{{scheme}}} with {', '.join(costs)}", text, hash_)
    raise _invalid(scheme)


_COSTS: Final = ("rounds", "memory_cost", "parallelism")


def write_credential(scheme: str, password: bytes) -> str:
    """Return the password field for *password*.  *scheme* is PLAIN, SCRAM-SHA-256 or a hash scheme.

    Raises CredentialError if the scheme cannot store *password*, if no login could use it, or if the extra ``hashes``
    is needed and not installed.
    """
    if scheme not in ("PLAIN", "SCRAM-SHA-256", *_HASHES):
        raise CredentialError(f"cannot be stored with the scheme {scheme!r}; use one of {_KNOWN}, without braces")
    prepared_password = prepared(password)
    if prepared_password is None or b"\n" in prepared_password:
        raise CredentialError(f"must be 1 to {MAX_PASSWORD} bytes, without NUL or newline")
    password = prepared_password
    _check_usable(password)
    if scheme == "PLAIN":
        if b":" in password:
            raise CredentialError("contains a colon, which ends the field in the file; use another scheme")
        if not _storable(password):
            raise CredentialError(
                "contains characters that SCRAM does not allow (RFC 4013), such as an emoji, so that no account could"
                " use SCRAM; use another scheme, such as ARGON2ID, or another password"
            )
        return "{PLAIN}" + password.decode("utf-8")
    if scheme == "SCRAM-SHA-256":
        keys = _derive(password, "sha256", secrets.token_bytes(SALT_SIZE), ITERATIONS)
        if keys is None:
            raise CredentialError("contains characters that SCRAM does not allow (RFC 4013); use another password")
        parts = (b64encode(part).decode("ascii") for part in (keys.salt, keys.stored_key, keys.server_key))
        return f"{{SCRAM-SHA-256}}{keys.iterations},{','.join(parts)}"
    if scheme == "BLF-CRYPT" and len(password) > BCRYPT_BYTES:
        raise CredentialError(f"is longer than {BCRYPT_BYTES} bytes, the limit of BLF-CRYPT; use another scheme")
    hash_: Any = getattr(_passlib(scheme), _HASHES[scheme][0])
    try:
        return f"{{{scheme}}}{hash_.using(**_SETTINGS.get(scheme, {})).hash(password)}"
    except RuntimeError:
        raise HashesMissing(
            f"uses {{{scheme}}}, which requires a passlib backend; run: pip install 'mailauth[hashes]'"
        ) from None


_SETTINGS: Final[Mapping[str, Mapping[str, object]]] = {"ARGON2ID": {"type": "ID"}, "BLF-CRYPT": {"ident": "2y"}}
