"""Accounts in memory: names, and secrets as they are, which CRAM-MD5 and APOP need (RFC 2195, RFC 1939 section 7).

Knows canonical names only; refuses to tell an unknown name from a wrong password, in words or in time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Set

import attrs

from .names import mailbox_name


class AccountsError(ValueError):
    """These accounts cannot be used; the text is one sentence for whoever wrote them, and holds no secret."""


@attrs.frozen(kw_only=True)
class Account:
    """One account as it was written down."""

    name: str
    password: bytes = attrs.field(repr=False)
    where: str = ""
    """Where it was written, for an error to point at: ``line 3 of users``."""


class MemoryAccounts:
    """Accounts that last as long as the process.

    Raises AccountsError for a name that is none, for an empty password, and for two names that mean one mailbox.
    """

    def __init__(self, accounts: Iterable[Account] | Mapping[str, bytes], *, domains: Set[str] = frozenset()) -> None:
        """*domains* as ``mailbox_name`` takes them; a mapping is name to password."""
        if isinstance(accounts, Mapping):
            accounts = [Account(name=name, password=password) for name, password in accounts.items()]
        self._secrets: dict[str, bytes] = {}
        written: dict[str, Account] = {}
        for account in accounts:
            name = _checked(account, domains)
            if name in written:
                raise AccountsError(
                    f"{_shown(written[name])} and {_shown(account)} are the same mailbox; take one of them out"
                )
            written[name] = account
            self._secrets[name] = account.password
        self._nobody = secrets.token_bytes(32)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names in the order they were written."""
        return tuple(self._secrets)

    async def exists(self, name: str) -> bool:
        return name in self._secrets

    async def check_password(self, name: str, password: bytes) -> bool:
        known = self._secrets.get(name)
        # Digests first: compare_digest tells the lengths of what it compares.
        expected = hashlib.sha256(self._nobody if known is None else known).digest()
        return hmac.compare_digest(hashlib.sha256(password).digest(), expected) and known is not None

    async def secret(self, name: str) -> bytes | None:
        return self._secrets.get(name)


def _checked(account: Account, domains: Set[str]) -> str:
    name = mailbox_name(account.name, domains)
    if name is None:
        raise AccountsError(
            f"{_shown(account)} is no mailbox name: write letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit, and behind '@' only a domain that is served here"
        )
    if not account.password:
        raise AccountsError(f"{_shown(account)} has no password; write one")
    return name


def _shown(account: Account) -> str:
    name = ascii(account.name[:64])
    return f"{name} ({account.where})" if account.where else name
