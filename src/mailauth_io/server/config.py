"""The configuration of the server: frozen values, validated when they are built."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Set
from ipaddress import IPv6Network
from typing import Final

import attrs

from mailauth import LocalProtocolError, sasl
from mailauth.addresses import Network
from mailauth.grants import GrantTable
from mailauth.pop3 import ALL_MECHANISMS as ALL_POP3_MECHANISMS, ServerSettings as Pop3Settings
from mailauth.smtp import Mailbox, ServerSettings as SmtpSettings

from .._checks import (
    check_integer,
    check_interface,
    check_items,
    check_nat64_prefixes,
    check_networks,
    check_number,
    check_port,
    check_random_key,
    check_server_context,
    check_text,
    check_type,
    field,
)
from ..limits import Limits
from ..stores import (
    Accounts,
    Budget,
    Certificates,
    Grants,
    GrantSettings,
    Hashing,
    Maildrops,
    Outbox,
    Proof,
    Tokens,
    mailbox_name,
)
from ._failed_logins import MAX_DELAY
from ._offer import CLEAR, EVERY_PROOF, MECHANISMS, offered
from .next_hop import NextHop

PORTS: Final = ("smtp", "smtps", "pop3", "pop3s")
"""The fields of Config and RunningServer that are ports."""

_UNUSED_DECOY: Final = sasl.ScramDecoy(key=bytes(32))
"""The core requires a decoy where SCRAM is offered.  It is never used here: the
Authenticator also returns keys for unknown names."""


def _lower(domains: tuple[str, ...]) -> tuple[str, ...]:
    check_items("domains", domains, str)
    return tuple(domain.lower() for domain in domains)


def _not_empty(instance: object, attribute: attrs.Attribute[tuple[str, ...]], items: tuple[str, ...]) -> None:
    if not items or "" in items:
        raise ValueError(f"{attribute.name} must be one or more names, none of them empty")


def _check_lifetime(instance: object, attribute: attrs.Attribute[float | None], seconds: float | None) -> None:
    if seconds is None:
        return
    try:
        GrantTable(lifetime=seconds)
    except LocalProtocolError as error:
        raise ValueError(f"grant_{error}") from None


_networks: Final = field(check_networks)


def shared_port(ports: Mapping[str, int | None]) -> tuple[str, str, int] | None:
    """Return the names of two services in *ports* that have the same port, and the port; None if there are none.

    The system does not detect it with SO_REUSEPORT: connections would go to either service.
    """
    names: dict[int, str] = {}
    for name, port in ports.items():
        if port:  # 0 is any free port
            if port in names:
                return names[port], name, port
            names[port] = name
    return None


def _check_mechanisms(instance: object, attribute: object, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in MECHANISMS:
            raise ValueError(
                f"unknown mechanism {name!r}; use some of {', '.join(MECHANISMS)}."
                " A mechanism of your own needs a session of its own (docs/sasl.md)"
            )


@attrs.frozen(kw_only=True)
class Config:
    """The configuration of a server.

    A port is None if it is not used, and 0 for any free port.  Without *ssl_context*, no login is possible unless
    *legacy* is true.  The mechanisms are those of the library; a mechanism of the application needs a session of its
    own, with ``serve_smtp`` and an Authenticator.  Raises TypeError or ValueError for an invalid value.

    Fields, which have the same names in TOML (docs/example.toml) unless another is given:

    hosts
        The addresses to listen on, each with all ports.  ``::`` accepts IPv6 only; for IPv4 too, add ``0.0.0.0``.
    smtp
        The port with STARTTLS, usually 25 or 587.
    smtps
        The port of SMTP with implicit TLS, usually 465.
    pop3
        The port with STLS, usually 110.
    pop3s
        The port of POP3 with implicit TLS, usually 995.
    reuse_port
        Share the ports with other processes of the same user (SO_REUSEPORT).  The processes must also share
        accounts, maildrops, outbox and grants.
    domains
        The local domains.  The first is also the host name of the server.  A login name may end with ``@`` and one
        of them.
    local_delivery
        Store mail for *domains* in the maildrops.  False, for a server that only relays: all mail is remote, also
        that for *domains* and for ``postmaster``, and each recipient needs a login, a grant or an interceptor that
        permits it.
    postmaster
        The account that receives mail for ``postmaster``, with and without a domain, if no account has this name.
        None: that mail is rejected then.
    max_message_size
        Bytes, advertised with SIZE.  In TOML: ``[mail] max_message``.
    ssl_context
        For the ports with implicit TLS, and for STARTTLS and STLS.  None: no TLS.  It must have a certificate
        (``load_cert_chain()``), which the ssl module cannot check in advance: without one, each handshake fails,
        and the log says ``NO_SHARED_CIPHER``.  For a test, use
        ``mailauth_io.adapters.tls.certificates.temporary_certificate().server``.  In TOML: ``[tls] certificate``
        and ``key``.
    failure_delay
        The maximum delay in seconds before a failed login is answered; 0 disables the delay.  The delay grows with
        the number of failed logins from the same address.
    max_failed_logins
        The number of failed logins after which a session ends, at least three (RFC 4954 section 9).
    mechanisms
        The names of the mechanisms that may be offered, in SMTP and POP3; USER (with PASS) and APOP exist in POP3
        only.  Of these, the server offers those that every account supports, the strongest first.  Empty: no
        logins.
    legacy
        Offer and accept clear-text passwords and MD5 digests without TLS.
    strict_syntax
        Reject commands that break the grammar of the RFCs, even where their meaning is clear
        (docs/tolerance.md).  In TOML: ``[server] strict``.
    grant_lifetime
        Seconds for which a POP3 login permits its address to relay, at most a year; 0: no grants.  None: the lifetime
        of ``Stores.grants``, or 1800 for grants in memory.  ``serve()`` rejects another number than the lifetime of
        ``Stores.grants``, because it would have no effect.  In TOML: ``[grants] lifetime``.
    grant_ipv6_prefix
        The number of leading bits of an IPv6 address that a grant covers; 128 is the single address.  The
        exceptions are those of ``mailauth.addresses.grant_key()``.  None: the prefix of ``Stores.grants``, or 128 for
        grants in memory; ``serve()`` rejects another number.  In TOML: ``[grants] ipv6_prefix``.
    limit_ipv6_prefix
        The number of leading bits of an IPv6 address that count as one address for all limits (``limit_key()`` in
        ``mailauth.addresses``): connections, failed logins, memory for messages, and password hashing.  In TOML:
        ``[limits] ipv6_prefix``.
    nat64_prefixes
        The NAT64 prefixes of your network, besides 64:ff9b::/96: an address in them counts as the IPv4 address of
        its client for limits, and as a whole for grants.  Those of ``Stores.grants`` must be the same.
    limits
        The limits on connections, for all ports together, and on slow peers.  In TOML: ``[limits] connections`` and
        others.
    smtp_timeout
        Seconds to wait for an SMTP command; see ``smtp.ServerSettings.timeout``.
    pop3_timeout
        Seconds to wait for a POP3 command; see ``pop3.ServerSettings.timeout``.
    login_timeout
        Seconds from the start of a connection to a login, or to the first accepted message; infinity: no limit.
    grace
        The grace period in seconds at shutdown: a message that is being received may be completed.  All other
        sessions end at once, and the server waits up to two seconds for each client to close.  No wait is longer
        than *grace*.
    no_grants_from
        Networks in which a login makes no grant, such as proxies and container gateways: many clients share their
        addresses.  In TOML: ``[grants] never_from``.
    proxy_from
        The networks of proxies.  A connection from there must start with a PROXY header, which names the
        client.  If a header names no client, the proxy's own address is used.  All clients of the proxy share it,
        so it gets no grants.

    For example:

        >>> config = server.Config(smtp=2525, pop3=1110, domains=("Example.org", "example.net"), legacy=True)
        >>> config.domains
        ('example.org', 'example.net')
    """

    hosts: tuple[str, ...] = attrs.field(default=("127.0.0.1",), validator=[field(check_items, str), _not_empty])

    smtp: int | None = attrs.field(default=None, validator=field(check_port, optional=True))
    smtps: int | None = attrs.field(default=None, validator=field(check_port, optional=True))
    pop3: int | None = attrs.field(default=None, validator=field(check_port, optional=True))
    pop3s: int | None = attrs.field(default=None, validator=field(check_port, optional=True))

    reuse_port: bool = attrs.field(default=False, validator=field(check_type, bool))

    domains: tuple[str, ...] = attrs.field(default=("example.test",), converter=_lower, validator=_not_empty)
    local_delivery: bool = attrs.field(default=True, validator=field(check_type, bool))

    postmaster: str | None = attrs.field(default=None, validator=field(check_text, optional=True))

    max_message_size: int = attrs.field(default=26_214_400, validator=field(check_integer, 65_536))

    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False, validator=field(check_server_context))

    failure_delay: float = attrs.field(
        default=MAX_DELAY, validator=[field(check_number, zero=True), attrs.validators.le(MAX_DELAY)]
    )

    max_failed_logins: int = attrs.field(default=3, validator=field(check_integer, 3))

    mechanisms: tuple[str, ...] = attrs.field(
        default=MECHANISMS, validator=[field(check_items, str), _check_mechanisms]
    )

    legacy: bool = attrs.field(default=False, validator=field(check_type, bool))

    strict_syntax: bool = attrs.field(default=False, validator=field(check_type, bool))

    grant_lifetime: float | None = attrs.field(default=None, validator=_check_lifetime)

    grant_ipv6_prefix: int | None = attrs.field(default=None, validator=field(check_integer, 1, 128, optional=True))

    limit_ipv6_prefix: int = attrs.field(default=64, validator=field(check_integer, 1, 128))

    nat64_prefixes: tuple[IPv6Network, ...] = attrs.field(
        default=(), validator=[field(check_type, tuple), field(check_nat64_prefixes)]
    )

    limits: Limits = attrs.field(factory=Limits, validator=field(check_type, Limits))

    smtp_timeout: float = attrs.field(default=300.0, validator=field(check_number))

    pop3_timeout: float = attrs.field(default=600.0, validator=field(check_number))

    login_timeout: float = attrs.field(default=600.0, validator=field(check_number, infinite=True))

    grace: float = attrs.field(default=10.0, validator=field(check_number, zero=True))

    no_grants_from: tuple[Network, ...] = attrs.field(default=(), validator=[field(check_type, tuple), _networks])

    proxy_from: tuple[Network, ...] = attrs.field(default=(), validator=[field(check_type, tuple), _networks])

    def __attrs_post_init__(self) -> None:
        for domain in self.domains:
            try:
                Mailbox("postmaster", domain)
            except LocalProtocolError:
                raise ValueError(f"invalid domain {domain!r} in domains; use a name such as example.org") from None
            if not domain.isascii():
                raise ValueError(f"invalid domain {domain!r}: use the A-label (xn--...) of a non-ASCII domain")
        if shared := shared_port({name: getattr(self, name) for name in PORTS}):
            first, second, port = shared
            raise ValueError(f"{first} and {second} are both {port}; use a different port for each")
        if self.reuse_port and 0 in (self.smtp, self.smtps, self.pop3, self.pop3s):
            raise ValueError("reuse_port needs port numbers other than 0")
        if self.ssl_context is None and not (self.smtps is None and self.pop3s is None):
            raise ValueError("the ports smtps and pop3s need an ssl_context")
        if self.ssl_context is not None and self.ssl_context.minimum_version < ssl.TLSVersion.TLSv1_2:
            raise ValueError("ssl_context allows TLS versions before 1.2: set minimum_version to TLSv1_2 (RFC 8996)")
        if self.postmaster is not None and not self.local_delivery:
            raise ValueError("postmaster needs local_delivery=True: otherwise mail to postmaster is relayed")
        if self.postmaster is not None and mailbox_name(self.postmaster, frozenset(self.domains)) is None:
            raise ValueError(f"postmaster must be the name of an account, not {self.postmaster!r}")
        self.smtp_settings()
        self.pop3_settings()

    def smtp_settings(self, proofs: Set[Proof] = EVERY_PROOF) -> SmtpSettings:
        """Return the core's settings for both SMTP ports.  *proofs* are those that every account supports."""
        mechanisms = offered(sasl.ALL_MECHANISMS, proofs, self.mechanisms)
        return SmtpSettings(
            host_name=self.domains[0],
            mechanisms=mechanisms,
            scram_decoy=_UNUSED_DECOY,
            mechanisms_without_tls=CLEAR.intersection(mechanisms.names) if self.legacy else frozenset(),
            chunking=True,
            strict_syntax=self.strict_syntax,
            starttls=self.ssl_context is not None,
            max_message_size=self.max_message_size,
            max_failed_logins=self.max_failed_logins,
            timeout=self.smtp_timeout,
            min_rate=self.limits.min_rate,
            login_timeout=self.login_timeout,
        )

    def pop3_settings(self, proofs: Set[Proof] = EVERY_PROOF) -> Pop3Settings:
        """Return the core's settings for both POP3 ports; *proofs* as for ``smtp_settings``."""
        mechanisms = offered(ALL_POP3_MECHANISMS, proofs, self.mechanisms)
        return Pop3Settings(
            host_name=self.domains[0],
            mechanisms=mechanisms,
            scram_decoy=_UNUSED_DECOY,
            mechanisms_without_tls=CLEAR.intersection(mechanisms.names) if self.legacy else frozenset(),
            strict_syntax=self.strict_syntax,
            stls=self.ssl_context is not None,
            max_failed_logins=self.max_failed_logins,
            timeout=self.pop3_timeout,
            login_timeout=self.login_timeout,
        )


