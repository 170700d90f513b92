"""Mail clients that others wrote, each reduced to two verbs: submit a message, collect one.

Knows their options and their ways; knows nothing of the server but ports, and tells success by their own exit status.
"""

from __future__ import annotations

import functools
import os
import poplib
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

HOST = "127.0.0.1"
NAME, PASSWORD = "alice", "open sesame:2"
SENDER, FRIEND = "alice@example.test", "friend@elsewhere.test"
WAYS = ("clear", "upgrade", "implicit")
REQUIRED = os.environ.get("MAILAUTH_INTEROP") == "require"


@attrs.frozen(kw_only=True)
class Visit:
    """Where to go, how, and with what in hand."""

    port: int
    way: str
    login: str
    """A mechanism's name, USER, APOP, or empty for none."""
    trusted: Path
    scratch: Path
    """A directory for what the client must find in files."""
    source: str = HOST


class Refused(Exception):
    """The client did not get through; the text is what it said."""


def _missing(name: str) -> NoReturn:
    if REQUIRED:
        pytest.fail(f"{name} is not installed, and MAILAUTH_INTEROP=require wants it")
    pytest.skip(f"{name} is not installed")


def _run(name: str, arguments: list[str], octets: bytes = b"") -> bytes:
    path = shutil.which(name)
    if path is None:
        _missing(name)
    done = subprocess.run([path, *arguments], input=octets, capture_output=True, timeout=60)
    if done.returncode != 0:
        raise Refused(f"{name} ended with {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout


# curl


def _curl(visit: Visit, protocol: str, path: str, *arguments: str, octets: bytes = b"") -> bytes:
    words = ["--silent", "--show-error", "--max-time", "30", "--interface", visit.source]
    if visit.way != "clear":
        words += ["--cacert", str(visit.trusted)]
    if visit.way == "upgrade":
        words += ["--ssl-reqd"]
    if visit.login:
        option = "AUTH=+APOP" if visit.login == "APOP" else f"AUTH={visit.login}"
        words += ["--user", f"{NAME}:{PASSWORD}", "--login-options", option]
    scheme = protocol + ("s" if visit.way == "implicit" else "")
    return _run("curl", [*words, *arguments, f"{scheme}://{HOST}:{visit.port}/{path}"], octets)


def curl_submit(visit: Visit, message: bytes) -> None:
    _curl(
        visit, "smtp", "client.test", "--mail-from", SENDER, "--mail-rcpt", FRIEND, "--upload-file", "-", octets=message
    )


def curl_collect(visit: Visit) -> bytes:
    return _curl(visit, "pop3", "1")


# msmtp and mpop read a file of their own, which nobody else may read.


def _configuration(visit: Visit, *more: str) -> Path:
    lines = ["account default", f"host {HOST}", f"port {visit.port}", f"source_ip {visit.source}", *more]
    if visit.login:
        lines += [f"auth {visit.login.lower()}", f"user {NAME}", f'password "{PASSWORD}"']
    if visit.way == "clear":
        lines += ["tls off"]
    else:
        lines += ["tls on", f"tls_trust_file {visit.trusted}"]
        lines += [f"tls_starttls {'on' if visit.way == 'upgrade' else 'off'}"]
    path = visit.scratch / "configuration"
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def msmtp_submit(visit: Visit, message: bytes) -> None:
    configuration = _configuration(visit, "domain client.test", f"from {SENDER}")
    _run("msmtp", ["-C", str(configuration), "--", FRIEND], message)


def mpop_collect(visit: Visit) -> bytes:
    maildir = visit.scratch / "collected"
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(parents=True)
    configuration = _configuration(
        visit, "keep on", "received_header off", f"delivery maildir {maildir}", f"uidls_file {visit.scratch}/uidls"
    )
    _run("mpop", ["-C", str(configuration)])
    (path,) = maildir.glob("new/*")
    return path.read_bytes()


# swaks


@functools.cache
def _swaks_knows_tls() -> bool:
    return b"TLS supported" in _run("swaks", ["--support"])


def swaks_submit(visit: Visit, message: bytes) -> None:
    if visit.way != "clear" and not _swaks_knows_tls():
        _missing("Net::SSLeay, which swaks needs for TLS,")
    path = visit.scratch / "message"
    path.write_bytes(message.replace(b"\r\n", b"\n").removesuffix(b"\n"))  # it adds a line end of its own
    words = ["--server", HOST, "--port", str(visit.port), "--local-interface", visit.source, "--helo", "client.test"]
    words += ["--from", SENDER, "--to", FRIEND, "--data", f"@{path}", "--timeout", "30"]
    if visit.way != "clear":
        words += ["--tls-verify", "--tls-ca-path", str(visit.trusted)]
        words += ["--tls" if visit.way == "upgrade" else "--tls-on-connect"]
    if visit.login:
        words += ["--auth", visit.login, "--auth-user", NAME, "--auth-password", PASSWORD]
    _run("swaks", words)


# The standard library


def smtplib_submit(visit: Visit, message: bytes) -> None:
    context = ssl.create_default_context(cafile=str(visit.trusted))
    source = (visit.source, 0)
    try:
        with (
            smtplib.SMTP_SSL(HOST, visit.port, "client.test", timeout=30, source_address=source, context=context)
            if visit.way == "implicit"
            else smtplib.SMTP(HOST, visit.port, "client.test", timeout=30, source_address=source)
        ) as client:
            client.ehlo()
            if visit.way == "upgrade":
                client.starttls(context=context)
                client.ehlo()
            if visit.login:
                client.user, client.password = NAME, PASSWORD
                match visit.login:
                    case "PLAIN":
                        client.auth("PLAIN", client.auth_plain)
                    case "LOGIN":
                        client.auth("LOGIN", client.auth_login)
                    case "CRAM-MD5":
                        client.auth("CRAM-MD5", client.auth_cram_md5)
                    case other:
                        raise ValueError(other)
            client.sendmail(SENDER, [FRIEND], message)
    except smtplib.SMTPException as error:
        raise Refused(str(error)) from error


def poplib_collect(visit: Visit) -> bytes:
    context = ssl.create_default_context(cafile=str(visit.trusted))

    class FromSource(poplib.POP3):
        """poplib has no option for the address to come from."""

        def _create_socket(self, timeout: float) -> socket.socket:
            plain = socket.create_connection((HOST, visit.port), timeout, source_address=(visit.source, 0))
            return context.wrap_socket(plain, server_hostname=HOST) if visit.way == "implicit" else plain

    client = FromSource(HOST, visit.port, timeout=30)
    try:
        if visit.way == "upgrade":
            client.stls(context=context)
        if visit.login == "APOP":
            client.apop(NAME, PASSWORD)
        else:
            client.user(NAME)
            client.pass_(PASSWORD)
        return b"".join(line + b"\r\n" for line in client.retr(1)[1])
    except poplib.error_proto as error:
        raise Refused(str(error)) from error
    finally:
        client.quit()


SUBMITTERS: dict[str, Callable[[Visit, bytes], None]] = {
    "curl": curl_submit,
    "msmtp": msmtp_submit,
    "swaks": swaks_submit,
    "smtplib": smtplib_submit,
}

COLLECTORS: dict[str, tuple[Callable[[Visit], bytes], tuple[str, ...]]] = {
    "curl": (curl_collect, ("APOP", "PLAIN", "LOGIN", "CRAM-MD5")),
    "mpop": (mpop_collect, ("USER", "APOP", "PLAIN", "LOGIN", "CRAM-MD5")),
    "poplib": (poplib_collect, ("USER", "APOP")),
}
"""With the logins that each of them knows."""
