"""Which ways to log in the ready server offers: those that its accounts can answer, for every account alike.

Knows mechanisms by name and what each needs; what is strong enough outside TLS is settled here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final

from mailauth import pop3, sasl

from ..stores import Proof

NEEDS: Final[Mapping[str, Proof]] = {
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
"""What the server must have of every account before it offers a mechanism.

The -PLUS forms of SCRAM are not among them: Python's ssl has no exporter, and a client that binds by ``tls-exporter``
(RFC 9266), as it should inside TLS 1.3, would fail where it can log in now.
"""

EVERY_PROOF: Final = frozenset(Proof)

CLEAR: Final = frozenset({"PLAIN", "LOGIN", "USER", "CRAM-MD5", "APOP", "SCRAM-SHA-1", "SCRAM-SHA-256"})
"""What a legacy server offers outside TLS; each shows a password, or what one can be guessed from, to whoever listens.

A bearer token never goes in clear (RFC 6750 section 5.3).
"""


def offered(mechanisms: sasl.ExtendedMechanisms, proofs: Set[Proof]) -> sasl.ExtendedMechanisms:
    """Those of *mechanisms* that accounts with *proofs* can answer."""
    return mechanisms.only(*(name for name, proof in NEEDS.items() if proof in proofs))


def without_tls(proofs: Set[Proof]) -> tuple[str, ...]:
    """What a legacy server whose accounts have *proofs* takes outside TLS; USER and APOP by POP3 alone."""
    return tuple(name for name in offered(pop3.ALL_MECHANISMS, proofs).names if name in CLEAR)
