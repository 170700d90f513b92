"""The settings of ``mailauth serve``: one table for flags, configuration file and ``mailauth check-config``.

To add a setting, add a field to ``Settings`` with ``options.value``, ``options.values`` (a list), ``options.path`` (a
file or directory) or ``options.switch`` (true or false).  Give its table and key in the file, its flag or None, its
parser (see ``parsers``), its default and its help text.  Add the same key to docs/example.toml, commented out, with its
default.  The flag, the reading of the file, ``mailauth check-config`` and the tests need no other change.
``config`` uses the value, and rejects it with ``settings.config_error("field", "what is wrong")``.  Add a check that
writes nothing to ``config.CHECKS``, with the tables that it depends on.

This module does no I/O.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any, Final

import attrs

from mailauth.addresses import Network
from mailauth.grants import MAX_LIFETIME

from .. import logs
from . import options, parsers
from .errors import ConfigError

LOOPS: Final = ("asyncio", "trio", "uvloop")
MECHANISMS: Final = (
    *("PLAIN", "LOGIN", "USER", "CRAM-MD5", "APOP", "SCRAM-SHA-1", "SCRAM-SHA-256"),
    *("OAUTHBEARER", "XOAUTH2", "EXTERNAL"),
)
"""Those of the server, which this module does not import: it takes too long for ``mailauth --version``."""
RELAY_MECHANISMS: Final = (
    *("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1"),
    *("CRAM-MD5", "PLAIN", "LOGIN"),
)
"""Those of ``server.next_hop``, for a login at the relay."""
REQUIRED, OPPORTUNISTIC, NO_TLS = RELAY_TLS = ("required", "opportunistic", "none")
"""The values of ``[relay] tls``."""


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of ``mailauth serve``."""

    places: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False, eq=False)
    """``FILE:LINE: [table] key`` of each setting from a file, by the name of its field."""

    hosts: tuple[str, ...] = options.values(
        "listen", "hosts", "--host", parsers.address, default=("127.0.0.1",), metavar="ADDR",
        help="IP address on which every port is opened; :: accepts IPv6 only, add 0.0.0.0 for IPv4",
    )  # fmt: skip
    smtp: int | None = options.value(
        "listen", "smtp", "--smtp", parsers.port, default=None, kind=int, metavar="PORT",
        help="SMTP port, 0 for a free one (default: off; if no port is set, all four services use free ports)",
    )  # fmt: skip
    smtps: int | None = options.value(
        "listen", "smtps", "--smtps", parsers.port, default=None, kind=int, metavar="PORT",
        help="port of SMTP with implicit TLS, 0 for a free one (default: off, see --smtp)",
    )  # fmt: skip
    pop3: int | None = options.value(
        "listen", "pop3", "--pop3", parsers.port, default=None, kind=int, metavar="PORT",
        help="POP3 port, 0 for a free one (default: off, see --smtp)",
    )  # fmt: skip
    pop3s: int | None = options.value(
        "listen", "pop3s", "--pop3s", parsers.port, default=None, kind=int, metavar="PORT",
        help="port of POP3 with implicit TLS, 0 for a free one (default: off, see --smtp)",
    )  # fmt: skip

    reuse_port: bool = options.switch(
        "listen", "reuse_port", "--reuse-port",
        help="let several processes listen on the same ports; requires fixed ports, --cert, and no data in memory",
    )  # fmt: skip
    proxy_from: tuple[Network, ...] = options.values(
        "listen", "proxy_from", "--proxy-from", parsers.network, metavar="NETWORK",
        help="network of proxies; each connection from it must start with a PROXY header, which names the client",
    )  # fmt: skip

    domains: tuple[str, ...] = options.values(
        "mail", "domains", "--domain", parsers.domain, default=("example.test",), metavar="NAME",
        help="domain of local mailboxes; the first is also the name of the server in greetings",
    )  # fmt: skip
    local_delivery: bool = options.switch(
        "mail", "local_delivery", "--local-delivery", default=True,
        help="store mail for the domains in the maildrops; off: relay all mail, also for the domains and postmaster",
    )  # fmt: skip
    postmaster: str | None = options.value(
        "mail", "postmaster", "--postmaster", str, default=None, metavar="NAME",
        help="account that receives mail to postmaster, if no account has this name (default: the first account)",
    )  # fmt: skip
    maildir: Path | None = options.path(
        "mail", "maildir", "--maildir", metavar="DIR",
        help="directory of maildrops, where DIR/NAME is the Maildir of account NAME (default: in memory)",
    )  # fmt: skip
    outbox: Path | None = options.path(
        "mail", "outbox", "--outbox", metavar="DIR",
        help="Maildir for remote mail, which another program must send on (default: in memory)",
    )  # fmt: skip
    max_message: int = options.value(
        "mail", "max_message", "--max-message",
        parsers.number(65_536, 2**40, "size in bytes"),  # RFC 5321 section 4.5.3.1.7
        default=26_214_400, kind=int, metavar="BYTES",
        help="maximum size of a message in bytes, announced as SIZE",
    )  # fmt: skip

    relay_to: parsers.NextHopUrl | None = options.value(
        "relay", "to", "--relay-to", parsers.next_hop, default=None, metavar="URL",
        help="server to relay remote mail to: smtp://HOST:PORT (uses STARTTLS if offered) or smtps://HOST:PORT; "
        "USER@ before HOST logs in there (default: none, remote mail goes to the outbox)",
    )  # fmt: skip
    relay_password_file: Path | None = options.path(
        "relay", "password_file", "--relay-password-file", metavar="FILE",
        help="file with the password of USER for the relay, readable only by its owner",
    )  # fmt: skip
    relay_ca: Path | None = options.path(
        "relay", "ca", "--relay-ca", metavar="FILE",
        help="CA file for the relay, in PEM (default: the CAs that this system trusts)",
    )  # fmt: skip
    relay_tls: str | None = options.value(
        "relay", "tls", "--relay-tls", parsers.one_of(*RELAY_TLS), default=None, metavar="MODE",
        help="TLS to the relay: required (valid certificate), opportunistic (any certificate; clear text if there is "
        "no TLS and no USER) or none (default: required with USER, --relay-ca or smtps, otherwise opportunistic)",
    )  # fmt: skip
    relay_clear_text_login: bool = options.switch(
        "relay", "clear_text_login", "--relay-clear-text-login",
        help="with --relay-tls none, allow sending the password of USER in clear text; otherwise only SCRAM is used",
    )  # fmt: skip
    relay_mechanism: str | None = options.value(
        "relay", "mechanism", "--relay-mechanism", parsers.one_of(*RELAY_MECHANISMS), default=None, metavar="NAME",
        help="the only mechanism for the login at the relay, such as PLAIN (default: the strongest that it offers, and "
        "up to two others if it refuses that one)",
    )  # fmt: skip
    relay_sessions: int = options.value(
        "relay", "sessions", "--relay-sessions", parsers.number(1, 10**6, "number of sessions"), default=20, kind=int,
        metavar="N",
        help="maximum number of simultaneous sessions with the relay, shared fairly between networks, addresses and "
        "accounts",
    )  # fmt: skip

    accounts: Path | None = options.path(
        "accounts", "file", "--accounts", metavar="FILE",
        help="accounts file in Dovecot's passwd-file format, as printed by mailauth passwd; readable only by its "
        "owner, reloaded when it changes",
    )  # fmt: skip
    decoy_key: Path | None = options.path(
        "accounts", "decoy_key", "--decoy-key", metavar="FILE",
        help="file with a random key for the salts that SCRAM sends for unknown names, created if it does not exist; "
        "keep it as long as the accounts (default: a new key at each start)",
    )  # fmt: skip
    users: tuple[tuple[str, bytes], ...] = options.values(
        "accounts", "users", "--user", parsers.user, secret=True, metavar="NAME:PASSWORD",
        help="account for testing; other users of this machine can see its password",
    )  # fmt: skip
    tokens: tuple[tuple[str, bytes], ...] = options.values(
        "accounts", "tokens", "--token", parsers.token, secret=True, metavar="NAME:TOKEN",
        help="bearer token for testing, for OAUTHBEARER and XOAUTH2; other users of this machine can see it",
    )  # fmt: skip
    mechanisms: tuple[str, ...] = options.values(
        "accounts", "mechanisms", "--mechanism", parsers.one_of(*MECHANISMS), default=MECHANISMS, metavar="NAME",
        help="mechanism that may be offered, if every account supports it; USER and APOP exist in POP3 only",
    )  # fmt: skip
    legacy: bool = options.switch(
        "accounts", "legacy", "--legacy", help="allow logins without TLS, with clear-text passwords and MD5 digests"
    )  # fmt: skip

    failure_delay: float = options.value(
        "accounts", "failure_delay", "--failure-delay", parsers.seconds_up_to(2.0), default=2.0, kind=float,
        metavar="SECONDS", help="maximum delay in seconds before a failed login is answered, up to 2; 0 disables it",
    )  # fmt: skip
    max_failed_logins: int = options.value(
        "accounts", "max_failed_logins", None, parsers.number(3, 1_000_000, "number of logins"), default=3, kind=int,
        metavar="N", help="number of failed logins after which a session ends, at least 3",
    )  # fmt: skip

    cert: Path | None = options.path(
        "tls", "certificate", "--cert", metavar="FILE",
        help="certificate chain of the server, in PEM; reloaded when it changes "
        "(default: a temporary certificate for localhost)",
    )  # fmt: skip
    key: Path | None = options.path(
        "tls", "key", "--key", metavar="FILE",
        help="private key of the certificate, in PEM without a passphrase, readable only by its owner",
    )  # fmt: skip
    ca_out: Path | None = options.path(
        "tls", "ca_out", "--ca-out", metavar="FILE",
        help="file to write the CA of the temporary certificate to, in PEM, for clients to trust",
    )  # fmt: skip
    client_ca: Path | None = options.path(
        "tls", "client_ca", "--client-ca", metavar="FILE",
        help="CA file for client certificates, in PEM, for logins with EXTERNAL; requires --client-name",
    )  # fmt: skip
    client_names: tuple[tuple[str, str], ...] = options.values(
        "tls", "client_names", "--client-name", parsers.client_name, metavar="KIND:NAME=ACCOUNT",
        help="account that a client certificate with this name logs in to; KIND is email, DNS or CN",
    )  # fmt: skip

    grant_lifetime: float = options.value(
        "grants", "lifetime", "--grant-lifetime", parsers.seconds_up_to(MAX_LIFETIME), default=1800.0, kind=float,
        metavar="SECONDS",
        help="seconds for which a POP3 login allows its address to relay (POP before SMTP), up to 31536000 (a year); "
        "0 disables grants",
    )  # fmt: skip
    grant_ipv6_prefix: int = options.value(
        "grants", "ipv6_prefix", "--grant-ipv6-prefix", parsers.number(1, 128, "prefix length"), default=128, kind=int,
        metavar="N", help="number of leading bits of an IPv6 address that a grant covers",
    )  # fmt: skip
    nat64_prefixes: tuple[IPv6Network, ...] = options.values(
        "grants", "nat64_prefixes", "--nat64-prefix", parsers.nat64_prefix, metavar="NETWORK",
        help="NAT64 prefix of your network, besides 64:ff9b::/96; a grant covers a single address of it, and limits "
        "count the IPv4 addresses inside",
    )  # fmt: skip
    no_grants_from: tuple[Network, ...] = options.values(
        "grants", "never_from", "--no-grants-from", parsers.network, metavar="NETWORK",
        help="network of proxies or container gateways, whose addresses get no grants",
    )  # fmt: skip
    grants: parsers.GrantsLocation = options.value(
        "grants", "store", "--grants", parsers.grants_location, default=parsers.GrantsLocation(), metavar="STORE",
        help="where grants are stored: memory, sqlite:FILE (shared by the processes of one host) or "
        "redis://HOST:PORT/DATABASE (shared by several hosts)",
        resolve=parsers.GrantsLocation.resolve,
    )  # fmt: skip
    redis_password: Path | None = options.path(
        "grants", "redis_password_file", "--redis-password-file", metavar="FILE",
        help="file with the password for Redis, readable only by its owner",
    )  # fmt: skip

    accounts_store: parsers.Reference | None = options.value(
        "stores", "accounts", None, parsers.reference, default=None, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="store of accounts, in place of [accounts] file and users",
    )  # fmt: skip
    maildrops_store: parsers.Reference | None = options.value(
        "stores", "maildrops", None, parsers.reference, default=None, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="store of maildrops, in place of [mail] maildir",
    )  # fmt: skip
    outbox_store: parsers.Reference | None = options.value(
        "stores", "outbox", None, parsers.reference, default=None, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="store of outbox, in place of [mail] outbox and [relay] to",
    )  # fmt: skip
    grants_store: parsers.Reference | None = options.value(
        "stores", "grants", None, parsers.reference, default=None, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="store of grants, in place of [grants] store",
    )  # fmt: skip
    tokens_store: parsers.Reference | None = options.value(
        "stores", "tokens", None, parsers.reference, default=None, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="store of bearer tokens, in place of [accounts] tokens",
    )  # fmt: skip
    certificates_store: parsers.Reference | None = options.value(
        "stores", "certificates", None, parsers.reference, default=None, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="store of names in client certificates, in place of [tls] client_names",
    )  # fmt: skip

    strict: bool = options.switch(
        "server", "strict", "--strict",
        help="reject commands that break the grammar of the RFCs even where their meaning is clear (docs/tolerance.md)",
    )  # fmt: skip
    interceptors: tuple[parsers.Reference, ...] = options.values(
        "server", "interceptors", None, parsers.reference, metavar="MODULE:ATTRIBUTE",
        resolve=parsers.Reference.resolve, help="function that may answer questions before the server does",
    )  # fmt: skip

    connections: int = options.value(
        "limits", "connections", None, parsers.number(1, 10**6, "number of connections"), default=5_000,
        kind=int, metavar="N",
        help="maximum number of simultaneous connections, on all ports together",
    )  # fmt: skip
    connections_per_address: int = options.value(
        "limits", "connections_per_address", None, parsers.number(1, 10**6, "number of connections"), default=256,
        kind=int, metavar="N", help="maximum number of simultaneous connections from one address",
    )  # fmt: skip
    limit_ipv6_prefix: int = options.value(
        "limits", "ipv6_prefix", None, parsers.number(1, 128, "prefix length"), default=64, kind=int, metavar="N",
        help="number of leading bits of an IPv6 address that count as one address for all limits",
    )  # fmt: skip
    smtp_timeout: float = options.value(
        "limits", "smtp_timeout", None, parsers.positive, default=300.0, kind=float, metavar="N",
        help="seconds that an SMTP client may take to send a command, or pause inside message content",
    )  # fmt: skip
    pop3_timeout: float = options.value(
        "limits", "pop3_timeout", None, parsers.positive, default=600.0, kind=float, metavar="N",
        help="seconds that a POP3 client may take to send a command",
    )  # fmt: skip
    login_timeout: float = options.value(
        "limits", "login_timeout", None, parsers.positive, default=600.0, kind=float, metavar="N",
        help="seconds from the start of a connection to a login or to the first accepted message",
    )  # fmt: skip
    handshake_timeout: float = options.value(
        "limits", "handshake_timeout", None, parsers.positive, default=30.0, kind=float, metavar="N",
        help="seconds that a TLS handshake may take",
    )  # fmt: skip
    write_timeout: float = options.value(
        "limits", "write_timeout", None, parsers.positive, default=300.0, kind=float, metavar="N",
        help="seconds that a client may pause while it reads replies",
    )  # fmt: skip
    min_rate: float = options.value(
        "limits", "min_rate", None, parsers.positive, default=500.0, kind=float, metavar="N",
        help="minimum average rate of message content, and of reading replies, in bytes per second",
    )  # fmt: skip
    grace: float = options.value(
        "limits", "grace", None, parsers.seconds, default=10.0, kind=float, metavar="N",
        help="seconds that a message in progress may still take when the server shuts down",
    )  # fmt: skip

    log_format: str = options.value(
        "log", "format", "--log-format", parsers.one_of(*logs.FORMATS), default="text", metavar="FORMAT",
        help="format of the log on standard error: text, or json (one object per line)",
    )  # fmt: skip
    log_level: str = options.value(
        "log", "level", "--log-level", parsers.one_of(*logs.LEVELS), default="info", metavar="LEVEL",
        help="lowest level that is logged: debug, info, warning or error",
    )  # fmt: skip

    loop: str = options.value(
        "process", "loop", "--loop", parsers.one_of(*LOOPS), default="asyncio", metavar="LOOP",
        help="event loop of the server: asyncio, trio or uvloop",
    )  # fmt: skip
    ready_file: Path | None = options.path(
        "process", "ready_file", "--ready-file", metavar="FILE",
        help="file to write the port numbers and the process ID to, as JSON, once all ports are listening",
    )  # fmt: skip

    def config_error(self, name: str, text: str) -> ConfigError:
        """Return an error about the field *name*.  It begins with the flag, or with the file, line and key."""
        written = OPTIONS[name]
        return ConfigError(f"{self.places.get(name) or written.flag or written.title}: {text}")

    def names(self, *names: str) -> str:
        """Return the fields *names*, for an error: as keys if one of them is set in a file, otherwise as flags."""
        in_file = any(name in self.places for name in names)
        return " and ".join(
            OPTIONS[name].title if in_file else OPTIONS[name].flag or OPTIONS[name].title for name in names
        )


OPTIONS: Final[Mapping[str, options.Option]] = {
    field.name: field.metadata[options.OPTION] for field in attrs.fields(Settings) if options.OPTION in field.metadata
}
"""The Option of each setting, by the name of its field."""


def add_flags(
    parser: argparse.ArgumentParser, names: Iterable[str] = OPTIONS, *, help: Mapping[str, str] | None = None
) -> None:
    """Add the flags of the fields *names*, by default of all fields, to *parser*.

    *help* has the help texts that replace those of the fields.
    """
    for name in names:
        OPTIONS[name].add_to(parser, name, (help or {}).get(name))


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the flags that are in *arguments*, by the names of their fields."""
    return {
        name: tuple(getattr(arguments, name)) if written.repeatable else getattr(arguments, name)
        for name, written in OPTIONS.items()
        if hasattr(arguments, name)
    }
