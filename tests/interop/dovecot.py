"""Start a Dovecot for a test, on the loopback interface and unprivileged: POP3 and submission, with every mechanism.

The configuration is for version 2.3.  It uses only a temporary directory.
"""

from __future__ import annotations

import base64
import grp
import hmac
import json
import os
import pwd
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypedDict

import attrs
import pytest
import trustme

from mailauth_io import server
from tests.interop.client_config import HOST, environment, missing, program

_KEY: Final = b"a key that signs tokens for tests"
_LATE: Final = 4_102_444_800  # the year 2100
_PACKAGES: Final = "Dovecot 2.3 with pop3 and submission"
_ATTEMPTS: Final = 5
"""Another program may take a free port before Dovecot binds it."""

_CONFIGURATION: Final = """
base_dir = {home}/run
state_dir = {home}/state
log_path = /dev/stderr
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_location = maildir:{home}/mail/%u
protocols = pop3 submission
listen = 127.0.0.1
hostname = localhost
ssl = yes
ssl_cert = <{home}/certificate.pem
ssl_key = <{home}/certificate.pem
ssl_ca = <{home}/clients.pem
ssl_require_crl = no
ssl_verify_client_cert = yes
auth_ssl_username_from_cert = yes
auth_mechanisms = plain login cram-md5 apop scram-sha-1 scram-sha-256 oauthbearer xoauth2 external
auth_failure_delay = 0
submission_relay_host = 127.0.0.1
submission_relay_port = {nowhere}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
}}
service submission-login {{
  chroot =
  inet_listener submission {{
    port = {smtp}
  }}
  inet_listener submissions {{
    port = {smtps}
    ssl = yes
  }}
}}
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {home}/oauth2.conf
}}
passdb {{
  driver = static
  mechanisms = external
  args = nopassword=y
}}
passdb {{
  driver = passwd-file
  mechanisms = plain login cram-md5 apop scram-sha-1 scram-sha-256
  args = {home}/users
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={home}/mail/%u
}}
"""

_TOKENS: Final = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={home}/keys/
username_attribute = sub
"""


class NotStarted(Exception):
    """Dovecot ended at once; the text is its output."""


@attrs.frozen(kw_only=True)
class Dovecot:
    """A running Dovecot."""

    ports: server.RunningServer
    """Its ports; those of submission are ``smtp`` and ``smtps``."""
    authority: trustme.CA
    """The CA of its certificate and of client certificates."""
    home: Path
    log: list[str]
    who: pwd.struct_passwd
    """The user it runs as."""

    def doveadm(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``doveadm`` with its configuration and as its user; the user of the mail is ``somebody``."""
        return subprocess.run(
            [program("doveadm"), "-c", str(self.home / "dovecot.conf"), *words],
            capture_output=True, text=True, timeout=60, cwd=self.home, **_as(self.who),
            env={**environment(self.home), "USER": "somebody"},
        )  # fmt: skip

    def auth_test(self, name: str, password: str) -> bool:
        """Return the output of ``doveadm auth test`` for a password."""
        done = self.doveadm("auth", "test", name, password)
        assert f"auth {'failed' if done.returncode else 'succeeded'}" in done.stdout, done.stderr
        return done.returncode == 0


