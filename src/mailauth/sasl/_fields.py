"""Validation of the identities, passwords and msg-ids that mechanisms carry, and their limits.

An identity is a str; a password or secret is bytes.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from .._patterns import LazyPattern
from .._validators import check_type, value_of
from ..errors import LocalProtocolError, Malformed
from .saslprep import is_prepared, saslprep

MAX_IDENTITY: Final = 255
"""Maximum bytes of an identity in UTF-8.  A server must accept 255 (RFC 4616 section 2)."""

MAX_PASSWORD: Final = 1024
"""Maximum bytes of a password.

A server must accept 255 (RFC 4616 section 2); passphrases may be longer.  The limit bounds the work of hashing."""

MAX_MESSAGE_ID: Final = 400
"""Maximum bytes of a msg-id: a domain of 255 and a nonce fit, and the greeting fits in 512 (RFC 1939 section 3)."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNESCAPED_EQUALS: Final = LazyPattern(rb"=(?!2C|3D)")
_ATOMS: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_MESSAGE_ID: Final = LazyPattern(rf"<{_ATOMS}@(?:{_ATOMS}|\[[!-Z^-~]+\])>".encode("ascii"))


def decode_identity(data: bytes) -> str:
    """Return the identity in *data*.  Raises Malformed if it is empty, too long, not UTF-8, or has control characters.

    SASLprep prohibits control characters too (RFC 4013 section 2.3).  They could be used for injection into logs and
    queries.
    """
    if not 0 < len(data) <= MAX_IDENTITY:
        raise Malformed("an identity must be 1 to 255 bytes long")
    try:
        identity = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("an identity must be UTF-8") from None
    if _CONTROL.search(identity):
        raise Malformed("an identity must not contain control characters")
    return identity


def escape_name(identity: str) -> bytes:
    """Return *identity* with ``,`` and ``=`` escaped, for a GS2 header or a SCRAM message (RFC 5801 section 4)."""
    return identity.replace("=", "=3D").replace(",", "=2C").encode("utf-8")


def unescape_name(data: bytes) -> str:
    """Return the identity in *data*, as encoded by escape_name(), prepared with SASLprep.

    Raises Malformed for an unescaped ``=``, and as prepare_identity() does.
    """
    if _UNESCAPED_EQUALS.compiled.search(data):
        raise Malformed("unescaped '=' in a name")
    return prepare_identity(data.replace(b"=2C", b",").replace(b"=3D", b"="))


def check_password(data: bytes) -> None:
    """Raise Malformed for a password that is empty, too long, or contains NUL.

    With an empty password some stores accept any name, such as LDAP's unauthenticated bind (RFC 4513 section 5.1.2).
    """
    if not 0 < len(data) <= MAX_PASSWORD:
        raise Malformed("a password must be 1 to 1024 bytes long")
    if b"\0" in data:
        raise Malformed("a password must not contain NUL")


def prepare_identity(data: bytes) -> str:
    """Return the identity in *data*, prepared with SASLprep for comparison (RFC 4013).

    Raises Malformed as decode_identity() does, and if the result is empty or too long.
    """
    if 0 < len(data) <= MAX_IDENTITY and is_prepared(data):
        return data.decode("ascii")
    identity = saslprep(decode_identity(data), query=True, limit=MAX_IDENTITY)
    if not identity:
        raise Malformed("an identity is empty after SASLprep")
    return identity


def prepare_password(data: bytes, *, query: bool) -> bytes:
    """Return the password *data*, prepared with SASLprep for comparison (RFC 4013); *query* as in ``saslprep()``.

    Raises Malformed for a password that check_password() rejects, that is not UTF-8, or that cannot be prepared.
    """
    check_password(data)
    if is_prepared(data):
        return data
    try:
        password = saslprep(data.decode("utf-8"), query=query, limit=MAX_PASSWORD).encode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a password must be UTF-8") from None
    check_password(password)
    return password


def is_utf_8(data: bytes) -> bool:
    """Return whether *data* is valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_message_id(data: bytes) -> bool:
    """Return whether *data* is an ASCII msg-id of at most 400 bytes without obsolete forms (RFC 5322, 3.6.4)."""
    check_type("data", bytes, data)
    return len(data) <= MAX_MESSAGE_ID and _MESSAGE_ID.fullmatch(data) is not None


_check_str: Final = value_of(str)
_check_bytes: Final = value_of(bytes)


def validate_identity(instance: object, attribute: attrs.Attribute[Any], identity: Any) -> None:
    """attrs validator for a client's identity: raise LocalProtocolError for one that a server would reject."""
    _check_str(instance, attribute, identity)
    try:
        decode_identity(identity.encode("utf-8"))
    except (Malformed, UnicodeEncodeError) as error:
        reason = error if isinstance(error, Malformed) else "an identity must be UTF-8"
        raise LocalProtocolError(f"{attribute.alias} cannot be sent: {reason}") from None


def validate_authorization_identity(instance: object, attribute: attrs.Attribute[Any], identity: Any) -> None:
    """attrs validator for a client's authorization identity, which may be empty."""
    if identity != "":
        validate_identity(instance, attribute, identity)


def validate_password(instance: object, attribute: attrs.Attribute[Any], password: Any) -> None:
    """attrs validator for a client's password or secret.  The error text never contains it."""
    _check_bytes(instance, attribute, password)
    try:
        check_password(password)
    except Malformed as error:
        raise LocalProtocolError(f"{attribute.alias} cannot be sent: {error}") from None
    if b"\r" in password or b"\n" in password:
        raise LocalProtocolError(f"{attribute.alias} cannot be sent: a password must not contain CR or LF")
