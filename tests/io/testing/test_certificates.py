"""The certificates of the test server: each fault is found by a strict client, and is the only one."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from mailauth import Tls
from mailauth_io.adapters.tls.certificates import NAMES, TrustmeMissing
from mailauth_io.adapters.tls.channel_binding import NAME, UNIQUE, server_end_point
from mailauth_io.adapters.tls.layer import TlsLayer
from mailauth_io.testing._certificates import (
    KINDS,
    OTHER_HOST,
    CertificateKind,
    CertificateSet,
    SelectableContext,
    _SetOfProcess,
)
from tests.io.tls import layers

EXPIRED, UNKNOWN_ISSUER, OTHER_NAME, OTHER_ADDRESS = 10, 20, 62, 64
"""X509_V_ERR_CERT_HAS_EXPIRED, _UNABLE_TO_GET_ISSUER_CERT_LOCALLY, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH."""


@pytest.fixture(scope="module")
def certificates() -> CertificateSet:
    return CertificateSet.of_process()


@pytest.fixture
def context(certificates: CertificateSet) -> SelectableContext:
    return SelectableContext.of(certificates)


def handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext, host: str) -> tuple[Tls, Tls]:
    """Make a handshake in memory.  Return what the server and the client know of it."""
    server, client = layers(server_context, client_side=client_context, host=host)
    return server.tls, client.tls


def failure(
    certificates: CertificateSet, kind: CertificateKind, host: str = "localhost"
) -> ssl.SSLCertVerificationError:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(certificates.contexts[kind], certificates.client_context(), host)
    return caught.value


# The faults


@pytest.mark.parametrize("host", NAMES)
def test_valid_certificate_passes_a_strict_client(host: str, certificates: CertificateSet) -> None:
    client_context = certificates.client_context()
    assert client_context.verify_flags & ssl.VERIFY_X509_STRICT
    _, client = handshake(certificates.contexts["valid"], client_context, host)
    assert client.peer_certificate is not None
    assert client.peer_certificate["subjectAltName"] == (
        *(("DNS", "localhost"), ("IP Address", "127.0.0.1"), ("IP Address", "0:0:0:0:0:0:0:1")),
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_valid_certificate_passes_in_each_version_of_tls(version: ssl.TLSVersion, certificates: CertificateSet) -> None:
    client_context = certificates.client_context()
    client_context.maximum_version = version
    _, client = handshake(certificates.contexts["valid"], client_context, "localhost")
    assert client.version == {771: "TLSv1.2", 772: "TLSv1.3"}[version]


@pytest.mark.parametrize(
    ("kind", "host", "code", "message"),
    [
        *(("expired", host, EXPIRED, "certificate has expired") for host in NAMES),
        *(("untrusted", host, UNKNOWN_ISSUER, "unable to get local issuer certificate") for host in NAMES),
        ("wrong_host", "localhost", OTHER_NAME, "Hostname mismatch, certificate is not valid for 'localhost'."),
        ("wrong_host", "127.0.0.1", OTHER_ADDRESS, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("wrong_host", "::1", OTHER_ADDRESS, "IP address mismatch, certificate is not valid for '::1'."),
    ],
)
def test_faulty_certificate_is_rejected_by_each_name(
    kind: CertificateKind, host: str, code: int, message: str, certificates: CertificateSet
) -> None:
    error = failure(certificates, kind, host)
    assert (error.verify_code, error.verify_message) == (code, message)


def test_each_certificate_has_only_its_fault(certificates: CertificateSet) -> None:
    """A client that ignores this one fault accepts it, with everything else verified."""
    handshake(certificates.contexts["wrong_host"], certificates.client_context(), OTHER_HOST)

    no_time = certificates.client_context()
    no_time.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME
    handshake(certificates.contexts["expired"], no_time, "localhost")

    # That of the unknown CA differs from the valid one only in its signature, names of the CA and key.
    valid, untrusted = (parsed(certificates, kind) for kind in ("valid", "untrusted"))
    assert (valid.not_valid_before_utc, valid.not_valid_after_utc) == (
        *(untrusted.not_valid_before_utc, untrusted.not_valid_after_utc),
    )
    apart = {ExtensionOID.SUBJECT_KEY_IDENTIFIER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER}
    extensions = [[each for each in one.extensions if each.oid not in apart] for one in (valid, untrusted)]
    assert extensions[0] == extensions[1] != []
    assert valid.issuer != untrusted.issuer


def test_expired_certificate_was_valid_before(certificates: CertificateSet) -> None:
    expired = parsed(certificates, "expired")
    assert expired.not_valid_before_utc < expired.not_valid_after_utc < datetime.now(UTC)


def parsed(certificates: CertificateSet, kind: CertificateKind) -> x509.Certificate:
    certificate = certificates.contexts[kind].certificate
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate)


def test_strict_client_trusts_only_the_ca(certificates: CertificateSet) -> None:
    context = certificates.client_context()
    assert context.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert(certificates.authority.decode("ascii"))]
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(CertificateSet.create().contexts["valid"], context, "localhost")


def test_client_contexts_are_independent(certificates: CertificateSet) -> None:
    changed = certificates.client_context()
    changed.check_hostname = False
    changed.verify_mode = ssl.CERT_NONE
    handshake(certificates.contexts["untrusted"], changed, "localhost")
    assert failure(certificates, "untrusted").verify_code == UNKNOWN_ISSUER


def test_ca_file_is_all_that_a_client_needs(certificates: CertificateSet, tmp_path: Path) -> None:
    path = certificates.ca_file(tmp_path)
    assert path.parent == tmp_path
    assert b"PRIVATE" not in path.read_bytes()
    handshake(certificates.contexts["valid"], ssl.create_default_context(cafile=path), "localhost")


# The selection


def test_selected_certificate_is_presented_in_later_handshakes(
    context: SelectableContext, certificates: CertificateSet
) -> None:
    codes: list[int | None] = []
    for kind in ("valid", "expired", "wrong_host", "untrusted", "valid"):
        context.present(kind)
        try:
            handshake(context, certificates.client_context(), "localhost")
            codes.append(None)
        except ssl.SSLCertVerificationError as error:
            codes.append(error.verify_code)
    assert codes == [None, EXPIRED, OTHER_NAME, UNKNOWN_ISSUER, None]


def test_handshake_keeps_the_certificate_selected_when_it_began(
    context: SelectableContext, certificates: CertificateSet
) -> None:
    server = TlsLayer(context, server_side=True, server_hostname=None)
    client = TlsLayer(certificates.client_context(), server_side=False, server_hostname="localhost")
    client.step_handshake()
    server.feed(client.take())
    context.present("expired")
    server.step_handshake()
    client.feed(server.take())
    assert client.step_handshake()


def test_session_is_not_resumed_with_another_certificate(
    context: SelectableContext, certificates: CertificateSet
) -> None:
    """A resumed handshake sends no certificate, so the client would not find the fault of the next one."""
    client_context = certificates.client_context()
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2  # the ticket is part of the handshake

    def connect(session: ssl.SSLSession | None) -> ssl.SSLObject:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(up, down, server_side=True)
        client = client_context.wrap_bio(down, up, server_hostname="localhost", session=session)
        pending = [client, server]
        while pending:
            for each in tuple(pending):
                try:
                    each.do_handshake()
                    pending.remove(each)
                except ssl.SSLWantReadError:
                    pass
        return client

    session = connect(None).session
    assert session is not None
    assert connect(session).session_reused
    context.present("expired")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(session)


@pytest.mark.parametrize("kind", KINDS)
def test_bindings_of_server_and_client_are_those_of_the_presented_certificate(
    kind: CertificateKind, context: SelectableContext, certificates: CertificateSet
) -> None:
    """RFC 5929 section 4: SCRAM-...-PLUS needs the same binding on both sides."""
    client_context = certificates.client_context()
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    context.present(kind)
    server, client = handshake(context, client_context, "localhost")
    presented = certificates.contexts[kind].certificate
    assert presented is not None
    assert server.channel_bindings[NAME] == client.channel_bindings[NAME] == server_end_point(presented)
    assert server.channel_bindings[UNIQUE] == client.channel_bindings[UNIQUE]
    assert context.certificate == presented


def test_certificates_are_different(certificates: CertificateSet) -> None:
    assert len({context.certificate for context in certificates.contexts.values()}) == len(KINDS) == 4


@pytest.mark.parametrize("kind", ["", "Valid", "self-signed", None, 5, b"valid", ["valid"]])
def test_unknown_kind_is_refused(kind: object, context: SelectableContext) -> None:
    context.present("untrusted")
    presented = context.certificate
    with pytest.raises(
        (TypeError, ValueError), match=r"kind must be (one of valid, expired, wrong_host, untrusted|a str)"
    ):
        context.present(kind)  # type: ignore[arg-type]  # what a user may write in a marker
    assert context.certificate == presented


# The set of the process


def test_set_is_created_once_in_a_process_by_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread asks while the first creates the set."""
    shared = _SetOfProcess()
    found: list[CertificateSet] = []
    second = threading.Thread(target=lambda: found.append(shared.get()))
    create = CertificateSet.create
    calls: list[None] = []

    def slow_create() -> CertificateSet:
        calls.append(None)
        if len(calls) == 1:
            second.start()
            second.join(0.05)  # it waits for this thread; without a lock it creates a set of its own
        return create()

    monkeypatch.setattr(CertificateSet, "create", slow_create)
    found.append(shared.get())
    second.join()
    assert [found[0] is each for each in found] == [True, True]
    assert len(calls) == 1


def test_process_has_one_set() -> None:
    assert CertificateSet.of_process() is CertificateSet.of_process()


def test_nothing_is_created_on_import() -> None:
    """Users of the plug-in who do not use the fixture do not wait for it, and need no extra."""
    program = "import mailauth_io.testing._certificates, sys; print('trustme' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_missing_trustme_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(TrustmeMissing, match=r"pip install 'mailauth\[testing\]'"):
        CertificateSet.create()
