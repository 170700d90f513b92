"""The channel binding ``tls-server-end-point``: a digest of the server's certificate (RFC 5929 section 4).

Knows of a certificate only which hash signed it, from a walk over five fields of its DER; verifies nothing.  The other
binding of today, ``tls-exporter`` (RFC 9266), cannot be had: Python's ssl has no exporter.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from ._der import element

NAME: Final = "tls-server-end-point"
"""As registered, and as it stands in ``Tls.channel_bindings``."""

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
"""The hash in a signature algorithm, by the content of its object identifier."""

_PSS: Final = "2a864886f70d01010a"
"""RSASSA-PSS names its hash in parameters, SHA-1 unless they say otherwise (RFC 4055 section 3.1)."""

_HASHES: Final[Mapping[str, str]] = {
    "2b0e03021a": "sha1",
    "608648016503040204": "sha224",
    "608648016503040201": "sha256",
    "608648016503040202": "sha384",
    "608648016503040203": "sha512",
}

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_Password: TypeAlias = Callable[[], str | bytes | bytearray] | str | bytes | bytearray


class BindingContext(ssl.SSLContext):
    """A server's context that knows its certificate, so that SCRAM-...-PLUS can be offered on it.

    Make it as any context, ``BindingContext(ssl.PROTOCOL_TLS_SERVER)``, and load one chain.  With a second one the
    handshake chooses, nobody is told which, and so there is no binding.  One that ``sni_callback`` puts in its place
    counts instead of it.
    """

    _chains: int = 0
    _certificate: bytes | None = None

    def load_cert_chain(
        self,
        certfile: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        keyfile: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        password: _Password | None = None,
    ) -> None:
        """As ``ssl.SSLContext`` does, and remember the first certificate in the file."""
        super().load_cert_chain(certfile, keyfile, password)
        self._chains += 1
        found = _PEM.search(Path(os.fsdecode(certfile)).read_bytes())
        self._certificate = None if found is None else ssl.PEM_cert_to_DER_cert(found[0].decode("ascii", "replace"))

    @property
    def certificate(self) -> bytes | None:
        """The certificate that this context shows, in DER; None when it has none, or several to choose from."""
        return self._certificate if self._chains == 1 else None

    @property
    def channel_bindings(self) -> dict[str, bytes]:
        """As ``channel_bindings()`` has them, of the certificate that this context shows."""
        return channel_bindings(self.certificate)


def channel_bindings(certificate: bytes | None) -> dict[str, bytes]:
    """What a connection to the server with that *certificate* (in DER) can be bound by, for ``Tls``.

    Empty when there is no certificate, and when the RFC defines no binding for its signature.
    """
    digest = None if certificate is None else server_end_point(certificate)
    return {} if digest is None else {NAME: digest}


def server_end_point(certificate: bytes) -> bytes | None:
    """The binding data of *certificate*, in DER: its digest by the hash that signed it, SHA-256 for MD5 and SHA-1.

    None where RFC 5929 section 4.1 leaves it undefined: for signatures without one hash, such as Ed25519, for those
    that are not known here, and for what is no certificate.
    """
    try:
        name = _signature_hash(certificate)
    except (IndexError, ValueError):
        return None
    if name is None:
        return None
    return hashlib.new("sha256" if name in ("md5", "sha1") else name, certificate).digest()


def _signature_hash(certificate: bytes) -> str | None:
    """``Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }`` (RFC 5280 section 4.1)."""
    start, _ = element(certificate, 0, _SEQUENCE)
    _, behind_tbs = element(certificate, start, _SEQUENCE)
    name, parameters, end = _algorithm(certificate, behind_tbs)
    if name != _PSS:
        return _SIGNATURES.get(name)
    fields, _ = element(certificate, parameters, _SEQUENCE)
    if fields == end or certificate[fields] != _EXPLICIT_0:
        return "sha1"
    inside, _ = element(certificate, fields, _EXPLICIT_0)
    return _HASHES.get(_algorithm(certificate, inside)[0])


def _algorithm(data: bytes, at: int) -> tuple[str, int, int]:
    """An AlgorithmIdentifier: its identifier in hexadecimal, where its parameters begin, and where it ends."""
    start, end = element(data, at, _SEQUENCE)
    name, behind = element(data, start, _OBJECT_IDENTIFIER)
    return data[name:behind].hex(), behind, end
