"""What the ready server keeps and asks: accounts, maildrops, the outbox, grants, each behind a small Protocol.

A store knows canonical names and octets, never a connection.  Any method may raise: the server then gives the temporary
failure.  ``discard()`` and ``close()`` are plain functions, to work while a task is cancelled; neither raises.
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
    ClientLeft as ClientLeft,
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
    """Who exists here and how they prove it.  *name* is canonical, or empty for a name that can be nobody's."""

    @property
    def proofs(self) -> frozenset[Proof]:
        """What every account can be proved by, and so may be offered to all; read anew for each connection."""

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        """Take up what has changed where the accounts are written; None when nothing has.  Called before each look.

        *at_once*: whoever changed them says that they are ready, so nothing that is there is left for later.
        """

    async def exists(self, name: str) -> bool:
        """Whether *name* has a mailbox here."""

    async def check_password(self, name: str, password: bytes, source: LoginSource = LOCAL) -> bool:
        """Whether this is the password of *name*; an unknown name must cost what a wrong password costs.

        *source* decides when a slow check gets its turn: see ``Hashing.run``.
        """

    async def secret(self, name: str) -> bytes | None:
        """The secret shared with *name*, for CRAM-MD5 and APOP; None when there is no such name or no such secret."""

    async def scram_keys(self, name: str, hash_name: str, source: LoginSource = LOCAL) -> sasl.ScramKeys:
        """The keys of *name* for SCRAM (``sha1``, ``sha256``); of an unknown one keys that no password has.

        Those are always the same and look like the others, and asking for them takes as long.  *source* as for
        ``check_password``.
        """

    async def token_owner(self, token: bytes) -> str | None:
        """The canonical name of the account that this bearer token was issued to."""

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        """The canonical names of the accounts that a client certificate with these names proves."""


class Staged(Protocol):
    """A copy of a message, stored but not visible yet."""

    async def commit(self) -> None:
        """Make it visible, and make that last."""

    def discard(self) -> None:
        """As though it had never been staged, revealed or not."""


class OpenedMaildrop(Protocol):
    """A maildrop in the exclusive use of one session (RFC 1939 section 4)."""

    @property
    def messages(self) -> tuple[pop3.Message, ...]:
        """The snapshot: what is numbered 1 to n for the whole session."""

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        """The piece of message *number* at *offset*: 0 begins anew, else it is where the piece before ended."""

    async def update(self, deleted: frozenset[int]) -> None:
        """Delete these message numbers for good."""

    def close(self) -> None:
        """Let the next session in; twice is once."""


class Maildrops(Protocol):
    """Where mail for local recipients stays.  *name* is the canonical name of an account."""

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        """Take the maildrop for one session; IN_USE when another has it."""

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        """Store *head* and *content* as one message; *content* is kept only if this returns.  May raise Full."""


class Outbox(Protocol):
    """Where relayed mail waits to be sent on."""

    async def stage(self, envelope: Envelope, head: bytes, content: MessageContent) -> Staged:
        """Store one message for all recipients of *envelope*, which is to be kept with it.  May raise Full."""


class Grants(Protocol):
    """Which addresses logged in by POP lately.  A store of them has a clock of its own, and a lifetime.

    Addresses are folded as ``mailauth.grants.normalize_address`` does it.
    """

    async def find(self, address: str) -> Lookup:
        """The latest login's grant that lets *address* relay, None when there is none.

        Raises, or gives UNAVAILABLE, when it cannot be told.
        """

    async def grant(self, address: str, identity: str) -> int:
        """*identity*, a canonical name, logged in from *address*: every process that shares the store knows it now.

        Returns how many identities have grants at that address.
        """

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        """Forget every grant of *identity*: the account is gone, or its password has changed.  Returns how many lived.

        Only logins at least *older_than* seconds ago: a process that notices late shall not end what came after.
        """

    async def revoke_address(self, address: str) -> int:
        """Forget every grant of *address*.  Returns how many lived."""

    async def active(self) -> list[ActiveGrant]:
        """All of them, the oldest login first."""

    def close(self) -> None:
        """Let go of files and connections: for whoever made the store, at the very end."""
