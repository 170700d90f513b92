"""Identities, passwords and msg-ids as the mechanisms carry them: what may be inside and how long it may be.

Knows no mechanism.  An identity is text, a password or secret is octets.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from .._errors import LocalProtocolError, Malformed
from .._validators import value_of
from .saslprep import saslprep

MAX_IDENTITY: Final = 255
"""Octets of UTF-8.  A server must take up to 255 (RFC 4616 section 2), and few addresses get near it."""

MAX_PASSWORD: Final = 1024
"""Octets.  RFC 4616 section 2 asks for 255; the rest is for pass phrases; the end bounds what a store has to hash."""

MAX_MESSAGE_ID: Final = 400
"""Octets: a domain of 255 and a nonce, and still room in a greeting of 512 (RFC 1939 section 3)."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STRAY_ESCAPE: Final = re.compile(rb"=(?!2C|3D)")
_ATOMS: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_MESSAGE_ID: Final = re.compile(rf"<{_ATOMS}@(?:{_ATOMS}|\[[!-Z^-~]+\])>".encode("ascii"))


def decode_identity(data: bytes) -> str:
    """The identity in *data*.  Raises Malformed when it is empty, too long, no UTF-8, or holds control characters.

    SASLprep forbids control characters in names too (RFC 4013 section 2.3); let in, they end up in logs and queries.
    """
    if not 0 < len(data) <= MAX_IDENTITY:
        raise Malformed("an identity has 1 to 255 octets")
    try:
        identity = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("an identity is UTF-8") from None
    if _CONTROL.search(identity):
        raise Malformed("an identity holds no control characters")
    return identity


def escape_name(identity: str) -> bytes:
    """*identity* as a GS2 header and SCRAM write it: ``,`` and ``=`` have other meanings there (RFC 5801 section 4)."""
    return identity.replace("=", "=3D").replace(",", "=2C").encode("utf-8")


def unescape_name(data: bytes) -> str:
    """The identity that was written so, prepared.  Raises Malformed for a stray ``=``, and as prepare_identity()."""
    if _STRAY_ESCAPE.search(data):
        raise Malformed("a stray '=' in a name")
    return prepare_identity(data.replace(b"=2C", b",").replace(b"=3D", b"="))


def check_password(data: bytes) -> None:
    """Raise Malformed for a password that is empty, too long, or holds a NUL.

    The empty one stops here because some stores take it for "no password asked" (RFC 4513 section 5.1.2, LDAP).
    """
    if not 0 < len(data) <= MAX_PASSWORD:
        raise Malformed("a password has 1 to 1024 octets")
    if b"\0" in data:
        raise Malformed("a password holds no NUL")


def prepare_identity(data: bytes) -> str:
    """As decode_identity(), and prepared for comparison (RFC 4013).

    Raises Malformed also when nothing is left, and when the result is too long.
    """
    identity = saslprep(decode_identity(data), query=True, limit=MAX_IDENTITY)
    if not identity:
        raise Malformed("nothing is left of an identity")
    return identity


def prepare_password(data: bytes, *, query: bool) -> bytes:
    """The password in UTF-8, prepared for comparison (RFC 4013); *query* as in ``saslprep()``.

    Raises Malformed for what check_password() does not take, what is no UTF-8, and what cannot be prepared.
    """
    check_password(data)
    try:
        password = saslprep(data.decode("utf-8"), query=query, limit=MAX_PASSWORD).encode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a password is UTF-8") from None
    check_password(password)
    return password


def is_utf_8(data: bytes) -> bool:
    """True for text in UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_message_id(data: bytes) -> bool:
    """True for a msg-id of RFC 5322 section 3.6.4 without its obsolete forms: ASCII, in angle brackets, one ``@``."""
    return len(data) <= MAX_MESSAGE_ID and _MESSAGE_ID.fullmatch(data) is not None


_check_str: Final = value_of(str)
_check_bytes: Final = value_of(bytes)


def check_own_identity(instance: object, attribute: attrs.Attribute[Any], identity: Any) -> None:
    """attrs validator of a client's identity: LocalProtocolError for one that a server would have to refuse."""
    _check_str(instance, attribute, identity)
    try:
        decode_identity(identity.encode("utf-8"))
    except (Malformed, UnicodeEncodeError) as error:
        reason = error if isinstance(error, Malformed) else "an identity is UTF-8"
        raise LocalProtocolError(f"{attribute.alias} cannot be sent: {reason}") from None


def check_acting_as(instance: object, attribute: attrs.Attribute[Any], identity: Any) -> None:
    """attrs validator of a client's authorization identity, which may be empty."""
    if identity != "":
        check_own_identity(instance, attribute, identity)


def check_own_password(instance: object, attribute: attrs.Attribute[Any], password: Any) -> None:
    """attrs validator of a client's password or secret; the message never holds it."""
    _check_bytes(instance, attribute, password)
    try:
        check_password(password)
    except Malformed as error:
        raise LocalProtocolError(f"{attribute.alias} cannot be sent: {error}") from None
    if b"\r" in password or b"\n" in password:
        raise LocalProtocolError(f"{attribute.alias} cannot be sent: a password holds no CR or LF")