def different_grant_setting(config: Config, settings: GrantSettings) -> tuple[str, str, str] | None:
    """Return the first setting in *config* that a store with *settings* does not follow, and both values; or None."""
    if config.grant_lifetime not in (None, settings.lifetime):
        return "grant_lifetime", f"{config.grant_lifetime:g}", f"{settings.lifetime:g}"
    if config.grant_ipv6_prefix not in (None, settings.ipv6_prefix):
        return "grant_ipv6_prefix", str(config.grant_ipv6_prefix), str(settings.ipv6_prefix)
    if frozenset(config.nat64_prefixes) != settings.nat64_prefixes:
        ours, theirs = (sorted(map(str, each)) for each in (config.nat64_prefixes, settings.nat64_prefixes))
        return "nat64_prefixes", f"[{', '.join(ours)}]", f"[{', '.join(theirs)}]"
    return None


def _check_outbox(instance: object, attribute: object, outbox: Outbox | NextHop | None) -> None:
    if not isinstance(outbox, NextHop):
        check_interface("outbox", outbox, Outbox, optional=True)


def _check_grants(instance: object, attribute: object, grants: Grants | None) -> None:
    check_interface("grants", grants, Grants, optional=True)
    if grants is not None:
        check_type("grants.settings", grants.settings, GrantSettings)


