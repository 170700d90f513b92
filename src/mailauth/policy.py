"""The relay policy: local mail from anyone, remote mail only with an identity or a grant.

This module does no I/O.  The result of a lookup in the grant store is an argument.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import Final

import attrs

from ._validators import wrong_type
from .errors import LocalProtocolError, Malformed
from .events import ACCEPT
from .grants import Grant, Lookup, Unavailable
from .smtp._grammar import Mailbox, check_domain, fold_domain
from .smtp.replies import Reply, Verdict

__all__ = [
    "LOOKUP_FAILED",
    "RELAYING_DENIED",
    "Decision",
    "Reason",
    "RelayPolicy",
]

_ROUTE_CHARACTERS: Final = re.compile("[%!@]")  # older mailers read these as a route to another host

RELAYING_DENIED: Final = Reply(550, "5.7.1", "relaying denied: authentication required")
LOOKUP_FAILED: Final = Reply(451, "4.7.1", "cannot check relay permission, try again later")


class Reason(enum.Enum):
    """Why a recipient was accepted or refused.

    For example:

        if decision.reason is policy.Reason.GRANT:
            print(f"relayed because {decision.identity} has read mail by POP3")
    """

    LOCAL = "the recipient is local"
    IDENTITY = "the session has logged in"
    GRANT = "there was a recent POP login from this address"
    NO_GRANT = "neither an identity nor a grant"
    UNAVAILABLE = "the grant store is unavailable"


@attrs.frozen(kw_only=True)
class Decision:
    """The verdict on one recipient, with its reason and the responsible identity.

    For example:

        case smtp.Rcpt(forward_path=mailbox) as question:
            grant = table.find(connection.peer.address, now=time.monotonic())
            decision = relay.decide(mailbox, identity=connection.identity, grant=grant)
            connection.answer(question, decision.verdict)
    """

    verdict: Verdict
    """The answer to ``smtp.Rcpt``."""

    reason: Reason
    identity: str | None
    """The identity responsible for the message: that of the session, else that of the grant used, else None."""


_LOCAL: Final = Decision(verdict=ACCEPT, reason=Reason.LOCAL, identity=None)
"""The most frequent decision."""


def _normalize_domains(domains: Iterable[str]) -> frozenset[str]:
    if isinstance(domains, (str, bytes)) or not isinstance(domains, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LocalProtocolError(
            f"domains must be an iterable of str, not {type(domains).__name__}; use ['example.org']"
        )
    domains = tuple(domains)
    for domain in domains:
        if not isinstance(domain, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocalProtocolError(
                f"domains: each domain must be a str, not {type(domain).__name__}; use .decode() for bytes"
            )
    lowered = frozenset(map(fold_domain, domains))
    for domain in lowered:
        try:
            check_domain(domain, non_ascii=True)
        except Malformed as error:
            raise LocalProtocolError(f"domains: {error}: {domain!r}; use a name such as example.org") from None
    return lowered


@attrs.frozen(kw_only=True)
class RelayPolicy:
    """Accepts mail for *domains* from anyone, and relays only with an identity or an active grant.

    *domains* are names or address literals, in upper or lower case.  Non-ASCII domains are compared as written, so
    list a domain both as U-label and as A-label if mail may arrive for either (RFC 6531 section 3.2).  Without domains,
    no recipient is local.
    Raises LocalProtocolError for an invalid domain.

        >>> relay = policy.RelayPolicy(domains=["example.org"])
        >>> relay.is_local(smtp.Mailbox("alice", "EXAMPLE.ORG"))
        True
        >>> relay.decide(smtp.Mailbox("dinah", "example.net"), identity=None, grant=None).reason
        <Reason.NO_GRANT: 'neither an identity nor a grant'>
    """

    domains: frozenset[str] = attrs.field(converter=_normalize_domains)

    def is_local(self, forward_path: Mailbox) -> bool:
        """Return whether the recipient is in ``domains``, or is Postmaster without a domain (RFC 5321 section 4.5.1).

        An address with ``%``, ``!`` or a second ``@`` in its local part, quoted or not, is never local: another mailer
        might relay it to the host named in the local part.
        """
        try:
            domain = forward_path.domain
        except AttributeError:
            raise wrong_type("forward_path", Mailbox, forward_path) from None
        if not domain:
            return bool(self.domains)
        return fold_domain(domain) in self.domains and not _ROUTE_CHARACTERS.search(forward_path.local_part)

    def decide(
        self, forward_path: Mailbox, *, identity: str | None, grant: Lookup, reverse_path: Mailbox | None = None
    ) -> Decision:
        """Return the decision on one recipient.

        *identity* is that of the session, None before a login.  *grant* is the result of a lookup of the client's
        address in the grant store, None if it has no grant or was not looked up.  *reverse_path* is ignored, since
        anyone can forge it.

        If the decision depends on the grant and the store is unavailable, the reply is 451: a 550 would bounce the
        mail, and ACCEPT would make the server an open relay.

        Raises LocalProtocolError for an argument of another type, and for an empty identity.
        """
        if self.is_local(forward_path):
            if identity is None:
                return _LOCAL
            return Decision(verdict=ACCEPT, reason=Reason.LOCAL, identity=identity)
        if identity is not None:
            if not identity or not isinstance(identity, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise LocalProtocolError("identity must be a non-empty str or None; pass None before a login")
            return Decision(verdict=ACCEPT, reason=Reason.IDENTITY, identity=identity)
        if isinstance(grant, Grant):
            return Decision(verdict=ACCEPT, reason=Reason.GRANT, identity=grant.identity)
        if isinstance(grant, Unavailable):
            return Decision(verdict=LOOKUP_FAILED, reason=Reason.UNAVAILABLE, identity=None)
        if grant is not None:
            raise LocalProtocolError(
                f"grant must be a Grant, UNAVAILABLE or None, not {type(grant).__name__}; use the result of find()"
            )
        return Decision(verdict=RELAYING_DENIED, reason=Reason.NO_GRANT, identity=None)
