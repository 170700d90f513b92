"""Mail clients that others wrote, each reduced to two verbs: submit a message, collect one.

Knows their options and their ways; knows nothing of the server but ports, and tells success by their own exit status.
"""

from __future__ import annotations

import functools
import poplib
import smtplib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.interop.fetchers import fetchmail_collect, getmail_collect
from tests.interop.mailers import mutt_collect, mutt_submit, s_nail_collect, s_nail_submit
from tests.interop.senders import git_submit
from tests.interop.visit import BY_TOKEN, FRIEND, HOST, SENDER, WAYS, CommandRejected, Visit, missing, run

# curl


def _curl(visit: Visit, protocol: str, path: str, *arguments: str, data: bytes = b"") -> bytes:
    words = ["--silent", "--show-error", "--max-time", "30", "--interface", visit.source]
    if visit.way != "clear":
        words += ["--cacert", str(visit.trusted)]
    if visit.way == "upgrade":
        words += ["--ssl-reqd"]
    if visit.login:
        option = "AUTH=+APOP" if visit.login == "APOP" else f"AUTH={visit.login}"
        words += ["--login-options", option]
        if visit.login in BY_TOKEN:
            words += ["--user", visit.name, "--oauth2-bearer", visit.token]
        elif visit.login == "EXTERNAL":
            words += ["--user", f"{visit.name}:", "--cert", str(visit.certificate)]
        else:
            words += ["--user", f"{visit.name}:{visit.password}"]
    scheme = protocol + ("s" if visit.way == "implicit" else "")
    return run("curl", [*words, *arguments, f"{scheme}://{HOST}:{visit.port}/{path}"], data, home=visit.scratch)


def curl_submit(visit: Visit, message: bytes) -> None:
    _curl(
        visit, "smtp", "client.test", "--mail-from", SENDER, "--mail-rcpt", FRIEND, "--upload-file", "-", data=message
    )


def curl_collect(visit: Visit) -> bytes:
    return _curl(visit, "pop3", "1")


# msmtp and mpop read a file of their own, which nobody else may read.


def _configuration(visit: Visit, *more: str) -> Path:
    lines = ["account default", f"host {HOST}", f"port {visit.port}", f"source_ip {visit.source}", *more]
    if visit.login:
        lines += [f"auth {visit.login.lower()}", f"user {visit.name}", f'password "{visit.secret}"']
        if visit.login == "EXTERNAL":
            lines += [f"tls_cert_file {visit.certificate}", f"tls_key_file {visit.certificate}"]
    if visit.way == "clear":
        lines += ["tls off"]
    else:
        lines += ["tls on", f"tls_trust_file {visit.trusted}"]
        lines += [f"tls_starttls {'on' if visit.way == 'upgrade' else 'off'}"]
    return visit.file("configuration", *lines)


def msmtp_submit(visit: Visit, message: bytes) -> None:
    configuration = _configuration(visit, "domain client.test", f"from {SENDER}")
    run("msmtp", ["-C", str(configuration), "--", FRIEND], message, home=visit.scratch)


def mpop_collect(visit: Visit) -> bytes:
    maildir = visit.maildir()
    configuration = _configuration(
        visit,
        *(f"keep {'off' if visit.delete else 'on'}", "received_header off"),
        *(f"delivery maildir {maildir}", f"uidls_file {visit.scratch}/uidls"),
    )
    run("mpop", ["-C", str(configuration)], home=visit.scratch)
    (path,) = maildir.glob("new/*")
    return path.read_bytes()


# swaks


@functools.cache
def _swaks_knows_tls() -> bool:
    return b"TLS supported" in run("swaks", ["--support"], home=Path.cwd())


