"""The names that a client certificate is good for, as a map from names to accounts writes them.

Knows what ``ssl.SSLSocket.getpeercert()`` gives of a certificate that has been verified; trusts nobody by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

KINDS: Final = ("email", "DNS", "CN")
"""What stands in front of a name, so that nobody can pass off a name of one kind as one of another."""


def certificate_name(kind: str, name: str) -> str:
    """``email:alice@example.test``, ``DNS:host.example.test`` or ``CN:Alice``; domains in lower case (RFC 5280
    section 7.2 and 7.5 compare them so)."""
    local_part, at, domain = name.rpartition("@")
    match kind:
        case "email":
            return f"{kind}:{local_part}{at}{domain.lower()}"
        case "DNS":
            return f"{kind}:{name.lower()}"
        case _:
            return f"{kind}:{name}"


def certificate_names(certificate: Mapping[str, object]) -> frozenset[str]:
    """The names of KINDS: of the subjectAltName, and the common names (RFC 5280 sections 4.2.1.6 and 4.1.2.6)."""
    return frozenset(_names(certificate))


def _names(certificate: Mapping[str, object]) -> Iterator[str]:
    for kind, name in _pairs(certificate.get("subjectAltName")):
        if kind in KINDS:
            yield certificate_name(kind, name)
    subject = certificate.get("subject")
    for relative in subject if isinstance(subject, tuple) else ():
        for kind, name in _pairs(relative):
            if kind == "commonName":
                yield certificate_name("CN", name)


def _pairs(value: object) -> Iterator[tuple[str, str]]:
    for pair in value if isinstance(value, tuple) else ():
        match pair:
            case (str(kind), str(name)):
                yield kind, name
