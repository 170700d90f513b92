"""The login mechanisms that the server offers: those that every account supports, with and without TLS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Final

from mailauth import pop3, sasl

from ..stores import Proof

REQUIRED_PROOF: Final[Mapping[str, Proof]] = {
    "PLAIN": Proof.PASSWORD,
    "LOGIN": Proof.PASSWORD,
    "USER": Proof.PASSWORD,
    "CRAM-MD5": Proof.SECRET,
    "APOP": Proof.SECRET,
    "SCRAM-SHA-1": Proof.SCRAM_SHA_1,
    "SCRAM-SHA-256": Proof.SCRAM_SHA_256,
    "OAUTHBEARER": Proof.TOKEN,
    "XOAUTH2": Proof.TOKEN,
    "EXTERNAL": Proof.CERTIFICATE,
}
"""The proof that every account must have before the server offers a mechanism.

The -PLUS variants of SCRAM are not offered.  Python's ssl module has no exporter, so a client that uses
``tls-exporter`` (RFC 9266), as it should with TLS 1.3, would fail to log in.
"""

MECHANISMS: Final = tuple(REQUIRED_PROOF)
"""The names of all mechanisms that the server can offer.  USER and APOP exist in POP3 only."""

EVERY_PROOF: Final = frozenset(Proof)

CLEAR: Final = frozenset({"PLAIN", "LOGIN", "USER", "CRAM-MD5", "APOP", "SCRAM-SHA-1", "SCRAM-SHA-256"})
"""The mechanisms that a server with ``legacy`` offers without TLS.

An eavesdropper can read the password, or data from which it can be guessed.  Bearer tokens require TLS (RFC 6750
section 5.3).
"""


def offered(mechanisms: sasl.Mechanisms, proofs: Set[Proof], names: Collection[str]) -> sasl.Mechanisms:
    """Return those of *mechanisms* that accounts with *proofs* support and that *names* lists."""
    return mechanisms.only(*(name for name in mechanisms.names if REQUIRED_PROOF.get(name) in proofs and name in names))


def without_tls(proofs: Set[Proof], mechanisms: Collection[str] = MECHANISMS) -> tuple[str, ...]:
    """Return what a server with ``legacy`` accepts without TLS if its accounts have *proofs*.

    *mechanisms* are those of its Config.  USER and APOP exist in POP3 only.
    """
    return tuple(name for name in offered(pop3.ALL_MECHANISMS, proofs, mechanisms).names if name in CLEAR)
