"""Fixtures shared by tests of the examples."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.examples.programs import CertificateFiles
from tests.io.tls import authority


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port without a listener; it stays bound, so that no other program can take it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    directory = tmp_path_factory.mktemp("tls")
    files = CertificateFiles(directory / "certificate.pem", directory / "ca.pem")
    authority().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(files.certificate)
    authority().cert_pem.write_to_path(files.ca)
    return files