@attrs.frozen(kw_only=True)
class Stores:
    """The stores of a server.

    Raises TypeError for an object that does not have the methods of its interface, and if a method is not a coroutine
    function (``async def``) where it must be, or is one where it must not be.

    Fields:

    accounts
        The accounts: names and passwords.
    maildrops
        The maildrops of the accounts.
    outbox
        Where remote mail is queued for another program, or the server to which it is relayed at once.  A server without
        an SMTP port needs none.
    grants
        None: an in-memory store with the lifetime and prefixes of the Config.
    tokens
        The bearer tokens of the accounts.  None: OAUTHBEARER and XOAUTH2 are not offered.
    certificates
        The client certificates of the accounts.  None: EXTERNAL is not offered.
    hashing
        The threads that hash passwords.
    budget
        The memory for messages in progress, and for those that an in-memory maildrop or outbox holds.
    decoy_key
        At least 16 secret random bytes, from which the salts are derived that SCRAM sends for unknown names.  Keep
        it as long as the accounts, and use the same one in all processes, if passwords are stored as
        ``{SCRAM-SHA-256}``: their salts last too, so that other salts would show which names are unknown.  None: a
        random key.  ``mailauth serve`` has it in the file of ``[accounts] decoy_key``.

    For example:

        >>> accounts, maildrops = stores.MemoryAccounts({"alice": b"wonderland"}), stores.MemoryMaildrops()
        >>> server_stores = server.Stores(accounts=accounts, maildrops=maildrops, outbox=stores.MemoryOutbox())
        >>> server_stores.budget.free
        268435456
    """

    accounts: Accounts = attrs.field(validator=field(check_interface, Accounts))
    maildrops: Maildrops = attrs.field(validator=field(check_interface, Maildrops))
    outbox: Outbox | NextHop | None = attrs.field(default=None, validator=_check_outbox)
    grants: Grants | None = attrs.field(default=None, validator=_check_grants)

    tokens: Tokens | None = attrs.field(default=None, validator=field(check_interface, Tokens, optional=True))
    certificates: Certificates | None = attrs.field(
        default=None, validator=field(check_interface, Certificates, optional=True)
    )

    hashing: Hashing = attrs.field(factory=Hashing, validator=field(check_type, Hashing))

    budget: Budget = attrs.field(factory=Budget, validator=field(check_type, Budget))

    decoy_key: bytes | None = attrs.field(default=None, repr=False, validator=field(check_random_key, optional=True))


async def _nothing_to_reload() -> None:
    """Do nothing."""


async def _no_next_hop() -> None:
    """Return None: the server does not relay."""


@attrs.frozen(kw_only=True)
class RunningServer:
    """A running SMTP and POP3 server: the hosts and ports it listens on.  A port is None if it is not used.

    For example:

        async with server.serve(server.Config(smtp=0), server_stores) as running:
            print(f"SMTP on port {running.smtp}")
            await stopped.wait()
    """

    hosts: tuple[str, ...]
    smtp: int | None
    smtps: int | None
    pop3: int | None
    pop3s: int | None
    reload: Callable[[], Awaitable[None]] = attrs.field(default=_nothing_to_reload, repr=False, eq=False)
    """Reload changed accounts now instead of at the next refresh.  The result is logged."""
    check_next_hop: Callable[[], Awaitable[str | None]] = attrs.field(default=_no_next_hop, repr=False, eq=False)
    """Connect to the NextHop and log in once.  Returns None on success and if there is no NextHop, else the reason of
    the failure as text."""
