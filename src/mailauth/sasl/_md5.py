"""MD5 for CRAM-MD5 and APOP, if the system allows it.

In FIPS mode, MD5 is not available for security purposes, and a login is a security purpose.  So the two mechanisms are
not offered then, and ``usedforsecurity=False`` is not used.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from ..errors import LocalProtocolError


def _available() -> bool:
    try:
        hashlib.md5(b"")
        hmac.digest(b"", b"", "md5")
    except (AttributeError, ValueError):
        return False
    return True


MD5_AVAILABLE: Final = _available()


def require_md5() -> None:
    """Raise LocalProtocolError if MD5 is not available.  Call it before an exchange starts, not during one."""
    if not MD5_AVAILABLE:
        raise LocalProtocolError("MD5 is not available on this system; use a mechanism other than CRAM-MD5 and APOP")


def keyed_md5(secret: bytes, challenge: bytes) -> bytes:
    """Return the HMAC-MD5 that CRAM-MD5 sends: 32 lower-case hexadecimal digits (RFC 2195 section 2)."""
    return hmac.digest(secret, challenge, "md5").hex().encode("ascii")


def plain_md5(secret: bytes, timestamp: bytes) -> bytes:
    """Return the MD5 of timestamp and secret that APOP sends: 32 lower-case hexadecimal digits (RFC 1939 section 7)."""
    return hashlib.md5(timestamp + secret).hexdigest().encode("ascii")
