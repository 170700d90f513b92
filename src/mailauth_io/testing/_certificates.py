"""The certificates of the test server: one that is valid, and others with one fault each.

The keys exist only in this process.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias, get_args

import attrs

from .._checks import check_choice
from ..adapters.tls.certificates import NAMES, TrustmeMissing, server_context
from ..adapters.tls.channel_binding import BindingContext
from ..adapters.tls.current_context import CurrentContext

if TYPE_CHECKING:
    import trustme

CertificateKind: TypeAlias = Literal["valid", "expired", "wrong_host", "untrusted"]
"""The name of a certificate: see ``Options``."""

KINDS: Final[tuple[CertificateKind, ...]] = get_args(CertificateKind)

OTHER_HOST: Final = "other-host.test"
"""The only name in the certificate ``wrong_host``.  No host has it (RFC 6761 section 6.2)."""

VALIDITY_OF_EXPIRED: Final = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 12, 31, tzinfo=UTC))
"""The first and the last moment of the certificate ``expired``."""

_CA_FILE: Final = "mailauth-test-ca.pem"


@attrs.frozen(kw_only=True, eq=False)
class CertificateSet:
    """A CA, and server certificates for ``localhost``, ``127.0.0.1`` and ``::1`` (``NAMES``).

    ``expired``, ``wrong_host`` and ``untrusted`` have one fault each, and are valid in all other respects.  Each has
    its own key and context, so a client cannot resume a session that began with another certificate.

    For example:

        certificates = CertificateSet.of_process()
        server, client = certificates.contexts["expired"], certificates.client_context()
    """

    authority: bytes = attrs.field(repr=False)
    """The certificate of the CA, in PEM."""

    contexts: Mapping[CertificateKind, BindingContext] = attrs.field(repr=False)
    """The context of a server for each certificate."""

    @classmethod
    def create(cls) -> Self:
        """Create the keys and certificates: about 10 ms.

        Raises TrustmeMissing if the extra ``testing`` is not installed.
        """
        try:
            import trustme
        except ImportError:
            raise TrustmeMissing(
                "the certificates of the test server need the package trustme: pip install 'mailauth[testing]'"
            ) from None
        authority = trustme.CA()
        # fetchmail requires a common name.
        issue = partial(authority.issue_cert, *NAMES, common_name=NAMES[0])
        not_before, not_after = VALIDITY_OF_EXPIRED
        issued: dict[CertificateKind, trustme.LeafCert] = {
            "valid": issue(),
            "expired": issue(not_before=not_before, not_after=not_after),
            "wrong_host": authority.issue_cert(OTHER_HOST, common_name=OTHER_HOST),
            "untrusted": trustme.CA().issue_cert(*NAMES, common_name=NAMES[0]),
        }
        contexts: dict[CertificateKind, BindingContext] = {kind: _context_with(one) for kind, one in issued.items()}
        return cls(authority=authority.cert_pem.bytes(), contexts=contexts)

    @staticmethod
    def of_process() -> CertificateSet:
        """Return the set of this process, which the first call creates.  Any thread may call it."""
        return _OF_PROCESS.get()

    def client_context(self) -> ssl.SSLContext:
        """Return a new context for a client that trusts only the CA, and verifies certificates and host names.

        It requires TLS 1.2 (RFC 8996), and certificates without any deviation from RFC 5280 (VERIFY_X509_STRICT).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self.authority.decode("ascii"))
        return context

    def ca_file(self, directory: Path) -> Path:
        """Write the certificate of the CA to a file in *directory*, in PEM, and return its path."""
        path = directory / _CA_FILE
        path.write_bytes(self.authority)
        return path


def _context_with(certificate: trustme.LeafCert) -> BindingContext:
    context = server_context()
    # Its parameter may also be a context of pyOpenSSL, which need not be installed.
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


class _SetOfProcess:
    """Creates one CertificateSet when it is first needed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._set: CertificateSet | None = None

    def get(self) -> CertificateSet:
        with self._lock:
            if self._set is None:
                self._set = CertificateSet.create()
            return self._set


_OF_PROCESS: Final = _SetOfProcess()


class SelectableContext(CurrentContext):
    """A context for a server that presents the certificate that ``present()`` selected last.

    For example:

        context = SelectableContext.of(CertificateSet.of_process())
        context.present("expired")  # from the next handshake on
    """

    _contexts: Mapping[CertificateKind, BindingContext]

    @classmethod
    def of(cls, certificates: CertificateSet) -> Self:
        """Return a context that presents the certificates in *certificates*; ``valid`` is selected."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._contexts = certificates.contexts
        context.present("valid")
        context.minimum_version = context._current.minimum_version  # the default is lower on some systems
        return context

    def present(self, kind: CertificateKind) -> None:
        """Select the certificate for all later handshakes.  Any thread may call it.

        Raises ValueError if *kind* is not one of ``KINDS``.
        """
        check_choice("kind", kind, KINDS)
        self._current = self._contexts[kind]
