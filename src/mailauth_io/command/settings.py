"""The settings of ``mailauth serve``: one table of them, for the flags, for the configuration file and for its check.

To add a setting, add a field to ``Settings``, by ``row.one`` (a value), ``row.several`` (a list), ``row.place`` (a
file or a directory) or ``row.switch`` (true or false): where it stands in the file, its flag or None, what reads its
text (see ``words``), its default, and half a sentence of help.  Add the same key to docs/example.toml, commented out,
with its default.  The flag, the reading of the file, ``mailauth check-config`` and the tests follow from that.
``config`` is where the value is put to use, and ``settings.complaint("field", "what is wrong")`` refuses it there;
what can be refused without writing anything belongs among ``config.CHECKS``, with the tables that it goes by.

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
from . import row, words
from .complaint import Complaint

LOOPS: Final = ("asyncio", "trio")
REQUIRED, OPPORTUNISTIC, NO_TLS = RELAY_TLS = ("required", "opportunistic", "none")
"""What TLS to the next hop can be."""


@attrs.frozen(kw_only=True)
class Settings:
    """All that ``mailauth serve`` can be told."""

    places: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)
    """Where each setting of a file stands, by the name of its field: ``FILE:LINE: [table] key``."""

    hosts: tuple[str, ...] = row.several(
        "listen", "hosts", "--host", words.address, default=("127.0.0.1",), metavar="ADDR",
        help="address to listen on",
    )  # fmt: skip
    smtp: int | None = row.one(
        "listen", "smtp", "--smtp", words.port, default=None, kind=int, metavar="PORT",
        help="0: any free port; no port given: all four, any free port",
    )  # fmt: skip
    smtps: int | None = row.one(
        "listen", "smtps", "--smtps", words.port, default=None, kind=int, metavar="PORT",
        help="SMTP inside TLS from the start, as above",
    )  # fmt: skip
    pop3: int | None = row.one(
        "listen", "pop3", "--pop3", words.port, default=None, kind=int, metavar="PORT", help="as above"
    )  # fmt: skip
    pop3s: int | None = row.one(
        "listen", "pop3s", "--pop3s", words.port, default=None, kind=int, metavar="PORT",
        help="POP3 inside TLS from the start, as above",
    )  # fmt: skip

    reuse_port: bool = row.switch(
        "listen", "reuse_port", "--reuse-port", help="let several processes listen on the same ports"
    )  # fmt: skip
    proxy_from: tuple[Network, ...] = row.several(
        "listen", "proxy_from", "--proxy-from", words.network, metavar="NETWORK",
        help="proxies there begin with a PROXY header, which names the client",
    )  # fmt: skip

    domains: tuple[str, ...] = row.several(
        "mail", "domains", "--domain", words.domain, default=("example.test",), metavar="NAME",
        help="domain served here; the first is the server's own name",
    )  # fmt: skip
    postmaster: str | None = row.one(
        "mail", "postmaster", "--postmaster", str, default=None, metavar="NAME",
        help="the account that takes the postmaster's mail (the first one)",
    )  # fmt: skip
    maildir: Path | None = row.place(
        "mail", "maildir", "--maildir", metavar="DIR", help="maildrops: DIR/NAME is a Maildir (in memory)"
    )
    outbox: Path | None = row.place(
        "mail", "outbox", "--outbox", metavar="DIR", help="a Maildir for mail to be sent on (in memory)"
    )
    max_message: int = row.one(
        "mail", "max_message", "--max-message",
        words.number(65_536, 2**40, "number of octets"),  # RFC 5321 section 4.5.3.1.7
        default=26_214_400, kind=int, metavar="OCTETS", help="size of a message",
    )  # fmt: skip

    relay_to: words.NextHopUrl | None = row.one(
        "relay", "to", "--relay-to", words.next_hop, default=None, metavar="URL",
        help="hand mail for elsewhere on at once: smtp://HOST:PORT or smtps://USER@HOST:PORT",
    )  # fmt: skip
    relay_password_file: Path | None = row.place(
        "relay", "password_file", "--relay-password-file", metavar="FILE",
        help="the password of USER there, and nothing else",
    )  # fmt: skip
    relay_ca: Path | None = row.place(
        "relay", "ca", "--relay-ca", metavar="FILE",
        help="who certifies the next hop, in PEM (whoever this system trusts)",
    )  # fmt: skip
    relay_tls: str | None = row.one(
        "relay", "tls", "--relay-tls", words.one_of(*RELAY_TLS), default=None, metavar="HOW",
        help="required, opportunistic or none (required with USER, with --relay-ca and with smtps, else opportunistic)",
    )  # fmt: skip
    relay_clear_text_login: bool = row.switch(
        "relay", "clear_text_login", "--relay-clear-text-login",
        help="with --relay-tls none: send the password of USER in clear text",
    )  # fmt: skip

    accounts: Path | None = row.place(
        "accounts", "file", "--accounts", metavar="FILE",
        help="accounts in Dovecot's passwd-file format, read again on a change",
    )  # fmt: skip
    users: tuple[tuple[str, bytes], ...] = row.several(
        "accounts", "users", "--user", words.user, secret=True, metavar="NAME:PASSWORD",
        help="an account for trials",
    )  # fmt: skip
    tokens: tuple[tuple[str, bytes], ...] = row.several(
        "accounts", "tokens", "--token", words.token, secret=True, metavar="NAME:TOKEN",
        help="a bearer token for trials",
    )  # fmt: skip
    legacy: bool = row.switch(
        "accounts", "legacy", "--legacy", help="allow clear-text and MD5 methods outside TLS"
    )  # fmt: skip

    failure_delay: float = row.one(
        "accounts", "failure_delay", "--failure-delay", words.seconds_up_to(2.0), default=2.0, kind=float,
        metavar="SECONDS", help="how long the refusal of a login waits at most; 0: it never waits",
    )  # fmt: skip

    cert: Path | None = row.place(
        "tls", "certificate", "--cert", metavar="FILE",
        help="certificate chain in PEM (a throw-away one for localhost)",
    )  # fmt: skip
    key: Path | None = row.place("tls", "key", "--key", metavar="FILE", help="its private key in PEM")
    ca_out: Path | None = row.place(
        "tls", "ca_out", "--ca-out", metavar="FILE",
        help="write what a client must trust, for the throw-away certificate",
    )  # fmt: skip
    client_ca: Path | None = row.place(
        "tls", "client_ca", "--client-ca", metavar="FILE",
        help="who certifies clients, in PEM: they log in by EXTERNAL",
    )  # fmt: skip
    client_names: tuple[tuple[str, str], ...] = row.several(
        "tls", "client_names", "--client-name", words.client_name, metavar="KIND:NAME=ACCOUNT",
        help="whose account a client certificate opens; KIND is email, DNS or CN",
    )  # fmt: skip

    grant_lifetime: float = row.one(
        "grants", "lifetime", "--grant-lifetime", words.seconds, default=1800.0, kind=float, metavar="SECONDS",
        help="how long a login by POP3 opens relaying; 0: no grants",
    )  # fmt: skip
    grant_ipv6_prefix: int = row.one(
        "grants", "ipv6_prefix", "--grant-ipv6-prefix", words.number(1, 128, "prefix length"), default=128, kind=int,
        metavar="N", help="bits of an IPv6 address that count",
    )  # fmt: skip
    no_grants_from: tuple[Network, ...] = row.several(
        "grants", "never_from", "--no-grants-from", words.network, metavar="NETWORK",
        help="a proxy, or a gateway of containers: a login from there opens nothing",
    )  # fmt: skip
    grants: words.GrantsPlace = row.one(
        "grants", "store", "--grants", words.grants_place, default=words.GrantsPlace(), metavar="STORE",
        help="where they are kept: memory, sqlite:FILE for the processes of one host, redis://HOST:PORT/DB for several",
        below=words.GrantsPlace.below,
    )  # fmt: skip
    redis_password: Path | None = row.place(
        "grants", "redis_password_file", "--redis-password-file", metavar="FILE", help="holds the password for Redis"
    )

    connections: int = row.one(
        "limits", "connections", None, words.number(1, 10**6, "number of connections"), default=5_000,
        kind=int, metavar="N",
        help="connections at a time, on all ports together",
    )  # fmt: skip
    connections_per_address: int = row.one(
        "limits", "connections_per_address", None, words.number(1, 10**6, "number of connections"), default=256,
        kind=int, metavar="N", help="of those from one address",
    )  # fmt: skip
    smtp_timeout: float = row.one(
        "limits", "smtp_timeout", None, words.positive, default=300.0, kind=float, metavar="N",
        help="how long an SMTP client may take for a command, or pause inside content",
    )  # fmt: skip
    pop3_timeout: float = row.one(
        "limits", "pop3_timeout", None, words.positive, default=600.0, kind=float, metavar="N",
        help="how long a POP3 client may take for a command",
    )  # fmt: skip
    login_timeout: float = row.one(
        "limits", "login_timeout", None, words.positive, default=600.0, kind=float, metavar="N",
        help="from the beginning of a connection to a login or to the first message that is taken",
    )  # fmt: skip
    handshake_timeout: float = row.one(
        "limits", "handshake_timeout", None, words.positive, default=30.0, kind=float, metavar="N",
        help="how long a TLS handshake may take",
    )  # fmt: skip
    write_timeout: float = row.one(
        "limits", "write_timeout", None, words.positive, default=300.0, kind=float, metavar="N",
        help="how long a client may pause in reading what it asked for",
    )  # fmt: skip
    min_rate: float = row.one(
        "limits", "min_rate", None, words.positive, default=500.0, kind=float, metavar="N",
        help="octets a second that content, and the reading of replies, must bring in the long run",
    )  # fmt: skip
    grace: float = row.one(
        "limits", "grace", None, words.seconds, default=10.0, kind=float, metavar="N",
        help="how long content that is under way may still take when the server ends",
    )  # fmt: skip

    log_format: str = row.one(
        "log", "format", "--log-format", words.one_of(*logs.FORMATS), default="text", metavar="FORMAT",
        help="how the log is written to standard error: text, or json, an object a line",
    )  # fmt: skip
    log_level: str = row.one(
        "log", "level", "--log-level", words.one_of(*logs.LEVELS), default="info", metavar="LEVEL",
        help="debug, info, warning or error, and all above it",
    )  # fmt: skip

    loop: str = row.one(
        "process", "loop", "--loop", words.one_of(*LOOPS), default="asyncio", metavar="LOOP",
        help="what the server runs on, asyncio or trio",
    )  # fmt: skip
    ready_file: Path | None = row.place(
        "process", "ready_file", "--ready-file", metavar="FILE",
        help="JSON with the ports and the pid, there when all ports listen",
    )  # fmt: skip

    def complaint(self, name: str, text: str) -> Complaint:
        """The field *name* cannot be used, for the reason in *text*: one that says where it was written."""
        written = ROWS[name]
        return Complaint(f"{self.places.get(name) or written.flag or written.title}: {text}")

    def names(self, *names: str) -> str:
        """The fields *names* as whoever wrote this value knows them: keys where one stands in a file, else flags."""
        in_file = any(name in self.places for name in names)
        return " and ".join(ROWS[name].title if in_file else ROWS[name].flag or ROWS[name].title for name in names)


ROWS: Final[Mapping[str, row.Row]] = {
    field.name: field.metadata[row.ROW] for field in attrs.fields(Settings) if row.ROW in field.metadata
}
"""How each setting is written, by the name of its field."""


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str] = ROWS) -> None:
    """Give *parser* the flags of the fields *names*, or every one there is."""
    for name in names:
        ROWS[name].add_to(parser, name)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The values of the flags that were given, by the names of their fields."""
    return {
        name: tuple(getattr(options, name)) if written.repeatable else getattr(options, name)
        for name, written in ROWS.items()
        if hasattr(options, name)
    }
