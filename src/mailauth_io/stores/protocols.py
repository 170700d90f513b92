"""The interfaces of the stores of a server: accounts, maildrops, the outbox and grants.

The methods take canonical names and bytes, never a connection.  Any method may raise; the server then sends a temporary
failure.  There is no timeout, and a session may be cancelled in any ``await``.  ``discard()`` and ``close()`` are not
coroutines, so that they work while a task is cancelled.  They never raise.  docs/stores.md says more.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs

from mailauth import pop3
from mailauth.grants import Lookup

from .._checks import check_items, check_number, check_text, check_type, field
from .content import Envelope, MessageContent
from .credentials import Credential
from .grants import ActiveGrant, GrantSettings


@attrs.frozen(kw_only=True)
class Account:
    """One account, as configured.

    For example:

        account = stores.Account(name="alice", credential=stores.read_credential(b"{PLAIN}wonderland"))
        accounts = stores.MemoryAccounts([account])
    """

    name: str = attrs.field(validator=field(check_text, empty=True))
    credential: Credential | None = attrs.field(
        validator=field(check_type, Credential, use="read_credential(b'{PLAIN}secret')", optional=True)
    )
    """The stored password.  None: the account has a mailbox, but cannot log in."""
    where: str = attrs.field(default="", validator=field(check_text, empty=True))
    """Its place in the configuration, for error messages: ``line 3 of users``."""
    problem: str = attrs.field(default="", validator=field(check_text, empty=True))
    """The error in the account, as a predicate that follows *where* in a message; empty for a valid account."""


@attrs.frozen(kw_only=True)
class Changes:
    """The result of reloading the accounts.

    For example:

        changes = await accounts.refresh()
        if changes is not None:
            print(changes.warnings, changes.notices)
    """

    revoked: frozenset[str] = attrs.field(
        default=frozenset[str](), validator=field(check_items, str, container=frozenset)
    )
    """Canonical names whose grants must be revoked: the account was removed, or its password has changed."""
    warnings: tuple[str, ...] = attrs.field(default=(), validator=field(check_items, str))
    """Sentences for the log, at the level WARNING."""
    notices: tuple[str, ...] = attrs.field(default=(), validator=field(check_items, str))
    """Sentences for the log, at the level INFO: that the accounts were reloaded."""
    in_force: float = attrs.field(default=0.0, validator=field(check_number, zero=True))
    """Seconds.  Logins within the last *in_force* seconds were checked against the current accounts, in any process."""


class Accounts(Protocol):
    """The accounts of a server.

    The store only looks up names.  The server checks the passwords: an unknown name takes as long as a wrong password,
    and gets the same reply (architecture.md, invariant 6).

        class Database:  # with refresh() and credentials() too, an Accounts
            async def find(self, name: str) -> stores.Account | None:
                field = await self.password_of(name)
                return stores.Account(name=name, credential=stores.read_credential(field)) if field else None
    """

    async def find(self, name: str) -> Account | None:
        """Return the account with this name, or None.

        *name* is a canonical name (see ``mailbox_name``), or empty for a name that no account can have.
        """
        ...

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        """Reload the accounts if their source has changed.  Returns None if it has not.  Called before each lookup.

        Each session calls it, so several calls may run at the same time.
        With *at_once* (SIGHUP), changes are loaded even if the source was modified only a moment ago.
        """
        ...

    def credentials(self) -> Collection[Credential]:
        """Return the stored passwords: of all accounts, or if they are too many, examples of each kind.

        Called when the server starts and after each change that ``refresh`` returns; it must not block.  They determine
        the mechanisms that the server offers, and what it does for an unknown name.  If there are examples of
        ``{SCRAM-SHA-256}``, pass a ``decoy_key`` to ``server.Stores``.
        """
        ...


class Tokens(Protocol):
    """The bearer tokens of the accounts, for OAUTHBEARER and XOAUTH2.

    For example:

        class Issuer:  # a Tokens
            async def token_owner(self, token: bytes) -> str | None:
                return self.owners.get(hashlib.sha256(token).digest())
    """

    async def token_owner(self, token: bytes) -> str | None:
        """Return the canonical name of the account that has this token, or None."""
        ...


class Certificates(Protocol):
    """The client certificates of the accounts, for EXTERNAL.

    For example:

        class Directory:  # a Certificates
            async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
                return frozenset(owner for name, owner in self.owners.items() if name in names)
    """

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        """Return the canonical names of the accounts that a client certificate with *names* authenticates.

        *names* have a prefix: ``email:alice@example.test``, ``DNS:host.example.test`` or ``CN:Alice``.  Domains are in
        lower case.
        """
        ...


class Staged(Protocol):
    """A copy of a message that is written but not visible yet.

    For example:

        try:
            await staged.commit()
        except OSError:
            staged.discard()
    """

    async def commit(self) -> None:
        """Make it visible and durable."""

    def discard(self) -> None:
        """Remove it, whether it was committed or not.  Never raises.

        Called on the event loop, also while the session is cancelled, so it must not block: slow work is handed to a
        thread, and not awaited.
        """


class OpenedMaildrop(Protocol):
    """A maildrop in the exclusive use of one session (RFC 1939 section 4).

    For example:

        content = await opened.read(1)  # the first piece of message 1
        await opened.update(frozenset({1}))
        opened.close()
    """

    @property
    def messages(self) -> tuple[pop3.Message, ...]:
        """The messages when the maildrop was opened, numbered 1 to n for the whole session."""
        ...

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        """Return the piece of message *number* at *offset*: 0, or the end of the previous piece.

        The text has CRLF line ends.  A piece may have any size, but at least one byte unless it is the last; 64 KiB is
        a good size.  It may end between CR and LF.  ``last=False`` says that more follows.
        """
        ...

    async def update(self, deleted: frozenset[int]) -> None:
        """Delete the messages with these numbers permanently."""

    def close(self) -> None:
        """Release the maildrop for the next session.  A second call does nothing.  Never raises.

        Called on the event loop, also while the session is cancelled, so it must not block: slow work is handed to a
        thread, and not awaited.
        """


@runtime_checkable
class PartialMaildrop(Protocol):
    """An OpenedMaildrop that may leave out messages: that of a Maildir.  The server logs them.

    For example:

        if isinstance(opened, PartialMaildrop):
            print(opened.unreadable)
    """

    @property
    def unreadable(self) -> tuple[tuple[Path, str], ...]:
        """The files that are left out, each with the reason."""
        ...


@runtime_checkable
class SharedMaildrop(OpenedMaildrop, Protocol):
    """An OpenedMaildrop whose lock another process may wait for: that of a Maildir.

    The server waits before it replies to QUIT, so that a client that receives +OK can log in again at once.

        opened.close()
        if isinstance(opened, SharedMaildrop):
            await opened.wait_closed()
    """

    async def wait_closed(self) -> None:
        """Wait, after ``close()``, until another process can open the maildrop.

        It need not wait for a ``read()`` that was abandoned and still runs.  The server waits two seconds at most.
        """


class Maildrops(Protocol):
    """The maildrops of local recipients.  *name* is the canonical name of an account.

    For example:

        staged = await maildrops.stage("alice", b"Received: ...\\r\\n", content)
        await staged.commit()
        opened = await maildrops.open("alice")  # or pop3.Unavailable.IN_USE
    """

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        """Open and lock the maildrop for one session.  Returns IN_USE if another session has it."""
        ...

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        """Write *head*, the trace lines, and *content* as one message that is not visible yet.

        Both have CRLF line ends.  To use *content* after this has returned, call its ``keep()``, and later
        ``release()``.  If this raises or is cancelled, nothing is left: it removes what it has written, and holds no
        reference to *content*.  May raise BudgetExceeded, for which the client gets 452.
        """
        ...


class Outbox(Protocol):
    """Mail for remote recipients that waits to be sent.

    For example:

        envelope = stores.Envelope(queue_id="1", reverse_path="", recipients=("dinah@example.org",))
        staged = await outbox.stage(envelope, b"Received: ...\\r\\n", content)
        await staged.commit()
    """

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> Staged:
        """Write *head* and *content* as one message that is not sent yet, with *envelope*; see ``Maildrops.stage()``.

        May raise BudgetExceeded, and DeliveryRejected with the reply for the client.
        """
        ...


class Grants(Protocol):
    """The addresses with a recent POP3 login.  The store has its own clock.

    Grants are stored by ``mailauth.addresses.grant_key``.

        await grant_store.grant("192.0.2.1", "alice")
        lookup = await grant_store.find("192.0.2.1")  # a Grant, UNAVAILABLE or None
    """

    @property
    def settings(self) -> GrantSettings:
        """The lifetime of its grants, and what decides their keys.  Those of the server's Config must not differ."""
        ...

    async def find(self, address: str) -> Lookup:
        """Return the newest active grant of *address*, or None if it has none.

        Raises, or returns UNAVAILABLE, if the store does not answer.
        """
        ...

    async def grant(self, address: str, identity: str) -> int:
        """Store a grant: *identity*, a canonical name, has logged in from *address*.

        When this returns, every process that shares the store finds the grant.  Returns the number of identities that
        have grants at that address.
        """
        ...

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        """Revoke the grants of *identity*: its account was removed, or its password has changed.

        Only grants of logins at least *older_than* seconds ago are revoked: a process that notices the change late must
        not revoke the grants of later logins.  Returns the number of active grants revoked.
        """
        ...

    async def revoke_address(self, address: str) -> int:
        """Revoke every grant of *address*.  Returns the number of active grants revoked."""
        ...

    async def active(self) -> list[ActiveGrant]:
        """Return all active grants, the oldest login first."""
        ...

    def close(self) -> None:
        """Close files and connections.  The code that created the store calls this when the server has ended."""
