"""Values are validated when they are built: a wrong one is a LocalProtocolError that says what to pass.

``WRONG`` lists the wrong values of each kind.  Each row of a table names a constructor, a field and its kind.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import pytest

from mailauth import ACCEPT, LocalProtocolError, NeedData, Paused, Tls, grants, pop3, proxy, sasl, smtp
from mailauth.grants import Grant, GrantTable
from mailauth.policy import RelayPolicy
from mailauth.smtp import Mailbox

NETWORK: Final = ipaddress.ip_network("192.0.2.0/24")
WRONG_NAT64: Final = ipaddress.IPv6Network("2001:db8::/33")

WRONG: Final[Mapping[str, tuple[object, ...]]] = {
    "text": (b"text", 5, True, None, ("text",)),
    "text or None": (b"text", 5, True, ("text",)),
    "bytes": ("text", 5, None, bytearray(32), ["x"]),
    "flag": (1, 0, "yes", None, b"\1"),
    "count": ("100000", b"100000", True, None, 100_000.0, math.nan, -1),
    "positive count": (0, "100000", b"100000", True, None, 100_000.0, math.nan, -1),
    "count or None": ("100000", True, 100_000.0, math.nan, -1),
    "finite": ("30", b"30", True, None, math.nan, math.inf, -math.inf, -1, 0, 0.0),
    "seconds": ("30", b"30", True, None, math.nan, -math.inf, -1, 0),
    "settings": ("settings", {}, (), 0, False, smtp.ClientSettings),
    "certificate": ("text", 5, b"text", ["text"]),
    "time": ("30", b"30", True, None, math.nan),
    "names": ("PLAIN", ["PLAIN"], {"PLAIN"}, frozenset({b"PLAIN"}), frozenset({5}), None, 5),
    "tuple": ("text", b"text", ["text"], None, 5, (b"text",), (5,)),
    "port or None": ("25", True, -1, 70_000, 25.0),
    "port": ("25", True, None, -1, 70_000, 25.0),
    "address": ("192.0.2.1", b"\0\0\0\1", 5, None, NETWORK),
    "mapping or None": ("text", 5, ("text",), ["text"]),
    "NAT64 prefixes": ("64:ff9b::/96", ("64:ff9b::/96",), None, 5, (NETWORK,), (WRONG_NAT64,), (5,)),
    "mapping": ("text", None, 5, ("text",), ["text"]),
    "password": ("sesame!", None, 5, bytearray(b"sesame!"), b"", b"sesame!\0", b"sesame!\r\n"),
    "identity": (b"alice", None, 5, "", "al\0ice", "x" * 300),
    "verified identity": (b"alice", None, 5, ""),
    "decoy": ("key", bytes(16), sasl.ScramDecoy),
    "reason": ("sesame", b"sesame", 5, ACCEPT, sasl.Refusal),
    "response": ("text", 5, bytearray(32), ["x"]),
    "mechanism": ("PLAIN", None, 5, sasl.PlainServer, sasl.PlainClient),
    "mailbox": ("a@b", b"a@b", None, 5),
    "domains": ("example.org", b"example.org", 5, None, [b"example.org"], ["exa mple"], [5]),
}

KEYS: Final = {"salt": b"salt", "iterations": 4096, "stored_key": bytes(32), "server_key": bytes(32)}
LOGIN: Final = {"authentication_identity": "alice", "password": b"sesame"}
ENTROPY: Final = bytes(32)
SCRAM: Final = {**LOGIN, "entropy": ENTROPY}
ASKED_BY: Final = {"mechanism": "X", "tls": True}
ASKING: Final = {"mechanism": "text", "tls": "flag"}
SERVERS: Final[Mapping[Callable[..., object], Mapping[str, object]]] = {
    sasl.PlainServer: {},
    sasl.LoginServer: {},
    pop3.UserPassServer: {},
    sasl.CramMd5Server: {"challenge": b"<a@b>"},
    sasl.ApopServer: {"timestamp": b"<a@b>"},
    sasl.ScramSha1Server: {"nonce": "x", "decoy": sasl.ScramDecoy(key=bytes(16))},
    sasl.OauthBearerServer: {},
    sasl.ExternalServer: {"peer_certificate": None},
}

TABLE: Final[tuple[tuple[Callable[..., object], Mapping[str, object], Mapping[str, str]], ...]] = (
    (
        smtp.ServerSettings,
        {},
        {
            "host_name": "text",
            "mechanisms": "mapping",
            "mechanisms_without_tls": "names",
            "extra_parameters": "names",
            "extra_extensions": "tuple",
            "verbs": "tuple",
            **dict.fromkeys(
                (
                    *("authentication_required", "tls_required", "starttls", "lmtp", "pipelining", "eight_bit_mime"),
                    *("enhanced_status_codes", "chunking", "binary_mime", "smtputf8", "dsn", "requiretls", "limits"),
                    *("strict_syntax", "allow_bare_line_ends"),
                ),
                "flag",
            ),
            **dict.fromkeys(
                (
                    *("max_message_size", "max_command_line", "max_recipients", "max_transactions", "max_errors"),
                    *("max_junk_commands", "max_failed_logins"),
                ),
                "positive count",
            ),
            "discard_limit": "count",
            "max_text_line": "count or None",
            "timeout": "finite",
            "min_rate": "finite",
            "login_timeout": "seconds",
        },
    ),
    (
        smtp.ClientSettings,
        {},
        {
            "tls_required": "flag",
            "strict_syntax": "flag",
            "lf_to_crlf": "flag",
            **dict.fromkeys(
                ("max_reply_line", "max_reply_lines", "max_reply", "max_unanswered", "max_unwritten"), "positive count"
            ),
            "verbs": "tuple",
        },
    ),
    (
        pop3.ServerSettings,
        {},
        {
            "host_name": "text",
            "mechanisms": "mapping",
            "mechanisms_without_tls": "names",
            "stls": "flag",
            "utf8": "flag",
            "strict_syntax": "flag",
            "refuse_utf8_headers": "flag",
            "login_delay": "count or None",
            "expire": "count or None",
            "implementation": "text",
            **dict.fromkeys(("max_command_line", "max_errors", "max_failed_logins"), "positive count"),
            "timeout": "finite",
            "login_timeout": "seconds",
            "verbs": "tuple",
        },
    ),
    (
        pop3.ClientSettings,
        {},
        {
            "tls_required": "flag",
            "strict_syntax": "flag",
            **dict.fromkeys(("max_reply_line", "max_response", "max_unanswered"), "positive count"),
            "verbs": "tuple",
        },
    ),
    (sasl.ScramDecoy, {"key": bytes(16)}, {"key": "bytes", "iterations": "positive count", "salt_size": "port"}),
    (
        sasl.ScramKeys,
        KEYS,
        {"salt": "bytes", "iterations": "positive count", "stored_key": "bytes", "server_key": "bytes"},
    ),
    (
        sasl.scram_keys,
        {"password": b"sesame", "salt": b"salt", "iterations": 4096},
        {"password": "bytes", "salt": "bytes", "iterations": "positive count", "hash_name": "text"},
    ),
    *(
        (mechanism, LOGIN, {"authentication_identity": "identity", "password": "password"})
        for mechanism in (
            *(sasl.PlainClient, sasl.LoginClient, sasl.CramMd5Client, sasl.ApopClient, sasl.UserPassClient),
        )
    ),
    *(
        (
            mechanism,
            SCRAM,
            {
                "authentication_identity": "identity",
                "password": "password",
                "entropy": "bytes",
                "max_iterations": "positive count",
                "could_bind": "flag",
            },
        )
        for mechanism in (sasl.ScramSha1Client, sasl.ScramSha256Client)
    ),
    *(
        (
            mechanism,
            {**SCRAM, "channel_binding": "tls-exporter", "binding_data": b"data"},
            {"channel_binding": "text", "binding_data": "bytes"},
        )
        for mechanism in (sasl.ScramSha1PlusClient, sasl.ScramSha256PlusClient)
    ),
    (sasl.OauthBearerClient, {"token": b"t"}, {"token": "password", "host": "text", "port": "count or None"}),
    (
        sasl.Xoauth2Client,
        {"token": b"t", "authorization_identity": "alice"},
        {"token": "password", "authorization_identity": "identity"},
    ),
    (
        sasl.password_mechanisms,
        {**SCRAM, "tls": None},
        {
            "authentication_identity": "identity",
            "password": "password",
            "entropy": "bytes",
            "clear_text": "flag",
        },
    ),
    (sasl.LoginServer, {"tls": True}, {"name_prompt": "bytes", "password_prompt": "bytes"}),
    (sasl.CramMd5Server, {"tls": True}, {"challenge": "bytes"}),
    (sasl.ApopServer, {"tls": True}, {"timestamp": "bytes"}),
    (sasl.ScramSha256Server, {"tls": True, "decoy": sasl.ScramDecoy(key=bytes(16))}, {"nonce": "text"}),
    (sasl.ScramSha256Server, {"tls": True, "nonce": "x"}, {"decoy": "text"}),
    (
        sasl.Context,
        {"nonce": "x", "host_name": "c", "tls": True},
        {
            "nonce": "text",
            "host_name": "text",
            "tls": "flag",
            "channel_bindings": "mapping",
            "peer_certificate": "mapping or None",
            "offered": "names",
            "scram_decoy": "decoy",
            "strict_syntax": "flag",
        },
    ),
    *((make, {**valid, "tls": True}, {"tls": "flag"}) for make, valid in SERVERS.items()),
    (sasl.Challenge, {}, {"data": "bytes"}),
    (
        sasl.Success,
        {"authentication_identity": "alice"},
        {"authentication_identity": "verified identity", "authorization_identity": "text", "data": "bytes"},
    ),
    (
        sasl.CheckPassword,
        {"authentication_identity": "alice", "password": b"sesame", **ASKED_BY},
        {"authentication_identity": "text", "password": "bytes", **ASKING},
    ),
    (sasl.FetchSecret, {"authentication_identity": "alice", **ASKED_BY}, {"authentication_identity": "text", **ASKING}),
    (
        sasl.Authorize,
        {"authentication_identity": "alice", "authorization_identity": "bob", **ASKED_BY},
        {"authentication_identity": "text", "authorization_identity": "text", **ASKING},
    ),
    (
        sasl.FetchScramKeys,
        {"authentication_identity": "alice", "hash_name": "sha1", **ASKED_BY},
        {"authentication_identity": "text", "hash_name": "text", **ASKING},
    ),
    (
        sasl.CheckToken,
        {"authorization_identity": "", "token": b"sesame", **ASKED_BY},
        {"authorization_identity": "text", "token": "bytes", "host": "text", "port": "port or None", **ASKING},
    ),
    (
        sasl.CheckExternal,
        {"authorization_identity": "", "peer_certificate": {}, **ASKED_BY},
        {"authorization_identity": "text", "peer_certificate": "mapping", **ASKING},
    ),
    (sasl.AuthenticationStarted, {}, {"mechanism": "text"}),
    (sasl.Authenticated, {"mechanism": "PLAIN"}, {"mechanism": "text", "identity": "text or None"}),
    (
        sasl.AuthenticationFailed,
        {"mechanism": "PLAIN", "authentication_identity": "alice", "reason": None},
        {"mechanism": "text", "authentication_identity": "text or None", "reason": "reason"},
    ),
    (sasl.ServerExchange, {}, {"mechanism": "mechanism"}),
    (sasl.ClientExchange, {}, {"mechanism": "mechanism"}),
    (sasl.ServerExchange(sasl.PlainServer(tls=True)).respond, {}, {"response": "response"}),
    (sasl.Mechanisms, {}, {"factories": "mapping"}),
    (sasl.saslprep, {"text": "alice"}, {"text": "text", "limit": "count"}),
    (smtp.ClientConnection, {}, {"settings": "settings"}),
    (pop3.ClientConnection, {}, {"settings": "settings"}),
    (
        Tls,
        {"version": "TLSv1.3"},
        {"version": "text", "cipher": "text", "peer_certificate": "certificate", "channel_bindings": "mapping"},
    ),
    (sasl.encode_base64, {}, {"data": "bytes"}),
    (sasl.decode_base64, {}, {"line": "bytes"}),
    (sasl.is_message_id, {}, {"data": "bytes"}),
    (
        GrantTable,
        {},
        {
            "lifetime": "seconds",
            "ipv6_prefix": "positive count",
            "nat64_prefixes": "NAT64 prefixes",
            "identities_per_address": "positive count",
            "addresses_per_identity": "positive count",
            "max_grants": "positive count",
        },
    ),
    (Grant, {"address": "192.0.2.1", "identity": "alice"}, {"expires": "time"}),
    (RelayPolicy, {}, {"domains": "domains"}),
    (
        RelayPolicy(domains=["example.org"]).decide,
        {"identity": None, "grant": None},
        {"forward_path": "mailbox"},
    ),
    (RelayPolicy(domains=["example.org"]).is_local, {}, {"forward_path": "mailbox"}),
    (
        RelayPolicy(domains=["example.org"]).decide,
        {"forward_path": Mailbox("a", "b"), "identity": None},
        {"grant": "tuple"},
    ),
    (proxy.Endpoint, {"address": ipaddress.ip_address("192.0.2.1")}, {"port": "port"}),
    (proxy.Endpoint, {"port": 25}, {"address": "address"}),
    (proxy.HeaderReader().receive_data, {}, {"data": "bytes"}),
)


def rows() -> Iterator[Any]:
    for build, valid, kinds in TABLE:
        for field, kind in kinds.items():
            for wrong in WRONG[kind]:
                if kind == "seconds" and field == "lifetime" and wrong == 0:
                    continue  # no grant is ever active
                if field == "grant" and wrong is None:
                    continue
                name = getattr(build, "__qualname__", type(build).__name__)
                yield pytest.param(build, valid, field, wrong, id=f"{name}-{field}-{wrong!r}"[:80])


@pytest.mark.parametrize(("build", "valid", "field", "wrong"), list(rows()))
def test_a_wrong_value_is_rejected_when_it_is_passed(
    build: Callable[..., object], valid: Mapping[str, object], field: str, wrong: object
) -> None:
    with pytest.raises(LocalProtocolError) as raised:
        build(**{**valid, field: wrong})
    said = str(raised.value)
    assert field in said
    assert re.search(r"must (not )?be |must (not )?contain|use |cannot be sent: |pass ", said)
    assert "sesame" not in said


SASL: Final = tuple(kind for kind in vars(sasl).values() if attrs.has(kind) and "messages" in kind.__module__)


@pytest.mark.parametrize(
    "kind",
    [
        *(smtp.ServerSettings, smtp.ClientSettings, pop3.ServerSettings, pop3.ClientSettings, sasl.ScramDecoy),
        *(sasl.Context, *SASL),
    ],
)
def test_the_table_has_every_field(kind: type[Any]) -> None:
    fields = {field.alias for field in attrs.fields(kind) if field.init}
    tested = {field for build, _, kinds in TABLE if build is kind for field in kinds}
    assert fields - tested <= {"scram_decoy"}  # see the test below


@pytest.mark.parametrize(("own", "other"), [(smtp, pop3), (pop3, smtp)])
def test_settings_of_the_other_protocol_are_rejected(own: Any, other: Any) -> None:
    name, wrong = (module.__name__.rpartition(".")[2] for module in (own, other))
    with pytest.raises(LocalProtocolError) as raised:
        own.ServerConnection(other.ServerSettings(), entropy=ENTROPY)
    assert str(raised.value).startswith(f"settings must be a {name}.ServerSettings, not {wrong}.ServerSettings; use ")
    with pytest.raises(LocalProtocolError) as raised:
        own.ClientConnection(other.ClientSettings())
    assert str(raised.value).startswith(
        f"settings must be a {name}.ClientSettings or None, not {wrong}.ClientSettings; use "
    )


@pytest.mark.parametrize("settings", [smtp.ServerSettings, pop3.ServerSettings])
@pytest.mark.parametrize("wrong", ["key", bytes(32), sasl.ScramDecoy])
def test_the_decoy_must_be_a_scram_decoy(settings: Callable[..., object], wrong: object) -> None:
    with pytest.raises(LocalProtocolError, match=r"scram_decoy must be a ScramDecoy or None, not \w+; use ScramDecoy"):
        settings(scram_decoy=wrong)


@pytest.mark.parametrize("settings", [smtp.ServerSettings, pop3.ServerSettings])
@pytest.mark.parametrize("wrong", ["PLIAN", "plain", "", "SCRAM-SHA-256"])
def test_unknown_mechanism_without_tls_is_rejected(settings: Callable[..., object], wrong: str) -> None:
    """A name that is not offered at all would have no effect."""
    with pytest.raises(LocalProtocolError) as raised:
        settings(mechanisms_without_tls=frozenset({"LOGIN", wrong}))
    assert str(raised.value).startswith(f"mechanisms_without_tls: unknown mechanism {wrong!r}; use one of ")
    assert "PLAIN, LOGIN" in str(raised.value)


def test_both_protocols_can_share_a_set_of_mechanisms_without_tls() -> None:
    """USER and APOP are in POP3 only."""
    names = frozenset({"PLAIN", "USER", "APOP"})
    assert smtp.ServerSettings(mechanisms_without_tls=names).offered(None) == ("PLAIN",)
    assert "PLAIN" in pop3.ServerSettings(mechanisms_without_tls=names).offered(None)


def test_unknown_mechanism_in_only_is_rejected() -> None:
    with pytest.raises(LocalProtocolError) as raised:
        sasl.Mechanisms(dict(list(sasl.DEFAULT_MECHANISMS.factories.items())[:2])).only("PLAIN", "PLIAN")
    assert str(raised.value) == "only(): unknown mechanism 'PLIAN'; use one of PLAIN, LOGIN"


@pytest.mark.parametrize("wrong", [b"PLAIN", None, ["PLAIN"], 5])
def test_only_takes_names(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"each name must be a str, not \w+; use only\('PLAIN'\)"):
        sasl.DEFAULT_MECHANISMS.only(wrong)


def test_md5_mechanisms_may_be_named_where_md5_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a program that runs on other systems would fail on one that does not allow MD5."""
    monkeypatch.setattr("mailauth.sasl.offer.MD5_AVAILABLE", False)
    mechanisms = sasl.ALL_MECHANISMS.only("PLAIN")
    assert mechanisms.only("PLAIN", "CRAM-MD5", "APOP").names == ("PLAIN",)
    smtp.ServerSettings(mechanisms=mechanisms, mechanisms_without_tls=frozenset({"PLAIN", "CRAM-MD5"}))


