"""Check the settings of ``mailauth serve`` and build the server's configuration and stores from them.

This module reads files and opens no port.  Invalid settings raise ConfigError, which names the flag, or the line of the
configuration file.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Final

import attrs

from mailauth import sasl

from .. import server, stores
from .._files import exposure, read_file, replace_file
from ..adapters.tls import certificates
from ..adapters.tls.certificate_validity import validity
from ..adapters.tls.channel_binding import BindingContext
from ..limits import Limits
from ..logs import describe_error
from ..server.config import different_grant_setting, shared_port
from ..stores.credentials import Plain
from . import decoy_key, grants_option, references, relay_option
from .errors import ConfigError
from .renewal import RenewingContext
from .settings import Settings

_NEED_MD5: Final = frozenset({"CRAM-MD5", "APOP"})
_NEED_STORED_SECRETS: Final = _NEED_MD5 | {"SCRAM-SHA-1", "SCRAM-SHA-256"}
"""The mechanisms that do not work with every kind of stored password."""


@attrs.frozen(kw_only=True)
class ServerSetup:
    """The configuration of a server, its stores, and how the command runs it."""

    config: server.Config
    stores: server.Stores
    interceptors: tuple[server.Interceptor, ...]
    certificate: RenewingContext | None
    """The TLS context of ``config`` if its files can be reloaded, None for a temporary certificate."""
    loop: str
    ready_file: Path | None
    warnings: tuple[str, ...]
    """Sentences for the operator: what is not persistent, and what is insecure."""


def read(settings: Settings) -> ServerSetup:
    """Check *settings*, read the files that they name, and create the directories that they name.

    Raises ConfigError for the first invalid setting.
    """
    references.check(settings)
    own = None if settings.accounts_store else _accounts(settings)  # they also have the tokens and certificate names
    accounts: stores.Accounts = references.store(settings, "accounts_store") if own is None else own
    postmaster = _postmaster(settings, own)
    for check in (_check_ports, _check_ready_file, _check_ca_out, _check_reuse_port):
        check(settings)
    ports = {name: getattr(settings, name) for name in server.PORTS}
    if not any(port is not None for port in ports.values()):
        ports = dict.fromkeys(ports, 0)
    certificate = _own_certificate(settings)
    key = decoy_key.read_or_create(settings)
    setup = ServerSetup(
        config=server.Config(
            hosts=settings.hosts,
            **ports,
            reuse_port=settings.reuse_port,
            domains=settings.domains,
            local_delivery=settings.local_delivery,
            postmaster=postmaster,
            max_message_size=settings.max_message,
            ssl_context=certificate or _temporary_certificate(settings),
            failure_delay=settings.failure_delay,
            max_failed_logins=settings.max_failed_logins,
            mechanisms=settings.mechanisms,
            legacy=settings.legacy,
            strict_syntax=settings.strict,
            grant_lifetime=settings.grant_lifetime,
            grant_ipv6_prefix=settings.grant_ipv6_prefix,
            limit_ipv6_prefix=settings.limit_ipv6_prefix,
            nat64_prefixes=settings.nat64_prefixes,
            no_grants_from=settings.no_grants_from,
            proxy_from=settings.proxy_from,
            limits=Limits(
                connections=settings.connections,
                connections_per_address=settings.connections_per_address,
                handshake_timeout=settings.handshake_timeout,
                write_timeout=settings.write_timeout,
                min_rate=settings.min_rate,
            ),
            smtp_timeout=settings.smtp_timeout,
            pop3_timeout=settings.pop3_timeout,
            login_timeout=settings.login_timeout,
            grace=settings.grace,
        ),
        stores=server.Stores(
            accounts=accounts,
            maildrops=_maildrops(settings),
            outbox=_outbox(settings),
            grants=_grants(settings),
            tokens=own if settings.tokens else references.store(settings, "tokens_store"),
            certificates=own if settings.client_names else references.store(settings, "certificates_store"),
            decoy_key=key,
        ),
        interceptors=references.interceptors(settings),
        certificate=certificate,
        loop=settings.loop,
        ready_file=settings.ready_file,
        warnings=_warnings(settings, accounts, key),
    )
    _check_grant_settings(settings, setup)
    return setup


def _check_grant_settings(settings: Settings, setup: ServerSetup) -> None:
    """Check that a store of the application has the settings that the file or the flags have.  Raises ConfigError."""
    if setup.stores.grants is None:
        return
    different = different_grant_setting(setup.config, setup.stores.grants.settings)
    if different is not None:
        name, ours, theirs = different
        raise settings.config_error(
            name, f"{ours} is not the setting of {settings.grants_store}, {theirs}; use the same in both"
        )


def _maildrops(settings: Settings) -> stores.Maildrops:
    if settings.maildir:
        return stores.MaildirMaildrops(_make_directory(settings, "maildir", settings.maildir))
    found: stores.Maildrops | None = references.store(settings, "maildrops_store")
    return stores.MemoryMaildrops() if found is None else found


def _grants(settings: Settings) -> stores.Grants | None:
    if not settings.grant_lifetime:
        return None
    found: stores.Grants | None = references.store(settings, "grants_store")
    return grants_option.shared(settings) if found is None else found


def _outbox(settings: Settings) -> stores.Outbox | server.NextHop:
    hop = relay_option.next_hop(settings)
    if hop is not None:
        return hop
    found: stores.Outbox | server.NextHop | None = references.store(settings, "outbox_store")
    if found is not None:
        return found
    return (
        stores.MaildirOutbox(_make_directory(settings, "outbox", settings.outbox))
        if settings.outbox
        else stores.MemoryOutbox()
    )


def check(settings: Settings, broken: Set[str] = frozenset()) -> tuple[ConfigError, ...]:
    """Return all errors that ``read`` would raise, and one if no login would be possible.  Nothing is written.

    Checks that depend on one of the *broken* tables of the file are skipped: their errors would only be consequences.
    """
    errors: list[ConfigError] = []
    for step, tables in CHECKS.items():
        if broken.isdisjoint(tables):
            try:
                step(settings)
            except ConfigError as config_error:
                errors += [config_error, *config_error.others]
    return tuple(errors)


def _check_accounts(settings: Settings) -> None:
    _postmaster(settings, None if settings.accounts_store else _accounts(settings))


def _accounts(settings: Settings) -> stores.MemoryAccounts:
    # The place is shown only if the accounts come from two places: an error names its setting anyway.
    where = "" if settings.accounts is None else settings.names("users")
    try:
        return stores.MemoryAccounts(
            [stores.from_password(name, password, where) for name, password in settings.users],
            domains=frozenset(settings.domains),
            file=stores.AccountsFile(settings.accounts) if settings.accounts is not None else None,
            tokens=settings.tokens,
            certificate_names=settings.client_names,
        )
    except stores.AccountsError as error:
        field = {"tokens": "tokens", "certificate_names": "client_names"}.get(
            error.argument, "users" if settings.accounts is None else "accounts"
        )
        config_error = settings.config_error(field, str(error))
        config_error.others = tuple(settings.config_error(field, text) for text in error.others)
        raise config_error from error


def _postmaster(settings: Settings, own: stores.MemoryAccounts | None) -> str | None:
    """Return the account of the postmaster.  *own* is None for a store of accounts, which is asked at the start."""
    if settings.postmaster is None:
        return None if own is None or not settings.local_delivery else next(iter(own.names), None)
    if not settings.local_delivery:
        raise settings.config_error(
            "postmaster", f"cannot be set without {settings.names('local_delivery')}; mail to postmaster is relayed"
        )
    name = stores.mailbox_name(settings.postmaster, frozenset(settings.domains))
    if name is None or (own is not None and name not in own.names):
        raise settings.config_error("postmaster", f"unknown account: {settings.postmaster!r}; use one of the accounts")
    return name


def _own_certificate(settings: Settings) -> RenewingContext | None:
    """Return a context for the configured certificate, which reloads its files, or None if none is configured."""
    if settings.cert is None and settings.key is None:
        return None
    files = [path for path in (settings.cert, settings.key, settings.client_ca) if path is not None]
    return RenewingContext.of(lambda: _context(settings), files)


def _context(settings: Settings) -> BindingContext:
    """Load the certificate, the key and the client CAs from their files."""
    cert, key = settings.cert, settings.key
    if cert is None or key is None:
        raise settings.config_error(
            "key" if cert is None else "cert",
            f"{settings.names('cert', 'key')} must be set together; set both or neither",
        )
    try:
        stores.read_private(key)
    except stores.AccountsError as error:
        raise settings.config_error("key", str(error)) from error
    try:
        read_file(cert)
    except OSError as error:
        raise settings.config_error("cert", f"{cert} cannot be read: {error.strerror}") from error
    context = certificates.server_context()
    try:
        context.load_cert_chain(cert, key, password="")  # an encrypted key then fails instead of a prompt
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise settings.config_error(
                "key", f"the key in {key} does not match the certificate in {cert}; use a matching pair"
            ) from error
        raise settings.config_error(
            "cert", f"{cert} and {key} must be a certificate and its private key without passphrase, in PEM format"
        ) from error
    except OSError as error:  # the file has been removed since it was read
        raise settings.config_error("cert", f"{cert} or {key} cannot be read: {error.strerror}") from error
    found = None if context.certificate is None else validity(context.certificate)
    problem = None if found is None else found.problem(time.time())
    if problem is not None:
        raise settings.config_error("cert", f"the certificate in {cert} {problem}")
    _trust_clients(settings, context)
    return context


def _temporary_certificate(settings: Settings) -> ssl.SSLContext:
    try:
        made = certificates.temporary_certificate(settings.hosts)
    except certificates.TrustmeMissing as error:
        raise ConfigError(f"{error}, or set {settings.names('cert', 'key')}") from error
    if settings.ca_out is not None:
        try:
            replace_file(settings.ca_out, made.authority)
        except OSError as error:
            raise settings.config_error("ca_out", f"{settings.ca_out} cannot be written: {error.strerror}") from error
    _trust_clients(settings, made.server)
    return made.server


def _check_tls(settings: Settings) -> None:
    if _own_certificate(settings) is None:
        _trust_clients(settings, certificates.server_context())


def _trust_clients(settings: Settings, context: ssl.SSLContext) -> None:
    """Request client certificates if they are configured.  One that cannot be verified fails the handshake."""
    path = settings.client_ca
    names = "client_names" if settings.certificates_store is None else "certificates_store"
    if (path is None) != (not getattr(settings, names)):
        raise settings.config_error(
            names if path is None else "client_ca",
            f"{settings.names('client_ca', names)} must be set together; set both or neither",
        )
    if path is None:
        return
    try:
        read_file(path)  # OpenSSL would wait for a pipe
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise settings.config_error("client_ca", f"{path} contains no certificates in PEM format") from error
    except OSError as error:
        raise settings.config_error("client_ca", f"{path} cannot be read: {error.strerror}") from error
    context.verify_mode = ssl.CERT_OPTIONAL


def _make_directory(settings: Settings, name: str, path: Path) -> Path:
    """Create the directory *path* of the setting *name* if it does not exist, and return it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # it is a file, which the check reports
    except OSError as error:
        raise settings.config_error(name, f"{path} cannot be created: {error.strerror}") from error
    _check_directory(settings, name, path)
    return path


