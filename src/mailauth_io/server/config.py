"""How the ready server is set up: frozen, checked when made, free of files and of options.

Knows what may be said; who says it (a command line, a test) is no affair of this file.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Set
from typing import Final

import attrs

from mailauth import sasl
from mailauth.grants import LIFETIME
from mailauth.pop3 import ALL_MECHANISMS as ALL_POP3_MECHANISMS, ExtendedServerSettings as Pop3Settings
from mailauth.smtp import ExtendedServerSettings as SmtpSettings, Mailbox

from .._addresses import Network
from ..limits import Limits
from ..stores import Accounts, Budget, Grants, Maildrops, Outbox, Proof, mailbox_name
from ._failed_logins import MAX_DELAY
from ._offer import CLEAR, EVERY_PROOF, offered
from .next_hop import NextHop

PORTS: Final = ("smtp", "smtps", "pop3", "pop3s")
"""The fields of Config and Pair that are ports."""

_NEVER_SHOWN: Final = sasl.ScramDecoy(key=bytes(32))
"""The core wants one where SCRAM is offered; here the accounts give keys to everybody, to an unknown name as well."""


def _lower(domains: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(domain.lower() for domain in domains)


@attrs.frozen(kw_only=True)
class Config:
    """What to serve and where.

    A port is None for off and 0 for any free one.  Raises ValueError or LocalProtocolError for what cannot be served.
    """

    hosts: tuple[str, ...] = attrs.field(default=("127.0.0.1",), validator=attrs.validators.min_len(1))
    """Addresses to listen on; each has all the ports."""

    smtp: int | None = None
    smtps: int | None = None
    pop3: int | None = None
    pop3s: int | None = None

    reuse_port: bool = False
    """Listen beside other processes of the same user, which then share accounts, maildrops, outbox and grants."""

    domains: tuple[str, ...] = attrs.field(
        default=("example.test",), converter=_lower, validator=attrs.validators.min_len(1)
    )
    """The domains of the mailboxes here; the first is also how the server names itself."""

    postmaster: str | None = None
    """The account that takes the mail of ``postmaster``, bare and at every domain; None: nobody does."""

    max_message_size: int = 26_214_400
    """Octets, shown as SIZE."""

    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    """None: no TLS at all, neither on the ports for it nor by STARTTLS and STLS."""

    failure_delay: float = attrs.field(
        default=MAX_DELAY, validator=[attrs.validators.ge(0), attrs.validators.le(MAX_DELAY)]
    )
    """Seconds that the refusal of a login waits at most, after several from one address; 0: none ever waits."""

    legacy: bool = False
    """Offer and accept clear-text passwords and MD5 digests outside TLS, too."""

    grant_lifetime: float = attrs.field(default=LIFETIME, validator=attrs.validators.ge(0))
    """Seconds that a login by POP3 opens relaying for its address; 0: no grants."""

    grant_ipv6_prefix: int = 128

    limits: Limits = attrs.field(factory=Limits)
    """How many connections all ports together take, and how slow a peer may be."""

    smtp_timeout: float = attrs.field(default=300.0, validator=attrs.validators.gt(0))
    """Seconds for a command of an SMTP client; see ``smtp.ExtendedServerSettings.timeout``."""

    pop3_timeout: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    """Seconds for a command of a POP3 client; see ``pop3.ExtendedServerSettings.timeout``."""

    login_timeout: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    """Seconds from the beginning of a connection to a login, or to the first message that is taken; infinite: no end
    of it."""

    grace: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    """Seconds in which message content that is under way may come to its end when the server ends; all other sessions
    are told to end at once."""

    no_grants_from: tuple[Network, ...] = ()
    """Proxies and gateways of containers: many clients have their addresses, so a login from there makes no grant."""

    proxy_from: tuple[Network, ...] = ()
    """Where proxies are: a connection from there must begin with a PROXY header, which names the client.

    A header that names none leaves the proxy's address, which stands for all of its clients: no grants for these, too.
    """

    def __attrs_post_init__(self) -> None:
        for domain in self.domains:
            Mailbox("postmaster", domain)
            if not domain.isascii():
                raise ValueError(f"the domain {domain!r} is beyond ASCII: write it as its A-label, xn--...")
        if self.reuse_port and 0 in (self.smtp, self.smtps, self.pop3, self.pop3s):
            raise ValueError("a port that processes share has a number")
        if self.ssl_context is None and not (self.smtps is None and self.pop3s is None):
            raise ValueError("the ports smtps and pop3s need an ssl_context")
        if self.ssl_context is not None and self.ssl_context.minimum_version < ssl.TLSVersion.TLSv1_2:
            raise ValueError("the ssl_context allows TLS below 1.2: set its minimum_version (RFC 8996)")
        if self.postmaster is not None and mailbox_name(self.postmaster, frozenset(self.domains)) is None:
            raise ValueError("the postmaster must be the name of an account")
        self.smtp_settings()
        self.pop3_settings()

    def smtp_settings(self, proofs: Set[Proof] = EVERY_PROOF) -> SmtpSettings:
        """What the core needs to know of it, for both SMTP ports, when every account can be proved by *proofs*."""
        return SmtpSettings(
            host_name=self.domains[0],
            mechanisms=offered(sasl.ALL_MECHANISMS, proofs),
            scram_decoy=_NEVER_SHOWN,
            mechanisms_without_tls=CLEAR if self.legacy else frozenset(),
            chunking=True,
            allow_trailing_space=True,
            starttls=self.ssl_context is not None,
            max_message_size=self.max_message_size,
            timeout=self.smtp_timeout,
            min_rate=self.limits.min_rate,
            login_timeout=self.login_timeout,
        )

    def pop3_settings(self, proofs: Set[Proof] = EVERY_PROOF) -> Pop3Settings:
        """What the core needs to know of it, for both POP3 ports; *proofs* as for SMTP."""
        return Pop3Settings(
            host_name=self.domains[0],
            mechanisms=offered(ALL_POP3_MECHANISMS, proofs),
            scram_decoy=_NEVER_SHOWN,
            mechanisms_without_tls=CLEAR if self.legacy else frozenset(),
            stls=self.ssl_context is not None,
            timeout=self.pop3_timeout,
            login_timeout=self.login_timeout,
        )


@attrs.frozen(kw_only=True)
class Stores:
    """What the server keeps and asks."""

    accounts: Accounts
    maildrops: Maildrops
    outbox: Outbox | NextHop
    """Where mail for elsewhere waits to be sent on, or the server that it is handed on to at once."""
    grants: Grants | None = None
    """None: in memory, by the lifetime and prefix of the Config."""

    budget: Budget = attrs.field(factory=Budget)
    """Memory for messages in flight, and for all that in-memory maildrops and outbox keep of them."""


async def _nothing_to_reload() -> None:
    """What is fixed stays as it is."""


@attrs.frozen(kw_only=True)
class RunningServer:
    """An SMTP and a POP3 server that listen: the ports they got, None for one that is off."""

    hosts: tuple[str, ...]
    smtp: int | None
    smtps: int | None
    pop3: int | None
    pop3s: int | None
    reload: Callable[[], Awaitable[None]] = attrs.field(default=_nothing_to_reload, repr=False, eq=False)
    """Take up at once what has changed in the accounts, instead of at the next look; the log tells what came of it."""
