"""The gateway of docs/gateway.md relays for each kind of device, from its configuration file and as a program."""

from __future__ import annotations

import hashlib
import re
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailauth_io import stores
from tests import serving
from tests.io.tls import authority

PAGE = (Path(__file__).parent.parent / "docs" / "gateway.md").read_text(encoding="utf-8")
TIMEOUT = 60.0

LOGGED_IN, BY_POP3, KNOWN, UNKNOWN = "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""The addresses of four devices."""


def block(kind: str, start: str) -> str:
    """Return the only block of the page with this language and start."""
    (found,) = re.findall(rf"^```{kind}\n({re.escape(start)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for before, after in pairs:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@contextmanager
def provider(directory: Path) -> Iterator[tuple[int, Path]]:
    """Run a provider that requires a login inside TLS; yield its port and its outbox."""
    directory.mkdir()
    certificate, outbox = directory / "certificate.pem", directory / "outbox"
    authority().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    certificate.chmod(0o600)
    options = (
        *("--smtp", "0", "--domain", "example.org", "--user", "office:the secret", "--outbox", str(outbox)),
        *("--cert", str(certificate), "--key", str(certificate)),
    )
    with serving.served(directory, *options) as served:
        yield served.port("smtp"), outbox


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of the gateway, with the files that both variants use, and the CA of the provider."""
    directory = tmp_path / "gateway"
    directory.mkdir()
    for name, text in (
        ("accounts", f"scanner:{stores.write_credential('PLAIN', b'ink')}\n"),
        ("relay-password", "the secret\n"),
    ):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(text)
    devices = replaced(block("python", "from typing"), ('"192.0.2.21", "192.0.2.22"', f'"{KNOWN}"'))
    (directory / "devices.py").write_text(devices)
    authority().cert_pem.write_to_path(directory / "ca.pem")
    return directory


def send(port: int, address: str, recipient: str = "dinah@far.test", *, log_in: bool = False) -> int:
    """Send a message as the device at *address*; return the code of the last reply."""
    with smtplib.SMTP("127.0.0.1", port, "scanner", timeout=TIMEOUT, source_address=(address, 0)) as device:
        if log_in:
            device.user, device.password = "scanner", "ink"
            device.ehlo()
            assert device.auth("CRAM-MD5", device.auth_cram_md5)[0] == 235
        try:
            assert device.sendmail("office@example.org", [recipient], b"Subject: scan\r\n\r\n") == {}
        except smtplib.SMTPRecipientsRefused as error:
            return error.recipients[recipient][0]
    return 250


def log_in_by_pop3(port: int, address: str) -> None:
    """Log in with APOP as the device at *address*; its maildrop is empty."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT, source_address=(address, 0)) as connection,
        connection.makefile("rb") as file,
    ):
        timestamp = re.findall(rb"<[^>]+>", file.readline())[0]
        digest = hashlib.md5(timestamp + b"ink", usedforsecurity=False).hexdigest()
        replies = []
        for command in (f"APOP scanner {digest}", "STAT", "QUIT"):
            connection.sendall(f"{command}\r\n".encode())
            replies.append(file.readline()[:7].strip())
    assert replies[1] == b"+OK 0 0", replies


def check_devices(smtp: int, pop3: int, outbox: Path) -> None:
    for recipient in ("dinah@far.test", "scanner@gateway.example.org", "postmaster"):
        assert send(smtp, UNKNOWN, recipient) == 550
    assert send(smtp, KNOWN, "scanner@gateway.example.org") == 250
    (message,) = serving.messages(outbox)
    assert b"\nX-Envelope-To: scanner@gateway.example.org\n" in message
    assert send(smtp, LOGGED_IN, log_in=True) == 250
    assert send(smtp, KNOWN) == 250
    assert send(smtp, BY_POP3) == 550
    log_in_by_pop3(pop3, BY_POP3)
    assert send(smtp, BY_POP3) == 250
    assert len(serving.messages(outbox)) == 4


@pytest.mark.parametrize("loop", serving.LOOPS)
def test_gateway_with_the_configuration_file_relays_for_each_kind_of_device(
    loop: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "mailauth.toml"
    with provider(tmp_path / "provider") as (port, outbox):
        path.write_text(
            replaced(
                block("toml", "[listen]"),
                ("192.0.2.10", "127.0.0.1"),
                ("smtp = 25", "smtp = 0"),
                ("pop3 = 110", "pop3 = 0"),
                ("smtp.provider.example:587", f"127.0.0.1:{port}"),
            )
        )
        checked = serving.run("check-config", str(path))
        assert checked.returncode == 0, checked.stderr
        monkeypatch.setenv("SSL_CERT_FILE", str(directory / "ca.pem"))
        with serving.served(tmp_path, "--config", str(path), "--loop", loop) as gateway:
            check_devices(gateway.port("smtp"), gateway.port("pop3"), outbox)


def test_gateway_as_a_program_relays_for_each_kind_of_device(directory: Path, tmp_path: Path) -> None:
    with provider(tmp_path / "provider") as (port, outbox):
        program = replaced(
            block("python", "import asyncio"),
            ("192.0.2.10", "127.0.0.1"),
            ("smtp=25", "smtp=0"),
            ("pop3=110", "pop3=0"),
            ("smtp.provider.example", "127.0.0.1"),
            ("port=587", f"port={port}"),
        )
        (directory / "gateway.py").write_text(program)
        environment = {**serving.environment(), "SSL_CERT_FILE": str(directory / "ca.pem")}
        with (
            (directory / "errors").open("w") as errors,
            subprocess.Popen(
                [sys.executable, "gateway.py"],
                cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            ) as gateway,
        ):  # fmt: skip
            try:
                assert gateway.stdout is not None
                found = re.fullmatch(r"SMTP on port (\d+), POP3 on port (\d+)\n", gateway.stdout.readline())
                assert found, (directory / "errors").read_text()
                check_devices(int(found[1]), int(found[2]), outbox)
            finally:
                gateway.kill()
        assert "Traceback" not in (directory / "errors").read_text()


def test_every_program_is_run() -> None:
    assert len(re.findall(r"^```(?:python|toml)$", PAGE, re.MULTILINE)) == 3
