"""The state that all sessions of a server share, and the logins, grants and store access of SMTP and POP3."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

import anyio
import attrs

from mailauth import ACCEPT, Accept, ExtensionQuestion, Question, pop3, sasl, smtp
from mailauth.addresses import limit_key
from mailauth.grants import LIFETIME, UNAVAILABLE, Lookup
from mailauth.policy import RelayPolicy

from .._checks import check_iterable
from ..adapters import OnError
from ..adapters.connection import AsyncServerConnection
from ..adapters.tls.certificate_names import certificate_names
from ..limits import ConnectionLimiter
from ..logs import Event
from ..stores import ClientDisconnected, Grants, LoginSource, MemoryGrants, Proof
from ..stores.names import canonical_name
from ._account_changes import AccountChanges
from ._failed_logins import FailedLogins
from ._grant_service import GrantService
from ._inbound_quota import SHARE, InboundQuota
from ._log import LOGGER, log_failure
from ._next_hop_state import NextHopState
from ._relay import check_next_hop
from .authenticator import Authenticator
from .config import Config, Stores, different_grant_setting
from .interceptors import Interceptor, InterceptorFunction
from .next_hop import NextHop

A = TypeVar("A")


@attrs.frozen(kw_only=True)
class ServerState:
    """The state of a server that outlives a session."""

    config: Config
    stores: Stores
    authenticator: Authenticator
    policy: RelayPolicy
    domains: frozenset[str]
    """The domains of login names; the policy has those of local mailboxes."""
    grant_service: GrantService | None
    """None if POP3 logins make no grants."""
    clock: Callable[[], float]
    """A monotonic clock in seconds."""
    sleep: Callable[[float], Awaitable[None]]
    """Sleep for a number of seconds without blocking the event loop."""
    limit_key: Callable[[str], IPv4Address | IPv6Address | str]
    """``addresses.limit_key()`` with the settings of the server, for every table that limits by address."""
    failures: FailedLogins
    limiter: ConnectionLimiter
    """Counts the connections to all ports."""
    inbound_quota: InboundQuota
    """Counts the content of incomplete messages."""
    next_hop: NextHopState | None
    """None if the server does not relay."""
    on_error: OnError | None
    """Called with an exception that ended a session or was raised by an interceptor."""
    interceptors: tuple[Interceptor, ...]
    """They are asked in this order."""
    stopping: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the server begins to shut down."""
    _smtp_settings: dict[frozenset[Proof], smtp.ServerSettings] = attrs.field(factory=dict[Any, Any], init=False)
    _pop3_settings: dict[frozenset[Proof], pop3.ServerSettings] = attrs.field(factory=dict[Any, Any], init=False)
    _to_revoke: dict[str, float] = attrs.field(factory=dict[str, float], init=False)
    """Accounts whose grants must still be revoked, with the time before which those grants were made."""
    _changes: AccountChanges = attrs.field(factory=AccountChanges, init=False)
    """Accounts that were removed or got a new password."""
    _logged_in: dict[str, set[AsyncServerConnection[Any]]] = attrs.field(factory=dict[Any, Any], init=False)
    """Connections by the canonical name of their identity."""
    _sequence: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    @classmethod
    def of(
        cls,
        config: Config,
        stores: Stores,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] | None = None,
        *,
        on_error: OnError | None = None,
        interceptors: Iterable[Interceptor | InterceptorFunction] = (),
    ) -> ServerState:
        """Build the state.  *sleep* defaults to the sleep of the running loop.

        Raises ValueError if the grant settings of *config* differ from those of its store.
        """
        check_iterable("interceptors", interceptors, "[function]")
        grant_service = None
        if config.grant_lifetime != 0:
            grants = _grants(config, stores.grants, clock)
            grant_service = GrantService(grants, config.no_grants_from + config.proxy_from, clock=clock)
        by_address = partial(limit_key, ipv6_prefix=config.limit_ipv6_prefix, nat64_prefixes=config.nat64_prefixes)
        limiter = ConnectionLimiter(
            config.limits, ipv6_prefix=config.limit_ipv6_prefix, nat64_prefixes=config.nat64_prefixes
        )
        return cls(
            config=config,
            stores=stores,
            authenticator=Authenticator(
                stores.accounts,
                tokens=stores.tokens,
                certificates=stores.certificates,
                hashing=stores.hashing,
                decoy_key=stores.decoy_key,
            ),
            policy=RelayPolicy(domains=config.domains if config.local_delivery else ()),
            domains=frozenset(config.domains),
            grant_service=grant_service,
            clock=clock,
            sleep=anyio.sleep if sleep is None else sleep,
            limiter=limiter,
            limit_key=by_address,
            inbound_quota=InboundQuota(max(stores.budget.size // SHARE, config.max_message_size), limiter.keys),
            next_hop=NextHopState(stores.outbox) if isinstance(stores.outbox, NextHop) else None,
            failures=FailedLogins(longest=config.failure_delay, key=by_address),
            on_error=on_error,
            interceptors=tuple(each if isinstance(each, Interceptor) else Interceptor(each) for each in interceptors),
        )

    def smtp_settings(self) -> smtp.ServerSettings:
        """Return the SMTP settings for a new connection.  The mechanisms offered depend on the current accounts."""
        proofs = self.authenticator.proofs
        if proofs not in self._smtp_settings:
            self._smtp_settings[proofs] = self.config.smtp_settings(proofs)
        return self._smtp_settings[proofs]

    def pop3_settings(self) -> pop3.ServerSettings:
        """Return the POP3 settings for a new connection; see ``smtp_settings``."""
        proofs = self.authenticator.proofs
        if proofs not in self._pop3_settings:
            self._pop3_settings[proofs] = self.config.pop3_settings(proofs)
        return self._pop3_settings[proofs]

    async def ask_store(self, session: str, part: str, question: Question[A], answer: Awaitable[A]) -> A:
        """Await *answer*, the result of a store operation, and return it.

        A failure is logged with the name of the store, *part*, and ``question.unavailable`` is returned.
        ClientDisconnected is raised, since it is not a failure of the store.
        """
        try:
            return await answer
        except ClientDisconnected:
            raise
        except Exception as error:
            self.log_failure(session, part, error)
            return question.unavailable

    def log_failure(self, session: str, part: str, error: Exception) -> None:
        """Log that the store *part* failed: "accounts", "maildrops" or "grants"; see ``_log.log_failure()``."""
        stores = self.stores
        used = {
            "accounts": (stores.accounts, stores.tokens, stores.certificates),
            "maildrops": (stores.maildrops,),
            "grants": (stores.grants,),
        }
        log_failure(session, part, error, *used[part])

    def name(self, text: str) -> str:
        """Return the canonical account name for *text*, empty if *text* cannot name a local account."""
        return _account_name(text, self.domains)

    @property
    def postmaster(self) -> str:
        """The canonical name of the account for mail to a postmaster without an account; empty without one."""
        return self.name(self.config.postmaster or "")

    async def accounts(self, session: str, *, at_once: bool = False) -> Authenticator:
        """Refresh the accounts and return what checks logins against them.

        Changes are logged.  The grants of changed accounts are revoked and their sessions end, even if the store fails
        to return the new passwords.  *session* is the connection id for the log; *at_once* is explained at
        ``Accounts.refresh``.
        """
        changes = await self.authenticator.refresh(at_once=at_once)
        if changes is not None:
            for notice in changes.notices:
                LOGGER.info(Event("accounts", {"warning": notice}))
            for warning in changes.warnings:
                LOGGER.warning(Event("accounts", {"warning": warning}))
            self._to_revoke.update(dict.fromkeys(changes.revoked, self.clock() - changes.in_force))
            for name in changes.revoked:
                self._changes.add(name, self.next_sequence())
            for name in changes.revoked:
                for connection in tuple(self._logged_in.get(name, ())):
                    connection.shut_down()
        try:
            for warning in self.authenticator.update():
                LOGGER.warning(Event("accounts", {"warning": warning}))
        finally:
            if self._to_revoke:
                await self._revoke(session)
        return self.authenticator

    async def check_next_hop(self) -> str | None:
        """Connect to the next hop; see ``RunningServer.check_next_hop``."""
        return None if self.next_hop is None else await check_next_hop(self.next_hop, self.config.domains[0])

    async def reload(self) -> None:
        """Reload changed accounts now.  A failure is logged, not raised."""
        await self._refresh("reload", at_once=True)

    def add_session(self, connection: AsyncServerConnection[Any], identity: str, login_sequence: int) -> None:
        """Register *connection* as logged in as *identity*.

        *login_sequence* is the sequence number of the start of the login.  The connection is shut down when the account
        changes, and now if it has changed since *login_sequence*.
        """
        name = self.name(identity)
        self._logged_in.setdefault(name, set()).add(connection)
        if self._changes.is_outdated(name, login_sequence):
            connection.shut_down()

    def remove_session(self, connection: AsyncServerConnection[Any], identity: str) -> None:
        """Undo ``add_session``."""
        name = self.name(identity)
        connections = self._logged_in.get(name, set())
        connections.discard(connection)
        if not connections:
            self._logged_in.pop(name, None)

    def next_sequence(self) -> int:
        """Return the next sequence number.  Sequence numbers order logins and account changes."""
        return next(self._sequence)

    async def _revoke(self, session: str) -> None:
        """Revoke the grants of changed accounts.

        A failure is retried at the next refresh; until then ``find_grant`` returns UNAVAILABLE.
        """
        for name, since in tuple(self._to_revoke.items()):
            try:
                if self.grant_service is not None:
                    await self.grant_service.revoke_identity(name, self.clock() - since)
            except Exception as error:
                self.log_failure(session, "grants", error)
                return
            if self._to_revoke.get(name) == since:
                del self._to_revoke[name]

    async def answer_login(
        self, connection: AsyncServerConnection[Any], session: str, question: sasl.ServerQuestion
    ) -> None:
        """Answer *question* of a login; *session* is the connection id for the log."""
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
                    await self.delay_refusal(connection.peer.address)  # the JSON reports it, before the reply
                connection.answer(question, owner)
            case sasl.CheckExternal():
                connection.answer(question, await self.check_external(session, question))
            case sasl.Authorize():
                connection.answer(question, self.authorize(question))
            case ExtensionQuestion():
                connection.decline(question)

    async def delay_refusal(self, address: str) -> None:
        """Count a failed login from *address* and sleep before it is answered, longer after each further failure."""
        seconds = self.count_failure(address)
        if seconds:
            await self.sleep(seconds)

    def count_failure(self, address: str) -> float:
        """Count a failed login from *address*; return the delay of its reply in seconds."""
        return self.failures.delay(address, self.clock())

    def _source(self, connection: AsyncServerConnection[Any]) -> LoginSource:
        address = connection.peer.address
        counted, network = self.limiter.keys(address)
        return LoginSource(
            address=counted,
            network=network,
            failed_recently=lambda: self.failures.failed_recently(address, self.clock()),
            connected=lambda: not connection.peer_closed,
            note_failure=lambda: self.failures.note(address, self.clock()),
        )

    async def check_password(
        self, connection: AsyncServerConnection[Any], session: str, question: sasl.CheckPassword
    ) -> Accept | sasl.Refusal:
        """Return the answer to *question*."""

        async def answer() -> Accept | sasl.Refusal:
            name = self.name(question.authentication_identity)
            accounts = await self.accounts(session)
            correct = await accounts.check_password(name, question.password, self._source(connection))
            return ACCEPT if correct else sasl.Refusal.BAD_CREDENTIALS

        return await self._ask_accounts(connection, session, question, answer())

    async def fetch_secret(self, session: str, question: sasl.FetchSecret) -> bytes | sasl.Refusal | None:
        """Return the answer to *question*."""

        async def answer() -> bytes | None:
            return await (await self.accounts(session)).secret(self.name(question.authentication_identity))

        return await self.ask_store(session, "accounts", question, answer())

    async def fetch_scram_keys(
        self, connection: AsyncServerConnection[Any], session: str, question: sasl.FetchScramKeys
    ) -> sasl.ScramKeys | sasl.Refusal | None:
        """Return the answer to *question*.  An unknown name gets keys as well, which match no password."""

        async def answer() -> sasl.ScramKeys:
            name = self.name(question.authentication_identity)
            return await (await self.accounts(session)).scram_keys(name, question.hash_name, self._source(connection))

        return await self._ask_accounts(connection, session, question, answer())

    async def _ask_accounts(
        self, connection: AsyncServerConnection[Any], session: str, question: Question[A], answer: Awaitable[A]
    ) -> A:
        """Call ``ask_store``; shut the connection down if the client disconnected while its login was queued.

        The client may have pipelined many more logins.  They are neither answered nor logged.
        """
        try:
            return await self.ask_store(session, "accounts", question, answer)
        except ClientDisconnected:
            connection.shut_down()
            return question.unavailable

    async def check_token(self, session: str, question: sasl.CheckToken) -> str | sasl.Refusal:
        """Return the answer to *question*: the account to which the token was issued."""

        async def answer() -> str | sasl.Refusal:
            owner = await (await self.accounts(session)).token_owner(question.token)
            return owner or sasl.Refusal.BAD_CREDENTIALS

        return await self.ask_store(session, "accounts", question, answer())

    async def check_external(self, session: str, question: sasl.CheckExternal) -> str | sasl.Refusal:
        """Return the answer to *question*: an account that the certificate authenticates.

        It is the requested account or, if the certificate authenticates only one account, that one.
        """

        async def answer() -> str | sasl.Refusal:
            names = certificate_names(question.peer_certificate)
            owners = await (await self.accounts(session)).certificate_owners(names)
            wanted = self.name(question.authorization_identity)
            if wanted in owners:
                return wanted
            return next(iter(owners)) if len(owners) == 1 else sasl.Refusal.BAD_CREDENTIALS

        return await self.ask_store(session, "accounts", question, answer())

    def authorize(self, question: sasl.Authorize) -> Accept | sasl.Refusal:
        """Return the answer to *question*.

        Users may act only as themselves.  Two spellings of the same mailbox are the same user.
        """
        name = self.name(question.authentication_identity)
        same = name != "" and name == self.name(question.authorization_identity)
        return ACCEPT if same else sasl.Refusal.NOT_AUTHORIZED

    async def grant(self, session: str, address: str, identity: str, login_sequence: int) -> None:
        """Make a grant for *identity*, which has logged in by POP3 from *address*.

        *login_sequence* is the sequence number of the start of the login.  If a store fails, the failure is logged, and
        the login succeeds without a grant; ``find_grant`` then returns UNAVAILABLE in its place.  If the account has
        changed since *login_sequence*, also while the grant is stored, there is none: the login may have used an old
        password.
        """
        name = self.name(identity)
        if self.grant_service is None or not name:  # an interceptor may accept a name that no account can have
            return
        if not await self._refresh(session):
            self.grant_service.note_not_stored(address, name)
            return
        if self._changes.is_outdated(name, login_sequence):
            return
        try:
            await self.grant_service.grant(session, address, name)
        except Exception as error:  # the store may have made the grant nevertheless
            self.log_failure(session, "grants", error)
        if self._changes.is_outdated(name, login_sequence):
            # The grants of the account may have been revoked just before the store made this one.
            self._to_revoke[name] = self.clock()
            await self._revoke(session)

    async def _refresh(self, session: str, *, at_once: bool = False) -> bool:
        """Refresh the accounts.  A failure is logged, and False is returned."""
        try:
            await self.accounts(session, at_once=at_once)
        except Exception as error:
            self.log_failure(session, "accounts", error)
            return False
        return True

    async def find_grant(self, session: str, address: str) -> Lookup:
        """Look up the active grant for *address*; return UNAVAILABLE if the store fails."""
        if self.grant_service is None:
            return None
        if not await self._refresh(session):
            return UNAVAILABLE
        try:
            return UNAVAILABLE if self._to_revoke else await self.grant_service.find(address)
        except Exception as error:
            self.log_failure(session, "grants", error)
            return UNAVAILABLE


@functools.lru_cache(maxsize=1024)
def _account_name(text: str, domains: frozenset[str]) -> str:
    return canonical_name(text, domains) or ""  # each login needs it several times, and lists are used again


def _grants(config: Config, grants: Grants | None, clock: Callable[[], float]) -> Grants:
    """Return the store *grants*, or one in memory.  Raises ValueError if *config* contradicts its settings."""
    if grants is None:
        return MemoryGrants(
            lifetime=LIFETIME if config.grant_lifetime is None else config.grant_lifetime,
            ipv6_prefix=config.grant_ipv6_prefix or 128,
            nat64_prefixes=config.nat64_prefixes,
            clock=clock,
        )
    different = different_grant_setting(config, grants.settings)
    if different is not None:
        name, ours, theirs = different
        field = name.removeprefix("grant_")
        raise ValueError(
            f"{name} of the Config is {ours}, but {field} of Stores.grants is {theirs}; pass {field} to the store"
        )
    return grants
