"""The names in a client certificate, in the form that is used to map them to accounts."""

from __future__ import annotations

import pytest

from mailauth_io.adapters.tls.certificate_names import certificate_names


def test_alternative_and_common_names_are_returned_with_their_kinds() -> None:
    """RFC 5280 section 7: domains compare without case, local parts and common names with it."""
    certificate = {
        "subject": ((("organizationName", "Example"),), (("commonName", "Alice A"), ("emailAddress", "no@x"))),
        "subjectAltName": (
            ("email", "Alice@Example.test"),
            ("DNS", "Host.Example.test"),
            ("URI", "urn:x"),
            ("IP Address", "192.0.2.1"),
        ),
        "issuer": ((("commonName", "Authority"),),),
    }
    assert certificate_names(certificate) == {"email:Alice@example.test", "DNS:host.example.test", "CN:Alice A"}


@pytest.mark.parametrize(
    "certificate",
    [{}, {"subject": None}, {"subjectAltName": "email"}, {"subject": (("commonName", "x"),)}, {"subject": ((1, 2),)}],
)
def test_certificate_in_an_unexpected_form_has_no_names(certificate: dict[str, object]) -> None:
    assert certificate_names(certificate) == frozenset()
