"""Checks logins against the accounts, so that an unknown name behaves like a known one (architecture.md, invariant 6).

An unknown name and a wrong password get the same answer, after the same work.  The store of the accounts only looks up
names: this module does the work for those that it does not find.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Set
from types import NoneType
from typing import Final

from mailauth import sasl

from .._checks import check_interface, check_random_key, check_type
from ..stores.credentials import Credential, Plain, Proof, Scram, prepared
from ..stores.hashing import LOCAL, Hashing, LoginSource
from ..stores.protocols import Account, Accounts, Certificates, Changes, Tokens
from ._results import check_result, method_failed

_NO_SECRETS: Final = (
    "CRAM-MD5, APOP and SCRAM-SHA-1 are not available: they require a plain-text password ({PLAIN}) for every account."
)
_NO_KEYS: Final = "SCRAM-SHA-256 is not available: it requires a {SCRAM-SHA-256} or {PLAIN} password for every account."
_PROHIBITED: Final = (
    "PLAIN refuses the password of an account: it contains a control character, or another that SASLprep prohibits "
    "(RFC 4013). Set another password with mailauth passwd."
)
_NOT_PREPARED: Final = (
    "SCRAM is not available: the password of an account contains characters that SCRAM does not allow (RFC 4013)."
)


class Authenticator:
    """Checks passwords, SCRAM keys, tokens and certificates of the accounts of a server.

    *name* is always a canonical name (see ``mailbox_name``), or empty for a name that no account can have.

        authenticator = server.Authenticator(stores.MemoryAccounts({"alice": b"wonderland"}))
        if await authenticator.check_password("alice", password):
            print("alice has logged in")
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        tokens: Tokens | None = None,
        certificates: Certificates | None = None,
        hashing: Hashing | None = None,
        decoy_key: bytes | None = None,
    ) -> None:
        """Without *tokens* no account has a token, and without *certificates* none has a certificate.

        *decoy_key* determines the salts that SCRAM sends for unknown names (see ``Stores``).  None: a random key.

        Raises TypeError for an object that does not have the methods of its interface, as coroutines where the
        interface has coroutines, and ValueError for a short *decoy_key*.
        """
        check_interface("accounts", accounts, Accounts)
        check_interface("tokens", tokens, Tokens, optional=True)
        check_interface("certificates", certificates, Certificates, optional=True)
        check_type("hashing", hashing, Hashing, optional=True)
        check_random_key("decoy_key", decoy_key, optional=True)
        self._accounts = accounts
        self._tokens = tokens
        self._certificates = certificates
        self._hashing = hashing or Hashing()
        self._decoy_password = Plain(secrets.token_hex(32).encode())  # ASCII, so that SCRAM allows it
        self._lasting_salts = decoy_key is not None
        self._decoy_key = secrets.token_bytes(32) if decoy_key is None else decoy_key
        self._outdated = False  # the accounts have changed since update()
        self._begin(self._stored())

    def _stored(self) -> tuple[Credential, ...]:
        """Return what the store returns as its passwords.  Raises TypeError if it returns something else."""
        credentials: Collection[Credential] = self._accounts.credentials()
        wanted = "a collection of Credential"
        check_result(self._accounts, "credentials", credentials, Collection, wanted)
        for credential in credentials:
            check_result(self._accounts, "credentials", credential, Credential, wanted)
        return tuple(credentials)

    def _begin(self, credentials: tuple[Credential, ...]) -> None:
        """Compute the values that depend on the current accounts."""
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
        more = {Proof.TOKEN: self._tokens, Proof.CERTIFICATE: self._certificates}
        self._all_proofs = self._proofs | {proof for proof, store in more.items() if store is not None}
        self._scram_decoy = self._make_scram_decoy(credentials)
        # Each login with SCRAM derives keys if one of them must, so that all take the same time.
        self._derives_keys = not credentials or any(isinstance(credential, Plain) for credential in credentials)
        self._credentials = credentials  # last: if one of them raises an exception, all are computed again

    def _make_scram_decoy(self, credentials: tuple[Credential, ...]) -> sasl.ScramDecoy:
        """Return the source of salts for all names without a stored one: unknown names, and accounts with {PLAIN}.

        Its key must not be derived from a stored password.  Anyone gets these salts, and could use them to check
        guesses of the password, without a limit.
        """
        stored = [credential.keys for credential in credentials if isinstance(credential, Scram)]
        if not stored:
            return sasl.ScramDecoy(key=self._decoy_key)
        costs = Counter((keys.iterations, min(len(keys.salt), 32)) for keys in stored)
        (iterations, salt_size), _ = costs.most_common(1)[0]
        return sasl.ScramDecoy(key=self._decoy_key, iterations=iterations, salt_size=salt_size)

    @property
    def proofs(self) -> frozenset[Proof]:
        """The proofs that every account supports, and tokens and certificates if they are used.

        They determine the mechanisms offered to each new connection.
        """
        return self._all_proofs

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
    def salt_warning(self) -> str | None:
        """A warning if the salts of SCRAM show which names exist, because only some of them last; None if not."""
        stored = any(isinstance(credential, Scram) for credential in self._credentials)
        if self._lasting_salts or not stored or Proof.SCRAM_SHA_256 not in self._proofs:
            return None
        return (
            "SCRAM-SHA-256 sends unknown names another salt after each restart, and accounts with {SCRAM-SHA-256} the "
            "same one: a client that compares them learns which accounts exist. Keep the key of these salts "
            "(--decoy-key, [accounts] decoy_key)."
        )

    @property
    def unavailable_mechanisms(self) -> tuple[str, ...]:
        """One sentence for each group of mechanisms that is not offered because some account does not support it.

        One more if PLAIN refuses the password of an account.
        """
        sentences: list[str] = []
        if Proof.SECRET not in self._proofs:
            sentences.append(_NO_SECRETS)
            if Proof.SCRAM_SHA_256 not in self._proofs:
                sentences.append(_NO_KEYS)
        elif Proof.SCRAM_SHA_1 not in self._proofs:
            sentences.append(_NOT_PREPARED)
        if any(isinstance(credential, Plain) and credential.prohibited for credential in self._credentials):
            sentences.append(_PROHIBITED)
        return tuple(sentences)

    async def refresh(self, *, at_once: bool = False) -> Changes | None:
        """Reload the accounts if their source has changed, as ``Accounts.refresh``.

        Call it before each lookup, carry out the changes, which are returned only once, then call ``update()``.
        """
        changes = await self._accounts.refresh(at_once=at_once)
        check_result(self._accounts, "refresh", changes, (Changes, NoneType), "Changes or None")
        self._outdated |= changes is not None
        return changes

    def update(self) -> tuple[str, ...]:
        """After a change, compute what depends on the accounts: the mechanisms offered, and the decoys.

        Returns warnings.  Raises what ``Accounts.credentials`` raises; the next call tries again.
        """
        if not self._outdated:
            return ()
        credentials = self._stored()
        warnings: list[str] = []
        if credentials != self._credentials:
            before = (*self.unavailable_mechanisms, self.salt_warning)
            self._begin(credentials)
            after = (*self.unavailable_mechanisms, self.salt_warning)
            warnings += [warning for warning in after if warning is not None and warning not in before]
            if self.timing_warning is not None:
                warnings.append(self.timing_warning)
        self._outdated = False
        return tuple(warnings)

    async def exists(self, name: str) -> bool:
        """Return whether *name* has a mailbox here."""
        return await self._find(name) is not None

    async def _find(self, name: str) -> Account | None:
        account = await self._accounts.find(name)
        check_result(self._accounts, "find", account, (Account, NoneType), "an Account or None")
        return account

    async def _credential(self, name: str) -> Credential | None:
        account = await self._find(name)
        return None if account is None else account.credential

    async def check_password(self, name: str, password: bytes, source: LoginSource = LOCAL) -> bool:
        """Return whether this is the password of *name*.

        An exception of ``Credential.check()`` is raised as a RuntimeError with its class and place only: its message
        may quote the password.
        *source* determines the position of a slow check in the queue: see ``Hashing.run``.
        """
        known = await self._credential(name)
        credential = self._decoy if known is None else known
        to_check = prepared(password)
        if to_check is None:
            return False  # for any name, so this shows nothing about it
        if credential.slow:
            right = await self._hashing.run(source, self._is_right, credential, known, to_check)
        else:
            right = self._is_right(credential, known, to_check)
        # The account may have changed during the check; an old password is not accepted.
        return right and await self._credential(name) == known

    @staticmethod
    def _is_right(credential: Credential, known: Credential | None, password: bytes) -> bool:
        """Return whether *password* matches *credential* and the name is *known*."""
        try:
            right = credential.check(password)
        except Exception as error:
            raise method_failed(credential, "check", error) from None
        check_result(credential, "check", right, bool, "a bool")
        return right and known is not None

    async def secret(self, name: str) -> bytes | None:
        """Return the secret of *name* for CRAM-MD5 and APOP, or None if the name is unknown or has no secret."""
        credential = await self._credential(name)
        return credential.password if isinstance(credential, Plain) else None

    async def scram_keys(self, name: str, hash_name: str, source: LoginSource = LOCAL) -> sasl.ScramKeys:
        """Return the SCRAM keys of *name* for *hash_name* (``sha1`` or ``sha256``).

        An unknown name gets keys that match no password.  They are always the same, look like real keys, and take as
        long to compute.  *source* as for ``check_password``.
        """
        known = await self._credential(name)
        decoy = self._scram_decoy.keys(name, hash_name)  # for a known name too, so that both take the same time
        keys = None if known is None else known.scram_keys(hash_name)
        if self._derives_keys:
            password = known if isinstance(known, Plain) else self._decoy_password
            derived = await self._hashing.run(source, password.derive, hash_name, decoy.salt, decoy.iterations)
            if password is known:
                keys = derived
        return decoy if keys is None else keys

    async def token_owner(self, token: bytes) -> str | None:
        """Return the canonical name of the account that has this bearer token, or None.

        An exception of the token store is raised as a RuntimeError with its class and place only: its message may quote
        the token.
        """
        if self._tokens is None:
            return None
        try:
            owner = await self._tokens.token_owner(token)
        except Exception as error:
            raise method_failed(self._tokens, "token_owner", error) from None
        check_result(self._tokens, "token_owner", owner, (str, NoneType), "a str or None")
        return owner if owner is not None and await self.exists(owner) else None

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        """Return the canonical names of the accounts that a client certificate with *names* authenticates."""
        if self._certificates is None:
            return frozenset()
        owners = await self._certificates.certificate_owners(names)
        check_result(self._certificates, "certificate_owners", owners, Set, "a frozenset of names")
        for owner in owners:
            check_result(self._certificates, "certificate_owners", owner, str, "a frozenset of names")
        return frozenset([name for name in owners if await self.exists(name)])
