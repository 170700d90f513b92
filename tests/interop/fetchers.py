"""fetchmail and getmail: clients that collect a complete maildrop.

Several messages are returned one after another.
"""

from __future__ import annotations

import re

from tests.interop.client_config import BY_TOKEN, ClientConfig, run

_ENVELOPE = re.compile(rb"^Return-Path: <unknown>\n", re.MULTILINE)


def fetchmail_collect(client_config: ClientConfig) -> bytes:
    fetchmail(client_config)
    return (client_config.scratch / "message").read_bytes()


def fetchmail(client_config: ClientConfig) -> bytes:
    """Collect all messages; return its output."""
    collected = client_config.scratch / "message"
    words = [
        "poll localhost",
        f"service {client_config.port}",
        f"protocol {'APOP' if client_config.login == 'APOP' else 'POP3'}",
    ]
    words += ["uidl", "no dns", "timeout 30"]
    if client_config.login != "APOP":
        words += [f"auth {'password' if client_config.login == 'USER' else client_config.login.lower()}"]
    words += [
        f'user "{client_config.name}"',
        f'password "{client_config.password}"',
        "nokeep" if client_config.delete else "keep",
    ]
    words += ["no rewrite", "no mimedecode", f'mda "cat >> {collected}"']
    if client_config.tls_mode == "clear":
        words += ['sslproto ""']
    else:
        words += [f"sslcertck sslcertfile {client_config.trusted}", 'sslproto "TLS1.2+"']
        words += ["ssl"] if client_config.tls_mode == "implicit" else []
    configuration = client_config.file("fetchmailrc", " ".join(words))
    files = ["--pidfile", f"{client_config.scratch}/pid", "--idfile", f"{client_config.scratch}/ids"]
    return run(
        "fetchmail", ["-v", "--invisible", "--nosyslog", "-f", str(configuration), *files], home=client_config.scratch
    )


def getmail_collect(client_config: ClientConfig) -> bytes:
    """It requires LIST and UIDL, and does not support STLS.  See ``getmail_knows_tokens()``."""
    collected = client_config.scratch / "message"
    retriever = "SimplePOP3SSLRetriever" if client_config.tls_mode == "implicit" else "SimplePOP3Retriever"
    configuration = client_config.file(
        "getmailrc",
        *("[retriever]", f"type = {retriever}", "server = localhost", f"port = {client_config.port}"),
        *(
            f"username = {client_config.name}",
            f"password = {client_config.secret}",
            *(["use_xoauth2 = true"] if client_config.login in BY_TOKEN else []),
            f"use_apop = {client_config.login == 'APOP'}",
        ),
        *([f"ca_certs = {client_config.trusted}"] if client_config.tls_mode == "implicit" else []),
        *("[destination]", "type = MDA_external", "path = /bin/sh", f"arguments = ('-c', 'cat >> {collected}')"),
        "allow_root_commands = true",  # getmail does not write into a Maildir as root
        *("[options]", "delivered_to = false", "received = false", f"delete = {client_config.delete}"),
    )
    run(
        "getmail",
        ["--getmaildir", str(client_config.scratch), "--rcfile", str(configuration)],
        home=client_config.scratch,
    )
    return _ENVELOPE.sub(b"", collected.read_bytes())  # it adds an envelope line to messages


def getmail_knows_tokens(client_config: ClientConfig) -> bool:
    """Return whether getmail can log in to POP3 with a token: from 6.19.4 on."""
    version = re.search(rb"([0-9]+)\.([0-9]+)\.([0-9]+)", run("getmail", ["--version"], home=client_config.scratch))
    assert version is not None
    return tuple(map(int, version.groups())) >= (6, 19, 4)
