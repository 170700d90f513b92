"""The stores of the server: accounts, maildrops, the outbox and grants.  Each has a Protocol and implementations of it.

The methods take canonical names and bytes, never a connection.  Any method may raise; the server then sends a temporary
failure.  ``discard()`` and ``close()`` are not coroutines, so that they work while a task is cancelled.  They never
raise.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from mailauth import pop3, sasl
from mailauth.grants import Lookup

from ._grants import ActiveGrant as ActiveGrant, GrantsError as GrantsError
from .accounts_file import (
    Account as Account,
    AccountsError as AccountsError,
    AccountsFile as AccountsFile,
    read_passwd_file as read_passwd_file,
    read_private as read_private,
)
from .content import (
    TOTAL_BUDGET as TOTAL_BUDGET,
    Budget as Budget,
    BudgetExceeded as BudgetExceeded,
    Envelope as Envelope,
    MessageContent as MessageContent,
)
from .credentials import (
    CredentialError as CredentialError,
    Proof as Proof,
    write_credential as write_credential,
)
from .hashing import (
    LOCAL as LOCAL,
    ClientDisconnected as ClientDisconnected,
    Hashing as Hashing,
    HashingBusy as HashingBusy,
    LoginSource as LoginSource,
)
from .maildir_maildrops import MaildirMaildrops as MaildirMaildrops
from .maildir_outbox import MaildirOutbox as MaildirOutbox
from .memory_accounts import (
    Changes as Changes,
    MemoryAccounts as MemoryAccounts,
    from_password as from_password,
)
from .memory_grants import MemoryGrants as MemoryGrants
from .memory_maildrops import MemoryMaildrops as MemoryMaildrops
from .memory_outbox import MemoryOutbox as MemoryOutbox, RelayedMessage as RelayedMessage
from .names import NAME_RULE as NAME_RULE, mailbox_name as mailbox_name
from .sqlite_grants import SqliteGrants as SqliteGrants


class Accounts(Protocol):
    """The accounts of the server, and how they are authenticated.

    *name* is a canonical name (see ``mailbox_name``), or empty for a name that no account can have.
    """

    @property
    def proofs(self) -> frozenset[Proof]:
        """The proofs that every account supports.  They determine the mechanisms offered to each new connection."""

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        """Reload the accounts if their source has changed.  Returns None if it has not.  Called before each lookup.

        With *at_once* (SIGHUP), changes are loaded even if the source was modified only a moment ago.
        """

    async def exists(self, name: str) -> bool:
        """Return whether *name* has a mailbox here."""

    async def check_password(self, name: str, password: bytes, source: LoginSource = LOCAL) -> bool:
        """Return whether this is the password of *name*.

        The check must take as long for an unknown name as for a wrong password (architecture.md, invariant 6).
        *source* determines the position of a slow check in the queue: see ``Hashing.run``.
        """

    async def secret(self, name: str) -> bytes | None:
        """Return the secret of *name* for CRAM-MD5 and APOP, or None if the name is unknown or has no secret."""

    async def scram_keys(self, name: str, hash_name: str, source: LoginSource = LOCAL) -> sasl.ScramKeys:
        """Return the SCRAM keys of *name* for *hash_name* (``sha1`` or ``sha256``).

        For an unknown name, return decoy keys that match no password.  The decoy keys of a name are always the same,
        look like real keys, and take as long to compute.  *source* as for ``check_password``.
        """

    async def token_owner(self, token: bytes) -> str | None:
        """Return the canonical name of the account that has this bearer token, or None."""

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        """Return the canonical names of the accounts that a client certificate with *names* authenticates.

        *names* have the form of ``certificate_name()``.
        """


class Staged(Protocol):
    """A copy of a message that is written but not visible yet."""

    async def commit(self) -> None:
        """Make it visible and durable."""

    def discard(self) -> None:
        """Remove it, whether it was committed or not."""


class OpenedMaildrop(Protocol):
    """A maildrop in the exclusive use of one session (RFC 1939 section 4)."""

    @property
    def messages(self) -> tuple[pop3.Message, ...]:
        """The messages when the maildrop was opened, numbered 1 to n for the whole session."""

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        """Return the piece of message *number* at *offset*: 0, or the end of the previous piece."""

    async def update(self, deleted: frozenset[int]) -> None:
        """Delete the messages with these numbers permanently."""

    def close(self) -> None:
        """Release the maildrop for the next session.  A second call does nothing."""


class Maildrops(Protocol):
    """The maildrops of local recipients.  *name* is the canonical name of an account."""

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        """Open and lock the maildrop for one session.  Returns IN_USE if another session has it."""

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        """Write *head*, the trace lines, and *content* as one message that is not visible yet.

        If this raises, it holds no reference to *content*.  May raise BudgetExceeded.
        """


class Outbox(Protocol):
    """Mail for remote recipients that waits to be sent."""

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> Staged:
        """Write *head* and *content* as one message, with *envelope*.  May raise BudgetExceeded or DeliveryRejected."""


class Grants(Protocol):
    """The addresses with a recent POP3 login.  The store has its own clock and lifetime.

    Addresses are normalized with ``mailauth.grants.normalize_address``.
    """

    async def find(self, address: str) -> Lookup:
        """Return the newest active grant of *address*, or None if it has none.

        Raises, or returns UNAVAILABLE, if the store does not answer.
        """

    async def grant(self, address: str, identity: str) -> int:
        """Store a grant: *identity*, a canonical name, has logged in from *address*.

        When this returns, every process that shares the store finds the grant.  Returns the number of identities that
        have grants at that address.
        """

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        """Revoke the grants of *identity*: its account was removed, or its password has changed.

        Only grants of logins at least *older_than* seconds ago are revoked: a process that notices the change late must
        not revoke the grants of later logins.  Returns the number of active grants revoked.
        """

    async def revoke_address(self, address: str) -> int:
        """Revoke every grant of *address*.  Returns the number of active grants revoked."""

    async def active(self) -> list[ActiveGrant]:
        """Return all active grants, the oldest login first."""

    def close(self) -> None:
        """Close files and connections.  The code that created the store calls this when the server has ended."""
