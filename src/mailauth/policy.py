"""Who may send where: mail for here from anyone, mail for elsewhere on account of an identity or a grant.

Pure: it holds no table and asks no store.  What a store of grants says comes in as a value, a verdict goes out as one.
"""

from __future__ import annotations

import enum
import re
import string
from collections.abc import Iterable
from typing import Final

import attrs

from ._errors import LocalProtocolError, Malformed
from ._events import ACCEPT
from .grants import Grant, Lookup, Unavailable
from .smtp._grammar import Mailbox, check_domain
from .smtp.replies import Reply, Verdict

_ROUTED: Final = re.compile("[%!@]")  # what older mailers read as "deliver it to somewhere else"

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

RELAYING_DENIED: Final = Reply(550, "5.7.1", "relaying denied: authentication required")
LOOKUP_FAILED: Final = Reply(451, "4.7.1", "cannot tell now whether you may relay, try again later")


class Reason(enum.Enum):
    """Why a recipient was accepted or refused."""

    LOCAL = "the recipient is local"
    IDENTITY = "the session has proved an identity"
    GRANT = "somebody logged in by POP from this address lately"
    NO_GRANT = "neither an identity nor a grant"
    UNAVAILABLE = "the store of grants cannot tell"


@attrs.frozen(kw_only=True)
class Decision:
    """What to do with one recipient, why, and on whose account."""

    verdict: Verdict
    """The answer to ``smtp.Rcpt``."""

    reason: Reason
    identity: str | None
    """Who answers for the message: the session's identity, else that of the grant that decided, else None."""


def _lower(domain: str) -> str:
    """Folds ASCII alone: what lies beyond it would fold into other names, ASCII ones among them."""
    return domain.lower() if domain.isascii() else domain.translate(_LOWER)


def _normalize_domains(domains: Iterable[str]) -> frozenset[str]:
    if isinstance(domains, str):
        raise LocalProtocolError("domains are several texts, not one")
    folded = frozenset(map(_lower, domains))
    for domain in folded:
        try:
            check_domain(domain, non_ascii=True)
        except Malformed as error:
            raise LocalProtocolError(f"{domain!r} cannot be local: {error}") from None
    return folded


@attrs.frozen(kw_only=True)
class RelayPolicy:
    """Takes mail for *domains* from anyone, and relays for an identity or a living grant alone.

    *domains* are names or address literals, in any case.  Beyond ASCII they are compared as they are written, so name
    a domain as U-label and as A-label where mail may come for either (RFC 6531 section 3.2).
    Raises LocalProtocolError for one that is neither.
    """

    domains: frozenset[str] = attrs.field(converter=_normalize_domains)

    def is_local(self, forward_path: Mailbox) -> bool:
        """True for a recipient in one of ``domains`` and for the bare Postmaster (RFC 5321 section 4.5.1).

        An address whose local part still holds ``%``, ``!`` or a second ``@``, quoted or not, is never local: some
        mailer further on would deliver it to whatever the local part names.
        """
        if not forward_path.domain:
            return True
        return _lower(forward_path.domain) in self.domains and not _ROUTED.search(forward_path.local_part)

    def decide(
        self, forward_path: Mailbox, *, identity: str | None, grant: Lookup, reverse_path: Mailbox | None = None
    ) -> Decision:
        """The verdict on one recipient.

        *identity* is the session's, None before login; *grant* is what the store said of the client's address just now,
        None where it was not asked.  The *reverse_path* is not looked at: it proves nothing.

        Where it is the grant that counts and the store cannot tell, the recipient is put off by 451: a 550 would bounce
        the mail, and an ACCEPT would open the relay.
        """
        if self.is_local(forward_path):
            return Decision(verdict=ACCEPT, reason=Reason.LOCAL, identity=identity)
        if identity is not None:
            return Decision(verdict=ACCEPT, reason=Reason.IDENTITY, identity=identity)
        if isinstance(grant, Grant):
            return Decision(verdict=ACCEPT, reason=Reason.GRANT, identity=grant.identity)
        if isinstance(grant, Unavailable):
            return Decision(verdict=LOOKUP_FAILED, reason=Reason.UNAVAILABLE, identity=None)
        return Decision(verdict=RELAYING_DENIED, reason=Reason.NO_GRANT, identity=None)
