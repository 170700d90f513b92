"""Describes a TLS handshake that failed at the certificate of the server, and what to do about it."""

from __future__ import annotations

import ssl
from typing import Final

_UNTRUSTED: Final = frozenset({2, 18, 19, 20, 21})
"""The errors of OpenSSL that mean an unknown issuer: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
_DEPTH_ZERO_SELF_SIGNED_CERT, _SELF_SIGNED_CERT_IN_CHAIN, _UNABLE_TO_GET_ISSUER_CERT_LOCALLY and
_UNABLE_TO_VERIFY_LEAF_SIGNATURE."""
_OUT_OF_DATE: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and _CERT_HAS_EXPIRED."""
_OTHER_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH."""

TRUST_HINT: Final = "pass ssl_context=ssl.create_default_context(cafile=...) to trust its CA"
NAME_HINT: Final = "pass a host that is in the certificate"


def describe_verification(
    error: ssl.SSLCertVerificationError, *, trust: str = TRUST_HINT, name: str = NAME_HINT
) -> str:
    """Return why the certificate was rejected, and what to do.

    *trust* says how to trust another CA, and *name* how to connect by another name.
    """
    hint = ""
    if error.verify_code in _UNTRUSTED:
        hint = f"; {trust}"
    elif error.verify_code in _OTHER_NAME:
        hint = f"; {name}"
    elif error.verify_code in _OUT_OF_DATE:
        hint = "; the server needs a new certificate"
    return f"the certificate is not valid: {error.verify_message.rstrip('.')}{hint}"
