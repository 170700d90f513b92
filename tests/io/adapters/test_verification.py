"""What an error about a certificate says to do."""

from __future__ import annotations

import socket
import ssl

import pytest

from mailauth import LocalProtocolError, RemoteProtocolError
from mailauth_io.adapters.tls.verification import describe_verification
from mailauth_io.client import ConnectionFailed
from mailauth_io.client._server import describe
from mailauth_io.server._relay_replies import reason
from tests.io.tls import client_context, server_context


def failed(code: int, message: str) -> ssl.SSLCertVerificationError:
    """Return an error as OpenSSL reports it."""
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {message}")
    error.verify_code = code
    error.verify_message = message
    return error


def openssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] text (_ssl.c:1006)")
    error.reason = reason
    return error


def handshake(context: ssl.SSLContext, name: str) -> ssl.SSLCertVerificationError:
    """Return the error of a handshake in memory with the test server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context().wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                return error
    raise AssertionError("the certificate was accepted")


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        (18, "self-signed certificate", "self-signed certificate; TRUST"),
        (19, "self-signed certificate in certificate chain", "self-signed certificate in certificate chain; TRUST"),
        (20, "unable to get local issuer certificate", "unable to get local issuer certificate; TRUST"),
        (10, "certificate has expired", "certificate has expired; the server needs a new certificate"),
        (9, "certificate is not yet valid", "certificate is not yet valid; the server needs a new certificate"),
        (
            62,
            "Hostname mismatch, certificate is not valid for 'x'.",
            "Hostname mismatch, certificate is not valid for 'x'; NAME",
        ),
        (
            64,
            "IP address mismatch, certificate is not valid for '::1'.",
            "IP address mismatch, certificate is not valid for '::1'; NAME",
        ),
        (26, "unsuitable certificate purpose", "unsuitable certificate purpose"),
    ],
)
def test_error_says_what_to_do(code: int, message: str, says: str) -> None:
    found = describe_verification(failed(code, message), trust="TRUST", name="NAME")
    assert found == f"the certificate is not valid: {says}"


def test_openssl_reports_the_expected_codes() -> None:
    untrusted = handshake(ssl.create_default_context(), "localhost")
    assert describe(untrusted).endswith("; pass ssl_context=ssl.create_default_context(cafile=...) to trust its CA")
    assert reason(untrusted).endswith("; use --relay-ca FILE, or the ssl_context of NextHop, to trust its CA")
    other_name = handshake(client_context(), "other.test")
    assert describe(other_name).endswith("; pass a host that is in the certificate")
    assert reason(other_name).endswith("; use a host name for the relay that is in the certificate")
    other_address = handshake(client_context(), "192.0.2.1")
    assert describe(other_address).endswith("; pass a host that is in the certificate")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (openssl_error("WRONG_VERSION_NUMBER"), "TLS failed: wrong version number"),
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            "TLS failed: [SSL: WRONG",
        ),
        (RemoteProtocolError("not a reply: b'what?'"), "it violated the protocol: not a reply: b'what?'"),
        (LocalProtocolError("the server does not offer PLAIN"), "the server does not offer PLAIN"),
        (ConnectionRefusedError(111, "[Errno 111] Connect call failed"), "Connection refused"),
        (TimeoutError(), "timed out"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
    ],
)
def test_reason_of_a_failed_relay_is_a_sentence_without_an_exception(error: Exception, says: str) -> None:
    assert reason(error).startswith(says)
    lost = ConnectionFailed("the connection failed")
    lost.__cause__ = error
    assert reason(lost) == reason(error)
    assert type(error).__name__ not in reason(error)
