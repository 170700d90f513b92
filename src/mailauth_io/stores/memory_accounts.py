"""The accounts of the server in memory, passed as values or loaded from an accounts file."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Set
from typing import TypeVar, cast

from .._checks import check_type
from .._private_file import AccountsError
from .accounts_file import AccountsFile
from .credentials import Credential, Plain
from .names import NAME_RULE, mailbox_name
from .protocols import Account, Changes

T = TypeVar("T")


def from_password(name: str, password: bytes, where: str = "") -> Account:
    """Return an account with a plain-text password."""
    check_type("name", name, str)
    check_type("password", password, bytes)
    if password:
        return Account(name=name, credential=Plain(password), where=where)
    shown = ascii(name[:64])
    return Account(
        name=name,
        credential=None,
        where=f"{shown} ({where})" if where else shown,
        problem="has no password; set one",
    )


def collect(accounts: Iterable[Account], domains: Set[str]) -> tuple[dict[str, Account], list[str]]:
    """Return *accounts* by canonical name, in order, and a sentence for each error.

    An account with an error still has a mailbox if its name is valid.  Of two accounts with the same canonical name,
    the first is used.
    """
    found: dict[str, Account] = {}
    errors: list[str] = []
    for account in accounts:
        if account.problem:
            errors.append(f"{account.where} {account.problem}")
        name = mailbox_name(account.name, domains)
        if name is None:
            if not account.problem:
                errors.append(f"{_shown(account)} is not a valid mailbox name; {NAME_RULE}")
        elif name in found:
            errors.append(f"{_shown(found[name])} and {_shown(account)} are the same mailbox; remove one of them")
        else:
            found[name] = account
    return found, errors


def _shown(account: Account) -> str:
    name = ascii(account.name[:64])
    return f"{name} ({account.where})" if account.where else name


def _tuple_of(name: str, items: Iterable[T], kind: type, use: str) -> tuple[T, ...]:
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be an iterable, not {type(items).__name__}; use [...] with items such as {use}")
    found = tuple(items)
    for item in found:
        check_type(f"each of {name}", item, kind, use=use)
    return found


def _pairs(name: str, pairs: Iterable[tuple[str, T]], use: str) -> tuple[tuple[str, T], ...]:
    found = _tuple_of(name, pairs, tuple, use)
    for pair in found:
        if len(pair) != 2:
            raise ValueError(f"each of {name} must be a pair, not {len(pair)} values; use {use}")
    return found


class MemoryAccounts:
    """All accounts of a server.

    Raises AccountsError for an invalid name, an empty password, an invalid line in the file, two accounts with the same
    canonical name, and a token or certificate name for an unknown account.  Raises TypeError for arguments of a wrong
    type.

        >>> accounts = stores.MemoryAccounts({"Alice": b"wonderland"}, tokens=[("alice", b"vF9dft4q")])
        >>> accounts.names
        ('alice',)
    """

    def __init__(
        self,
        accounts: Iterable[Account] | Mapping[str, bytes] = (),
        *,
        domains: Set[str] = frozenset(),
        file: AccountsFile | None = None,
        tokens: Iterable[tuple[str, bytes]] = (),
        certificate_names: Iterable[tuple[str, str]] = (),
    ) -> None:
        """*accounts* are Account values, or a mapping of names to passwords.  *domains* as for ``mailbox_name``.

        The accounts of *file* follow the others, and ``refresh()`` reloads them when it has changed.  *tokens* are
        pairs (account, bearer token), *certificate_names* pairs (name in a client certificate, account).
        """
        check_type("domains", domains, Set, use="frozenset({'example.test'})")
        for domain in domains:
            check_type("each of domains", domain, str)
        check_type("file", file, AccountsFile, optional=True)
        if isinstance(accounts, Mapping):
            passwords = cast("Mapping[str, bytes]", accounts)
            accounts = [from_password(name, password) for name, password in passwords.items()]
        self._fixed = _tuple_of(
            "accounts", accounts, Account, "{'alice': b'secret'} or from_password('alice', b'secret')"
        )
        self._domains = frozenset(domain.lower() for domain in domains)
        self._file = file
        self._accounts, errors = collect([*self._fixed, *(() if file is None else file.read())], self._domains)
        if errors:
            raise AccountsError(errors[0], errors[1:])
        tokens = _pairs("tokens", tokens, "('alice', b'token')")
        certificate_names = _pairs("certificate_names", certificate_names, "('CN:alice', 'alice')")
        for name, token in tokens:
            check_type("each account of tokens", name, str)
            check_type("each token", token, bytes)
        for written, name in certificate_names:
            check_type("each certificate name", written, str)
            check_type("each account of certificate_names", name, str)
        self._tokens = [(hashlib.sha256(token).digest(), self._owner(name, "tokens")) for name, token in tokens]
        self._certificate_names = [
            (written, self._owner(name, "certificate_names")) for written, name in certificate_names
        ]

    def _owner(self, text: str, argument: str) -> str:
        name = mailbox_name(text, self._domains)
        if name is None or name not in self._accounts:
            raise AccountsError(f"unknown account: {text[:64]!a}; use one of the accounts", argument=argument)
        return name

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names, in the configured order."""
        return tuple(self._accounts)

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        """Reload the file if it has changed (see ``Accounts.refresh``).

        If it cannot be read or has no valid account, the accounts are unchanged: it may be half-written, or a program
        that writes it has failed.
        """
        if self._file is None:
            return None
        try:
            written = await self._file.changed(at_once=at_once)
        except AccountsError as error:
            return Changes(warnings=(f"{error}; the accounts are unchanged",))
        if written is None:
            return None
        accounts, errors = collect([*self._fixed, *written], self._domains)
        if all(account.problem or mailbox_name(account.name, self._domains) is None for account in written):
            return Changes(warnings=(f"{self._file.path} has no valid account; the accounts are unchanged", *errors))
        before, self._accounts = self._accounts, accounts
        number = len(accounts)
        revoked = {
            name
            for name, account in before.items()
            if name not in self._accounts or self._accounts[name].credential != account.credential
        }
        return Changes(
            revoked=frozenset(revoked),
            warnings=tuple(errors),
            notices=(f"reloaded {self._file.path}: {number} {'account' if number == 1 else 'accounts'}",),
            in_force=self._file.in_force,
        )

    async def find(self, name: str) -> Account | None:
        """Return the account with the canonical name *name*, or None."""
        return self._accounts.get(name)

    def credentials(self) -> tuple[Credential, ...]:
        """Return the stored passwords of all accounts, in the configured order."""
        return tuple(account.credential for account in self._accounts.values() if account.credential is not None)

    async def token_owner(self, token: bytes) -> str | None:
        """Return the canonical name of the account that has this token, or None."""
        digest = hashlib.sha256(token).digest()
        owners = [name for expected, name in self._tokens if hmac.compare_digest(digest, expected)]
        return owners[0] if owners else None

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        """Return the canonical names of the accounts that a client certificate with *names* authenticates."""
        return frozenset(name for written, name in self._certificate_names if written in names)
