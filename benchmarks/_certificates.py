"""The certificate of a measured server: ECDSA, made for one run."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def server_context() -> ssl.SSLContext:
    """Return a context with a new certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


def write(folder: Path) -> Path:
    """Write a new certificate and its key to a file in *folder*, and return its path."""
    path = folder / "certificate.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path
