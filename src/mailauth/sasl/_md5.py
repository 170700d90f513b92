"""MD5 for CRAM-MD5 and APOP, on systems that may forbid it.

A system in FIPS mode has no MD5 for security, and a login is security: it is then left out, not smuggled in.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from .._errors import LocalProtocolError


def _available() -> bool:
    try:
        hashlib.md5(b"")
        hmac.digest(b"", b"", "md5")
    except (AttributeError, ValueError):
        return False
    return True


MD5_AVAILABLE: Final = _available()


def require_md5() -> None:
    """Raise LocalProtocolError where the system has no MD5: before an exchange begins, never within."""
    if not MD5_AVAILABLE:
        raise LocalProtocolError("this system has no MD5")


def keyed_md5(secret: bytes, challenge: bytes) -> bytes:
    """HMAC-MD5 as CRAM-MD5 writes it: 32 lower-case hexadecimal digits (RFC 2195 section 2)."""
    return hmac.digest(secret, challenge, "md5").hex().encode("ascii")


def plain_md5(secret: bytes, timestamp: bytes) -> bytes:
    """MD5 over timestamp and secret as APOP writes it: 32 lower-case hexadecimal digits (RFC 1939 section 7)."""
    return hashlib.md5(timestamp + secret).hexdigest().encode("ascii")
