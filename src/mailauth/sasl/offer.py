"""The mechanisms that a server offers, and what each needs to start an exchange."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Self, TypeAlias

import attrs

from .._unchecked import new, slot_setters
from .._validators import MECHANISM_NAME, check_type, frozenset_of, value_of
from .._values import shared_methods, shared_repr
from ..errors import LocalProtocolError
from ..events import Tls
from ._md5 import MD5_AVAILABLE
from .cram_md5 import CramMd5Server
from .external import ExternalServer
from .login import LoginServer
from .messages import ServerMechanism
from .oauthbearer import OauthBearerServer
from .plain import PlainServer
from .scram import (
    ScramDecoy,
    ScramServer,
    ScramSha1PlusServer,
    ScramSha1Server,
    ScramSha256PlusServer,
    ScramSha256Server,
)
from .xoauth2 import Xoauth2Server

_POP3_ONLY: Final = frozenset({"USER", "APOP"})
_ATOMS: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_NOT_ATOM: Final = re.compile(r"[^A-Za-z0-9-]+")


def _check_nonce(instance: object, attribute: object, nonce: str) -> None:
    check_type("nonce", str, nonce)
    if not _ATOMS.fullmatch(nonce):
        raise LocalProtocolError("nonce must consist of A-Z, a-z, 0-9, '-' and inner dots")


@shared_methods
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Context:
    """The values that a server mechanism may need to start an exchange.

    Raises LocalProtocolError for a nonce that cannot be part of a msg-id, and for a value of a wrong type.

        >>> sasl.Context(nonce="1896.697170952", host_name="mx.example", tls=True).message_id
        b'<1896.697170952@mx.example>'
    """

    nonce: str = attrs.field(validator=_check_nonce)
    """Unique and unpredictable: ASCII alphanumerics, ``-`` and inner dots."""

    host_name: str = attrs.field(validator=value_of(str))
    """The name of the server, for ``message_id``."""
    tls: bool = attrs.field(validator=value_of(bool))
    """Whether the connection uses TLS."""

    channel_bindings: Mapping[str, bytes] = attrs.field(
        factory=dict[str, bytes], repr=False, validator=value_of(Mapping)
    )
    """The channel binding data of the connection, for the -PLUS forms of SCRAM; as in ``Tls.channel_bindings``."""
    peer_certificate: Mapping[str, object] | None = attrs.field(
        default=None, repr=False, validator=value_of(Mapping, optional=True)
    )
    """The client's verified certificate, for EXTERNAL; as in ``Tls.peer_certificate``."""
    offered: frozenset[str] = attrs.field(factory=frozenset[str], validator=frozenset_of(str))
    """The mechanisms offered to this client now.  From them SCRAM detects that an attacker removed its -PLUS form."""
    scram_decoy: ScramDecoy | None = attrs.field(default=None, validator=value_of(ScramDecoy, optional=True))
    """The source of salts for identities without keys; required for SCRAM."""
    strict_syntax: bool = attrs.field(default=False, validator=value_of(bool))
    """Whether responses that break the rules of a mechanism in a harmless way are malformed."""

    @classmethod
    def of(
        cls,
        tls: Tls | None,
        *,
        nonce: str,
        host_name: str,
        offered: Iterable[str],
        scram_decoy: ScramDecoy | None,
        strict_syntax: bool = False,
    ) -> Self:
        """Return the Context of an exchange on a connection with this TLS layer; *tls* is None without TLS."""
        return cls(
            nonce=nonce,
            host_name=host_name,
            tls=tls is not None,
            channel_bindings={} if tls is None else tls.channel_bindings,
            peer_certificate=None if tls is None else tls.peer_certificate,
            offered=frozenset(offered),
            scram_decoy=scram_decoy,
            strict_syntax=strict_syntax,
        )

    @property
    def message_id(self) -> bytes:
        """``<nonce@host>``, for a CRAM-MD5 challenge or an APOP timestamp.

        It contains ASCII alphanumerics, dots and hyphens only, since some clients reject other msg-ids.  So an address
        literal loses its brackets.
        """
        host = ".".join(filter(None, (_NOT_ATOM.sub("-", label).strip("-") for label in self.host_name.split("."))))
        return f"<{self.nonce}@{host or 'localhost'}>".encode("ascii")


