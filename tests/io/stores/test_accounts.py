"""Accounts, their names, and the accounts file."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mailauth_io.server import Authenticator
from mailauth_io.stores import AccountsError, AccountsFile, MemoryAccounts, from_password, mailbox_name
from tests.io.server_support import Run, on_both_loops

DOMAINS = frozenset({"example.test", "example.org"})


@pytest.mark.parametrize("text", ["alice", "Alice", "ALICE@example.test", "alice@Example.TEST", "alice@example.org"])
def test_one_mailbox_has_one_canonical_name(text: str) -> None:
    assert mailbox_name(text, DOMAINS) == "alice"


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "@example.test", "alice@", "alice@remote.test", "alice@example.test@example.test", ".alice",
        "-alice", "a" * 65, "../alice", "alice/x", "al ice", "alice\n", "alice\0", "\u212aate",
        "alice@\u212axample.test",
        "al%ice",
    ],
)  # fmt: skip
def test_mailbox_name_returns_none_for_invalid_name(text: str) -> None:
    assert mailbox_name(text, DOMAINS) is None


@given(st.text())
def test_mailbox_name_is_idempotent(text: str) -> None:
    name = mailbox_name(text, DOMAINS)
    assert name is None or mailbox_name(name, frozenset()) == name


@on_both_loops
def test_check_password_accepts_only_the_right_password(run: Run) -> None:
    store = MemoryAccounts({"Alice": b"secret", "bob@example.test": b"hunter2"}, domains=DOMAINS)
    accounts = Authenticator(store)

    async def main() -> None:
        assert store.names == ("alice", "bob")
        assert await accounts.check_password("alice", b"secret")
        assert not await accounts.check_password("alice", b"secret ")
        assert not await accounts.check_password("alice", b"hunter2")
        assert not await accounts.check_password("alice", b"")
        assert not await accounts.check_password("", b"")
        assert not await accounts.check_password("carol", b"secret")
        assert [await accounts.exists(name) for name in ("bob", "carol")] == [True, False]
        assert await accounts.secret("bob") == b"hunter2"
        assert await accounts.secret("carol") is None

    run(main)


@on_both_loops
def test_unknown_name_is_compared_like_a_wrong_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """architecture.md, invariant 6: for any name, the same comparison of the same number of bytes."""
    compared: list[tuple[int, int]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    accounts = Authenticator(MemoryAccounts({"alice": b"a rather long password that nobody guesses"}))

    async def main() -> None:
        assert not await accounts.check_password("alice", b"wrong")
        assert not await accounts.check_password("nobody", b"wrong")

    run(main)
    assert compared == [(32, 32), (32, 32)]


SAME = [("alice", "ALICE"), ("alice", "alice@example.test"), ("a@example.test", "A@example.org")]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_accounts_for_one_mailbox_are_rejected(one: str, other: str) -> None:
    with pytest.raises(AccountsError, match="same mailbox") as caught:
        MemoryAccounts({one: b"1", other: b"2"}, domains=DOMAINS)
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)


@pytest.mark.parametrize("name", ["", "al ice", "../x", "alice@remote.test"])
def test_account_with_invalid_mailbox_name_is_rejected(name: str) -> None:
    with pytest.raises(AccountsError, match="not a valid mailbox name"):
        MemoryAccounts({name: b"1"}, domains=DOMAINS)


def test_account_with_empty_password_is_rejected() -> None:
    with pytest.raises(AccountsError, match="'alice' has no password"):
        MemoryAccounts({"alice": b""})


def test_repr_of_account_contains_no_password() -> None:
    assert "hunter2" not in repr(from_password("alice", b"hunter2"))


def written(folder: Path, text: bytes, mode: int = 0o600) -> Path:
    path = folder / "users"
    path.write_bytes(text)
    path.chmod(mode)
    return path


@on_both_loops
def test_accounts_are_read_from_passwd_file(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path, b"# comment\n\nalice:{PLAIN}se cret:1000:1000::/home/alice::\r\nbob:{plain}{x}y\n")
    accounts = Authenticator(MemoryAccounts(file=AccountsFile(path)))

    async def main() -> None:
        assert await accounts.check_password("alice", b"se cret")
        assert await accounts.check_password("bob", b"{x}y")

    run(main)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"alice", "has no colon"),
        (b"alice:hunter2", "has no password scheme; write {PLAIN}"),
        (b"alice:{NTLM}hunter2", "unknown password scheme; use one of {PLAIN}, {SCRAM-SHA-256}, {SHA512-CRYPT}"),
        (b"alice:{SHA512-CRYPT}$6$hunter2", "invalid {SHA512-CRYPT} value"),
        (b"alice:{ARGON2ID}hunter2", "invalid {ARGON2ID} value"),
        (b"alice:{BLF-CRYPT}hunter2\xff", "invalid {BLF-CRYPT} value"),
        (b"alice:{SCRAM-SHA-256}4096,hunter2,,", "invalid {SCRAM-SHA-256} value"),
        (b"alice:{SCRAM-SHA-256}4096,c2FsdA==,aHVudGVyMg==,aHVudGVyMg==", "invalid {SCRAM-SHA-256} value"),
        (
            b"alice:{SCRAM-SHA-256}1000,c2FsdA==," + b",".join([b"aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ="] * 2),
            "invalid {SCRAM-SHA-256} value",
        ),
        (b"alice:{PLAIN}", "no password"),
        (b"al ice:{PLAIN}hunter2", "not a valid mailbox name"),
        (b"\xff\xfe:{PLAIN}hunter2", "not a valid mailbox name"),
        (b"BOB:{PLAIN}hunter2", "the same mailbox"),
    ],
)
def test_invalid_line_is_reported_without_its_secret(line: bytes, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, b"bob:{PLAIN}other\n\n" + line + b"\n")
    with pytest.raises(AccountsError) as caught:
        MemoryAccounts(file=AccountsFile(path))
    assert message in str(caught.value)
    assert "line 3 of" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602])
def test_file_accessible_to_other_users_is_rejected(mode: int, tmp_path: Path) -> None:
    with pytest.raises(AccountsError, match="chmod 600"):
        MemoryAccounts(file=AccountsFile(written(tmp_path, b"alice:{PLAIN}x\n", mode)))


def test_missing_file_raises_accounts_error(tmp_path: Path) -> None:
    with pytest.raises(AccountsError, match="absent cannot be read"):
        MemoryAccounts(file=AccountsFile(tmp_path / "absent"))
