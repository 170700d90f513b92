"""The login mechanisms that the server offers: those that every account supports, with and without TLS."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from typing import Final

from mailauth import LocalProtocolError, sasl
from mailauth.addresses import LOOPBACK, is_within
from mailauth.pop3 import ALL_MECHANISMS as _POP3_MECHANISMS

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

_SENDS_PASSWORD: Final = frozenset({"PLAIN", "LOGIN", "USER"})


def offered(mechanisms: sasl.Mechanisms, proofs: Set[Proof], names: Collection[str]) -> sasl.Mechanisms:
    """Return those of *mechanisms* that accounts with *proofs* support and that *names* lists."""
    return mechanisms.only(*(name for name in mechanisms.names if REQUIRED_PROOF.get(name) in proofs and name in names))


def without_tls(proofs: Set[Proof], mechanisms: Collection[str] = MECHANISMS) -> tuple[str, ...]:
    """Return what a server with ``legacy`` accepts without TLS if its accounts have *proofs*.

    *mechanisms* are those of its Config.  USER and APOP exist in POP3 only.
    """
    return tuple(name for name in offered(_POP3_MECHANISMS, proofs, mechanisms).names if name in CLEAR)


def login_problem(
    mechanisms: Collection[str], proofs: Set[Proof], *, smtp: bool, pop3: bool, tls: bool, legacy: bool
) -> str | None:
    """Return a sentence if no login is possible, although *mechanisms* is not empty; otherwise None.

    *smtp* and *pop3* tell which protocols have a port, and *tls* whether the Config has an ssl_context.  The other
    parameters are those of the Config.

        >>> login = {"smtp": True, "pop3": False, "tls": True, "legacy": False}
        >>> server.login_problem(["PLAIN"], {stores.Proof.PASSWORD}, **login) is None
        True
    """
    if not mechanisms:
        return None  # a server without logins is intended
    names: set[str] = set()
    if smtp:
        names.update(offered(sasl.ALL_MECHANISMS, proofs, mechanisms).names)
    if pop3:
        names.update(offered(_POP3_MECHANISMS, proofs, mechanisms).names)
    if not names:
        return (
            f"No login is possible: none of the mechanisms ({', '.join(mechanisms)}) is supported by every account and"
            " by the protocols of the ports; add PLAIN, which works with every stored password."
        )
    if tls or (legacy and not CLEAR.isdisjoint(names)):
        return None
    if legacy:
        return f"No login is possible: {', '.join(sorted(names))} require TLS; pass an ssl_context."
    return (
        "No login is possible without TLS: pass an ssl_context, or legacy=True to allow passwords in clear text, or"
        " mechanisms=() if no logins are wanted."
    )


def clear_text_warning(hosts: Iterable[str], names: Collection[str]) -> str | None:
    """Return a sentence if *names*, which are accepted without TLS, expose passwords on a network; otherwise None."""
    exposed = [host for host in hosts if not _is_loopback(host)]
    if not exposed or not names:
        return None
    what = (
        "passwords cross the network in clear text"
        if not _SENDS_PASSWORD.isdisjoint(names)
        else "passwords can be guessed from what crosses the network"
    )
    return f"Logins without TLS are allowed on {', '.join(exposed)}, so {what}: turn legacy off, or use 127.0.0.1."


def _is_loopback(host: str) -> bool:
    try:
        return is_within(host, LOOPBACK)
    except LocalProtocolError:
        return host == "localhost"
