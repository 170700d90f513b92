"""Which mechanisms a server offers, and what each needs to begin.

Knows no state: the two are frozen values that all connections share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Self, TypeAlias, TypeVar

import attrs

from .._errors import LocalProtocolError
from .._events import Tls
from ._md5 import MD5_AVAILABLE
from ._messages import PasswordMechanism, ServerMechanism
from .cram_md5 import CramMd5Server
from .external import ExternalServer
from .login import LoginServer
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

F = TypeVar("F")

_NAME: Final = re.compile(r"[A-Z0-9_-]{1,20}")
_ATOMS: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_NOT_ATOM: Final = re.compile(r"[^A-Za-z0-9-]+")


def _check_nonce(instance: object, attribute: object, nonce: str) -> None:
    if not _ATOMS.fullmatch(nonce):
        raise LocalProtocolError("a nonce is made of letters, digits, '-' and inner dots")


@attrs.frozen(kw_only=True)
class Context:
    """What a server mechanism may need to begin.  Raises LocalProtocolError for a nonce that fits into no msg-id."""

    nonce: str = attrs.field(validator=_check_nonce)
    """Never the same twice and not to be guessed: letters, digits, ``-``, inner dots."""

    host_name: str
    tls: bool

    channel_bindings: Mapping[str, bytes] = attrs.field(factory=dict, repr=False)
    """What the connection can be bound by, for the -PLUS forms of SCRAM; as in ``Tls``."""
    peer_certificate: Mapping[str, object] | None = attrs.field(default=None, repr=False)
    """The client's verified certificate, for EXTERNAL; as in ``Tls``."""
    offered: frozenset[str] = frozenset()
    """What else is on offer to this client now: SCRAM sees by it whether somebody took its -PLUS form out."""
    scram_decoy: ScramDecoy | None = None

    @classmethod
    def of(
        cls, tls: Tls | None, *, nonce: str, host_name: str, offered: Iterable[str], scram_decoy: ScramDecoy | None
    ) -> Self:
        """The Context of an exchange on a connection with that TLS layer."""
        return cls(
            nonce=nonce,
            host_name=host_name,
            tls=tls is not None,
            channel_bindings={} if tls is None else tls.channel_bindings,
            peer_certificate=None if tls is None else tls.peer_certificate,
            offered=frozenset(offered),
            scram_decoy=scram_decoy,
        )

    @property
    def message_id(self) -> bytes:
        """``<nonce@host>``, for a CRAM-MD5 challenge and an APOP timestamp.

        Of letters, digits, dots and hyphens only, since clients in use refuse other msg-ids; so an address literal
        loses its brackets.
        """
        host = ".".join(filter(None, (_NOT_ATOM.sub("-", label).strip("-") for label in self.host_name.split("."))))
        return f"<{self.nonce}@{host or 'localhost'}>".encode("ascii")


ServerFactory: TypeAlias = Callable[[Context], PasswordMechanism]
"""Makes the server side of one mechanism, which asks a PasswordQuestion at most, for one exchange."""

ExtendedServerFactory: TypeAlias = Callable[[Context], ServerMechanism]
"""Makes the server side of one mechanism, whatever it asks, for one exchange."""


def is_possible(name: str, tls: Tls | None) -> bool:
    """Whether the mechanism *name* can work on a connection with that TLS layer at all.

    The -PLUS forms need something to bind to, EXTERNAL a certificate.  What is wise is another question.
    """
    if name.endswith("-PLUS"):
        return tls is not None and bool(tls.channel_bindings)
    if name == "EXTERNAL":
        return tls is not None and bool(tls.peer_certificate)
    return True


def kind_of_connection(tls: Tls | None) -> tuple[bool, bool, bool]:
    """All that decides what is ``is_possible()``: whether there is TLS, something to bind to, a certificate."""
    return (False, False, False) if tls is None else (True, bool(tls.channel_bindings), bool(tls.peer_certificate))


def _frozen(factories: Mapping[str, F]) -> Mapping[str, F]:
    return MappingProxyType(dict(factories))


def _frozen_any(factories: Mapping[str, ExtendedServerFactory]) -> Mapping[str, ExtendedServerFactory]:
    return _frozen(factories)


