"""Values are validated when they are passed: a wrong one is a TypeError or ValueError that says what to pass.

``WRONG`` lists the wrong values of each kind.  Each row of ``TABLE`` names a function, a parameter and its kind.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from mailauth import Question, pop3, smtp
from mailauth_io import logs, on_asyncio, on_trio, server, stores
from mailauth_io.adapters import ConnectionLimiter, Limits, Peer
from mailauth_io.adapters.tls.certificates import temporary_certificate
from mailauth_io.client._server import Server
from mailauth_io.server.state import ServerState
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import RedisGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants, access_problem, check_file
from tests.io.server_support import accounts
from tests.io.tls import client_context, server_context

ADDRESS: Final = ipaddress.ip_address("192.0.2.1")
NETWORK: Final = ipaddress.ip_network("192.0.2.0/24")
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
WRONG_NAT64: Final = ipaddress.IPv6Network("2001:db8::/33")
MAPPED: Final = ipaddress.ip_network("::ffff:192.0.2.0/120")

WRONG: Final[Mapping[str, tuple[object, ...]]] = {
    "text": (b"sesame", 5, True, None, "", ("sesame",)),
    "text or None": (b"sesame", 5, True, "", ("sesame",)),
    "any text": (b"sesame", 5, True, None, ("sesame",)),
    "bytes": ("sesame", 5, None, bytearray(b"sesame"), ["sesame"]),
    "random key or None": ("sesame" * 4, 5, bytearray(16), b"", b"sesame", bytes(15)),
    "flag": (1, 0, "yes", None, b"\1"),
    "count": ("1000000", b"1000000", True, None, 1_000_000.0, math.nan, -1, 0),
    "count or None": ("1000000", True, 1_000_000.0, math.nan, -1),
    "hashable": (["sesame"], {}, set()),
    "address": ("192.0.2.1", b"\0\0\0\1", 5, None, NETWORK),
    "addresses": ("192.0.2.1", b"192.0.2.1", None, 5, (b"192.0.2.1",), ("sesame",), ("",)),
    "format": ("sesame", "TEXT", "", b"text", None, 5),
    "level": ("sesame", "INFO", "", b"info", None, 20),
    "descriptor": ("2", True, None, -1, 2.0),
    "size": ("1000000", True, None, 1_000_000.0, -1),
    "finite": ("30", b"30", True, None, math.nan, math.inf, -math.inf, -1, 0, 0.0),
    "delay": ("1", b"1", True, None, math.nan, math.inf, -math.inf, -1),
    "grace": ("1", b"1", True, None, math.nan, -math.inf, -1),
    "seconds": ("30", True, None, math.nan, -math.inf, -1, 0),
    "lifetime": ("30", b"30", True, None, math.nan, math.inf, -1),
    "lifetime or None": ("30", b"30", True, math.nan, math.inf, -1),
    "port": ("25", b"25", True, None, -1, 70_000, 25.0),
    "port or None": ("25", b"25", True, -1, 70_000, 25.0),
    "port of a server": ("25", True, None, -1, 70_000, 0, 25.0),
    "names": ("example.test", ["example.test"], None, 5, (b"example.test",), (5,), (), ("",)),
    "mechanisms": ("PLAIN", ["PLAIN"], None, 5, (b"PLAIN",), (5,), ("",), ("SESAME",)),
    "texts": ("sesame", b"sesame", ["sesame"], None, 5, (b"sesame",), (5,)),
    "set": ("sesame", ["sesame"], {"sesame"}, None, 5, frozenset({b"sesame"})),
    "networks": ("192.0.2.0/24", ("192.0.2.0/24",), (b"192.0.2.0/24",), None, 5, NETWORK, (MAPPED,), (5,)),
    "tuple of networks": (["192.0.2.0/24"], [NETWORK], "192.0.2.0/24", ("192.0.2.0/24",), None, NETWORK, (MAPPED,)),
    "NAT64 prefixes": ("64:ff9b::/96", ("64:ff9b::/96",), None, 5, NAT64, (NETWORK,), (WRONG_NAT64,), (5,)),
    "tuple of NAT64 prefixes": ([NAT64], ("64:ff9b::/96",), None, 5, NAT64, (NETWORK,), (WRONG_NAT64,), (5,)),
    "path": ("users", b"users", None, 5, ("users",)),
    "function": ("time", None, 5, 1.5),
    "server context": ("cert.pem", True, 5, Path("cert.pem"), client_context(), ssl.SSLContext),
    "client context": ("cert.pem", True, 5, Path("cert.pem"), server_context(), ssl.SSLContext),
    "object": ("sesame", b"sesame", 5, None, {}, object(), Limits),
    "object or None": ("sesame", b"sesame", 5, {}, object(), Limits),
    "store": ("sesame", None, 5, {}, object(), stores.MemoryAccounts, stores.MemoryMaildrops),
    "store or None": ("sesame", 5, {}, object(), stores.MemoryAccounts),
    "accounts": ("alice", b"alice", None, 5, [("alice", b"sesame")], ["alice"]),
    "domains": ("example.test", ["example.test"], None, 5, {b"example.test"}),
    "tokens": (
        "alice",
        None,
        5,
        ["alice"],
        [("alice", "t")],
        [("alice",)],
        [("alice", b"a", b"b")],
        [(b"alice", b"t")],
    ),
    "certificate names": ("alice", None, 5, ["alice"], [(b"CN:alice", "alice")], [("CN:alice", b"alice")], [("x",)]),
}

OUTBOX: Final = stores.MemoryOutbox()
STORES: Final = {"accounts": accounts(), "maildrops": stores.MemoryMaildrops(), "outbox": OUTBOX}
HOP: Final = {"host": "mail.example.test", "port": 25, "tls_required": False}
GRANTS: Final = {
    "lifetime": "lifetime", "ipv6_prefix": "count", "nat64_prefixes": "NAT64 prefixes",
    "identities_per_address": "count", "addresses_per_identity": "count", "max_grants": "count",
}  # fmt: skip
LISTENER: Final = {
    "session": "function", "host": "text", "port": "port", "ssl_context": "server context", "implicit_tls": "flag",
    "grace": "grace", "proxy_from": "networks", "reuse_port": "flag", "limits": "object", "limiter": "object or None",
    "alpn": "text or None",
}  # fmt: skip


async def session(connection: object) -> None:
    raise AssertionError("no client connects")


def entering(serve: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that enters the context of *serve* on asyncio."""

    def enter(**options: object) -> None:
        async def main() -> None:
            async with serve(**options):
                raise AssertionError("listening")

        asyncio.run(main())

    enter.__qualname__ = f"serve-{serve.__qualname__}"
    return enter