(
    _set_nonce,
    _set_host_name,
    _set_tls,
    _set_channel_bindings,
    _set_peer_certificate,
    _set_offered,
    _set_scram_decoy,
    _set_strict_syntax,
) = slot_setters(
    Context,
    "nonce",
    "host_name",
    "tls",
    "channel_bindings",
    "peer_certificate",
    "offered",
    "scram_decoy",
    "strict_syntax",
)


def checked_context(
    tls: Tls | None,
    *,
    nonce: str,
    host_name: str,
    offered: Iterable[str],
    scram_decoy: ScramDecoy | None,
    strict_syntax: bool,
) -> Context:
    """Return what ``Context.of()`` returns for these values, which were validated: one is built for each login."""
    context = new(Context)
    _set_nonce(context, nonce)
    _set_host_name(context, host_name)
    _set_tls(context, tls is not None)
    _set_channel_bindings(context, {} if tls is None else tls.channel_bindings)
    _set_peer_certificate(context, None if tls is None else tls.peer_certificate)
    _set_offered(context, frozenset(offered))
    _set_scram_decoy(context, scram_decoy)
    _set_strict_syntax(context, strict_syntax)
    return context


ServerFactory: TypeAlias = Callable[[Context], ServerMechanism]
"""Creates the server side of one mechanism for one exchange; it may ask any ServerQuestion."""


def is_possible(name: str, tls: Tls | None) -> bool:
    """Return whether the mechanism *name* can work on a connection with this TLS layer.

    The -PLUS forms need channel binding data, and EXTERNAL needs a client certificate.  Whether a mechanism is secure
    on the connection is not checked.
    """
    if name.endswith("-PLUS"):
        return tls is not None and bool(tls.channel_bindings)
    if name == "EXTERNAL":
        return tls is not None and bool(tls.peer_certificate)
    return True


def tls_capabilities(tls: Tls | None) -> tuple[bool, bool, bool]:
    """Return what ``is_possible()`` depends on: whether there is TLS, channel binding data, a client certificate."""
    return (False, False, False) if tls is None else (True, bool(tls.channel_bindings), bool(tls.peer_certificate))


def _frozen(factories: Mapping[str, ServerFactory]) -> Mapping[str, ServerFactory]:
    check_type("factories", Mapping, factories)
    return MappingProxyType(dict(factories))


