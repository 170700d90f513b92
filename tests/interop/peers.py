"""Run a mail server of another project for a test, from the packages that ``unpack_servers.sh`` has unpacked.

Each server runs in namespaces of its own (``unshare(1)``): it sees its programs in ``/usr``, its configuration in
``/etc``, the temporary directory of the test as ``/srv``, and parts of that as ``/var`` and ``/run``.  The system is
not changed, and every process of the server ends with it.  This needs root, and a kernel that allows overlay mounts;
otherwise the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import attrs
import pytest

from mailauth_io import server
from tests.interop.client_config import HOST, missing
from tests.io.tls import authority

NAME, PASSWORD = "alice", "open sesame"
ALICE, DINAH = "alice@example.test", "dinah@far.test"
"""The mailboxes of the SMTP servers."""
LIMIT: Final = 200_000
"""Bytes of the largest message, for servers that have a limit."""

_SERVERS: Final = Path(
    os.environ.get("MAILAUTH_SERVERS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailauth-servers"
)
_ATTEMPTS: Final = 5
"""Another program may take a free port before the server binds it."""
_TIMEOUT: Final = 30.0

_ENTER: Final = r"""
servers=$1
mount --bind . /srv
mount -t overlay overlay -o "ro,lowerdir=$servers/usr:/usr" /usr
mount -t overlay overlay -o "ro,lowerdir=/srv/etc:$servers/etc:/etc" /etc
mount --bind /srv/run /run
mount --bind /srv/var /var
hostname mail.example.test
ulimit -n 1024  # for servers that close every possible descriptor
cd /srv
sh -e start
exit  # so that this shell is not replaced: a server that changes its user is no longer killed with its parent
"""
_UNSHARE: Final = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)

_USERS: Final = (
    "alice", "dinah", "cyrus", "courier", "Debian-exim", "dovecot", "dovenull", "opensmtpd", "opensmtpq", "popa3d",
    "postfix", "smmsp", "smmta", "spop3d",
)  # fmt: skip
_GROUPS: Final = ("postdrop",)
_FIRST_ID: Final = 7000
_CRYPTED: Final = "$6$mailauth$HFMdTZaXEwuuJO3AaDx0lKSm0C8tYJ9e2JDusOrB8vdBRWJo1m8s2zuhRwOax.NIaJmu9ChrpNY6LEqs2cRZU."


@attrs.frozen(kw_only=True)
class Peer:
    """A running server."""

    home: Path
    ports: server.RunningServer
    lmtp: int | None
    impatient: int | None
    """A port for SMTP that closes a connection which is idle for a second."""

    def fill(self, messages: Sequence[bytes], *, maildir: str | None = None) -> None:
        """Replace the messages of the account, in its mbox or in a Maildir below the home directory of the server."""
        messages = [message.replace(b"\r\n", b"\n") for message in messages]
        if maildir is None:
            path = self.home / "var/mail" / NAME
            separator = b"From bob@example.org Mon Nov 30 01:02:03 2026\n"
            path.write_bytes(b"".join(separator + message + b"\n" for message in messages))
            os.chown(path, _FIRST_ID, 8)
            path.chmod(0o660)
            return
        for path in (self.home / maildir).glob("[cn]*/*"):
            path.unlink()
        for number, message in enumerate(messages):
            path = self.home / maildir / "new" / f"{time.time_ns()}.{number}.test"
            path.write_bytes(message)
            os.chown(path, _FIRST_ID, _FIRST_ID)

    def log(self) -> str:
        """Return what it has printed."""
        return (self.home / "log").read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait until *text* is in the log."""
        deadline = time.monotonic() + _TIMEOUT
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def delivered(self, *marks: bytes) -> bytes:
        """Wait for the file in ``mail`` that contains all *marks*, and return it."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            for path in (self.home / "mail").rglob("*"):
                if "tmp" not in path.relative_to(self.home).parts and path.is_file():
                    data = path.read_bytes()
                    if all(mark in data for mark in marks):
                        return data
            assert time.monotonic() < deadline, f"{marks} was not delivered:\n{self.log()}"
            time.sleep(0.02)


@attrs.frozen(kw_only=True, eq=False)
class Recipe:
    """How to start a server.  In the texts, ``@smtp@`` is the port of that name, and ``/srv`` the directory."""

    program: str
    """A file of its package."""
    ports: tuple[str, ...]
    files: Mapping[str, str]
    """Paths in its directory, with their contents."""
    start: str
    """A shell script that ends with the server in the foreground."""

    def write(self, home: Path, ports: Mapping[str, int]) -> None:
        values = {"python": sys.executable, "password": PASSWORD, "crypted": _CRYPTED, "limit": LIMIT, **ports}
        for name, text in {**self.files, "start": self.start}.items():
            for key, value in values.items():
                text = text.replace(f"@{key}@", str(value))
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(text)


class _NotStarted(Exception):
    """The server ended; the text is its output."""


@contextmanager
def running(recipe: Recipe) -> Iterator[Peer]:
    """Start a server, and kill it at the end.  Skips or fails like ``missing()`` if it is not unpacked."""
    if not (_SERVERS / recipe.program.lstrip("/")).exists():
        missing(f"{recipe.program} ({Path(__file__).with_name('unpack_servers.sh')})")
    if not _can_unshare():
        pytest.skip("mount namespaces with overlays are not allowed here: this needs root")
    for attempt in range(1, _ATTEMPTS + 1):
        with tempfile.TemporaryDirectory(prefix="mailauth-", ignore_cleanup_errors=True) as directory:
            home = Path(directory)
            home.chmod(0o755)  # servers run as other users
            ports = _free_ports(recipe.ports)
            _furnish(home)
            recipe.write(home, ports)
            try:
                with _process(home, ports):
                    numbers = server.RunningServer(
                        hosts=(HOST,),
                        smtp=ports.get("smtp"),
                        smtps=ports.get("smtps"),
                        pop3=ports.get("pop3"),
                        pop3s=ports.get("pop3s"),
                    )
                    yield Peer(home=home, ports=numbers, lmtp=ports.get("lmtp"), impatient=ports.get("impatient"))
                return
            except _NotStarted as error:
                # Postfix says nothing: it logs through a process that it has not started yet.
                if attempt == _ATTEMPTS or (str(error) and "in use" not in str(error)):
                    raise


@cache
def _can_unshare() -> bool:
    words = [*_UNSHARE, "mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={_SERVERS}/usr:/usr", "/usr"]
    return (
        shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, timeout=30).returncode == 0
    )


def _furnish(home: Path) -> None:
    """Write what every server needs: certificates by the CA of ``tests.io.tls``, users, and a system without DNS."""
    for name in ("etc", "run", "mail", "var/spool", "var/lib", "var/tmp", "var/log", "var/mail", "var/cache"):
        (home / name).mkdir(parents=True)
    for name in ("mail", "var/tmp", "var/mail"):
        (home / name).chmod(0o1777)
    (home / "var/run").symlink_to("/run")
    write = (home / "etc").joinpath
    issued = authority().issue_cert("localhost", HOST, "mail.example.test")
    issued.private_key_and_cert_chain_pem.write_to_path(str(home / "certificate.pem"))
    authority().cert_pem.write_to_path(str(home / "authority.pem"))
    (home / "certificate.pem").chmod(0o600)
    numbers = range(_FIRST_ID, _FIRST_ID + len(_USERS) + len(_GROUPS))
    ids = dict(zip((*_USERS, *_GROUPS), numbers, strict=True))
    write("passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        + "".join(f"{name}:x:{ids[name]}:{ids[name]}:{name}:/srv/home/{name}:/bin/sh\n" for name in _USERS)
    )
    write("group").write_text(
        "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\nmail:x:8:\nshadow:x:42:\nsasl:x:45:\n"
        + "".join(f"{name}:x:{ids[name]}:\n" for name in ids)
    )
    for name in (NAME, "dinah"):
        (home / "home" / name).mkdir(parents=True)
        os.chown(home / "home" / name, ids[name], ids[name])
    # The crypt(3) hash of PASSWORD, and PAM without the modules that this system has configured.
    write("shadow").write_text("".join(f"{name}:{_CRYPTED}:20000:0:99999:7:::\n" for name in ("alice", "dinah")))
    write("shadow").chmod(0o600)
    write("pam.d").mkdir()
    write("pam.d/common-auth").write_text("auth required pam_unix.so\n")
    write("pam.d/common-account").write_text("account required pam_unix.so\n")
    write("hosts").write_text("127.0.0.1 mail.example.test mail localhost\n")
    write("nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    write("resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")


@contextmanager
def _process(home: Path, ports: Mapping[str, int]) -> Iterator[None]:
    words = [*_UNSHARE, "sh", "-ec", _ENTER, "sh", str(_SERVERS)]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home, start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": str(home)},
        ) as process,
    ):  # fmt: skip
        try:
            deadline = time.monotonic() + _TIMEOUT
            while not all(_listens(port) for port in ports.values()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise _NotStarted((home / "log").read_text(errors="replace"))
                time.sleep(0.02)
            yield
        finally:
            process.kill()  # the first process of the namespace is killed with it, and all others with that


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex((HOST, port)) == 0


def _free_ports(names: tuple[str, ...]) -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind((HOST, 0))
        return {name: int(one.getsockname()[1]) for name, one in zip(names, sockets, strict=True)}