@pytest.mark.parametrize(
    "wrong", [{"PLAIN": None}, {"PLAIN": "PlainServer"}, {b"PLAIN": sasl.PlainServer}, {"plain": print}]
)
def test_factories_map_names_to_functions(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"use |\.decode"):
        sasl.Mechanisms(wrong)


@pytest.mark.parametrize("wrong", [True, "TLSv1.3", {}])
def test_tls_of_password_mechanisms_must_be_a_tls(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"tls must be a Tls or None, not \w+; use Tls\("):
        sasl.password_mechanisms("alice", b"sesame", entropy=ENTROPY, tls=wrong)


@pytest.mark.parametrize("wrong", ["", b"alice", 5, True])
def test_a_wrong_identity_never_permits_relaying(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match="identity must be a non-empty str or None; pass None before a login"):
        RelayPolicy(domains=["example.org"]).decide(Mailbox("a", "b.test"), identity=wrong, grant=None)


@pytest.mark.parametrize("wrong", ["xclient", "", "X Y", "X="])
def test_extra_parameters_are_keywords_in_upper_case(wrong: str) -> None:
    """Parameters are compared in upper case, so that another keyword would have no effect."""
    with pytest.raises(
        LocalProtocolError, match=f"extra_parameters: {wrong!r} is invalid; use a keyword in upper case"
    ):
        smtp.ServerSettings(extra_parameters=frozenset({wrong}))


