"""The settings of ``mailauth serve``: one table for the flags, for the configuration file and for its check.

To add a setting, add a field to ``Settings`` with ``options.value``, ``options.values`` (a list), ``options.path`` (a
file or directory) or ``options.switch`` (true or false): its place in the file, its flag or None, its parser (see
``parsers``), its default, and half a sentence of help.  Add the same key to docs/example.toml, commented out,
with its default.  The flag, the reading of the file, ``mailauth check-config`` and the tests follow from that.
``config`` uses the value, and refuses it with ``settings.config_error("field", "what is wrong")``; a check that writes
nothing belongs to ``config.CHECKS``, with the tables that it depends on.

Knows how settings are written; opens no file, and refuses to know what they do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from .. import logs
from .._addresses import Network
from . import options, parsers
from .errors import ConfigError

LOOPS: Final = ("asyncio", "trio")
REQUIRED, OPPORTUNISTIC, NO_TLS = RELAY_TLS = ("required", "opportunistic", "none")
"""What TLS to the next hop can be."""


@attrs.frozen(kw_only=True)
class Settings:
    """All that ``mailauth serve`` can be told."""

    places: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)
    """Where each setting of a file stands, by the name of its field: ``FILE:LINE: [table] key``."""

    hosts: tuple[str, ...] = options.values(
        "listen", "hosts", "--host", parsers.address, default=("127.0.0.1",), metavar="ADDR",
        help="address to listen on",
    )  # fmt: skip
    smtp: int | None = options.value(
        "listen", "smtp", "--smtp", parsers.port, default=None, kind=int, metavar="PORT",
        help="0: any free port; no port given: all four, any free port",
    )  # fmt: skip
    smtps: int | None = options.value(
        "listen", "smtps", "--smtps", parsers.port, default=None, kind=int, metavar="PORT",
        help="SMTP inside TLS from the start, as above",
    )  # fmt: skip
    pop3: int | None = options.value(
        "listen", "pop3", "--pop3", parsers.port, default=None, kind=int, metavar="PORT", help="as above"
    )  # fmt: skip
    pop3s: int | None = options.value(
        "listen", "pop3s", "--pop3s", parsers.port, default=None, kind=int, metavar="PORT",
        help="POP3 inside TLS from the start, as above",
    )  # fmt: skip

    reuse_port: bool = options.switch(
        "listen", "reuse_port", "--reuse-port", help="let several processes listen on the same ports"
    )  # fmt: skip
    proxy_from: tuple[Network, ...] = options.values(
        "listen", "proxy_from", "--proxy-from", parsers.network, metavar="NETWORK",
        help="proxies there begin with a PROXY header, which names the client",
    )  # fmt: skip

    domains: tuple[str, ...] = options.values(
        "mail", "domains", "--domain", parsers.domain, default=("example.test",), metavar="NAME",
        help="domain served here; the first is the server's own name",
    )  # fmt: skip
    postmaster: str | None = options.value(
        "mail", "postmaster", "--postmaster", str, default=None, metavar="NAME",
        help="the account that takes the postmaster's mail (the first one)",
    )  # fmt: skip
    maildir: Path | None = options.path(
        "mail", "maildir", "--maildir", metavar="DIR", help="maildrops: DIR/NAME is a Maildir (in memory)"
    )
    outbox: Path | None = options.path(
        "mail", "outbox", "--outbox", metavar="DIR", help="a Maildir for mail to be sent on (in memory)"
    )
    max_message: int = options.value(
        "mail", "max_message", "--max-message",
        parsers.number(65_536, 2**40, "number of octets"),  # RFC 5321 section 4.5.3.1.7
        default=26_214_400, kind=int, metavar="OCTETS", help="size of a message",
    )  # fmt: skip

    relay_to: parsers.NextHopUrl | None = options.value(
        "relay", "to", "--relay-to", parsers.next_hop, default=None, metavar="URL",
        help="hand mail for elsewhere on at once: smtp://HOST:PORT or smtps://USER@HOST:PORT",
    )  # fmt: skip
    relay_password_file: Path | None = options.path(
        "relay", "password_file", "--relay-password-file", metavar="FILE",
        help="the password of USER there, and nothing else",
    )  # fmt: skip
    relay_ca: Path | None = options.path(
        "relay", "ca", "--relay-ca", metavar="FILE",
        help="who certifies the next hop, in PEM (whoever this system trusts)",
    )  # fmt: skip
    relay_tls: str | None = options.value(
        "relay", "tls", "--relay-tls", parsers.one_of(*RELAY_TLS), default=None, metavar="HOW",
        help="required, opportunistic or none (required with USER, with --relay-ca and with smtps, else opportunistic)",
    )  # fmt: skip
    relay_clear_text_login: bool = options.switch(
        "relay", "clear_text_login", "--relay-clear-text-login",
        help="with --relay-tls none: send the password of USER in clear text",
    )  # fmt: skip

    accounts: Path | None = options.path(
        "accounts", "file", "--accounts", metavar="FILE",
        help="accounts in Dovecot's passwd-file format, read again on a change",
    )  # fmt: skip
    users: tuple[tuple[str, bytes], ...] = options.values(
        "accounts", "users", "--user", parsers.user, secret=True, metavar="NAME:PASSWORD",
        help="an account for trials",
    )  # fmt: skip
    tokens: tuple[tuple[str, bytes], ...] = options.values(
        "accounts", "tokens", "--token", parsers.token, secret=True, metavar="NAME:TOKEN",
        help="a bearer token for trials",
    )  # fmt: skip
    legacy: bool = options.switch(
        "accounts", "legacy", "--legacy", help="allow clear-text and MD5 methods outside TLS"
    )  # fmt: skip

    failure_delay: float = options.value(
        "accounts", "failure_delay", "--failure-delay", parsers.seconds_up_to(2.0), default=2.0, kind=float,
        metavar="SECONDS", help="how long the refusal of a login waits at most; 0: it never waits",
    )  # fmt: skip

    cert: Path | None = options.path(
        "tls", "certificate", "--cert", metavar="FILE",
        help="certificate chain in PEM (a throw-away one for localhost)",
    )  # fmt: skip
    key: Path | None = options.path("tls", "key", "--key", metavar="FILE", help="its private key in PEM")
    ca_out: Path | None = options.path(
        "tls", "ca_out", "--ca-out", metavar="FILE",
        help="write what a client must trust, for the throw-away certificate",
    )  # fmt: skip
    client_ca: Path | None = options.path(
        "tls", "client_ca", "--client-ca", metavar="FILE",
        help="who certifies clients, in PEM: they log in by EXTERNAL",
    )  # fmt: skip
    client_names: tuple[tuple[str, str], ...] = options.values(
        "tls", "client_names", "--client-name", parsers.client_name, metavar="KIND:NAME=ACCOUNT",
        help="whose account a client certificate opens; KIND is email, DNS or CN",
    )  # fmt: skip

    grant_lifetime: float = options.value(
        "grants", "lifetime", "--grant-lifetime", parsers.seconds, default=1800.0, kind=float, metavar="SECONDS",
        help="how long a login by POP3 opens relaying; 0: no grants",
    )  # fmt: skip
    grant_ipv6_prefix: int = options.value(
        "grants", "ipv6_prefix", "--grant-ipv6-prefix", parsers.number(1, 128, "prefix length"), default=128, kind=int,
        metavar="N", help="bits of an IPv6 address that count",
    )  # fmt: skip
    no_grants_from: tuple[Network, ...] = options.values(
        "grants", "never_from", "--no-grants-from", parsers.network, metavar="NETWORK",
        help="a proxy, or a gateway of containers: a login from there opens nothing",
    )  # fmt: skip
    grants: parsers.GrantsPlace = options.value(
        "grants", "store", "--grants", parsers.grants_place, default=parsers.GrantsPlace(), metavar="STORE",
        help="where they are kept: memory, sqlite:FILE for the processes of one host, redis://HOST:PORT/DB for several",
        below=parsers.GrantsPlace.below,
    )  # fmt: skip
    redis_password: Path | None = options.path(
        "grants", "redis_password_file", "--redis-password-file", metavar="FILE", help="holds the password for Redis"
    )

    connections: int = options.value(
        "limits", "connections", None, parsers.number(1, 10**6, "number of connections"), default=5_000,
        kind=int, metavar="N",
        help="connections at a time, on all ports together",
    )  # fmt: skip
    connections_per_address: int = options.value(
        "limits", "connections_per_address", None, parsers.number(1, 10**6, "number of connections"), default=256,
        kind=int, metavar="N", help="of those from one address",
    )  # fmt: skip
    smtp_timeout: float = options.value(
        "limits", "smtp_timeout", None, parsers.positive, default=300.0, kind=float, metavar="N",
        help="how long an SMTP client may take for a command, or pause inside content",
    )  # fmt: skip
    pop3_timeout: float = options.value(
        "limits", "pop3_timeout", None, parsers.positive, default=600.0, kind=float, metavar="N",
        help="how long a POP3 client may take for a command",
    )  # fmt: skip
    login_timeout: float = options.value(
        "limits", "login_timeout", None, parsers.positive, default=600.0, kind=float, metavar="N",
        help="from the beginning of a connection to a login or to the first message that is taken",
    )  # fmt: skip
    handshake_timeout: float = options.value(
        "limits", "handshake_timeout", None, parsers.positive, default=30.0, kind=float, metavar="N",
        help="how long a TLS handshake may take",
    )  # fmt: skip
    write_timeout: float = options.value(
        "limits", "write_timeout", None, parsers.positive, default=300.0, kind=float, metavar="N",
        help="how long a client may pause in reading what it asked for",
    )  # fmt: skip
    min_rate: float = options.value(
        "limits", "min_rate", None, parsers.positive, default=500.0, kind=float, metavar="N",
        help="octets a second that content, and the reading of replies, must bring in the long run",
    )  # fmt: skip
    grace: float = options.value(
        "limits", "grace", None, parsers.seconds, default=10.0, kind=float, metavar="N",
        help="how long content that is under way may still take when the server ends",
    )  # fmt: skip

    log_format: str = options.value(
        "log", "format", "--log-format", parsers.one_of(*logs.FORMATS), default="text", metavar="FORMAT",
        help="how the log is written to standard error: text, or json, an object a line",
    )  # fmt: skip
    log_level: str = options.value(
        "log", "level", "--log-level", parsers.one_of(*logs.LEVELS), default="info", metavar="LEVEL",
        help="debug, info, warning or error, and all above it",
    )  # fmt: skip

    loop: str = options.value(
        "process", "loop", "--loop", parsers.one_of(*LOOPS), default="asyncio", metavar="LOOP",
        help="what the server runs on, asyncio or trio",
    )  # fmt: skip
    ready_file: Path | None = options.path(
        "process", "ready_file", "--ready-file", metavar="FILE",
        help="JSON with the ports and the pid, there when all ports listen",
    )  # fmt: skip

    def config_error(self, name: str, text: str) -> ConfigError:
        """The field *name* cannot be used, for the reason in *text*: one that says where it was written."""
        written = OPTIONS[name]
        return ConfigError(f"{self.places.get(name) or written.flag or written.title}: {text}")

    def names(self, *names: str) -> str:
        """The fields *names* as whoever wrote this value knows them: keys where one stands in a file, else flags."""
        in_file = any(name in self.places for name in names)
        return " and ".join(
            OPTIONS[name].title if in_file else OPTIONS[name].flag or OPTIONS[name].title for name in names
        )


OPTIONS: Final[Mapping[str, options.Option]] = {
    field.name: field.metadata[options.OPTION] for field in attrs.fields(Settings) if options.OPTION in field.metadata
}
"""How each setting is written, by the name of its field."""


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str] = OPTIONS) -> None:
    """Give *parser* the flags of the fields *names*, or every one there is."""
    for name in names:
        OPTIONS[name].add_to(parser, name)


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of the flags that were given, by the names of their fields."""
    return {
        name: tuple(getattr(arguments, name)) if written.repeatable else getattr(arguments, name)
        for name, written in OPTIONS.items()
        if hasattr(arguments, name)
    }