def connect(**options: Any) -> None:
    async def main() -> None:
        await on_asyncio.connect(**options)

    asyncio.run(main())


def check_password(**options: Any) -> None:
    asyncio.run(server.Authenticator(accounts()).check_password(**options))


TABLE: Final[tuple[tuple[Callable[..., object], Mapping[str, object], Mapping[str, str]], ...]] = (
    (
        Limits,
        {},
        {
            "connections": "count",
            "connections_per_address": "count",
            **dict.fromkeys(
                ("proxy_header_timeout", "connect_timeout", "handshake_timeout", "write_timeout", "min_rate"), "finite"
            ),
        },
    ),
    (
        ConnectionLimiter,
        {},
        {
            "limits": "object or None",
            "ipv6_prefix": "count",
            "nat64_prefixes": "NAT64 prefixes",
            "clock": "function",
        },
    ),
    (
        entering(on_asyncio.serve),
        {
            "session": session,
            "build": lambda entropy, tls: smtp.ServerConnection(smtp.ServerSettings(), entropy=entropy),
        },
        {**LISTENER, "build": "function"},
    ),
    (
        entering(on_trio.serve_smtp),
        {"session": session, "settings": smtp.ServerSettings()},
        {"settings": "object", **{name: LISTENER[name] for name in ("session", "host", "port", "proxy_from")}},
    ),
    (
        entering(on_asyncio.serve_smtp),
        {"session": session, "settings": smtp.ServerSettings()},
        {**LISTENER, "settings": "object"},
    ),
    (
        entering(on_asyncio.serve_pop3),
        {"session": session, "settings": pop3.ServerSettings()},
        {**LISTENER, "settings": "object"},
    ),
    (
        connect,
        {"machine": smtp.ClientConnection(), "host": "127.0.0.1", "port": 1},
        {
            "machine": "function",
            "host": "text",
            "port": "port of a server",
            "ssl_context": "client context",
            "implicit_tls": "flag",
            "server_hostname": "text or None",
            "local_address": "text or None",
            "limits": "object",
        },
    ),
    (
        server.Config,
        {},
        {
            "hosts": "names",
            "domains": "names",
            **dict.fromkeys(server.PORTS, "port or None"),
            "reuse_port": "flag",
            "postmaster": "text or None",
            "max_message_size": "count",
            "ssl_context": "server context",
            "failure_delay": "delay",
            "max_failed_logins": "count",
            "mechanisms": "mechanisms",
            "local_delivery": "flag",
            "legacy": "flag",
            "strict_syntax": "flag",
            "grant_lifetime": "lifetime or None",
            "grant_ipv6_prefix": "count or None",
            "limit_ipv6_prefix": "count",
            "nat64_prefixes": "tuple of NAT64 prefixes",
            "limits": "object",
            "smtp_timeout": "finite",
            "pop3_timeout": "finite",
            "login_timeout": "seconds",
            "grace": "delay",
            "no_grants_from": "tuple of networks",
            "proxy_from": "tuple of networks",
        },
    ),
    (
        server.Stores,
        STORES,
        {
            **dict.fromkeys(("accounts", "maildrops"), "store"),
            **dict.fromkeys(("outbox", "grants", "tokens", "certificates"), "store or None"),
            "hashing": "object",
            "budget": "object",
            "decoy_key": "random key or None",
        },
    ),
    (
        server.NextHop,
        HOP,
        {
            "host": "text",
            "port": "port of a server",
            "ssl_context": "client context",
            "implicit_tls": "flag",
            "tls_required": "flag",
            "login": "object or None",
            "clear_text_login": "flag",
            "mechanism": "text or None",
            "strict_syntax": "flag",
            "max_sessions": "count",
            "timeouts": "object",
        },
    ),
    (server.Login, {"name": "alice", "password": b"sesame"}, {"name": "text", "password": "bytes"}),
    (
        server.Timeouts,
        {},
        dict.fromkeys(
            ("recipient", "session", "connect", "data", "block", "final_reply", "idle", "quit", "check"), "finite"
        ),
    ),
    (server.FailedLogins, {}, {"longest": "delay", "max_addresses": "count", "key": "function"}),
    (
        server.Authenticator,
        {"accounts": accounts()},
        {
            "accounts": "store",
            "tokens": "store or None",
            "certificates": "store or None",
            "hashing": "object or None",
            "decoy_key": "random key or None",
        },
    ),
    (
        stores.LoginSource,
        {},
        {
            "address": "hashable",
            "network": "hashable",
            **dict.fromkeys(("failed_recently", "connected", "note_failure"), "function"),
        },
    ),
    (
        stores.GrantSettings,
        {},
        {"lifetime": "lifetime", "ipv6_prefix": "count", "nat64_prefixes": "NAT64 prefixes"},
    ),
    (
        stores.ActiveGrant,
        {"address": ADDRESS, "identity": "alice", "remaining": 5.0},
        {"address": "address", "identity": "text", "remaining": "grace"},
    ),
    (Peer, {"address": "192.0.2.1", "port": 25}, {"address": "text", "port": "port"}),
    (logs.start, {"form": "text", "level": "info"}, {"form": "format", "level": "level", "descriptor": "descriptor"}),
    (temporary_certificate, {}, {"addresses": "addresses"}),
    (check_password, {"name": "alice"}, {"password": "bytes"}),
    (server.PolicyService, {"grants": stores.MemoryGrants()}, {"grants": "store", "never": "networks"}),
    (stores.Hashing, {}, {"threads": "count or None", "timeout": "delay"}),
    (stores.Budget, {}, {"size": "size"}),
    (stores.MessageContent, {}, {"budget": "object"}),
    (stores.MessageContent.of, {"budget": stores.Budget()}, {"data": "bytes"}),
    (
        stores.Envelope,
        {"queue_id": "1", "reverse_path": "", "recipients": ("a@b",)},
        {"queue_id": "text", "reverse_path": "any text", "recipients": "texts"},
    ),
    (
        stores.Account,
        {"name": "alice", "credential": None},
        {"name": "any text", "credential": "object or None", "where": "any text", "problem": "any text"},
    ),
    (stores.Changes, {}, {"revoked": "set", "warnings": "texts", "notices": "texts", "in_force": "delay"}),
    (
        stores.MemoryAccounts,
        {"accounts": {"alice": b"sesame"}},
        {
            "accounts": "accounts",
            "domains": "domains",
            "file": "object or None",
            "tokens": "tokens",
            "certificate_names": "certificate names",
        },
    ),
    (stores.from_password, {"name": "alice", "password": b"sesame"}, {"name": "any text", "password": "bytes"}),
    (stores.mailbox_name, {"text": "alice", "domains": frozenset[str]()}, {"domains": "text"}),
    (stores.read_credential, {}, {"field": "bytes"}),
    (stores.write_credential, {"scheme": "PLAIN"}, {"password": "bytes"}),
    (stores.MaildirMaildrops, {}, {"directory": "path"}),
    (stores.MaildirOutbox, {}, {"directory": "path"}),
    (stores.AccountsFile, {"path": Path("users")}, {"path": "path", "clock": "function", "stat": "function"}),
    (stores.read_passwd_file, {}, {"path": "path"}),
    (stores.read_private, {}, {"path": "path"}),
    (check_file, {}, {"path": "path"}),
    (access_problem, {}, {"path": "path"}),
    (stores.MemoryGrants, {}, {**GRANTS, "clock": "function"}),
    (SqliteGrants, {"path": Path("/none/grants")}, {**GRANTS, "path": "path", "clock": "function"}),
    (RedisGrants, {"address": RedisAddress(host="h")}, {**GRANTS, "address": "object", "password": "text or None"}),
    (
        RedisAddress,
        {"host": "127.0.0.1"},
        {
            "host": "text",
            "port": "port of a server",
            "database": "size",
            "tls": "flag",
            "path": "any text",
            "username": "text or None",
            "password": "text or None",
        },
    ),
)

