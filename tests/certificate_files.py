"""Certificates with a chosen validity, written as a server has them: a chain and a key."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = 86_400.0


def write(directory: Path, *, not_before: float, not_after: float, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for *name* and 127.0.0.1, valid from *not_before* to *not_after* (Unix time)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(0, UTC) + timedelta(seconds=not_before))
        .not_valid_after(datetime.fromtimestamp(0, UTC) + timedelta(seconds=not_after))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / "certificate.pem", directory / "key.pem"
    _replace(cert_path, made.public_bytes(serialization.Encoding.PEM))
    _replace(
        key_path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return cert_path, key_path


def _replace(path: Path, data: bytes) -> None:
    """As who renews certificates does: a new file takes the name of the old one."""
    fresh = path.with_suffix(".new")
    fresh.touch(0o600)
    fresh.write_bytes(data)
    os.replace(fresh, path)
