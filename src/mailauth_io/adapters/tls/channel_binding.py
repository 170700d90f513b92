"""The channel binding ``tls-server-end-point``: a digest of the server's certificate (RFC 5929 section 4).

Only the signature algorithm is read from the certificate; nothing is verified.  The ssl module computes ``tls-unique``
(RFC 5929 section 3).  It has no exporter, so ``tls-exporter`` (RFC 9266) is not available.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from ..._files import read_file
from ._der import element

__all__ = ["NAME", "UNIQUE", "WITHOUT_HINT", "BindingContext", "Password", "channel_bindings", "server_end_point"]

NAME: Final = "tls-server-end-point"
"""The registered name, which is also the key in ``Tls.channel_bindings``."""

WITHOUT_HINT: Final = 'use channel_binding="none"'
"""What an error recommends if a server refuses every binding."""

UNIQUE: Final = "tls-unique"
"""The registered name of the binding that the ssl module computes from the handshake."""

_SEQUENCE: Final = 0x30
_OBJECT_IDENTIFIER: Final = 0x06
_EXPLICIT_0: Final = 0xA0

_SIGNATURES: Final[Mapping[str, str]] = {
    "2a864886f70d010104": "md5",  # RSA: RFC 8017 appendix C
    "2a864886f70d010105": "sha1",
    "2a864886f70d01010e": "sha224",
    "2a864886f70d01010b": "sha256",
    "2a864886f70d01010c": "sha384",
    "2a864886f70d01010d": "sha512",
    "2a8648ce3d0401": "sha1",  # ECDSA: RFC 5758 section 3.2
    "2a8648ce3d040301": "sha224",
    "2a8648ce3d040302": "sha256",
    "2a8648ce3d040303": "sha384",
    "2a8648ce3d040304": "sha512",
    "2a8648ce380403": "sha1",  # DSA: RFC 5758 section 3.1
    "608648016503040301": "sha224",
    "608648016503040302": "sha256",
}
"""The hash of each signature algorithm, by the content of its object identifier in hexadecimal."""

_PSS: Final = "2a864886f70d01010a"
"""RSASSA-PSS: its parameters name the hash; SHA-1 is the default (RFC 4055 section 3.1)."""

_HASHES: Final[Mapping[str, str]] = {
    "2b0e03021a": "sha1",
    "608648016503040204": "sha224",
    "608648016503040201": "sha256",
    "608648016503040202": "sha384",
    "608648016503040203": "sha512",
}

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

Password: TypeAlias = Callable[[], str | bytes | bytearray] | str | bytes | bytearray


class BindingContext(ssl.SSLContext):
    """A server's context that keeps its certificate, so that the server can offer SCRAM-...-PLUS.

    Create it like any context, ``BindingContext(ssl.PROTOCOL_TLS_SERVER)``, and load one chain.  With several chains
    there is no binding, since the ssl module does not report which one the handshake has selected.  If
    ``sni_callback`` replaces the context, the certificate of the new context is used.

        context = channel_binding.BindingContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("mx.example.pem", "mx.example.key")
        async with on_asyncio.serve_smtp(session, settings, ssl_context=context) as listener:
            await stopped.wait()
    """

    _chains: int = 0
    _certificate: bytes | None = None

    def load_cert_chain(
        self,
        certfile: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        keyfile: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        password: Password | None = None,
    ) -> None:
        """Load a chain as ``ssl.SSLContext`` does, and keep the first certificate in the file."""
        super().load_cert_chain(certfile, keyfile, password)
        self._chains += 1
        data, _ = read_file(Path(os.fsdecode(certfile)))
        found = _PEM.search(data)
        self._certificate = None if found is None else ssl.PEM_cert_to_DER_cert(found[0].decode("ascii", "replace"))

    @property
    def certificate(self) -> bytes | None:
        """The certificate that this context sends, in DER; None if it has none, or has several to choose from."""
        return self._certificate if self._chains == 1 else None

    @property
    def channel_bindings(self) -> dict[str, bytes]:
        """``channel_bindings()`` of the certificate that this context sends."""
        return channel_bindings(self.certificate)


def channel_bindings(certificate: bytes | None) -> dict[str, bytes]:
    """Return the channel bindings that depend on the server's *certificate* (DER), for ``Tls``.

    Empty if there is no certificate, or the RFC defines no binding for its signature algorithm.
    """
    digest = None if certificate is None else server_end_point(certificate)
    return {} if digest is None else {NAME: digest}


def server_end_point(certificate: bytes) -> bytes | None:
    """Return the binding data of *certificate* (DER): its digest by the hash of its signature algorithm.

    SHA-256 replaces MD5 and SHA-1.  None where RFC 5929 section 4.1 defines no binding (algorithms without a single
    hash, such as Ed25519), for unknown algorithms, and if *certificate* cannot be parsed.
    """
    try:
        name = _signature_hash(certificate)
    except (IndexError, ValueError):
        return None
    if name is None:
        return None
    return hashlib.new("sha256" if name in ("md5", "sha1") else name, certificate).digest()


def _signature_hash(certificate: bytes) -> str | None:
    """Return the name of the hash in the signature algorithm of *certificate*; None if it is unknown.

    ``Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }`` (RFC 5280 section 4.1).
    """
    start, _ = element(certificate, 0, _SEQUENCE)
    _, end_of_tbs = element(certificate, start, _SEQUENCE)
    name, parameters, end = _algorithm(certificate, end_of_tbs)
    if name != _PSS:
        return _SIGNATURES.get(name)
    fields, _ = element(certificate, parameters, _SEQUENCE)
    if fields == end or certificate[fields] != _EXPLICIT_0:
        return "sha1"
    inside, _ = element(certificate, fields, _EXPLICIT_0)
    return _HASHES.get(_algorithm(certificate, inside)[0])


def _algorithm(data: bytes, at: int) -> tuple[str, int, int]:
    """Parse an AlgorithmIdentifier.  Returns its OID in hexadecimal, the start of its parameters, and its end."""
    start, end = element(data, at, _SEQUENCE)
    name, parameters = element(data, start, _OBJECT_IDENTIFIER)
    return data[name:parameters].hex(), parameters, end