def test_a_mailbox_given_as_text_is_rejected_with_the_call_to_use() -> None:
    with pytest.raises(LocalProtocolError) as raised:
        smtp.Rcpt(forward_path="a@b")  # type: ignore[arg-type]  # the mistake
    assert "Mailbox.parse" in str(raised.value)
    with pytest.raises(LocalProtocolError) as raised:
        RelayPolicy(domains=["b"]).is_local("a@b")  # type: ignore[arg-type]  # the mistake
    assert str(raised.value) == "forward_path must be a Mailbox, not str; use Mailbox.parse(...)"


def test_valid_extremes_are_accepted() -> None:
    smtp.ServerSettings(login_timeout=math.inf, timeout=1, min_rate=0.5, discard_limit=0, max_text_line=None)
    pop3.ServerSettings(login_timeout=math.inf, login_delay=0, expire="NEVER")
    GrantTable(lifetime=0, ipv6_prefix=1, identities_per_address=1, max_grants=1)
    GrantTable(lifetime=grants.MAX_LIFETIME, ipv6_prefix=128)
    assert sasl.DEFAULT_MECHANISMS.only().names == ()
    assert sasl.password_mechanisms("alice", b"sesame", entropy=ENTROPY, tls=Tls(version="TLSv1.3"))


class Careless(sasl.PlainServer):
    """A mechanism that returns its challenge as bytes."""

    def respond(self, response: bytes | None) -> Any:
        return b"sesame"