SAYS_WHAT: Final = re.compile(r"must (not )?(be|have)|use |pass ")


def rows() -> Iterator[Any]:
    for call, valid, kinds in TABLE:
        for name, kind in kinds.items():
            for number, wrong in enumerate(WRONG[kind]):
                shown = getattr(call, "__qualname__", type(call).__name__)
                yield pytest.param(call, valid, name, wrong, id=f"{shown}-{name}-{number}-{type(wrong).__name__}")


@pytest.mark.parametrize(("call", "valid", "name", "wrong"), list(rows()))
def test_a_wrong_value_is_rejected_when_it_is_passed(
    call: Callable[..., object], valid: Mapping[str, object], name: str, wrong: object
) -> None:
    """No error contains a text that was passed: it may be a password."""
    with pytest.raises((TypeError, ValueError)) as raised:
        call(**{**valid, name: wrong})
    said = str(raised.value)
    assert name.removesuffix("s").replace("_", " ") in said.replace("_", " ")
    assert SAYS_WHAT.search(said)
    assert "sesame" not in said
    assert "unexpected keyword" not in said


@pytest.mark.parametrize(
    "kind",
    [
        *(Limits, Peer, server.Config, server.Stores, server.NextHop, server.Login, server.Timeouts, RedisAddress),
        *(stores.LoginSource, stores.GrantSettings, stores.ActiveGrant),
    ],
)
def test_the_table_has_every_field(kind: type[Any]) -> None:
    fields = {field.alias for field in attrs.fields(kind) if field.init}
    assert fields <= {name for call, _, kinds in TABLE if call is kind for name in kinds}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: server.Config(domains="example.test"),  # type: ignore[arg-type]  # the mistake
            "domains must be a tuple, not str; use a tuple such as (item,)",
        ),
        (
            lambda: server.Config(proxy_from=("192.0.2.0/24",)),  # type: ignore[arg-type]  # the mistake
            (
                "each of proxy_from must be an IPv4Network or an IPv6Network, not str; use"
                " ipaddress.ip_network('192.0.2.0/24')"
            ),
        ),
        (lambda: server.Config(smtp=70_000), "smtp must be 0 to 65535, not 70000"),
        (lambda: server.Config(smtp=25, pop3s=25), "smtp and pop3s are both 25; use a different port for each"),
        (
            lambda: server.Config(ssl_context=client_context()),
            "ssl_context is for clients; use ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)",
        ),
        (
            lambda: stores.MaildirMaildrops("mail"),  # type: ignore[arg-type]  # the mistake
            "directory must be a Path, not str; use pathlib.Path(...)",
        ),
        (
            lambda: server.Stores(**{**STORES, "accounts": stores.MemoryAccounts}),  # type: ignore[arg-type]  # the mistake
            "accounts must be an object, not the class MemoryAccounts; use MemoryAccounts(...)",
        ),
        (
            lambda: server.Stores(**{**STORES, "outbox": stores.MemoryGrants()}),  # type: ignore[arg-type]  # the mistake
            "outbox must have the methods of stores.Outbox; MemoryGrants has no method stage",
        ),
        (
            lambda: server.Config(hosts=("",)),
            "hosts must be one or more names, none of them empty",
        ),
        (
            lambda: RedisGrants("redis://h/0"),  # type: ignore[arg-type]  # the mistake
            "address must be a RedisAddress, not str; use RedisAddress.read('redis://127.0.0.1/0')",
        ),
        (RedisAddress, "host and path must not both be empty; use RedisAddress.read('redis://127.0.0.1/0')"),
    ],
)
def test_the_error_says_what_was_wrong_and_what_to_pass(call: Callable[[], object], says: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert str(raised.value) == says


def test_connect_rejects_implicit_tls_without_a_context_before_it_connects() -> None:
    """Nothing listens on port 1, so that a connection would be an OSError."""
    with pytest.raises(ValueError, match="implicit_tls=True needs an ssl_context; pass one"):
        connect(machine=smtp.ClientConnection(), host="127.0.0.1", port=1, implicit_tls=True)


def test_free_ports_are_not_the_same_port() -> None:
    config = server.Config(smtp=0, pop3=0)
    assert (config.smtp, config.pop3) == (0, 0)


def test_domains_of_the_accounts_may_be_in_upper_case() -> None:
    found = stores.MemoryAccounts([stores.from_password("alice@Example.TEST", b"sesame")], domains={"EXAMPLE.test"})
    assert found.names == ("alice",)


def test_valid_extremes_are_accepted() -> None:
    server.Config(login_timeout=math.inf, failure_delay=0, grace=0, grant_lifetime=0, proxy_from=(NETWORK,))
    server.Config(ssl_context=server_context(), smtps=65_535)
    stores.Hashing(threads=1, timeout=0)
    stores.Budget(0)
    stores.Changes(in_force=0)
    RedisAddress(path="/run/redis.sock")
    server.Stores(**STORES)  # type: ignore[arg-type]  # a mapping of values of several types


def test_temporary_certificate_in_place_of_a_context_is_an_error_that_names_its_context() -> None:
    certificate: Any = temporary_certificate()
    expected = r"ssl_context must be an SSLContext or None, not TemporaryCertificate; use temporary_certificate\(\)\."
    with pytest.raises(TypeError, match=expected + "server$"):
        server.Config(ssl_context=certificate)
    with pytest.raises(TypeError, match=expected + r"client\(\)$"):
        Server(host="127.0.0.1", ssl_context=certificate)
    with pytest.raises(TypeError, match=expected + r"client\(\)$"):
        connect(machine=smtp.ClientConnection(), host="127.0.0.1", port=1, ssl_context=certificate)


def no_decision(view: server.SessionView, question: Question[Any]) -> server.Decision:
    return server.PASS


@pytest.mark.parametrize("wrong", [no_decision, server.Interceptor(no_decision), None, "mymodule:function"])
def test_interceptors_must_be_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"interceptors must be a list, not \w+; pass \[function\]"):
        ServerState.of(server.Config(), server.Stores(**STORES), time.monotonic, interceptors=wrong)  # type: ignore[arg-type]  # as above
