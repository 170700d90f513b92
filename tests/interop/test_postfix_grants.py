"""Postfix beside mailauth, with the settings of docs/grants.md: relaying with a grant, and mail into the maildrops.

Skipped like the tests in ``test_smtp_peers.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import smtplib
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mailauth_io.cli import settings_file
from tests import serving
from tests.interop.client_config import HOST
from tests.interop.peers import ALICE, NAME, PASSWORD, Peer, running
from tests.interop.smtp_peers import POSTFIX
from tests.policy_services import started

PAGE = (Path(__file__).parents[2] / "docs" / "grants.md").read_text()
USER = 7000
"""The user of mailauth, by whose number Postfix delivers."""
CLIENT, STRANGER, TRUSTED = "127.0.0.2", "127.0.0.3", "127.0.0.1"
REMOTE = "bob@elsewhere.test"
DENIED = (554, b"5.7.1 <bob@elsewhere.test>: Relay access denied")
UNAVAILABLE = (451, b"4.3.5 <bob@elsewhere.test>: Recipient address rejected: Server configuration problem")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Postfix must be started by root")


def block(start: str) -> str:
    """Return the block of docs/grants.md that begins with *start*."""
    (found,) = re.findall(rf"^```\w*\n({re.escape(start)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@attrs.frozen
class Bridge:
    postfix: Peer
    service: subprocess.Popen[str]
    """``mailauth policy-service``."""
    grants: Path

    def add_grant(self) -> None:
        done = serving.run("grants", "add", "--grants", f"sqlite:{self.grants}", CLIENT, NAME)
        assert done.returncode == 0, done.stderr

    def rcpt(self, recipient: str, source: str) -> tuple[int, bytes]:
        """Return the reply to RCPT for a client at *source*."""
        with self.session(source) as client:
            client.ehlo()
            client.mail("carol@example.org")
            return client.rcpt(recipient)

    def session(self, source: str) -> smtplib.SMTP:
        return smtplib.SMTP(HOST, self.postfix.ports.smtp or 0, "client.test", timeout=30, source_address=(source, 0))

    @property
    def state(self) -> Path:
        """What is ``/var/lib/mailauth`` for Postfix."""
        return self.postfix.home / "var/lib/mailauth"


def main_cf(settings: str) -> str:
    """Return the file of ``POSTFIX`` with *settings* in place of those with the same names.

    Each process would log a warning for a setting that is there twice, and so many at once stop postlogd.
    """
    names = re.findall(r"^\w+(?= =)", settings, re.MULTILINE)
    kept = re.sub(rf"^({'|'.join(names)}) =.*\n", "", POSTFIX.files["etc/postfix/main.cf"], flags=re.MULTILINE)
    return kept + settings


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    with tempfile.TemporaryDirectory() as directory:  # USER may not enter tmp_path
        os.chown(directory, USER, USER)
        grants = Path(directory, "grants.db")
        grants.touch(mode=0o600)
        os.chown(grants, USER, USER)
        with started(tmp_path, "--grants", f"sqlite:{grants}") as (service, port):
            restrictions = block("smtpd_relay_restrictions").replace(":10040", f":{port}")
            delivery = re.sub("UID|GID", str(USER), block("virtual_mailbox_domains"))
            settings = main_cf(f"mynetworks = {TRUSTED}/32\n{restrictions}{delivery}")
            recipe = attrs.evolve(
                POSTFIX,
                files={
                    **POSTFIX.files,
                    "etc/postfix/main.cf": settings,
                    "etc/postfix/maildrops": block("alice@example.test"),
                },
                start="mkdir -p var/lib/mailauth/maildrops\nchmod 700 var/lib/mailauth\n"
                f"chown -R {USER}:{USER} var/lib/mailauth\n{POSTFIX.start}",
            )
            with running(recipe) as postfix:
                yield Bridge(postfix, service, grants)


def test_client_with_a_grant_may_relay_and_others_may_as_before(bridge: Bridge) -> None:
    bridge.add_grant()
    assert bridge.rcpt(REMOTE, CLIENT)[0] == 250
    assert bridge.rcpt(REMOTE, TRUSTED)[0] == 250
    assert bridge.rcpt(REMOTE, STRANGER) == DENIED
    with bridge.session(STRANGER) as client:
        client.login(NAME, PASSWORD)
        client.mail("carol@example.org")
        assert client.rcpt(REMOTE)[0] == 250
    for source in (CLIENT, STRANGER):
        assert bridge.rcpt(ALICE, source)[0] == 250


def test_store_that_fails_defers_remote_mail_only(bridge: Bridge) -> None:
    """554 would bounce mail, and 450 for the domain of Postfix would stop all mail."""
    bridge.add_grant()
    with contextlib.closing(sqlite3.connect(bridge.grants)) as database:
        database.execute("DROP TABLE grants")
    for source in (CLIENT, STRANGER):
        code, text = bridge.rcpt(REMOTE, source)
        assert (code, text.split(b" ")[0]) == (450, b"4.7.1")
        assert b"cannot check relay permission, try again later" in text
        assert bridge.rcpt(ALICE, source)[0] == 250
    assert bridge.rcpt(REMOTE, TRUSTED)[0] == 250


def test_service_that_does_not_run_defers_remote_mail_only(bridge: Bridge) -> None:
    bridge.add_grant()
    bridge.service.kill()
    bridge.service.wait()
    for source in (CLIENT, STRANGER):
        assert bridge.rcpt(REMOTE, source) == UNAVAILABLE
        assert bridge.rcpt(ALICE, source)[0] == 250
    assert bridge.rcpt(REMOTE, TRUSTED)[0] == 250


AS_USER = """
import contextlib, io, os, sys
import anyio
from mailauth_io import on_asyncio
from mailauth_io.cli import main, serve
from mailauth_io.stores import sqlite_grants
user, config, *others = sys.argv[1:]
anyio.run(anyio.sleep, 0)
with contextlib.redirect_stdout(io.StringIO()):
    main.main(["check-config", config])
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
sys.exit(main.main(["serve", "--config", config, *others]))
"""
"""Runs ``mailauth serve`` as another user.  That user may have no access to the Python of the tests, so everything is
imported first."""


@contextlib.contextmanager
def serve_pop3(bridge: Bridge) -> Iterator[int]:
    """Run ``mailauth serve`` as USER with the configuration of the page; yield the port of POP3."""
    home = bridge.postfix.home
    text = block("[listen]")
    for old, new in {
        "192.0.2.25": HOST,
        "pop3 = 110": "pop3 = 0",
        "pop3s = 995": "pop3s = 0",
        "/var/lib/mailauth/grants.db": str(bridge.grants),
        "/var/lib/mailauth": str(bridge.state),
    }.items():
        assert old in text
        text = text.replace(old, new)
    folder = home / "mailauth"
    folder.mkdir()
    (folder / "mailauth.toml").write_text(text)
    (folder / "accounts").write_text(f"{NAME}:{{PLAIN}}{PASSWORD}\n")
    for name in ("certificate.pem", "key.pem"):
        (folder / name).write_bytes((home / "certificate.pem").read_bytes())
    for path in (folder, *folder.iterdir()):
        os.chown(path, USER, USER)
        path.chmod(0o700 if path == folder else 0o600)
    ready = folder / "ready.json"
    options = ("--legacy", "--ready-file", str(ready))
    with subprocess.Popen(
        [sys.executable, "-c", AS_USER, str(USER), str(folder / "mailauth.toml"), *options],
        env=serving.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line == "Ready.\n":
                    break
            assert said[-1:] == ["Ready.\n"], said
            assert "Not persistent" not in "".join(said)
            yield json.loads(ready.read_text())["pop3"]
        finally:
            process.kill()


def read_mail(port: int, source: str) -> bytes:
    """Log in by POP3 from *source*, and return the only message."""
    with (
        socket.create_connection((HOST, port), timeout=30, source_address=(source, 0)) as connection,
        connection.makefile("rwb") as file,
    ):
        assert file.readline().startswith(b"+OK")
        for command in (f"USER {NAME}", f"PASS {PASSWORD}", "RETR 1"):
            file.write(f"{command}\r\n".encode())
            file.flush()
            reply = file.readline()
            assert reply.startswith(b"+OK"), reply
        lines = iter(file.readline, b".\r\n")
        return b"".join(lines)


def test_mail_that_postfix_delivers_is_read_by_pop3_and_the_login_permits_relaying(bridge: Bridge) -> None:
    with bridge.session(STRANGER) as client:
        client.sendmail("carol@example.org", [ALICE], b"Subject: from outside\r\n\r\nbody\r\n")
    bridge.postfix.wait_for("status=sent (delivered to maildir)")
    maildrop = bridge.state / "maildrops/alice"
    assert (maildrop.stat().st_uid, maildrop.stat().st_mode & 0o777) == (USER, 0o700)
    assert bridge.rcpt(REMOTE, CLIENT) == DENIED
    with serve_pop3(bridge) as port:
        message = read_mail(port, CLIENT)
    assert b"\r\nSubject: from outside\r\n" in message
    assert message.endswith(b"\r\n\r\nbody\r\n")
    assert bridge.rcpt(REMOTE, CLIENT)[0] == 250
    assert bridge.rcpt(REMOTE, STRANGER) == DENIED


def test_configuration_of_the_page_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "mailauth.toml"
    path.write_text(block("[listen]"))
    assert settings_file.read(path).errors == ()
