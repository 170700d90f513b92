"""Accounts as the server asks them: held in memory, from wherever they were written.

Knows canonical names, and credentials of whatever scheme; refuses to tell an unknown name from a wrong password, in
words or in time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import Final

import attrs

from mailauth import sasl

from .accounts_file import Account, AccountsError, AccountsFile
from .credentials import Credential, Plain, Proof, Scram, prepared
from .hashing import LOCAL, Hashing, LoginSource
from .names import NAME_RULE, mailbox_name

_NO_SECRETS: Final = "No CRAM-MD5, APOP or SCRAM-SHA-1: they need the password itself ({PLAIN}) of every account."
_NO_KEYS: Final = "No SCRAM-SHA-256: it needs {SCRAM-SHA-256} or {PLAIN} of every account."
_NOT_PREPARED: Final = "No SCRAM: some account's password has characters that it does not take (RFC 4013)."


@attrs.frozen(kw_only=True)
class Changes:
    """What came of a look at accounts that are written somewhere else."""

    revoked: frozenset[str] = frozenset()
    """Canonical names whose grants must end: the account is gone, or its password is another."""
    warnings: tuple[str, ...] = ()
    """Sentences for the log."""
    in_force: float = 0.0
    """Seconds: logins within them were by the accounts as they are now, whichever process they came to."""


def from_password(name: str, password: bytes, where: str = "") -> Account:
    """An account with its password as it is."""
    if password:
        return Account(name=name, credential=Plain(password), where=where)
    shown = ascii(name[:64])
    return Account(
        name=name,
        credential=None,
        where=f"{shown} ({where})" if where else shown,
        problem="has no password; write one",
    )


def collect(accounts: Iterable[Account], domains: Set[str]) -> tuple[dict[str, Account], list[str]]:
    """*accounts* by canonical name, in their order, and a sentence about each that is not as it should be.

    A flawed one keeps its mailbox as long as its name is one.  Of two that mean one mailbox the first counts.
    """
    found: dict[str, Account] = {}
    errors: list[str] = []
    for account in accounts:
        if account.problem:
            errors.append(f"{account.where} {account.problem}")
        name = mailbox_name(account.name, domains)
        if name is None:
            if not account.problem:
                errors.append(f"{_shown(account)} is no mailbox name: {NAME_RULE}")
        elif name in found:
            errors.append(f"{_shown(found[name])} and {_shown(account)} are the same mailbox; take one of them out")
        else:
            found[name] = account
    return found, errors


def _shown(account: Account) -> str:
    name = ascii(account.name[:64])
    return f"{name} ({account.where})" if account.where else name


class MemoryAccounts:
    """All accounts of a server.

    Raises AccountsError for the first one that is not as it should be: a name that is none, an empty password, a broken
    line, two names that mean one mailbox, and a token or a certificate's name for an account that is none.
    """

    def __init__(
        self,
        accounts: Iterable[Account] | Mapping[str, bytes] = (),
        *,
        domains: Set[str] = frozenset(),
        file: AccountsFile | None = None,
        tokens: Iterable[tuple[str, bytes]] = (),
        certificate_names: Iterable[tuple[str, str]] = (),
        hashing: Hashing | None = None,
    ) -> None:
        """*domains* as ``mailbox_name`` takes them; a mapping is name to password.

        The accounts of *file* come behind the others, and ``refresh()`` looks whether it has changed.  *tokens* are
        pairs of an account and a bearer token, *certificate_names* of a client certificate's name and an account.
        """
        if isinstance(accounts, Mapping):
            accounts = [from_password(name, password) for name, password in accounts.items()]
        self._fixed = tuple(accounts)
        self._domains = domains
        self._file = file
        self._accounts, errors = collect([*self._fixed, *(() if file is None else file.read())], domains)
        if errors:
            raise AccountsError(errors[0], errors[1:])
        self._tokens = [(hashlib.sha256(token).digest(), self._owner(name)) for name, token in tokens]
        self._certificate_names = [(written, self._owner(name)) for written, name in certificate_names]
        self._hashing = hashing or Hashing()
        self._decoy_key = secrets.token_bytes(32)
        self._decoy_password = Plain(secrets.token_hex(32).encode())  # text, so that SCRAM keys can be derived from it
        self._salt_key: bytes | None = None
        self._begin()

    def _owner(self, text: str) -> str:
        name = mailbox_name(text, self._domains)
        if name is None or name not in self._accounts:
            raise AccountsError(f"{text[:64]!a} is none of the accounts")
        return name

    def _begin(self) -> None:
        """What follows from the accounts as they are now."""
        credentials = [account.credential for account in self._accounts.values() if account.credential is not None]
        kinds = Counter(credential.kind for credential in credentials)
        self._kinds = tuple(kind for kind, _ in kinds.most_common())
        # An unknown name is checked against a stored password of the commonest kind, whoever's it is: this costs
        # exactly what it has to, and what comes out of it is not looked at.
        self._decoy: Credential = next(
            (credential for credential in credentials if credential.kind == self._kinds[0]), self._decoy_password
        )
        self._proofs = frozenset(
            proof for proof in Plain.PROOFS if all(proof in credential.proofs for credential in credentials)
        )
        self._scram_decoy = self._make_scram_decoy(credentials)

    def _make_scram_decoy(self, credentials: list[Credential]) -> sasl.ScramDecoy:
        """Salts for unknown names.  Where salts are stored they outlast the process, so these must, too.

        They are made from the first account that has some, so accounts that are added later leave them as they are, and
        while the process runs nothing changes them.
        """
        stored = [credential.keys for credential in credentials if isinstance(credential, Scram)]
        if not stored:
            return sasl.ScramDecoy(key=self._decoy_key)
        if self._salt_key is None:
            self._salt_key = hashlib.sha256(b"salts of unknown names" + stored[0].server_key).digest()
        costs = Counter((keys.iterations, min(len(keys.salt), 32)) for keys in stored)
        (iterations, salt_size), _ = costs.most_common(1)[0]
        return sasl.ScramDecoy(key=self._salt_key, iterations=iterations, salt_size=salt_size)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names in the order they were written."""
        return tuple(self._accounts)

    @property
    def proofs(self) -> frozenset[Proof]:
        """What every account can be proved by; tokens and certificates as soon as there is one."""
        more = {Proof.TOKEN: self._tokens, Proof.CERTIFICATE: self._certificate_names}
        return self._proofs | {proof for proof, some in more.items() if some}

    @property
    def mixed(self) -> str | None:
        """A warning when the time of a refusal tells accounts apart, None while all are stored alike."""
        if len(self._kinds) < 2:
            return None
        return (
            f"Passwords are stored in different ways ({'; '.join(self._kinds)}): how long a refusal takes tells which "
            "names exist. Write all of them by one scheme, with mailauth passwd."
        )

    @property
    def lacking(self) -> tuple[str, ...]:
        """Sentences: which mechanisms are offered to nobody, since not every account has what they need."""
        lacking = []
        if Proof.SECRET not in self._proofs:
            lacking.append(_NO_SECRETS)
            if Proof.SCRAM_SHA_256 not in self._proofs:
                lacking.append(_NO_KEYS)
        elif Proof.SCRAM_SHA_1 not in self._proofs:
            lacking.append(_NOT_PREPARED)
        return tuple(lacking)

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        if self._file is None:
            return None
        try:
            written = await self._file.changed(at_once=at_once)
        except AccountsError as error:
            return Changes(warnings=(f"{error}; the accounts stay as they were",))
        if written is None:
            return None
        before, lacking = self._accounts, self.lacking
        self._accounts, errors = collect([*self._fixed, *written], self._domains)
        for name, account in self._accounts.items():
            if name in before and account.credential == before[name].credential:
                self._accounts[name] = before[name]  # what was derived from it is still good, and its salts stay
        self._begin()
        revoked = {name for name, account in before.items() if self._credential(name) is not account.credential}
        warnings = [
            *errors,
            f"{self._file.path} has changed and was read again: {len(self._accounts)} accounts now",
        ]
        warnings += (warning for warning in self.lacking if warning not in lacking)
        if self.mixed is not None:
            warnings.append(self.mixed)
        return Changes(
            revoked=frozenset(revoked | (before.keys() - self._accounts.keys())),
            warnings=tuple(warnings),
            in_force=self._file.in_force,
        )

    async def exists(self, name: str) -> bool:
        return name in self._accounts

    def _credential(self, name: str) -> Credential | None:
        account = self._accounts.get(name)
        return None if account is None else account.credential

    async def check_password(self, name: str, password: bytes, source: LoginSource = LOCAL) -> bool:
        known = self._credential(name)
        credential = self._decoy if known is None else known
        to_check = prepared(password)
        if to_check is None:
            return False  # whatever the name is: this tells nothing about it
        if credential.slow:
            right = await self._hashing.run(source, self._is_right, credential, known, to_check)
        else:
            right = self._is_right(credential, known, to_check)
        # Meanwhile the accounts may have been read again: a password that was changed is right no more.
        return right and self._credential(name) is known

    @staticmethod
    def _is_right(credential: Credential, known: Credential | None, password: bytes) -> bool:
        """Check *password* against *credential*, a decoy or not; right only for a *known* name."""
        return credential.check(password) and known is not None

    async def secret(self, name: str) -> bytes | None:
        credential = self._credential(name)
        return credential.password if isinstance(credential, Plain) else None

    async def scram_keys(self, name: str, hash_name: str, source: LoginSource = LOCAL) -> sasl.ScramKeys:
        known = self._credential(name)
        if isinstance(known or self._decoy, Plain):
            # Keys are derived once in each login, whether the name exists and whether they are there already: the time
            # of a login must not tell which names have logged in before.
            if isinstance(known, Plain) and not known.has_derived(hash_name):
                await self._hashing.run(source, known.scram_keys, hash_name)
            else:
                await self._hashing.run(source, self._decoy_password.derive, hash_name)
        of_nobody = self._scram_decoy.keys(name, hash_name)  # made for a known name as well, so that both take as long
        keys = None if known is None else known.scram_keys(hash_name)
        return of_nobody if keys is None else keys

    async def token_owner(self, token: bytes) -> str | None:
        digest = hashlib.sha256(token).digest()
        owners = [name for expected, name in self._tokens if hmac.compare_digest(digest, expected)]
        return owners[0] if owners and owners[0] in self._accounts else None

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        return frozenset(name for written, name in self._certificate_names if written in names) & self._accounts.keys()
