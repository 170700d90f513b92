"""An unknown name behaves like a known one: same time, and its own salt; but no password is accepted."""

from __future__ import annotations

import secrets
from pathlib import Path

import attrs
import pytest

from mailauth import sasl
from mailauth_io.server import Authenticator
from mailauth_io.stores import Account, AccountsFile, MemoryAccounts, Proof, from_password, write_credential
from mailauth_io.stores.credentials import Credential, Scram
from tests.io.server_support import Run, on_both_loops


@attrs.define
class Counted(Credential):
    """A hash that counts how often it is computed."""

    password: bytes
    kind: str
    checked: int = 0
    proofs = frozenset({Proof.PASSWORD})

    def check(self, password: bytes) -> bool:
        self.checked += 1
        return password == self.password

    def scram_keys(self, hash_name: str) -> sasl.ScramKeys | None:
        return None


@on_both_loops
def test_unknown_name_is_checked_against_most_common_credential_kind(run: Run) -> None:
    """architecture.md, invariant 6.  Even the password of the account used as a decoy is rejected."""
    rare = Counted(b"one", "{X} of 1 round")
    common = [Counted(b"two", "{X} of 9 rounds"), Counted(b"two", "{X} of 9 rounds")]
    credentials = {"alice": rare, "bob": common[0], "carol": common[1]}
    store = MemoryAccounts([Account(name=name, credential=found) for name, found in credentials.items()])
    accounts = Authenticator(store)

    async def main() -> None:
        assert not await accounts.check_password("nobody", b"two")
        assert not await accounts.check_password("", b"two")
        assert (rare.checked, common[0].checked, common[1].checked) == (0, 2, 0)

    run(main)
    assert accounts.timing_warning is not None
    assert accounts.timing_warning.index("9 rounds") < accounts.timing_warning.index("1 round")


@on_both_loops
def test_account_without_password_is_treated_as_unknown_name(run: Run) -> None:
    bob = Counted(b"two", "{X}")

    async def main() -> None:
        store = MemoryAccounts([Account(name="alice", credential=None), Account(name="bob", credential=bob)])
        accounts = Authenticator(store)
        assert not await accounts.check_password("alice", b"two")
        assert bob.checked == 1
        assert await accounts.scram_keys("alice", "sha256") == await accounts.scram_keys("alice", "sha256")

    run(main)


def scram(name: str, iterations: int = 8192, salt_size: int = 12) -> Account:
    keys = sasl.scram_keys(b"secret", secrets.token_bytes(salt_size), iterations)
    return Account(name=name, credential=Scram(keys))


KEY = bytes(range(32))


@on_both_loops
def test_salts_of_unknown_names_last_as_long_as_stored_ones(run: Run) -> None:
    """RFC 5802 section 5.1: any client gets the salt and iterations, so they must not show which names exist.

    This holds after a restart, and in another process, also if an account has been changed, added or removed.
    """
    alice, bob, carol = scram("alice"), scram("bob"), scram("carol", 4096, 16)

    async def main() -> None:
        first = Authenticator(MemoryAccounts([alice, bob, carol]), decoy_key=KEY)
        keys = await first.scram_keys("nobody", "sha256")
        assert (keys.iterations, len(keys.salt)) == (8192, 12)
        assert keys.salt != (await first.scram_keys("nobody2", "sha256")).salt
        for accounts in ([alice, bob, carol], [scram("alice"), bob, carol], [bob, alice], [scram("dave"), alice, bob]):
            later = Authenticator(MemoryAccounts(accounts), decoy_key=KEY)
            assert await later.scram_keys("nobody", "sha256") == keys
            assert await later.scram_keys("bob", "sha256") == await first.scram_keys("bob", "sha256")

    run(main)


@on_both_loops
@pytest.mark.parametrize("key", [KEY, None], ids=["kept", "random"])
def test_plain_accounts_and_unknown_names_have_salts_of_one_lifetime_and_form(run: Run, key: bytes | None) -> None:
    """The salts of both change together, also beside stored salts of another size."""
    for accounts in ([from_password("alice", b"one")], [from_password("alice", b"one"), scram("bob")]):
        both = [Authenticator(MemoryAccounts(accounts), decoy_key=key) for _ in range(2)]

        async def main(both: list[Authenticator] = both) -> None:
            seen = [[await each.scram_keys(name, "sha256") for name in ("alice", "nobody")] for each in both]
            for known, unknown in seen:
                assert (known.iterations, len(known.salt)) == (unknown.iterations, len(unknown.salt))
            (alice, nobody), (alice_later, nobody_later) = [[keys.salt for keys in each] for each in seen]
            assert (alice == alice_later) is (nobody == nobody_later) is (key is not None)

        run(main)


@on_both_loops
def test_salts_of_unknown_names_do_not_depend_on_a_password(run: Run) -> None:
    """Anyone gets them.  If they depended on a stored key, guesses of its password could be checked with them."""

    async def main() -> None:
        accounts = [scram("alice"), from_password("bob", b"one")]
        salts = {(await Authenticator(MemoryAccounts(accounts)).scram_keys("nobody", "sha256")).salt for _ in range(2)}
        assert len(salts) == 2

    run(main)