def test_a_mechanism_that_returns_no_step_is_an_error_of_its_author() -> None:
    exchange = sasl.ServerExchange(Careless(tls=True))
    with pytest.raises(LocalProtocolError) as raised:
        exchange.begin(None)
    assert str(raised.value) == "PLAIN returned bytes, not a step; return a Challenge, a question or a result"


def login(mechanism: str) -> list[object]:
    """Return the questions and notices of a login by *mechanism*, SMTP or POP3."""
    connection: Any = smtp.ServerConnection(smtp.ServerSettings(), entropy=ENTROPY, tls=Tls(version="TLSv1.3"))
    said = b"EHLO c\r\nAUTH PLAIN AGFsaWNlAHNlc2FtZQ==\r\n"
    if mechanism == "USER":
        connection = pop3.ServerConnection(pop3.ServerSettings(), entropy=ENTROPY, tls=Tls(version="TLSv1.3"))
        said = b"USER alice\r\nPASS sesame\r\n"
    connection.receive_data(said)
    events: list[object] = []
    while not isinstance(event := connection.next_event(), NeedData | Paused):
        events.append(event)
        if isinstance(event, sasl.CheckPassword | smtp.Connected | pop3.Connected):
            connection.answer(event, ACCEPT)
    return [event for event in events if type(event).__module__ == sasl.CheckPassword.__module__]


@pytest.mark.parametrize("mechanism", ["PLAIN", "USER"])
def test_a_login_builds_the_same_values_as_their_constructors(mechanism: str) -> None:
    """The library skips the validation of what it builds for each login, and must not skip a field."""
    assert login(mechanism) == [
        sasl.AuthenticationStarted(mechanism=mechanism),
        sasl.CheckPassword(authentication_identity="alice", password=b"sesame", mechanism=mechanism, tls=True),
        sasl.Authenticated(mechanism=mechanism, identity="alice"),
    ]
    exchange = sasl.ServerExchange(sasl.PlainServer(tls=True))
    exchange.begin(b"AGFsaWNlAHNlc2FtZQ==")
    assert exchange.answer(ACCEPT) == sasl.Success(authentication_identity="alice", authorization_identity="alice")