def swaks_submit(visit: Visit, message: bytes) -> None:
    if visit.way != "clear" and not _swaks_knows_tls():
        missing("Net::SSLeay, which swaks needs for TLS,")
    path = visit.scratch / "message"
    path.write_bytes(message.replace(b"\r\n", b"\n").removesuffix(b"\n"))  # it adds a line end of its own
    words = ["--server", HOST, "--port", str(visit.port), "--local-interface", visit.source, "--helo", "client.test"]
    words += ["--from", SENDER, "--to", FRIEND, "--data", f"@{path}", "--timeout", "30"]
    if visit.way != "clear":
        words += ["--tls-verify", "--tls-ca-path", str(visit.trusted)]
        words += ["--tls" if visit.way == "upgrade" else "--tls-on-connect"]
    if visit.login:
        words += ["--auth", visit.login, "--auth-user", visit.name, "--auth-password", visit.password]
    run("swaks", words, home=visit.scratch)


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
                client.user, client.password = visit.name, visit.password
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
        raise CommandRejected(str(error)) from error


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
            client.apop(visit.name, visit.password)
        else:
            client.user(visit.name)
            client.pass_(visit.password)
        text = b"".join(line + b"\r\n" for line in client.retr(1)[1])
        if visit.delete:
            client.dele(1)
        return text
    except poplib.error_proto as error:
        raise CommandRejected(str(error)) from error
    finally:
        client.quit()


PASSWORDS = ("PLAIN", "LOGIN", "CRAM-MD5")
SCRAM = ("SCRAM-SHA-1", "SCRAM-SHA-256")
MODERN = (*SCRAM, *BY_TOKEN, "EXTERNAL")
ONLY_INSIDE_TLS = (*BY_TOKEN, "EXTERNAL")


@attrs.frozen(kw_only=True)
class Submitter:
    """A client that sends."""

    submit: Callable[[Visit, bytes], None]
    logins: tuple[str, ...] = PASSWORDS
    composes: bool = False
    """It writes header fields of its own; only Subject and body are those that it was given."""


@attrs.frozen(kw_only=True)
class Collector:
    """A client that reads."""

    collect: Callable[[Visit], bytes]
    logins: tuple[str, ...]
    impossible: tuple[tuple[str, str], ...] = ()
    """What it cannot do, as login and way."""
    deletes: bool = True


SUBMITTERS: dict[str, Submitter] = {
    # curl takes OAUTHBEARER where both are offered, even when it is told XOAUTH2; Debian's has no SCRAM.
    "curl": Submitter(submit=curl_submit, logins=(*PASSWORDS, "OAUTHBEARER", "EXTERNAL")),
    "msmtp": Submitter(submit=msmtp_submit, logins=(*PASSWORDS, *MODERN)),
    "swaks": Submitter(submit=swaks_submit),
    "smtplib": Submitter(submit=smtplib_submit),
    "s-nail": Submitter(submit=s_nail_submit, composes=True),
    "mutt": Submitter(submit=mutt_submit, logins=(*PASSWORDS, *MODERN), composes=True),
    "git": Submitter(submit=git_submit, composes=True),
}

COLLECTORS: dict[str, Collector] = {
    "curl": Collector(collect=curl_collect, logins=("APOP", *PASSWORDS, "OAUTHBEARER", "EXTERNAL"), deletes=False),
    "mpop": Collector(collect=mpop_collect, logins=("USER", "APOP", *PASSWORDS, *MODERN)),
    "poplib": Collector(collect=poplib_collect, logins=("USER", "APOP")),
    "fetchmail": Collector(
        collect=fetchmail_collect,
        logins=("USER", "APOP", "CRAM-MD5"),
        impossible=(("APOP", "upgrade"),),  # with APOP it asks for no STLS, and goes on in clear
    ),
    "getmail": Collector(
        collect=getmail_collect,
        logins=("USER", "APOP"),
        impossible=(("USER", "upgrade"), ("APOP", "upgrade")),  # it knows no STLS
    ),
    "s-nail": Collector(collect=s_nail_collect, logins=("USER", "APOP")),
    "mutt": Collector(collect=mutt_collect, logins=("USER", "APOP", *PASSWORDS, *MODERN)),
}


def submissions() -> list[tuple[str, str, str]]:
    """Every client that sends, with every login and way that it knows."""
    return [
        (name, login, way)
        for name, client in SUBMITTERS.items()
        for login in client.logins
        for way in WAYS
        if not (way == "clear" and login in ONLY_INSIDE_TLS)
    ]


def collections() -> list[tuple[str, str, str]]:
    """Every client that reads, with every login and way that it knows."""
    return [
        (name, login, way)
        for name, client in COLLECTORS.items()
        for login in client.logins
        for way in WAYS
        if (login, way) not in client.impossible and not (way == "clear" and login in ONLY_INSIDE_TLS)
    ]
