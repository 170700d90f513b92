"""The names in a client certificate, in the form that is used to map them to accounts.

The input is the result of ``ssl.SSLSocket.getpeercert()`` for a certificate that has been verified; nothing is verified
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

__all__ = ["KINDS", "certificate_name", "certificate_names"]

KINDS: Final = ("email", "DNS", "CN")
"""The prefixes of names.  They prevent a name of one kind from matching a name of another kind."""


def certificate_name(kind: str, name: str) -> str:
    """Return ``email:alice@example.test``, ``DNS:host.example.test`` or ``CN:Alice``.

    Domains are in lower case, since they are compared case-insensitively (RFC 5280 sections 7.2 and 7.5).
    """
    local_part, at, domain = name.rpartition("@")
    match kind:
        case "email":
            return f"{kind}:{local_part}{at}{domain.lower()}"
        case "DNS":
            return f"{kind}:{name.lower()}"
        case _:
            return f"{kind}:{name}"


def certificate_names(certificate: Mapping[str, object]) -> frozenset[str]:
    """Return the names of the KINDS in *certificate*.

    They are in its subjectAltName (RFC 5280 section 4.2.1.6) and in the common names of its subject (section 4.1.2.6).
    """
    return frozenset(_names(certificate))


def _names(certificate: Mapping[str, object]) -> Iterator[str]:
    for kind, name in _pairs(certificate.get("subjectAltName")):
        if kind in KINDS:
            yield certificate_name(kind, name)
    for relative in _elements(certificate.get("subject")):
        for kind, name in _pairs(relative):
            if kind == "commonName":
                yield certificate_name("CN", name)


def _elements(value: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()


def _pairs(value: object) -> Iterator[tuple[str, str]]:
    for pair in _elements(value):
        match pair:
            case (str(kind), str(name)):
                yield kind, name
            case _:
                pass
