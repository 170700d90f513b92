"""The options of ``mailauth serve`` as the values that the server takes; whatever is wrong with them is found here.

Knows files, accounts and certificates; opens no port.  Each mistake is a Complaint.
"""

from __future__ import annotations

import argparse
import os
import ssl
from pathlib import Path
from typing import Final

import attrs

from . import certificates, server, stores
from .complaint import Complaint

HOST: Final = "127.0.0.1"
DOMAIN: Final = "example.test"


@attrs.frozen(kw_only=True)
class Serving:
    """What to serve, and what to say about it."""

    config: server.Config
    stores: server.Stores
    loop: str
    ready_file: Path | None
    remarks: tuple[str, ...]
    """Sentences for whoever starts the server: what vanishes with it, and what is weak about it."""


def read(options: argparse.Namespace) -> Serving:
    """Check *options*, read the files they name, make the directories they name.  Raises Complaint."""
    domains = tuple(options.domain or (DOMAIN,))
    hosts = tuple(options.host or (HOST,))
    accounts = _accounts(options, domains)
    ports = {name: getattr(options, name) for name in ("smtp", "smtps", "pop3", "pop3s")}
    if not any(port is not None for port in ports.values()):
        ports = dict.fromkeys(ports, 0)
    if options.ready_file is not None:
        _check_writable(options.ready_file, "--ready-file")
    context = _tls(options, hosts)
    _trust_clients(options, context)
    return Serving(
        config=server.Config(
            hosts=hosts,
            **ports,
            domains=domains,
            postmaster=_postmaster(options, accounts, domains),
            maximum_message_size=options.max_message,
            ssl_context=context,
            legacy=options.legacy,
            grant_lifetime=options.grant_lifetime,
            grant_ipv6_prefix=options.grant_ipv6_prefix,
        ),
        stores=server.Stores(
            accounts=accounts,
            maildrops=stores.MaildirMaildrops(_directory(options.maildir, "--maildir"))
            if options.maildir
            else stores.MemoryMaildrops(),
            outbox=stores.MaildirOutbox(_directory(options.outbox, "--outbox"))
            if options.outbox
            else stores.MemoryOutbox(),
        ),
        loop=options.loop,
        ready_file=options.ready_file,
        remarks=_remarks(options, accounts),
    )


def _accounts(options: argparse.Namespace, domains: tuple[str, ...]) -> stores.MemoryAccounts:
    try:
        return stores.MemoryAccounts(
            [stores.from_password(name, password, "--user") for name, password in options.user or ()],
            domains=frozenset(domains),
            file=stores.AccountsFile(options.accounts) if options.accounts is not None else None,
            tokens=options.token or (),
            certificate_names=options.client_name or (),
        )
    except stores.AccountsError as error:
        raise Complaint(str(error)) from error


def _postmaster(options: argparse.Namespace, accounts: stores.MemoryAccounts, domains: tuple[str, ...]) -> str | None:
    if options.postmaster is None:
        return next(iter(accounts.names), None)
    name = stores.mailbox_name(options.postmaster, frozenset(domains))
    if name not in accounts.names:
        raise Complaint(f"--postmaster {options.postmaster!r} is none of the accounts")
    return name


def _tls(options: argparse.Namespace, hosts: tuple[str, ...]) -> ssl.SSLContext:
    if (options.cert is None) != (options.key is None):
        raise Complaint("--cert and --key go together: give both or none")
    if options.cert is not None:
        if options.ca_out is not None:
            raise Complaint("--ca-out is for the throw-away certificate; leave it out, or --cert and --key")
        return _own_certificate(options.cert, options.key)
    try:
        made = certificates.throw_away(hosts)
    except certificates.TrialMissing as error:
        raise Complaint(f"{error}, or give --cert and --key") from error
    if options.ca_out is not None:
        try:
            options.ca_out.write_bytes(made.authority)
        except OSError as error:
            raise Complaint(f"--ca-out {options.ca_out} cannot be written: {error.strerror}") from error
    return made.server


def _own_certificate(cert: Path, key: Path) -> ssl.SSLContext:
    try:
        stores.read_private(key)
        cert.read_bytes()
    except stores.AccountsError as error:
        raise Complaint(str(error)) from error
    except OSError as error:
        raise Complaint(f"{cert} cannot be read: {error.strerror}") from error
    context = certificates.server_context()
    try:
        context.load_cert_chain(cert, key, password="")  # so that a key under a passphrase fails and asks no terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Complaint(f"the key in {key} is not that of the certificate in {cert}") from error
        raise Complaint(f"{cert} and {key} are not a certificate and its key without passphrase, in PEM") from error
    return context


def _trust_clients(options: argparse.Namespace, context: ssl.SSLContext) -> None:
    """A client may show a certificate; one that cannot be verified ends its handshake."""
    if (options.client_ca is None) != (options.client_name is None):
        raise Complaint("--client-ca and --client-name go together: who certifies clients, and what their names open")
    if options.client_ca is None:
        return
    try:
        context.load_verify_locations(cafile=options.client_ca)
    except ssl.SSLError as error:
        raise Complaint(f"--client-ca {options.client_ca} holds no certificates in PEM") from error
    except OSError as error:
        raise Complaint(f"--client-ca {options.client_ca} cannot be read: {error.strerror}") from error
    context.verify_mode = ssl.CERT_OPTIONAL


def _directory(path: Path, option: str) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Complaint(f"{option} {path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise Complaint(f"{option} {path} cannot be written")
    return path


def _check_writable(path: Path, option: str) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise Complaint(f"{option} {path} cannot be written: {path.parent} is no directory that can be")
    if path.is_dir():
        raise Complaint(f"{option} {path} cannot be written: it is a directory")


def _remarks(options: argparse.Namespace, accounts: stores.MemoryAccounts) -> tuple[str, ...]:
    vanishing = [
        name
        for name, kept in (("maildrops", options.maildir), ("the outbox", options.outbox), ("grants", None))
        if kept is None
    ]
    remarks = [f"Kept in memory, gone with this process: {', '.join(vanishing)}."]
    if options.legacy:
        remarks.append(
            "Legacy methods are on, outside TLS too: USER/PASS, APOP, AUTH PLAIN, LOGIN, CRAM-MD5 and SCRAM."
        )
    else:
        remarks.append("Legacy methods are off: no login outside TLS.")
    if options.grant_lifetime == 0:
        remarks.append("No grants: a login by POP3 opens nothing.")
    if accounts.mixed is not None:
        remarks.append(accounts.mixed)
    if stores.Proof.SECRET not in accounts.proofs:
        remarks.append("No CRAM-MD5 and no APOP: they need the password itself ({PLAIN}) of every account.")
    if options.token:
        remarks.append("Tokens from the command line, which others on this machine may see: for trials only.")
    if not accounts.names:
        remarks.append("No accounts, so nobody can log in and no mail is taken: give --user or --accounts.")
    return tuple(remarks)
