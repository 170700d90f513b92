"""Throw-away certificates, and the TLS contexts of a server and of its clients.

Keys live as long as the process.  Knows no protocol and no port; certificates for use belong to other tools.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from typing import Final

import attrs

from ._tls import POP3, SMTP
from .channel_binding import BindingContext

NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""What a throw-away certificate is always good for."""


class TrustmeMissing(ImportError):
    """The package that makes throw-away certificates is not installed; the text says how to get it."""


@attrs.frozen(kw_only=True)
class TemporaryCertificate:
    """A certificate that its own, unknown authority has signed."""

    server: ssl.SSLContext
    """What a server shows its clients."""

    authority: bytes
    """What a client must trust, in PEM."""

    def client(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=self.authority.decode("ascii"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        return context


def server_context() -> BindingContext:
    """An empty server context with the least version that is allowed (RFC 8996), for either protocol.

    Of the names that a client offers by ALPN it chooses one of ours; whether it is that of the port is judged there.
    """
    context = BindingContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([SMTP, POP3])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def temporary_certificate(addresses: Iterable[str] = ()) -> TemporaryCertificate:
    """A new authority and a certificate for ``NAMES`` and for *addresses* (IP addresses that a server listens on).

    Raises TrustmeMissing without the extra ``trial``.
    """
    try:
        import trustme
    except ImportError:
        raise TrustmeMissing(
            "a throw-away certificate needs the package trustme: pip install 'mailauth[trial]'"
        ) from None
    names = dict.fromkeys([*NAMES, *(str(ipaddress.ip_address(address.partition("%")[0])) for address in addresses)])
    authority = trustme.CA()
    context = server_context()
    authority.issue_cert(*names, common_name=NAMES[0]).configure_cert(context)  # fetchmail takes none without
    return TemporaryCertificate(server=context, authority=authority.cert_pem.bytes())