def test_warning_if_only_stored_salts_last() -> None:
    hashed = Account(name="bob", credential=Counted(b"two", "{X}"))
    plain = from_password("carol", b"three")

    def warned(*accounts: Account, key: bytes | None = None) -> bool:
        return Authenticator(MemoryAccounts(accounts), decoy_key=key).salt_warning is not None

    assert warned(scram("alice"))
    assert warned(scram("alice"), plain)
    assert not warned(scram("alice"), key=KEY)
    assert not warned(scram("alice"), hashed)  # SCRAM is not offered
    assert not warned(plain)
    assert not warned()


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords of all key derivations, in order."""
    passwords: list[bytes] = []
    real = sasl.scram_keys

    def counted(password: bytes, salt: bytes, iterations: int, hash_name: str = "sha256") -> sasl.ScramKeys:
        passwords.append(password)
        return real(password, salt, iterations, hash_name)

    monkeypatch.setattr(sasl, "scram_keys", counted)
    return passwords


@on_both_loops
def test_each_login_derives_scram_keys_exactly_once(run: Run, derived: list[bytes]) -> None:
    """Otherwise the time of a login would show which names have logged in with SCRAM before, or have stored keys."""
    accounts = [from_password("alice", b"one"), from_password("bob", b"two")]

    async def main(authenticator: Authenticator, names: tuple[str, ...], hash_names: tuple[str, ...]) -> None:
        before = await authenticator.scram_keys("alice", "sha256")
        for name in names:
            for hash_name in hash_names:
                derived.clear()
                await authenticator.scram_keys(name, hash_name)
                assert len(derived) == 1
        assert await authenticator.scram_keys("alice", "sha256") == before

    names = ("alice", "nobody", "bob", "alice", "nobody")
    only_plain = Authenticator(MemoryAccounts(accounts))
    run(lambda: main(only_plain, names, ("sha256", "sha1")))
    mixed = Authenticator(MemoryAccounts([*accounts, scram("carol"), scram("dave"), scram("eve")]))
    run(lambda: main(mixed, (*names, "carol"), ("sha256",)))


@on_both_loops
def test_account_changes_keep_scram_salts_of_unknown_names(run: Run, tmp_path: Path) -> None:
    """A salt that changes would show that its name is unknown."""
    path = tmp_path / "users"
    path.touch(mode=0o600)

    def line(name: str) -> str:
        return f"{name}:{write_credential('SCRAM-SHA-256', b'secret')}\n"

    async def main() -> None:
        path.write_text(line("alice"))
        accounts = Authenticator(MemoryAccounts(file=AccountsFile(path)), decoy_key=KEY)
        before = await accounts.scram_keys("nobody", "sha256")
        for number in range(8):
            with path.open("a") as file:
                file.write(line(f"user{number}"))
            assert await accounts.refresh(at_once=True) is not None
            accounts.update()
            assert await accounts.scram_keys("nobody", "sha256") == before
        anew = Authenticator(MemoryAccounts(file=AccountsFile(path)), decoy_key=KEY)
        assert await anew.scram_keys("nobody", "sha256") == before
        path.write_text(line("carol"))
        assert await accounts.refresh(at_once=True) is not None
        accounts.update()
        assert await accounts.scram_keys("nobody", "sha256") == before

    run(main)


def test_offered_proofs_are_those_common_to_all_accounts() -> None:
    """Without accounts everything is offered, since the decoys support every proof."""
    plain = from_password("alice", b"one")
    hashed = Account(name="bob", credential=Counted(b"two", "{X}"))

    def proofs(*accounts: Account) -> frozenset[Proof]:
        return Authenticator(MemoryAccounts(accounts)).proofs

    assert proofs(plain) == proofs() > {Proof.PASSWORD, Proof.SECRET}
    assert proofs(plain, hashed) == {Proof.PASSWORD}
    assert proofs(plain, scram("bob")) == {Proof.PASSWORD, Proof.SCRAM_SHA_256}
    assert Authenticator(MemoryAccounts([plain])).timing_warning is None


@on_both_loops
def test_tokens_and_certificates_map_to_accounts(run: Run) -> None:
    store = MemoryAccounts(
        {"alice": b"one", "bob": b"two"},
        domains=frozenset({"example.test"}),
        tokens=[("Alice@example.test", b"t0ken"), ("bob", b"other")],
        certificate_names=[("email:a@x", "alice"), ("CN:both", "alice"), ("CN:both", "bob")],
    )
    accounts = Authenticator(store, tokens=store, certificates=store)

    async def main() -> None:
        assert accounts.proofs >= {Proof.TOKEN, Proof.CERTIFICATE}
        assert await accounts.token_owner(b"t0ken") == "alice"
        assert await accounts.token_owner(b"t0ke") is None
        assert await accounts.certificate_owners({"email:a@x", "CN:unknown"}) == {"alice"}
        assert await accounts.certificate_owners({"CN:both"}) == {"alice", "bob"}
        assert await accounts.certificate_owners(set()) == frozenset()

    run(main)
