"""Stored passwords and Dovecot's ``doveadm pw``: each verifies what the other has hashed.

Skipped if doveadm is not installed; an error with MAILAUTH_INTEROP=require.  No Dovecot server is started.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mailauth_io.stores import write_credential
from mailauth_io.stores.credentials import prepared, read_credential
from tests.interop.client_config import program
from tests.interop.dovecot import version

PASSWORDS = ("open sesame", "caf\u00e9 o\ufb03ce", "a$b,c{d}e")
SCHEMES = ("PLAIN", "SHA512-CRYPT", "BLF-CRYPT", "ARGON2ID", "SCRAM-SHA-256")
MORE = ("SHA256-CRYPT", "ARGON2I", "CRYPT")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A doveadm without unexpected output; that of 2.4 prints its version first."""
    path = tmp_path_factory.mktemp("doveadm") / "dovecot.conf"
    lines = "" if version() == "2.3" else "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
    path.write_text(lines)
    return path


def doveadm(configuration: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``doveadm pw``."""
    command = [program("doveadm"), "-c", str(configuration), "pw", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def typed(password: str) -> bytes:
    """Return *password* as prepared at login."""
    data = prepared(password.encode())
    assert data is not None
    return data


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", SCHEMES + MORE)
def test_password_hashed_by_doveadm_is_verified(configuration: Path, scheme: str, password: str) -> None:
    """It hashes the bytes unchanged; at login the password is prepared by RFC 4013, which may change them."""
    written = doveadm(configuration, "-s", scheme, "-p", typed(password).decode())
    assert written.returncode == 0, written.stderr
    credential = read_credential(written.stdout.strip().encode())
    assert written.stdout.startswith(f"{{{scheme}}}")
    assert credential.check(typed(password))
    assert not credential.check(b"open poppy")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_doveadm_verifies_our_hashed_passwords(configuration: Path, scheme: str, password: str) -> None:
    field = write_credential(scheme, password.encode())
    right = doveadm(configuration, "-t", field, "-p", typed(password).decode())
    assert right.returncode == 0, right.stderr
    assert "verified" in right.stdout
    assert doveadm(configuration, "-t", field, "-p", "open poppy").returncode != 0
