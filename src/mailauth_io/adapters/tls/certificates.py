"""Temporary certificates for tests and trials, and the TLS contexts of a server and its clients.

The keys exist only in this process.  Certificates for production come from other tools.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Collection, Iterator
from typing import Final, cast

import attrs

from ..._checks import check_collection, check_text
from .channel_binding import BindingContext
from .layer import POP3, SMTP

__all__ = ["NAMES", "TemporaryCertificate", "TrustmeMissing", "server_context", "temporary_certificate"]

NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""The names that every temporary certificate is valid for."""


class TrustmeMissing(ImportError):
    """The package that makes temporary certificates is not installed; the message says how to install it.

    For example:

        try:
            certificate = certificates.temporary_certificate()
        except certificates.TrustmeMissing as error:
            sys.exit(str(error))
    """


@attrs.frozen(kw_only=True)
class TemporaryCertificate:
    """A certificate signed by a new private authority.

    For example:

        certificate = certificates.temporary_certificate()
        async with on_trio.serve_smtp(session, settings, ssl_context=certificate.server) as listener:
            client = await on_trio.connect(machine, "localhost", listener.port, ssl_context=certificate.client())
    """

    server: ssl.SSLContext
    """The server's context, with the certificate and its key."""

    authority: bytes
    """The CA certificate that clients must trust, in PEM."""

    def client(self) -> ssl.SSLContext:
        """Return a client's context that trusts only this authority."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=self.authority.decode("ascii"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        return context


def server_context() -> BindingContext:
    """Return a server context without a certificate, for SMTP and POP3, with TLS 1.2 as the minimum (RFC 8996).

    By ALPN it chooses either protocol; the listener checks that it is the protocol of the port.
    """
    context = BindingContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([SMTP, POP3])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL 1.1.1 allows a client any number of handshakes with TLS 1.2
    return context


def _parse_addresses(addresses: object) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    check_collection("addresses", addresses, "('192.0.2.1',)")
    for address in cast("Collection[object]", addresses):
        check_text("each of addresses", address)
        try:
            yield ipaddress.ip_address(str(address).partition("%")[0])
        except ValueError:
            raise ValueError("each of addresses must be an IP address such as '192.0.2.1', not a name") from None


def temporary_certificate(addresses: Collection[str] = ()) -> TemporaryCertificate:
    """Create an authority, and a certificate for ``NAMES`` and *addresses* (the IP addresses that a server listens on).

    Raises TrustmeMissing if the extra ``trial`` is not installed, and TypeError or ValueError for wrong *addresses*.
    """
    names = dict.fromkeys([*NAMES, *map(str, _parse_addresses(addresses))])
    try:
        import trustme
    except ImportError:
        raise TrustmeMissing(
            "a temporary certificate needs the package trustme: pip install 'mailauth[trial]'"
        ) from None
    authority = trustme.CA()
    context = server_context()
    server_certificate = authority.issue_cert(*names, common_name=NAMES[0])  # fetchmail requires a common name
    # Its parameter may also be a context of pyOpenSSL, which need not be installed.
    server_certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return TemporaryCertificate(server=context, authority=authority.cert_pem.bytes())
