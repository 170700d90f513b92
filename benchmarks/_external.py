"""The compared servers that are programs of their own: go-smtp, nodemailer's smtp-server, smtp-sink, and Dovecot.

``make bench-peers`` installs them.  Each runs as a child process with a temporary configuration, and is left out of the
tables if it is not installed.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import _certificates
from _load import DOVECOT, GO_SMTP, NODEMAILER, SMTP_SINK, TWISTED
from _messages import MAILDROPS, PASSWORD

HOST: Final = "127.0.0.1"
FOLDER: Final = Path(__file__).parent.parent / ".bench"
"""The folder into which ``make bench-peers`` installs."""

_PATH: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
_TLS: Final = {"smtps": "implicit", "starttls": "starttls"}

_CONFIGURATION: Final = """
base_dir = {home}/run
state_dir = {home}/state
log_path = /dev/null
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_location = maildir:{home}/mail/%u
mail_fsync = never
protocols = pop3
listen = 127.0.0.1
ssl = yes
ssl_cert = <{home}/certificate.pem
ssl_key = <{home}/certificate.pem
disable_plaintext_auth = no
auth_mechanisms = plain apop
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
# A login process serves many clients, as the manual recommends for speed; a session has a process of its own.
service pop3-login {{
  chroot =
  service_count = 0
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
}}
passdb {{
  driver = passwd-file
  args = {home}/users
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={home}/mail/%u
}}
"""


def missing(name: str, serves: str) -> str | None:
    """Return why the server *name* cannot run, or None if it can."""
    if name == TWISTED and serves not in ("smtp", "pop3") and importlib.util.find_spec("OpenSSL") is None:
        return "pyOpenSSL is not installed"
    if name == GO_SMTP and not (FOLDER / "go-smtp").exists():
        return "go-smtp is not installed"
    if name == NODEMAILER and not (_find("node") and (FOLDER / "node_modules" / "smtp-server").is_dir()):
        return "Node.js or smtp-server is not installed"
    if name == SMTP_SINK and not _find("smtp-sink"):
        return "smtp-sink is not installed"
    if name == DOVECOT:
        path = _find("dovecot")
        if path is None or not _find("doveconf"):
            return "Dovecot is not installed"
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        if not said.startswith("2.3."):
            return "the configuration is for Dovecot 2.3"
    return None


def run(serves: str, name: str, announce: Callable[..., None]) -> None:
    """Run the server *name* until standard input ends."""
    with tempfile.TemporaryDirectory(prefix="mailauth-bench-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        certificate = _certificates.write(home)
        if name == DOVECOT:
            process, port = _dovecot(home, serves)
        elif name == SMTP_SINK:
            process, port = _smtp_sink()
        else:
            process, port = _announced(_words(serves, name, certificate))

        def end() -> None:
            process.terminate()
            process.wait()

        announce(port, end)
        process.wait()


def _find(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _words(serves: str, name: str, certificate: Path) -> list[str]:
    mode = _TLS.get(serves)
    if name == GO_SMTP:
        flags = ["-tls", mode, "-cert", str(certificate)] if mode else []
        return [str(FOLDER / "go-smtp"), *flags, *MAILDROPS]
    return [_find("node") or "node", str(FOLDER / "server.js"), mode or "none", str(certificate), *MAILDROPS]


def _announced(words: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program that prints its port."""
    environment = {**os.environ, "PASSWORD": PASSWORD.decode("ascii")}
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def _smtp_sink() -> tuple[subprocess.Popen[bytes], int]:
    port = _free_ports(1)[0]
    words = [_find("smtp-sink") or "smtp-sink", "-c", "-h", "mail.example.test", f"{HOST}:{port}", "1000"]
    if os.geteuid() == 0:
        words[1:1] = ["-u", "nobody"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _await_port(process, port)
    return process, port


def _dovecot(home: Path, serves: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start Dovecot with the maildrops in Maildirs, as an unprivileged user."""
    who = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    ports = dict(zip(("pop3", "pop3s"), _free_ports(2), strict=True))
    (home / "users").write_text("".join(f"{name}:{{PLAIN}}{PASSWORD.decode('ascii')}\n" for name in MAILDROPS))
    for name, messages in MAILDROPS.items():
        for part in ("cur", "new", "tmp"):
            (home / "mail" / name / part).mkdir(parents=True)
        for number, text in enumerate(messages, 1):
            (home / "mail" / name / "cur" / f"{number}.mail:2,").write_bytes(text.replace(b"\r\n", b"\n"))
    configuration = home / "dovecot.conf"
    configuration.write_text(_CONFIGURATION.format(home=home, user=who.pw_name, group=_group(who), **ports))
    root = os.geteuid() == 0
    if root:
        for place in (home, *home.rglob("*")):
            os.chown(place, who.pw_uid, who.pw_gid)
    process = subprocess.Popen(
        [_find("dovecot") or "dovecot", "-F", "-c", str(configuration)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        user=who.pw_uid if root else None, group=who.pw_gid if root else None, extra_groups=[] if root else None,
    )  # fmt: skip
    _await_port(process, ports[serves])
    return process, ports[serves]


def _group(who: pwd.struct_passwd) -> str:
    return grp.getgrgid(who.pw_gid).gr_name


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(number)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    process.terminate()  # otherwise it would go on, and a later run would measure beside it
    sys.exit(f"the server did not start: {process.args!r}")
