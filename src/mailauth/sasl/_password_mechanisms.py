"""All client mechanisms that use a name and a password, the strongest first, as arguments of ``authenticate()``.

Which of them the server offers is checked by ``authenticate()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

from .._validators import check_type
from ..errors import LocalProtocolError
from ..events import Tls
from ._md5 import MD5_AVAILABLE
from .apop import ApopClient
from .cram_md5 import CramMd5Client
from .login import LoginClient
from .messages import ClientMechanism
from .plain import PlainClient
from .scram import (
    ScramSha1Client,
    ScramSha1PlusClient,
    ScramSha256Client,
    ScramSha256PlusClient,
    check_entropy,
)
from .user_pass import UserPassClient

ChannelBinding: TypeAlias = Literal["require", "prefer", "none"]
"""Whether a login is bound to the TLS channel: always, if the server offers it, or never."""

_TLS_1_3: Final = ("tls-exporter", "tls-server-end-point", "tls-unique")
"""In order of preference (RFC 9266 section 2).  TLS 1.3 does not define ``tls-unique``, but some servers use it."""

_TLS_1_2: Final = ("tls-exporter", "tls-unique", "tls-server-end-point")
"""In TLS 1.2, ``tls-unique`` is the default of SCRAM (RFC 5802 section 6.1)."""

_SHOW_PASSWORD: Final = frozenset({"PLAIN", "LOGIN", "USER"})

_Maker: TypeAlias = Callable[[], ClientMechanism]


def password_mechanisms(
    authentication_identity: str,
    password: bytes,
    *,
    entropy: bytes,
    tls: Tls | None,
    clear_text: bool = False,
    channel_binding: ChannelBinding = "prefer",
) -> tuple[ClientMechanism, ...]:
    """Return the mechanisms for ``authenticate(*mechanisms)``, which uses the first one that the server offers.

    The order is: SCRAM with channel binding, SCRAM, CRAM-MD5, APOP, and then those that send the password itself:
    PLAIN, LOGIN, USER and PASS.  The latter are included only if the connection uses TLS or *clear_text* is true.

    A mechanism that cannot carry the name or password, such as SCRAM for a password with an emoji, is left out.

    *channel_binding* ``"prefer"``: SCRAM with channel binding is used if the server offers it; there is one mechanism
    for each binding of the connection.  ``"require"``: only these mechanisms are returned.  ``"none"``: SCRAM is used
    without channel binding, and tells the server that the client does not support it (flag ``n``), which is
    necessary if the server offers a binding that does not work.

    *tls* is the TLS layer of the connection; *entropy* is at least 16 random bytes, new for each login; *password* is
    UTF-8.

    Raises LocalProtocolError if no mechanism can carry the name and password; if without TLS only those can that show
    the password; and if *channel_binding* is ``"require"`` on a connection without channel binding data.
    """
    check_type("tls", Tls, tls, optional=True)
    check_type("clear_text", bool, clear_text)
    check_entropy(entropy)
    if channel_binding not in get_args(ChannelBinding):
        raise LocalProtocolError('channel_binding must be "require", "prefer" or "none"')
    bindings = {} if channel_binding == "none" else _bindings(tls)
    bound = tuple(_bound(authentication_identity, password, entropy, bindings))
    if channel_binding == "require":
        if not bound:
            raise LocalProtocolError(
                'channel_binding="require" needs TLS with channel binding data; use TLS, or channel_binding="prefer"'
            )
        return _possible(bound)
    unbound = tuple(_unbound(authentication_identity, password, entropy, could_bind=bool(bound)))
    showing = tuple(
        partial(make, authentication_identity=authentication_identity, password=password)
        for make in (PlainClient, LoginClient, UserPassClient)
    )
    if tls is not None:
        return _possible((*bound, *unbound, *showing))
    try:
        hiding = _possible(unbound)
    except LocalProtocolError as error:
        _possible(showing)  # if they cannot carry it either, that is the reason
        raise LocalProtocolError(
            f"{error}; PLAIN, LOGIN and USER would show it, since the connection does not use TLS; use TLS"
        ) from None
    return (*hiding, *_possible(showing)) if clear_text else hiding


def _bindings(tls: Tls | None) -> dict[str, bytes]:
    """Return the channel binding data of the connection, in the order in which the bindings are tried."""
    if tls is None:
        return {}
    order = _TLS_1_3 if tls.version == "TLSv1.3" else _TLS_1_2
    return {name: tls.channel_bindings[name] for name in order if name in tls.channel_bindings}


def _bound(name: str, password: bytes, entropy: bytes, bindings: dict[str, bytes]) -> Iterator[_Maker]:
    for make in (ScramSha256PlusClient, ScramSha1PlusClient):
        for binding, data in bindings.items():
            check_type(f"channel_bindings[{binding!r}]", bytes, data)
            yield partial(
                make, authentication_identity=name, password=password, entropy=entropy,
                channel_binding=binding, binding_data=data,
            )  # fmt: skip


def _unbound(name: str, password: bytes, entropy: bytes, *, could_bind: bool) -> Iterator[_Maker]:
    for make in (ScramSha256Client, ScramSha1Client):
        yield partial(make, authentication_identity=name, password=password, entropy=entropy, could_bind=could_bind)
    if MD5_AVAILABLE:
        yield partial(CramMd5Client, authentication_identity=name, password=password)
        yield partial(ApopClient, authentication_identity=name, password=password)


def _possible(makers: tuple[_Maker, ...]) -> tuple[ClientMechanism, ...]:
    """Return the mechanisms that can carry the name and password.  Raises the first error if none can."""
    found: list[ClientMechanism] = []
    first: LocalProtocolError | None = None
    for make in makers:
        try:
            found.append(make())
        except LocalProtocolError as error:
            first = first or error
    if not found and first is not None:
        raise first
    return tuple(found)
