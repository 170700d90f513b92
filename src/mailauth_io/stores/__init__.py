"""The stores of the server: their interfaces, and implementations in memory and in files.

The stores of grants in databases have modules of their own: ``sqlite_grants`` and ``redis_grants``.
"""

from __future__ import annotations

from .._private_file import AccountsError, read_private
from .accounts_file import AccountsFile, read_passwd_file
from .content import (
    TOTAL_BUDGET,
    Budget,
    BudgetExceeded,
    DeliveryRejected,
    Envelope,
    MessageContent,
)
from .credentials import (
    Credential,
    CredentialError,
    Proof,
    read_credential,
    write_credential,
)
from .grants import ActiveGrant, GrantsError, GrantSettings
from .hashing import (
    LOCAL,
    ClientDisconnected,
    Hashing,
    HashingBusy,
    LoginSource,
)
from .maildir_maildrops import MaildirMaildrops
from .maildir_outbox import MaildirOutbox
from .memory_accounts import (
    MemoryAccounts,
    from_password,
)
from .memory_grants import MemoryGrants
from .memory_maildrops import MemoryMaildrops, StoredMessage
from .memory_outbox import MemoryOutbox, RelayedMessage
from .names import NAME_RULE, mailbox_name
from .protocols import (
    Account,
    Accounts,
    Certificates,
    Changes,
    Grants,
    Maildrops,
    OpenedMaildrop,
    Outbox,
    Staged,
    Tokens,
)

__all__ = [
    "LOCAL",
    "NAME_RULE",
    "TOTAL_BUDGET",
    "Account",
    "Accounts",
    "AccountsError",
    "AccountsFile",
    "ActiveGrant",
    "Budget",
    "BudgetExceeded",
    "Certificates",
    "Changes",
    "ClientDisconnected",
    "Credential",
    "CredentialError",
    "DeliveryRejected",
    "Envelope",
    "GrantSettings",
    "Grants",
    "GrantsError",
    "Hashing",
    "HashingBusy",
    "LoginSource",
    "MaildirMaildrops",
    "MaildirOutbox",
    "Maildrops",
    "MemoryAccounts",
    "MemoryGrants",
    "MemoryMaildrops",
    "MemoryOutbox",
    "MessageContent",
    "OpenedMaildrop",
    "Outbox",
    "Proof",
    "RelayedMessage",
    "Staged",
    "StoredMessage",
    "Tokens",
    "from_password",
    "mailbox_name",
    "read_credential",
    "read_passwd_file",
    "read_private",
    "write_credential",
]
