"""What all sessions of one server share, and what both protocols do alike: logins, grants, asking stores that may fail.

Knows stores and policy; knows neither SMTP nor POP3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs

from mailauth import ACCEPT, Accept, Question, sasl
from mailauth.grants import UNAVAILABLE, Lookup
from mailauth.policy import RelayPolicy

from ..stores import Grants, MemoryGrants, mailbox_name
from ._log import LOGGER, log_failure, shown
from .config import Config, Stores

A = TypeVar("A")


@attrs.frozen(kw_only=True)
class House:
    """Everything that lasts longer than a session."""

    config: Config
    stores: Stores
    policy: RelayPolicy
    grants: Grants | None
    """None: a login by POP3 opens nothing."""
    clock: Callable[[], float]
    """Seconds that never step back; grants live and end by it."""

    @classmethod
    def of(cls, config: Config, stores: Stores, clock: Callable[[], float]) -> House:
        grants = stores.grants
        if config.grant_lifetime == 0:
            grants = None
        elif grants is None:
            grants = MemoryGrants(lifetime=config.grant_lifetime, ipv6_prefix=config.grant_ipv6_prefix)
        return cls(config=config, stores=stores, policy=RelayPolicy(domains=config.domains), grants=grants, clock=clock)

    def name(self, text: str) -> str:
        """The canonical name that *text* means, empty when it can be nobody's here."""
        return mailbox_name(text, self.policy.domains) or ""

    @property
    def postmaster(self) -> str:
        """The canonical name of the mailbox that takes the postmaster's mail, empty when there is none."""
        return self.name(self.config.postmaster or "")

    async def check_password(self, session: str, question: sasl.CheckPassword) -> Accept | sasl.Refusal:
        """The answer to *question*; *session* is the connection id for the log."""

        async def answer() -> Accept | sasl.Refusal:
            name = self.name(question.authentication_identity)
            right = await self.stores.accounts.check_password(name, question.password)
            return ACCEPT if right else sasl.Refusal.BAD_CREDENTIALS

        return await ask(session, "accounts", question, answer())

    async def fetch_secret(self, session: str, question: sasl.FetchSecret) -> bytes | sasl.Refusal | None:
        """The answer to *question*."""
        name = self.name(question.authentication_identity)
        return await ask(session, "accounts", question, self.stores.accounts.secret(name))

    async def grant(self, session: str, address: str, identity: str) -> None:
        """*identity* has just proved itself by POP3 from *address*.  A failure costs the grant, not the login."""
        if self.grants is None:
            return
        try:
            await self.grants.grant(address, self.name(identity), self.clock())
        except Exception as error:
            log_failure(session, "grants", error)

    async def find_grant(self, session: str, address: str) -> Lookup:
        """What the grants say about *address* now; UNAVAILABLE when they fail."""
        if self.grants is None:
            return None
        try:
            return await self.grants.find(address, self.clock())
        except Exception as error:
            log_failure(session, "grants", error)
            return UNAVAILABLE


async def ask(session: str, part: str, question: Question[A], answer: Awaitable[A]) -> A:
    """What a store answers; a failure becomes the question's own temporary one, and the log names the failed *part*."""
    try:
        return await answer
    except Exception as error:
        log_failure(session, part, error)
        return question.unavailable


def log_login(session: str, event: sasl.Authenticated | sasl.AuthenticationFailed, *, peer: str, tls: bool) -> None:
    """One line for each login, good or bad."""
    way = f"by {event.mechanism} {'inside TLS' if tls else 'in clear'} from {peer}"
    if isinstance(event, sasl.Authenticated):
        LOGGER.info("%s login of %s %s", session, shown(event.identity), way)
    else:
        why = "the session ended" if event.why is None else event.why.value
        LOGGER.info("%s login of %s %s failed: %s", session, shown(event.authentication_identity), way, why)