def _frozen_password(factories: Mapping[str, ServerFactory]) -> Mapping[str, ServerFactory]:
    return _frozen(factories)


@attrs.frozen(eq=False)
class ExtendedMechanisms:
    """The mechanisms of a server by their registered names, in the order in which they are announced.

    They may ask any ServerQuestion.  Raises LocalProtocolError for a name that is not 1 to 20 of ``A-Z 0-9 - _``
    (RFC 4422 section 3.1).  Capitals, because clients in use overlook a mechanism that is announced in any other way.
    """

    factories: Mapping[str, ExtendedServerFactory] = attrs.field(converter=_frozen_any)

    def __attrs_post_init__(self) -> None:
        for name in self.factories:
            if not _NAME.fullmatch(name):
                raise LocalProtocolError(f"{name!r} is no mechanism name")

    @property
    def names(self) -> tuple[str, ...]:
        """As announced."""
        return tuple(self.factories)

    def __contains__(self, name: str) -> bool:
        """Whether *name*, in any case, is one of them."""
        return name.isascii() and name.upper() in self.factories

    def create(self, name: str, context: Context) -> ServerMechanism:
        """A new exchange of the mechanism *name*, in any case.  Raises LocalProtocolError when it is none of these."""
        if name not in self:
            raise LocalProtocolError(f"{name!r} is not among the mechanisms")
        return self.factories[name.upper()](context)

    def only(self, *names: str) -> Self:
        """Those of *names*, in any case, that are among these; in the order they have here."""
        wanted = {name.upper() for name in names}
        return attrs.evolve(self, factories={name: make for name, make in self.factories.items() if name in wanted})


@attrs.frozen(eq=False)
class Mechanisms(ExtendedMechanisms):
    """Mechanisms that ask about passwords alone: a PasswordQuestion, and nothing else."""

    factories: Mapping[str, ServerFactory] = attrs.field(converter=_frozen_password)


def _defaults() -> dict[str, ServerFactory]:
    factories: dict[str, ServerFactory] = {
        "PLAIN": lambda context: PlainServer(tls=context.tls),
        "LOGIN": lambda context: LoginServer(tls=context.tls),
    }
    if MD5_AVAILABLE:
        factories["CRAM-MD5"] = lambda context: CramMd5Server(challenge=context.message_id, tls=context.tls)
    return factories


DEFAULT_MECHANISMS: Final = Mechanisms(_defaults())
"""PLAIN, LOGIN and, where the system has MD5, CRAM-MD5."""


def _scram(make: type[ScramServer]) -> ExtendedServerFactory:
    def create(context: Context) -> ServerMechanism:
        if context.scram_decoy is None:
            raise LocalProtocolError("SCRAM needs a decoy for identities without keys")
        return make(
            nonce=context.nonce,
            tls=context.tls,
            decoy=context.scram_decoy,
            channel_bindings=context.channel_bindings,
            plus_offered=f"{make.name}-PLUS" in context.offered,
        )

    return create


def _all() -> dict[str, ExtendedServerFactory]:
    scrams = (ScramSha256PlusServer, ScramSha1PlusServer, ScramSha256Server, ScramSha1Server)
    return {
        **{make.name: _scram(make) for make in scrams},
        "EXTERNAL": lambda context: ExternalServer(peer_certificate=context.peer_certificate, tls=context.tls),
        "OAUTHBEARER": lambda context: OauthBearerServer(tls=context.tls),
        "XOAUTH2": lambda context: Xoauth2Server(tls=context.tls),
        **_defaults(),
    }


ALL_MECHANISMS: Final = ExtendedMechanisms(_all())
"""Every mechanism that a mail server meets, the strongest first: offer of them what the accounts can answer.

An offer that holds SCRAM needs a ScramDecoy in the settings.  Where the system has no MD5, CRAM-MD5 is left out.
"""


def check_offer(mechanisms: ExtendedMechanisms, scram_decoy: ScramDecoy | None) -> None:
    """Raise LocalProtocolError for an offer of SCRAM without a decoy: it would tell who has an account."""
    if scram_decoy is None and any(name.startswith("SCRAM-") for name in mechanisms.names):
        raise LocalProtocolError("to offer SCRAM, the settings need a scram_decoy")
