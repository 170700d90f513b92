"""The stores of the server: their interfaces, and implementations in memory and in files.

The stores of grants in databases have modules of their own: ``sqlite_grants`` and ``redis_grants``.
"""

from __future__ import annotations

from ._grants import ActiveGrant as ActiveGrant, GrantsError as GrantsError
from .accounts_file import (
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
    Credential as Credential,
    CredentialError as CredentialError,
    Proof as Proof,
    read_credential as read_credential,
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
    MemoryAccounts as MemoryAccounts,
    from_password as from_password,
)
from .memory_grants import MemoryGrants as MemoryGrants
from .memory_maildrops import MemoryMaildrops as MemoryMaildrops
from .memory_outbox import MemoryOutbox as MemoryOutbox, RelayedMessage as RelayedMessage
from .names import NAME_RULE as NAME_RULE, mailbox_name as mailbox_name
from .protocols import (
    Account as Account,
    Accounts as Accounts,
    Certificates as Certificates,
    Changes as Changes,
    Grants as Grants,
    Maildrops as Maildrops,
    OpenedMaildrop as OpenedMaildrop,
    Outbox as Outbox,
    Staged as Staged,
    Tokens as Tokens,
)
