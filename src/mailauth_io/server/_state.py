"""What all sessions of one server share, and what both protocols do alike: logins, grants, asking stores that may fail.

Knows stores and policy; of SMTP and POP3 it knows the settings alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import attrs

from mailauth import ACCEPT, Accept, Question, pop3, sasl, smtp
from mailauth.grants import UNAVAILABLE, Lookup
from mailauth.policy import RelayPolicy

from .. import _loops
from .._adapter import ServerConnection
from .._addresses import key, network_of
from ..certificate_names import certificate_names
from ..limits import ConnectionLimiter
from ..logs import Event
from ..stores import Accounts, ClientLeft, LoginSource, MemoryGrants, Proof, mailbox_name
from ._failed_logins import NETWORK, FailedLogins
from ._grant_service import GrantService
from ._inbound_quota import SHARE, InboundQuota
from ._log import LOGGER, log_failure
from .config import Config, Stores

A = TypeVar("A")


async def _sleep(seconds: float) -> None:
    await _loops.current().sleep(seconds)


@attrs.frozen(kw_only=True)
class ServerState:
    """Everything that lasts longer than a session."""

    config: Config
    stores: Stores
    policy: RelayPolicy
    grant_service: GrantService | None
    """None: a login by POP3 opens nothing."""
    clock: Callable[[], float]
    """Seconds that never step back."""
    sleep: Callable[[float], Awaitable[None]]
    """Let others run for so many seconds."""
    failures: FailedLogins
    limiter: ConnectionLimiter
    """All that are connected, to whichever port."""
    inbound_quota: InboundQuota
    """The content of messages that are not whole yet."""
    _smtp_settings: dict[frozenset[Proof], smtp.ExtendedServerSettings] = attrs.field(factory=dict, init=False)
    _pop3_settings: dict[frozenset[Proof], pop3.ExtendedServerSettings] = attrs.field(factory=dict, init=False)
    _to_revoke: dict[str, float] = attrs.field(factory=dict, init=False)
    """Names whose grants must end, and have not yet; those alone that were made before that time."""
    _changed: dict[str, int] = attrs.field(factory=dict, init=False)
    """Names whose account went or got another password, and when, by ``_sequence``."""
    _logged_in: dict[str, set[ServerConnection[Any]]] = attrs.field(factory=dict, init=False)
    """Connections by the canonical name of their identity."""
    _sequence: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    @classmethod
    def of(
        cls,
        config: Config,
        stores: Stores,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> ServerState:
        """*sleep* is that of the loop that runs unless given."""
        grants = stores.grants
        if config.grant_lifetime == 0:
            grants = None
        elif grants is None:
            grants = MemoryGrants(lifetime=config.grant_lifetime, ipv6_prefix=config.grant_ipv6_prefix, clock=clock)
        grant_service = None if grants is None else GrantService(grants, config.no_grants_from + config.proxy_from)
        return cls(
            config=config,
            stores=stores,
            policy=RelayPolicy(domains=config.domains),
            grant_service=grant_service,
            clock=clock,
            sleep=_sleep if sleep is None else sleep,
            limiter=ConnectionLimiter(config.limits),
            inbound_quota=InboundQuota(max(stores.budget.size // SHARE, config.max_message_size)),
            failures=FailedLogins(longest=config.failure_delay),
        )

    def smtp_settings(self) -> smtp.ExtendedServerSettings:
        """For a connection that begins now: what it is offered follows from the accounts as they are."""
        proofs = self.stores.accounts.proofs
        if proofs not in self._smtp_settings:
            self._smtp_settings[proofs] = self.config.smtp_settings(proofs)
        return self._smtp_settings[proofs]

    def pop3_settings(self) -> pop3.ExtendedServerSettings:
        """As ``smtp_settings``."""
        proofs = self.stores.accounts.proofs
        if proofs not in self._pop3_settings:
            self._pop3_settings[proofs] = self.config.pop3_settings(proofs)
        return self._pop3_settings[proofs]

    def name(self, text: str) -> str:
        """The canonical name that *text* means, empty when it can be nobody's here."""
        return mailbox_name(text, self.policy.domains) or ""

    @property
    def postmaster(self) -> str:
        """The canonical name of the mailbox that takes the postmaster's mail, empty when there is none."""
        return self.name(self.config.postmaster or "")

    async def accounts(self, session: str, *, at_once: bool = False) -> Accounts:
        """The accounts as they are written now.  What has changed is in the log; its grants and its sessions are over.

        *at_once* as for ``Accounts.refresh``.
        """
        changes = await self.stores.accounts.refresh(at_once=at_once)
        if changes is not None:
            for warning in changes.warnings:
                LOGGER.warning(Event("accounts", {"warning": warning}))
            self._to_revoke.update(dict.fromkeys(changes.revoked, self.clock() - changes.in_force))
            self._changed.update((name, self.next_sequence()) for name in changes.revoked)
            for name in changes.revoked:
                for connection in tuple(self._logged_in.get(name, ())):
                    connection.shut_down()
        if self._to_revoke:
            await self._revoke(session)
        return self.stores.accounts

    async def reload(self) -> None:
        """Take up at once what has changed in the accounts.  A failure is in the log."""
        try:
            await self.accounts("reload", at_once=True)
        except Exception as error:
            log_failure("reload", "accounts", error)

    def add_session(self, connection: ServerConnection[Any], identity: str, begun: int) -> None:
        """*identity* has just proved itself, in a login that began at the moment *begun*.

        The connection ends when the account changes, and now if it has changed since then.
        """
        name = self.name(identity)
        self._logged_in.setdefault(name, set()).add(connection)
        if self._changed.get(name, 0) >= begun:
            connection.shut_down()

    def remove_session(self, connection: ServerConnection[Any], identity: str) -> None:
        """What ``add_session`` began is over."""
        name = self.name(identity)
        there = self._logged_in.get(name, set())
        there.discard(connection)
        if not there:
            self._logged_in.pop(name, None)

    def next_sequence(self) -> int:
        """A number above every one before it."""
        return next(self._sequence)

    async def _revoke(self, session: str) -> None:
        """What fails is tried again at the next look, and until then no grant is found."""
        for name, since in tuple(self._to_revoke.items()):
            try:
                if self.grant_service is not None:
                    await self.grant_service.revoke_identity(name, self.clock() - since)
            except Exception as error:
                log_failure(session, "grants", error)
                return
            if self._to_revoke.get(name) == since:
                del self._to_revoke[name]

    async def answer_login(
        self, connection: ServerConnection[Any], session: str, question: sasl.ServerQuestion
    ) -> None:
        """Answer what a login asks; *session* is the connection id for the log."""
        match question:
            case sasl.CheckPassword():
                connection.answer(question, await self.check_password(connection, session, question))
            case sasl.FetchSecret():
                connection.answer(question, await self.fetch_secret(session, question))
            case sasl.FetchScramKeys():
                connection.answer(question, await self.fetch_scram_keys(connection, session, question))
            case sasl.CheckToken():
                owner = await self.check_token(session, question)
                if owner is sasl.Refusal.BAD_CREDENTIALS:
                    await self.delay_refusal(connection.peer.address)  # the JSON tells it, long before the reply
                connection.answer(question, owner)
            case sasl.CheckExternal():
                connection.answer(question, await self.check_external(session, question))
            case sasl.Authorize():
                connection.answer(question, self.authorize(question))

    async def delay_refusal(self, address: str) -> None:
        """A login from *address* has failed: wait before it is told so, the longer the more of them have failed."""
        seconds = self.count_failure(address)
        if seconds:
            await self.sleep(seconds)

    def count_failure(self, address: str) -> float:
        """A login from *address* has failed.  Returns the seconds that its refusal has to wait."""
        return self.failures.delay(address, self.clock())

    def _source(self, connection: ServerConnection[Any]) -> LoginSource:
        address = connection.peer.address
        return LoginSource(
            address=key(address, NETWORK),
            network=network_of(address),
            failed_lately=lambda: self.failures.failed_lately(address, self.clock()),
            connected=lambda: not connection.peer_closed,
            note_failure=lambda: self.failures.note(address, self.clock()),
        )

    async def check_password(
        self, connection: ServerConnection[Any], session: str, question: sasl.CheckPassword
    ) -> Accept | sasl.Refusal:
        """The answer to *question*."""

        async def answer() -> Accept | sasl.Refusal:
            name = self.name(question.authentication_identity)
            accounts = await self.accounts(session)
            right = await accounts.check_password(name, question.password, self._source(connection))
            return ACCEPT if right else sasl.Refusal.BAD_CREDENTIALS

        return await self._ask_accounts(connection, session, question, answer())

    async def fetch_secret(self, session: str, question: sasl.FetchSecret) -> bytes | sasl.Refusal | None:
        """The answer to *question*."""

        async def answer() -> bytes | None:
            return await (await self.accounts(session)).secret(self.name(question.authentication_identity))

        return await ask_store(session, "accounts", question, answer())

    async def fetch_scram_keys(
        self, connection: ServerConnection[Any], session: str, question: sasl.FetchScramKeys
    ) -> sasl.ScramKeys | sasl.Refusal | None:
        """The answer to *question*; a name that is nobody's gets keys as well, which no password has."""

        async def answer() -> sasl.ScramKeys:
            name = self.name(question.authentication_identity)
            return await (await self.accounts(session)).scram_keys(name, question.hash_name, self._source(connection))

        return await self._ask_accounts(connection, session, question, answer())

    @staticmethod
    async def _ask_accounts(
        connection: ServerConnection[Any], session: str, question: Question[A], answer: Awaitable[A]
    ) -> A:
        """As ``ask_store``; the session ends when its client has left the queue for hashing.

        The client may have sent many more logins before it left: none of them is worth a reply, or a line of the log.
        """
        try:
            return await ask_store(session, "accounts", question, answer)
        except ClientLeft:
            connection.shut_down()
            return question.unavailable

    async def check_token(self, session: str, question: sasl.CheckToken) -> str | sasl.Refusal:
        """The answer to *question*: the account that the token was issued to."""

        async def answer() -> str | sasl.Refusal:
            owner = await (await self.accounts(session)).token_owner(question.token)
            return owner or sasl.Refusal.BAD_CREDENTIALS

        return await ask_store(session, "accounts", question, answer())

    async def check_external(self, session: str, question: sasl.CheckExternal) -> str | sasl.Refusal:
        """The answer to *question*: of the accounts that the certificate proves the one asked for, or the only one."""

        async def answer() -> str | sasl.Refusal:
            names = certificate_names(question.peer_certificate)
            owners = await (await self.accounts(session)).certificate_owners(names)
            wanted = self.name(question.authorization_identity)
            if wanted in owners:
                return wanted
            return next(iter(owners)) if len(owners) == 1 else sasl.Refusal.BAD_CREDENTIALS

        return await ask_store(session, "accounts", question, answer())

    def authorize(self, question: sasl.Authorize) -> Accept | sasl.Refusal:
        """The answer to *question*: nobody acts as another, and two spellings of one mailbox are the same."""
        name = self.name(question.authentication_identity)
        same = name != "" and name == self.name(question.authorization_identity)
        return ACCEPT if same else sasl.Refusal.NOT_AUTHORIZED

    async def grant(self, session: str, address: str, identity: str, begun: int) -> None:
        """*identity* has just proved itself by POP3 from *address*, in a login that began at the moment *begun*.

        A failure costs the grant, not the login.  So does a change of the account since then: what was proved is a
        password that counts no more.
        """
        if self.grant_service is None:
            return
        name = self.name(identity)
        try:
            await self.accounts(session)
            if self._changed.get(name, 0) < begun:
                await self.grant_service.grant(session, address, name)
        except Exception as error:
            log_failure(session, "grants", error)

    async def find_grant(self, session: str, address: str) -> Lookup:
        """What the grants say about *address* now; UNAVAILABLE when they fail."""
        if self.grant_service is None:
            return None
        try:
            await self.accounts(session)
            return UNAVAILABLE if self._to_revoke else await self.grant_service.find(address)
        except Exception as error:
            log_failure(session, "grants", error)
            return UNAVAILABLE


async def ask_store(session: str, part: str, question: Question[A], answer: Awaitable[A]) -> A:
    """What a store answers; a failure becomes the question's own temporary one, and the log names the failed *part*.

    Raises ClientLeft, which is no failure of a store.
    """
    try:
        return await answer
    except ClientLeft:
        raise
    except Exception as error:
        log_failure(session, part, error)
        return question.unavailable
