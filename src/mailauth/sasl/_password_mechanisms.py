"""All client mechanisms that use a name and a password, the strongest first, as arguments of ``authenticate()``.

Which of them the server offers is checked by ``authenticate()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from .._validators import check_type
from ..events import Tls
from ._md5 import MD5_AVAILABLE
from .apop import ApopClient
from .cram_md5 import CramMd5Client
from .login import LoginClient
from .messages import ClientMechanism
from .plain import PlainClient
from .scram import ScramSha1Client, ScramSha1PlusClient, ScramSha256Client, ScramSha256PlusClient
from .user_pass import UserPassClient

_BINDINGS: Final = ("tls-exporter", "tls-server-end-point")  # in order of preference (RFC 9266 section 2)


def password_mechanisms(
    authentication_identity: str,
    password: bytes,
    *,
    entropy: bytes,
    tls: Tls | None,
    clear_text: bool = False,
) -> tuple[ClientMechanism, ...]:
    """Return the mechanisms for ``authenticate(*mechanisms)``, which uses the first one that the server offers.

    The order is: SCRAM with channel binding, SCRAM, CRAM-MD5, APOP, and then those that send the password itself:
    PLAIN, LOGIN, USER and PASS.  The latter are included only if the connection uses TLS or *clear_text* is true.

    *tls* is the TLS layer of the connection; *entropy* is at least 16 random bytes, new for each login; *password* is
    UTF-8.  Raises LocalProtocolError for a name or password that one of the mechanisms cannot carry.
    """
    check_type("tls", Tls, tls, optional=True)
    check_type("clear_text", bool, clear_text)
    return tuple(_strongest_first(authentication_identity, password, entropy, tls, tls is not None or clear_text))


def _strongest_first(
    name: str, password: bytes, entropy: bytes, tls: Tls | None, may_show: bool
) -> Iterator[ClientMechanism]:
    bindings: Mapping[str, bytes] = {} if tls is None else tls.channel_bindings
    binding = next((binding for binding in _BINDINGS if binding in bindings), None)
    if binding is not None:
        for bound in (ScramSha256PlusClient, ScramSha1PlusClient):
            yield bound(
                authentication_identity=name, password=password, entropy=entropy,
                channel_binding=binding, binding_data=bindings[binding],
            )  # fmt: skip
    for unbound in (ScramSha256Client, ScramSha1Client):
        yield unbound(authentication_identity=name, password=password, entropy=entropy, could_bind=binding is not None)
    if MD5_AVAILABLE:
        yield CramMd5Client(authentication_identity=name, password=password)
        yield ApopClient(authentication_identity=name, password=password)
    if may_show:
        yield PlainClient(authentication_identity=name, password=password)
        yield LoginClient(authentication_identity=name, password=password)
        yield UserPassClient(authentication_identity=name, password=password)
