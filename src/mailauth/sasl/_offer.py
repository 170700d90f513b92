"""Which mechanisms a server offers, and what each needs to begin.

Knows no state: the two are frozen values that all connections share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs

from .._errors import LocalProtocolError
from ._md5 import MD5_AVAILABLE
from ._messages import ServerMechanism
from .cram_md5 import CramMd5Server
from .login import LoginServer
from .plain import PlainServer

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

    @property
    def message_id(self) -> bytes:
        """``<nonce@host>``, for a CRAM-MD5 challenge and an APOP timestamp.

        Of letters, digits, dots and hyphens only, since clients in use refuse other msg-ids; so an address literal
        loses its brackets.
        """
        host = ".".join(filter(None, (_NOT_ATOM.sub("-", label).strip("-") for label in self.host_name.split("."))))
        return f"<{self.nonce}@{host or 'localhost'}>".encode("ascii")


ServerFactory: TypeAlias = Callable[[Context], ServerMechanism]
"""Makes the server side of one mechanism for one exchange."""


def _frozen(factories: Mapping[str, ServerFactory]) -> Mapping[str, ServerFactory]:
    return MappingProxyType(dict(factories))


@attrs.frozen(eq=False)
class Mechanisms:
    """The mechanisms of a server by their registered names, in the order in which they are announced.

    Raises LocalProtocolError for a name that is not 1 to 20 of ``A-Z 0-9 - _`` (RFC 4422 section 3.1).  Capitals,
    because clients in use overlook a mechanism that is announced in any other way.
    """

    _factories: Mapping[str, ServerFactory] = attrs.field(converter=_frozen)

    def __attrs_post_init__(self) -> None:
        for name in self._factories:
            if not _NAME.fullmatch(name):
                raise LocalProtocolError(f"{name!r} is no mechanism name")

    @property
    def names(self) -> tuple[str, ...]:
        """As announced."""
        return tuple(self._factories)

    def __contains__(self, name: str) -> bool:
        """Whether *name*, in any case, is one of them."""
        return name.isascii() and name.upper() in self._factories

    def create(self, name: str, context: Context) -> ServerMechanism:
        """A new exchange of the mechanism *name*, in any case.  Raises LocalProtocolError when it is none of these."""
        if name not in self:
            raise LocalProtocolError(f"{name!r} is not among the mechanisms")
        return self._factories[name.upper()](context)

    def only(self, *names: str) -> Mechanisms:
        """Those of *names*, in any case, that are among these; in the order they have here."""
        wanted = {name.upper() for name in names}
        return Mechanisms({name: factory for name, factory in self._factories.items() if name in wanted})


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