class _Unprivileged(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[str]


def _as(who: pwd.struct_passwd) -> _Unprivileged:
    """Return the arguments that make a process run as *who* if the current user is root."""
    if os.geteuid() != 0:
        return {}
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def token(name: str, key: bytes = _KEY) -> bytes:
    """Return a token for *name* that this Dovecot accepts: RFC 7519, signed by HMAC (RFC 7515)."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": name, "iat": 1, "exp": _LATE})
    signed = b".".join(_url_safe(json.dumps(part).encode()) for part in parts)
    return signed + b"." + _url_safe(hmac.digest(key, signed, "sha256"))


def _url_safe(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def dovecot(accounts: str, settings: str = "", *, trusts: Path | None = None) -> Iterator[Dovecot]:
    """Start a Dovecot with *accounts*, a passwd-file, and stop it at the end.

    Skips or fails like ``missing()`` if Dovecot is not installed.  Skips for 2.4, whose configuration differs.

    *settings* are added after the standard ones; *trusts* is the CA file for client certificates.
    """
    path = _find()
    # A process that root starts as another user cannot use a directory of root.
    who = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    with tempfile.TemporaryDirectory(prefix="mailauth-", ignore_cleanup_errors=True) as directory:
        home, authority = Path(directory), trustme.CA()
        _furnish(home, authority, accounts)
        if trusts is not None:
            (home / "trusted.pem").write_bytes(trusts.read_bytes())
            settings = f"{settings}\nssl_client_ca_file = {home}/trusted.pem\n"
        for attempt in range(_ATTEMPTS):
            try:
                with _running(path, home, who, authority, settings) as running:
                    yield running
                return
            except NotStarted as error:
                if attempt == _ATTEMPTS - 1 or "already in use" not in str(error):
                    raise


def version() -> str:
    """Return the first two numbers of the version.  Skips or fails like ``missing()`` if it is not installed."""
    said = subprocess.run([program("dovecot"), "--version"], capture_output=True, text=True, timeout=30).stdout
    return ".".join(said.split(".")[:2])


def _find() -> str:
    path = program("dovecot")
    if version() != "2.3":
        pytest.skip(f"Dovecot {version()} is installed, but the configuration of these tests is for 2.3")
    words = [program("doveconf"), "-c", "/dev/null", "-h", "libexec_dir"]
    programs = Path(subprocess.run(words, capture_output=True, text=True, timeout=30).stdout.strip())
    if not all((programs / name).exists() for name in ("pop3", "submission")):
        missing(_PACKAGES)
    return path


def _furnish(home: Path, authority: trustme.CA, accounts: str) -> None:
    issued = authority.issue_cert("localhost", HOST)
    issued.private_key_and_cert_chain_pem.write_to_path(str(home / "certificate.pem"))
    authority.cert_pem.write_to_path(str(home / "clients.pem"))
    (home / "users").write_text(accounts)
    (home / "oauth2.conf").write_text(_TOKENS.format(home=home))
    keys = home / "keys" / "default" / "HS256"
    keys.mkdir(parents=True)
    (keys / "default").write_bytes(base64.b64encode(_KEY))


@contextmanager
def _running(path: str, home: Path, who: pwd.struct_passwd, authority: trustme.CA, settings: str) -> Iterator[Dovecot]:
    numbers = _free_ports("smtp", "smtps", "pop3", "pop3s")
    with socket.socket() as nowhere:  # bound and not listening: connections are refused
        nowhere.bind((HOST, 0))
        (home / "dovecot.conf").write_text(
            _CONFIGURATION.format(
                home=home, user=who.pw_name, group=grp.getgrgid(who.pw_gid).gr_name,
                nowhere=nowhere.getsockname()[1], **numbers,
            ) + settings
        )  # fmt: skip
        if os.geteuid() == 0:
            for place in (home, *home.rglob("*")):
                os.chown(place, who.pw_uid, who.pw_gid)
        with subprocess.Popen(
            [path, "-F", "-c", str(home / "dovecot.conf")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **_as(who),
        ) as process:  # fmt: skip
            try:
                assert process.stderr is not None
                said: list[str] = []
                for line in process.stderr:
                    said.append(line)
                    if "starting up" in line:  # printed after it listens
                        break
                else:
                    raise NotStarted("".join(said))
                reader = threading.Thread(target=said.extend, args=(process.stderr,))
                reader.start()
                ports = server.RunningServer(
                    hosts=(HOST,),
                    smtp=numbers["smtp"],
                    smtps=numbers["smtps"],
                    pop3=numbers["pop3"],
                    pop3s=numbers["pop3s"],
                )
                yield Dovecot(ports=ports, authority=authority, home=home, log=said, who=who)
            finally:
                process.terminate()
                process.wait(30)
            reader.join(30)


def _free_ports(*names: str) -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind((HOST, 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}
