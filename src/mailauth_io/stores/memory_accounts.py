"""The accounts of the server in memory, passed as values or loaded from an accounts file.

An unknown name and a wrong password get the same answer, after the same time (architecture.md, invariant 6).
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

_NO_SECRETS: Final = (
    "CRAM-MD5, APOP and SCRAM-SHA-1 are not available: they require a plain-text password ({PLAIN}) for every account."
)
_NO_KEYS: Final = "SCRAM-SHA-256 is not available: it requires a {SCRAM-SHA-256} or {PLAIN} password for every account."
_NOT_PREPARED: Final = (
    "SCRAM is not available: the password of an account contains characters that SCRAM does not allow (RFC 4013)."
)


@attrs.frozen(kw_only=True)
class Changes:
    """The result of reloading the accounts."""

    revoked: frozenset[str] = frozenset()
    """Canonical names whose grants must be revoked: the account was removed, or its password has changed."""
    warnings: tuple[str, ...] = ()
    """Sentences for the log."""
    in_force: float = 0.0
    """Seconds.  Logins within the last *in_force* seconds were checked against the current accounts, in any process."""


def from_password(name: str, password: bytes, where: str = "") -> Account:
    """Return an account with a plain-text password."""
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


class MemoryAccounts:
    """All accounts of a server.

    Raises AccountsError for an invalid name, an empty password, an invalid line in the file, two accounts with the same
    canonical name, and a token or certificate name for an unknown account.
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
        """*accounts* are Account values, or a mapping of names to passwords.  *domains* as for ``mailbox_name``.

        The accounts of *file* follow the others, and ``refresh()`` reloads them when it has changed.  *tokens* are
        pairs (account, bearer token), *certificate_names* pairs (name in a client certificate, account).
        """
        if isinstance(accounts, Mapping):
            accounts = [from_password(name, password) for name, password in accounts.items()]
        self._fixed = tuple(accounts)
        self._domains = domains
        self._file = file
        self._accounts, errors = collect([*self._fixed, *(() if file is None else file.read())], domains)
        if errors:
            raise AccountsError(errors[0], errors[1:])
        self._tokens = [(hashlib.sha256(token).digest(), self._owner(name, "tokens")) for name, token in tokens]
        self._certificate_names = [
            (written, self._owner(name, "certificate_names")) for written, name in certificate_names
        ]
        self._hashing = hashing or Hashing()
        self._decoy_key = secrets.token_bytes(32)
        self._decoy_password = Plain(secrets.token_hex(32).encode())  # ASCII, so that SCRAM allows it
        self._salt_key: bytes | None = None
        self._begin()

    def _owner(self, text: str, argument: str) -> str:
        name = mailbox_name(text, self._domains)
        if name is None or name not in self._accounts:
            raise AccountsError(f"unknown account: {text[:64]!a}; use one of the accounts", argument=argument)
        return name

    def _begin(self) -> None:
        """Compute the values that depend on the current accounts."""
        credentials = [account.credential for account in self._accounts.values() if account.credential is not None]
        kinds = Counter(credential.kind for credential in credentials)
        self._kinds = tuple(kind for kind, _ in kinds.most_common())
        # The password of an unknown name is checked against a stored one of the commonest kind, so that it takes
        # exactly as long.  The result is ignored.
        self._decoy: Credential = next(
            (credential for credential in credentials if credential.kind == self._kinds[0]), self._decoy_password
        )
        self._proofs = frozenset(
            proof for proof in Plain.PROOFS if all(proof in credential.proofs for credential in credentials)
        )
        self._scram_decoy = self._make_scram_decoy(credentials)

    def _make_scram_decoy(self, credentials: list[Credential]) -> sasl.ScramDecoy:
        """Return the source of salts for unknown names.

        Stored salts survive a restart, so the salts of unknown names must too.  They are derived from the first account
        with a stored salt, so that adding accounts does not change them, and stay the same while the process runs.
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
        """Canonical names, in the configured order."""
        return tuple(self._accounts)

    @property
    def proofs(self) -> frozenset[Proof]:
        """The proofs that every account supports, and tokens or certificates if any account has one."""
        more = {Proof.TOKEN: self._tokens, Proof.CERTIFICATE: self._certificate_names}
        return self._proofs | {proof for proof, some in more.items() if some}

    @property
    def timing_warning(self) -> str | None:
        """A warning if the time of a failed login shows which names exist; None if all passwords are of one kind."""
        if len(self._kinds) < 2:
            return None
        return (
            f"Passwords are stored with different schemes or costs ({'; '.join(self._kinds)}): the response time "
            "of a failed login can reveal which accounts exist. Use one scheme for all of them, with mailauth passwd."
        )

    @property
    def unavailable_mechanisms(self) -> tuple[str, ...]:
        """One sentence for each group of mechanisms that is not offered because some account does not support it."""
        unavailable_mechanisms = []
        if Proof.SECRET not in self._proofs:
            unavailable_mechanisms.append(_NO_SECRETS)
            if Proof.SCRAM_SHA_256 not in self._proofs:
                unavailable_mechanisms.append(_NO_KEYS)
        elif Proof.SCRAM_SHA_1 not in self._proofs:
            unavailable_mechanisms.append(_NOT_PREPARED)
        return tuple(unavailable_mechanisms)

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        if self._file is None:
            return None
        try:
            written = await self._file.changed(at_once=at_once)
        except AccountsError as error:
            return Changes(warnings=(f"{error}; the accounts are unchanged",))
        if written is None:
            return None
        before, unavailable_mechanisms = self._accounts, self.unavailable_mechanisms
        self._accounts, errors = collect([*self._fixed, *written], self._domains)
        for name, account in self._accounts.items():
            if name in before and account.credential == before[name].credential:
                self._accounts[name] = before[name]  # keep its derived SCRAM keys and their salts
        self._begin()
        revoked = {name for name, account in before.items() if self._credential(name) is not account.credential}
        number = len(self._accounts)
        warnings = [*errors, f"reloaded {self._file.path}: {number} {'account' if number == 1 else 'accounts'}"]
        warnings += (warning for warning in self.unavailable_mechanisms if warning not in unavailable_mechanisms)
        if self.timing_warning is not None:
            warnings.append(self.timing_warning)
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
            return False  # for any name, so this shows nothing about it
        if credential.slow:
            right = await self._hashing.run(source, self._is_right, credential, known, to_check)
        else:
            right = self._is_right(credential, known, to_check)
        # The accounts may have been reloaded during the check; an old password is not accepted.
        return right and self._credential(name) is known

    @staticmethod
    def _is_right(credential: Credential, known: Credential | None, password: bytes) -> bool:
        """Return whether *password* matches *credential* and the name is *known*."""
        return credential.check(password) and known is not None

    async def secret(self, name: str) -> bytes | None:
        credential = self._credential(name)
        return credential.password if isinstance(credential, Plain) else None

    async def scram_keys(self, name: str, hash_name: str, source: LoginSource = LOCAL) -> sasl.ScramKeys:
        known = self._credential(name)
        if isinstance(known or self._decoy, Plain):
            # Each login derives keys once, even if the name is unknown or its keys are already derived.  Otherwise the
            # time of a login would show which names have logged in before.
            if isinstance(known, Plain) and not known.has_derived(hash_name):
                await self._hashing.run(source, known.scram_keys, hash_name)
            else:
                await self._hashing.run(source, self._decoy_password.derive, hash_name)
        decoy = self._scram_decoy.keys(name, hash_name)  # for a known name too, so that both take the same time
        keys = None if known is None else known.scram_keys(hash_name)
        return decoy if keys is None else keys

    async def token_owner(self, token: bytes) -> str | None:
        digest = hashlib.sha256(token).digest()
        owners = [name for expected, name in self._tokens if hmac.compare_digest(digest, expected)]
        return owners[0] if owners and owners[0] in self._accounts else None

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        return frozenset(name for written, name in self._certificate_names if written in names) & self._accounts.keys()
