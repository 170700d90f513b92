"""Dovecot as a client: its submission server relays to the mailauth SMTP server, and its pop3c reads from mailauth.

Skipped without Dovecot 2.3; an error with MAILAUTH_INTEROP=require.
"""

from __future__ import annotations

import secrets
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.interop.client_config import HOST, NAME, PASSWORD, WAYS
from tests.interop.dovecot import Dovecot, dovecot
from tests.serving import LOOPS, Login, Served, messages, served

MESSAGE = b"From: bob@example.test\nTo: alice@example.test\nSubject: waiting\n\nA letter\n.\n..\n.dot\n\nBye\n"
RELAY_SSL = {"clear": "no", "upgrade": "starttls", "implicit": "smtps"}


@attrs.frozen(kw_only=True)
class OurServer:
    """A mailauth server and its data."""

    server: Served
    directory: Path

    def port(self, protocol: str, tls_mode: str) -> int:
        return self.server.port(protocol + ("s" if tls_mode == "implicit" else ""))


@pytest.fixture(scope="module", params=LOOPS)
def our_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    directory = tmp_path_factory.mktemp("our_server")
    for folder in ("tmp", "new", "cur"):
        (directory / "maildrops" / NAME / folder).mkdir(parents=True)
    (directory / "maildrops" / NAME / "new" / "1.letter").write_bytes(MESSAGE)
    with served(
        directory,
        *("--loop", request.param, "--legacy", "--user", f"{NAME}:{PASSWORD}"),
        *("--maildir", str(directory / "maildrops"), "--outbox", str(directory / "outbox")),
        *("--ca-out", str(directory / "authority.pem")),
    ) as server:
        yield OurServer(server=server, directory=directory)


def relaying(our_server: OurServer, tls_mode: str, password: str) -> str:
    """Return the settings of a Dovecot that relays to *our_server* as alice."""
    return f"""
submission_relay_port = {our_server.port("smtp", tls_mode)}
submission_relay_ssl = {RELAY_SSL[tls_mode]}
submission_relay_user = {NAME}
submission_relay_password = "{password}"
"""


def submit(running: Dovecot, message: bytes) -> None:
    """Send a message to Dovecot with one of its accounts.  Raises SMTPException if the mailauth server rejects it."""
    assert running.ports.smtp is not None
    with smtplib.SMTP(HOST, running.ports.smtp, "client.test", timeout=30) as client:
        client.starttls()
        client.login("somebody", "there")
        client.sendmail("alice@example.test", ["friend@elsewhere.test"], message)


@pytest.mark.parametrize("tls_mode", WAYS)
def test_dovecot_relays_through_our_server(our_server: OurServer, tls_mode: str) -> None:
    """RFC 4954: Dovecot logs in by PLAIN.  The subject identifies the message."""
    subject = secrets.token_hex(8)
    message = f"From: alice@example.test\r\nSubject: {subject}\r\n\r\nHello\r\n.\r\n..dot\r\nBye\r\n".encode()
    settings = relaying(our_server, tls_mode, PASSWORD)
    with dovecot("somebody:{PLAIN}there\n", settings, trusts=our_server.directory / "authority.pem") as running:
        submit(running, message)
    assert our_server.server.logins()[-1] == Login(NAME, "PLAIN", tls_mode != "clear")
    (found,) = (one for one in messages(our_server.directory / "outbox") if subject.encode() in one)
    assert found.endswith(b"\n\nHello\n.\n..dot\nBye\n")


def test_dovecot_relays_nothing_with_a_wrong_password(our_server: OurServer) -> None:
    settings = relaying(our_server, "implicit", "open poppy")
    with (
        dovecot("somebody:{PLAIN}there\n", settings, trusts=our_server.directory / "authority.pem") as running,
        pytest.raises(smtplib.SMTPException),
    ):
        submit(running, b"Subject: refused\r\n\r\n")
    assert not our_server.server.logins()[-1].accepted
    assert not any(b"Subject: refused" in one for one in messages(our_server.directory / "outbox"))


@pytest.fixture(scope="module")
def reader(our_server: OurServer) -> Iterator[Dovecot]:
    """A Dovecot that reads by POP3."""
    with dovecot("", trusts=our_server.directory / "authority.pem") as running:
        yield running


def read(our_server: OurServer, reader: Dovecot, password: str) -> subprocess.CompletedProcess[str]:
    """Fetch the maildrop of alice with Dovecot's pop3c.

    Without TLS: after STLS, pop3c of 2.3 sends nothing more to any server, and with implicit TLS it does not notice a
    reply that has already arrived, and waits indefinitely.
    """
    settings = {
        "mail_location": f"pop3c:{reader.home}/read/{secrets.token_hex(4)}",
        "pop3c_host": HOST, "pop3c_port": our_server.server.port("pop3"),
        "pop3c_user": NAME, "pop3c_password": password,
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return reader.doveadm(*options, "fetch", "text", "mailbox", "INBOX", "all")


def test_dovecot_retrieves_our_maildrop_over_pop3(our_server: OurServer, reader: Dovecot) -> None:
    """RFC 1939: USER and PASS, CAPA, UIDL, RETR.  The message is returned unchanged."""
    done = read(our_server, reader, PASSWORD)
    assert done.returncode == 0, done.stderr
    assert MESSAGE.decode() in done.stdout.replace("\r\n", "\n")
    assert our_server.server.logins()[-1] == Login(NAME, "USER", inside_tls=False)
    assert messages(our_server.directory / "maildrops" / NAME) == [MESSAGE]


def test_dovecot_login_with_a_wrong_password_is_rejected(our_server: OurServer, reader: Dovecot) -> None:
    done = read(our_server, reader, "open poppy")
    assert done.returncode != 0
    assert not our_server.server.logins()[-1].accepted