@shared_repr
@attrs.frozen(eq=False, repr=False)
class Mechanisms:
    """The mechanisms of a server by registered name, in the order in which they are announced.

    They may ask any ServerQuestion.  Raises LocalProtocolError for a name that is not 1 to 20 of ``A-Z 0-9 - _`` (RFC
    4422 section 3.1).  Lower case is not allowed, because some clients ignore a mechanism that is announced in it.

        >>> mechanisms = sasl.ALL_MECHANISMS.only("plain", "xoauth2")
        >>> mechanisms.names, "CRAM-MD5" in mechanisms
        (('XOAUTH2', 'PLAIN'), False)
    """

    factories: Mapping[str, ServerFactory] = attrs.field(converter=_frozen)

    def __attrs_post_init__(self) -> None:
        for name, factory in self.factories.items():
            check_type("each mechanism name", str, name)
            if not callable(factory):
                raise LocalProtocolError(
                    f"the factory of {name} must be a function of a sasl.Context, not {type(factory).__name__};"
                    " use lambda context: PlainServer(tls=context.tls)"
                )
            if not MECHANISM_NAME.fullmatch(name):
                raise LocalProtocolError(f"invalid mechanism name {name!r}; use 1 to 20 of A-Z, 0-9, '-' and '_'")

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they are announced."""
        return tuple(self.factories)

    def __contains__(self, name: str) -> bool:
        """Return whether the mechanism *name* is one of these.  The case of *name* does not matter."""
        return name.isascii() and name.upper() in self.factories

    def create(self, name: str, context: Context) -> ServerMechanism:
        """Create the mechanism *name* for one exchange.  The case of *name* does not matter.

        Raises LocalProtocolError if it is not one of these.
        """
        factory = self.factories.get(name)
        if factory is None:
            if name not in self:
                raise LocalProtocolError(f"unknown mechanism {name!r}; use one of {', '.join(self.names)}")
            factory = self.factories[name.upper()]
        return factory(context)

    def only(self, *names: str) -> Self:
        """Return the mechanisms that *names* lists, in the order that they have here.  Case does not matter.

        Raises LocalProtocolError for a name that is not one of these.  CRAM-MD5 and APOP may be named, and are left
        out, if this system does not allow MD5.
        """
        for name in names:
            if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise LocalProtocolError(f"each name must be a str, not {type(name).__name__}; use only('PLAIN')")
            _check_known(self, "only()", name.upper())
        wanted = {name.upper() for name in names}
        return attrs.evolve(self, factories={name: make for name, make in self.factories.items() if name in wanted})


def _defaults() -> dict[str, ServerFactory]:
    factories: dict[str, ServerFactory] = {
        "PLAIN": lambda context: PlainServer(tls=context.tls, strict_syntax=context.strict_syntax),
        "LOGIN": lambda context: LoginServer(tls=context.tls),
    }
    if MD5_AVAILABLE:
        factories["CRAM-MD5"] = lambda context: CramMd5Server(challenge=context.message_id, tls=context.tls)
    return factories


DEFAULT_MECHANISMS: Final = Mechanisms(_defaults())
"""PLAIN, LOGIN and, if MD5 is available, CRAM-MD5."""


def _scram(make: type[ScramServer]) -> ServerFactory:
    def create(context: Context) -> ServerMechanism:
        if context.scram_decoy is None:
            raise LocalProtocolError("SCRAM needs a scram_decoy in the Context; pass a ScramDecoy")
        return make(
            nonce=context.nonce,
            tls=context.tls,
            decoy=context.scram_decoy,
            channel_bindings=context.channel_bindings,
            plus_offered=f"{make.name}-PLUS" in context.offered,
        )

    return create


def _all() -> dict[str, ServerFactory]:
    scrams = (ScramSha256PlusServer, ScramSha1PlusServer, ScramSha256Server, ScramSha1Server)
    return {
        **{make.name: _scram(make) for make in scrams},
        "EXTERNAL": lambda context: ExternalServer(peer_certificate=context.peer_certificate, tls=context.tls),
        "OAUTHBEARER": lambda context: OauthBearerServer(tls=context.tls),
        "XOAUTH2": lambda context: Xoauth2Server(tls=context.tls),
        **_defaults(),
    }


ALL_MECHANISMS: Final = Mechanisms(_all())
"""All mechanisms of this package except USER and APOP, the strongest first.  Offer those that the accounts support.

SCRAM needs a ScramDecoy in the settings.  CRAM-MD5 is left out if MD5 is not available.
"""


def _check_known(mechanisms: Mechanisms, where: str, name: str) -> None:
    if name not in mechanisms.factories and (MD5_AVAILABLE or name not in ("CRAM-MD5", "APOP")):
        raise LocalProtocolError(f"{where}: unknown mechanism {name!r}; use one of {', '.join(mechanisms.names)}")


def check_offer(
    mechanisms: Mechanisms, scram_decoy: ScramDecoy | None, mechanisms_without_tls: frozenset[str] = frozenset()
) -> None:
    """Check the fields with these names of the settings of a server, for both protocols.

    Raises LocalProtocolError if SCRAM is offered without a decoy, since clients could then see which accounts exist,
    and for a name in *mechanisms_without_tls* that is not in *mechanisms*.  USER and APOP may be named, without effect,
    so that SMTP and POP3 can share a set, and CRAM-MD5, if this system does not allow MD5.
    """
    for name in sorted(mechanisms_without_tls - _POP3_ONLY):
        _check_known(mechanisms, "mechanisms_without_tls", name)
    if scram_decoy is None and any(name.startswith("SCRAM-") for name in mechanisms.names):
        raise LocalProtocolError("SCRAM needs a scram_decoy in the settings; pass a ScramDecoy")