def _check_directory(settings: Settings, name: str, path: Path) -> None:
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise settings.config_error(name, f"{path} is not a writable directory")


def _check_maildir(settings: Settings) -> None:
    _check_creatable("maildir", settings.maildir, settings)


def _check_outbox(settings: Settings) -> None:
    _check_creatable("outbox", settings.outbox, settings)


def _check_relay(settings: Settings) -> None:
    relay_option.next_hop(settings)


def _check_creatable(name: str, path: Path | None, settings: Settings) -> None:
    """Check that the directory *path* exists or can be created."""
    if path is None:
        return
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    _check_directory(settings, name, there)


def _check_ca_out(settings: Settings) -> None:
    if settings.ca_out is None:
        return
    if settings.cert is not None:
        raise settings.config_error(
            "ca_out", f"applies only to the temporary certificate; remove it, or remove {settings.names('cert', 'key')}"
        )
    _check_writable(settings, "ca_out", settings.ca_out)


def _check_ready_file(settings: Settings) -> None:
    if settings.ready_file is not None:
        _check_writable(settings, "ready_file", settings.ready_file)


def _check_writable(settings: Settings, name: str, path: Path) -> None:
    """Check that the file *path* can be written.  It is replaced, and never written through a link.

    Root would replace even a device, and a reader of a pipe or of the target of a link would wait forever.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise settings.config_error(name, f"{path} cannot be written: {path.parent} is not a writable directory")
    if path.is_dir():
        raise settings.config_error(name, f"{path} cannot be written: it is a directory")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise settings.config_error(name, f"{path} cannot be written: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise settings.config_error(
            name, f"{path} is not a regular file, and would be replaced; use the name of a new file"
        )


def _check_ports(settings: Settings) -> None:
    shared = shared_port({name: getattr(settings, name) for name in server.PORTS})
    if shared is not None:
        first, second, port = shared
        raise settings.config_error(second, f"{port} is also the port of {settings.names(first)}; use another port")


def _check_reuse_port(settings: Settings) -> None:
    """Processes on one port need the same ports and the same certificate, and can share nothing in memory."""
    if not settings.reuse_port:
        return
    ports = {name: getattr(settings, name) for name in server.PORTS}
    if not any(ports.values()) or 0 in ports.values():
        raise settings.config_error("reuse_port", "requires fixed ports; set at least one port, and none to 0")
    if in_memory := _in_memory(settings):
        raise settings.config_error(
            "reuse_port", f"processes cannot share data in memory; configure storage for {', '.join(in_memory)}"
        )
    if settings.cert is None:
        raise settings.config_error(
            "reuse_port", f"each process would have its own temporary certificate; set {settings.names('cert', 'key')}"
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise settings.config_error("reuse_port", "not supported on this system (no SO_REUSEPORT); remove it")


def _check_mechanisms(settings: Settings) -> None:
    """Check that somebody can log in.  ``mailauth serve`` only logs a warning, since the accounts may change."""
    if settings.accounts_store is not None:
        return  # check-config calls no store
    try:
        proofs = server.Authenticator(_accounts(settings)).proofs
    except ConfigError:
        return  # reported by _check_accounts
    if settings.tokens or settings.tokens_store:
        proofs |= {stores.Proof.TOKEN}
    if settings.client_names or settings.certificates_store:
        proofs |= {stores.Proof.CERTIFICATE}
    ports = {name for name in server.PORTS if getattr(settings, name) is not None} or set(server.PORTS)
    problem = server.login_problem(
        settings.mechanisms,
        proofs,
        smtp=not ports.isdisjoint({"smtp", "smtps"}),
        pop3=not ports.isdisjoint({"pop3", "pop3s"}),
        tls=True,
        legacy=settings.legacy,
    )
    if problem is not None:
        raise settings.config_error("mechanisms", problem.removesuffix("."))


CHECKS: Final[Mapping[Callable[[Settings], None], Set[str]]] = {
    _check_accounts: {"accounts", "mail", "stores", "tls"},
    references.check: {"accounts", "grants", "mail", "relay", "server", "stores", "tls"},
    decoy_key.check: {"accounts"},
    _check_mechanisms: {"accounts", "listen", "mail", "stores", "tls"},
    _check_ports: {"listen"},
    _check_tls: {"stores", "tls"},
    _check_ca_out: {"tls"},
    _check_ready_file: {"process"},
    _check_maildir: {"mail"},
    _check_outbox: {"mail"},
    grants_option.check: {"grants"},
    _check_relay: {"listen", "mail", "relay"},
    _check_reuse_port: {"accounts", "grants", "listen", "mail", "process", "relay", "stores"},
}
"""The checks of ``mailauth check-config`` after the file is parsed, with the tables that each depends on.

