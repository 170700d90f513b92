"""Mail clients of other projects, each reduced to two functions: submit a message and collect one.

Success is their exit status.
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

from tests.interop.client_config import (
    BY_TOKEN,
    FRIEND,
    HOST,
    SENDER,
    WAYS,
    ClientConfig,
    CommandRejected,
    missing,
    run,
)
from tests.interop.fetchers import fetchmail_collect, getmail_collect
from tests.interop.mailers import mutt_collect, mutt_submit, s_nail_collect, s_nail_submit
from tests.interop.senders import git_submit

# curl


def _curl(client_config: ClientConfig, protocol: str, path: str, *arguments: str, data: bytes = b"") -> bytes:
    words = ["--silent", "--show-error", "--max-time", "30", "--interface", client_config.source]
    if client_config.tls_mode != "clear":
        words += ["--cacert", str(client_config.trusted)]
    if client_config.tls_mode == "upgrade":
        words += ["--ssl-reqd"]
    if client_config.login:
        option = "AUTH=+APOP" if client_config.login == "APOP" else f"AUTH={client_config.login}"
        words += ["--login-options", option]
        if client_config.login in BY_TOKEN:
            words += ["--user", client_config.name, "--oauth2-bearer", client_config.token]
        elif client_config.login == "EXTERNAL":
            words += ["--user", f"{client_config.name}:", "--cert", str(client_config.certificate)]
        else:
            words += ["--user", f"{client_config.name}:{client_config.password}"]
    scheme = protocol + ("s" if client_config.tls_mode == "implicit" else "")
    return run(
        "curl", [*words, *arguments, f"{scheme}://{HOST}:{client_config.port}/{path}"], data, home=client_config.scratch
    )


def curl_submit(client_config: ClientConfig, message: bytes) -> None:
    _curl(
        client_config,
        "smtp",
        "client.test",
        "--mail-from",
        SENDER,
        "--mail-rcpt",
        FRIEND,
        "--upload-file",
        "-",
        data=message,
    )


def curl_collect(client_config: ClientConfig, number: int = 1) -> bytes:
    return _curl(client_config, "pop3", str(number))


# msmtp and mpop read a configuration file that only the owner may read.


def _configuration(client_config: ClientConfig, *more: str) -> Path:
    lines = [
        "account default",
        f"host {HOST}",
        f"port {client_config.port}",
        f"source_ip {client_config.source}",
        *more,
    ]
    if client_config.login:
        lines += [
            f"auth {client_config.login.lower()}",
            f"user {client_config.name}",
            f'password "{client_config.secret}"',
        ]
        if client_config.login == "EXTERNAL":
            lines += [f"tls_cert_file {client_config.certificate}", f"tls_key_file {client_config.certificate}"]
    if client_config.tls_mode == "clear":
        lines += ["tls off"]
    else:
        lines += ["tls on", f"tls_trust_file {client_config.trusted}"]
        lines += [f"tls_starttls {'on' if client_config.tls_mode == 'upgrade' else 'off'}"]
    return client_config.file("configuration", *lines)


def msmtp_submit(client_config: ClientConfig, message: bytes) -> None:
    configuration = _configuration(client_config, "domain client.test", f"from {SENDER}")
    run("msmtp", ["-C", str(configuration), "--", FRIEND], message, home=client_config.scratch)


def mpop_collect(client_config: ClientConfig) -> bytes:
    maildir = client_config.maildir()
    configuration = _configuration(
        client_config,
        *(f"keep {'off' if client_config.delete else 'on'}", "received_header off"),
        *(f"delivery maildir {maildir}", f"uidls_file {client_config.scratch}/uidls"),
    )
    run("mpop", ["-C", str(configuration)], home=client_config.scratch)
    return b"".join(path.read_bytes() for path in sorted(maildir.glob("new/*")))


# swaks


@functools.cache
def _swaks_knows_tls() -> bool:
    return b"TLS supported" in run("swaks", ["--support"], home=Path.cwd())


def swaks_submit(client_config: ClientConfig, message: bytes) -> None:
    if client_config.tls_mode != "clear" and not _swaks_knows_tls():
        missing("Net::SSLeay, which swaks needs for TLS,")
    path = client_config.scratch / "message"
    path.write_bytes(message.replace(b"\r\n", b"\n").removesuffix(b"\n"))  # it adds a line end
    words = [
        "--server",
        HOST,
        "--port",
        str(client_config.port),
        "--local-interface",
        client_config.source,
        "--helo",
        "client.test",
    ]
    words += ["--from", SENDER, "--to", FRIEND, "--data", f"@{path}", "--timeout", "30"]
    if client_config.tls_mode != "clear":
        words += ["--tls-verify", "--tls-ca-path", str(client_config.trusted)]
        words += ["--tls" if client_config.tls_mode == "upgrade" else "--tls-on-connect"]
    if client_config.login:
        words += [
            "--auth",
            client_config.login,
            "--auth-user",
            client_config.name,
            "--auth-password",
            client_config.password,
        ]
    run("swaks", words, home=client_config.scratch)


# The standard library


def smtplib_submit(client_config: ClientConfig, message: bytes) -> None:
    context = ssl.create_default_context(cafile=str(client_config.trusted))
    source = (client_config.source, 0)
    try:
        with (
            smtplib.SMTP_SSL(
                HOST, client_config.port, "client.test", timeout=30, source_address=source, context=context
            )
            if client_config.tls_mode == "implicit"
            else smtplib.SMTP(HOST, client_config.port, "client.test", timeout=30, source_address=source)
        ) as client:
            client.ehlo()
            if client_config.tls_mode == "upgrade":
                client.starttls(context=context)
                client.ehlo()
            if client_config.login:
                client.user, client.password = client_config.name, client_config.password
                match client_config.login:
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


def poplib_collect(client_config: ClientConfig, number: int = 1) -> bytes:
    context = ssl.create_default_context(cafile=str(client_config.trusted))

    class FromSource(poplib.POP3):
        """poplib has no option for the source address."""

        def _create_socket(self, timeout: float) -> socket.socket:
            plain = socket.create_connection(
                (HOST, client_config.port), timeout, source_address=(client_config.source, 0)
            )
            return context.wrap_socket(plain, server_hostname=HOST) if client_config.tls_mode == "implicit" else plain

    client = FromSource(HOST, client_config.port, timeout=30)
    try:
        if client_config.tls_mode == "upgrade":
            client.stls(context=context)
        if client_config.login == "APOP":
            client.apop(client_config.name, client_config.password)
        else:
            client.user(client_config.name)
            client.pass_(client_config.password)
        text = b"".join(line + b"\r\n" for line in client.retr(number)[1])
        if client_config.delete:
            client.dele(number)
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
    """A client that submits messages."""

    submit: Callable[[ClientConfig, bytes], None]
    logins: tuple[str, ...] = PASSWORDS
    composes: bool = False
    """It writes its own header fields; only Subject and body are as given."""


@attrs.frozen(kw_only=True)
class Collector:
    """A client that collects messages."""

    collect: Callable[[ClientConfig], bytes]
    logins: tuple[str, ...]
    impossible: tuple[tuple[str, str], ...] = ()
    """Unsupported combinations of login and TLS mode."""
    deletes: bool = True


SUBMITTERS: dict[str, Submitter] = {
    # curl uses OAUTHBEARER if both are offered, even if told to use XOAUTH2; the one of Debian has no SCRAM.
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
        impossible=(("APOP", "upgrade"),),  # with APOP it does not send STLS, and continues without TLS
    ),
    "getmail": Collector(
        collect=getmail_collect,
        logins=("USER", "APOP"),
        impossible=(("USER", "upgrade"), ("APOP", "upgrade")),  # no support for STLS
    ),
    "s-nail": Collector(collect=s_nail_collect, logins=("USER", "APOP")),
    "mutt": Collector(collect=mutt_collect, logins=("USER", "APOP", *PASSWORDS, *MODERN)),
}


def submissions() -> list[tuple[str, str, str]]:
    """Return every submitting client with every login and TLS mode that it supports."""
    return [
        (name, login, tls_mode)
        for name, client in SUBMITTERS.items()
        for login in client.logins
        for tls_mode in WAYS
        if not (tls_mode == "clear" and login in ONLY_INSIDE_TLS)
    ]


def collections() -> list[tuple[str, str, str]]:
    """Return every collecting client with every login and TLS mode that it supports."""
    return [
        (name, login, tls_mode)
        for name, client in COLLECTORS.items()
        for login in client.logins
        for tls_mode in WAYS
        if (login, tls_mode) not in client.impossible and not (tls_mode == "clear" and login in ONLY_INSIDE_TLS)
    ]