None of them writes anything.
"""


def _in_memory(settings: Settings) -> list[str]:
    """Return the names of the data kept in memory, which is lost at exit and cannot be shared by processes."""
    kept: dict[str, object] = {}
    if settings.local_delivery:  # otherwise the maildrops are empty
        kept["maildrops"] = settings.maildir or settings.maildrops_store
    if (settings.smtp, settings.smtps) != (None, None) or (settings.pop3, settings.pop3s) == (None, None):
        kept["outbox"] = settings.outbox or settings.relay_to or settings.outbox_store
    if settings.grant_lifetime:
        kept["grants"] = settings.grants.sqlite or settings.grants.redis or settings.grants_store
    return [name for name, place in kept.items() if place is None]


def lost_mail(settings: Settings) -> list[str]:
    """Return a warning for a server that relays mail, and keeps the mail for its own domains in memory."""
    if settings.relay_to is None or "maildrops" not in _in_memory(settings):
        return []
    _, maildir, local_delivery = settings.names("relay_to", "maildir", "local_delivery").split(" and ")
    text = (
        f"Mail for {', '.join(settings.domains)} and postmaster is not relayed: it is kept in memory and lost at exit. "
        f"Set {maildir}, or turn off {local_delivery} to relay it."
    )
    return [text]


def _warnings(settings: Settings, accounts: stores.Accounts, key: bytes | None) -> tuple[str, ...]:
    try:
        authenticator = server.Authenticator(accounts, decoy_key=key)
    except Exception as error:  # a store of the user may raise anything
        if settings.accounts_store is None:
            raise
        reason = f"{settings.accounts_store} failed in credentials(): {describe_error(error)}"
        raise settings.config_error("accounts_store", reason) from error
    in_memory = _in_memory(settings)
    warnings = [f"Not persistent (in memory only): {', '.join(in_memory)}."] if in_memory else []
    warnings += lost_mail(settings)
    warnings += relay_option.warnings(settings)
    without_tls = server.without_tls(authenticator.proofs, settings.mechanisms) if settings.legacy else ()
    if without_tls:
        warnings.append(f"Logins without TLS are allowed: {', '.join(without_tls)}.")
    elif settings.legacy:
        names = ", ".join(settings.mechanisms)
        warnings.append(
            f"{settings.names('legacy')} has no effect: without TLS, none of the mechanisms ({names}) works with every "
            "account."
        )
    else:
        warnings.append("Logins without TLS are not allowed.")
    if settings.grant_lifetime == 0:
        warnings.append("Grants are disabled: a POP3 login does not allow relaying.")
    if settings.grants.redis is not None and settings.grants.redis.password is not None:
        warnings.append(
            "The Redis password is on the command line, where other users can see it: use --redis-password-file."
        )
    if authenticator.timing_warning is not None:
        warnings.append(authenticator.timing_warning)
    if authenticator.salt_warning is not None and "SCRAM-SHA-256" in settings.mechanisms:
        warnings.append(authenticator.salt_warning)
    if not _NEED_STORED_SECRETS.isdisjoint(settings.mechanisms):
        warnings += authenticator.unavailable_mechanisms
    if settings.strict and any(isinstance(each, Plain) and not each.utf8 for each in accounts.credentials()):
        warnings.append(
            f"With {settings.names('strict')}, PLAIN and USER refuse the password of an account, because it is not "
            "UTF-8. Set another password with mailauth passwd."
        )
    if not (sasl.MD5_AVAILABLE or _NEED_MD5.isdisjoint(settings.mechanisms)):
        warnings.append("CRAM-MD5 and APOP are not available: this system does not allow MD5.")
    for name, what, instead in (
        ("users", "Passwords", "use an accounts file (--accounts), or [accounts] users in a configuration file"),
        ("tokens", "Tokens", "use [accounts] tokens in a configuration file"),
    ):
        if getattr(settings, name) and name not in settings.places:
            warnings.append(f"{what} are on the command line, where other users can see them: {instead}.")
    own = isinstance(accounts, stores.MemoryAccounts) and "postmaster" in accounts.names
    if settings.postmaster is not None and own and settings.postmaster.partition("@")[0].lower() != "postmaster":
        warnings.append(f"{settings.names('postmaster')} has no effect: the account postmaster receives this mail.")
    if os.geteuid() == 0:
        warnings.append("Running as root: use a dedicated user, as in docs/mailauth.service.")
    warnings += _exposed(settings)
    if isinstance(accounts, stores.MemoryAccounts) and not accounts.names:
        users = settings.names("users", "accounts").replace(" and ", " or ")
        unless = " unless an interceptor accepts it" if settings.interceptors else ""
        warnings.append(f"No accounts, so there are no mailboxes, and no login is possible{unless}: set {users}.")
    return tuple(warnings)


def _exposed(settings: Settings) -> list[str]:
    """Return a warning for each file and directory that other users can replace."""
    paths = {name: getattr(settings, name) for name in ("accounts", "cert", "key", "client_ca", "maildir", "outbox")}
    paths["grants"] = settings.grants.sqlite
    return [
        f"{settings.names(name)}: other users can replace {path}, because {reason}."
        for name, path in paths.items()
        if path is not None and (reason := exposure(path)) is not None
    ]
