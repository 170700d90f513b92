"""examples/account_store.py with smtplib: an account store of three methods, with which the server does the rest."""

from __future__ import annotations

import hashlib
import json
import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from examples import account_store
from mailauth import sasl
from mailauth_io import server
from mailauth_io.stores import Accounts, write_credential
from tests.examples import programs
from tests.io.server_support import run_on_asyncio
from tests.serving import LOOPS


def write(path: Path, scheme: str = "SCRAM-SHA-256", **passwords: bytes) -> Path:
    path.write_text(json.dumps({name: write_credential(scheme, password) for name, password in passwords.items()}))
    return path


@attrs.frozen
class Served:
    port: int
    path: Path

    def client(self) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=programs.TIMEOUT)
        client.ehlo()
        return client

    def log_in(self, name: str, password: str) -> tuple[int, bytes]:
        """Return the reply to AUTH PLAIN."""
        with self.client() as client:
            return client.docmd("AUTH PLAIN", sasl.encode_base64(f"\0{name}\0{password}".encode()).decode())


@pytest.fixture(params=LOOPS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    path = write(tmp_path / "accounts.json", alice=b"secret", bob=b"other")
    with programs.listening("account_store.py", path, "--loop", request.param, errors=tmp_path / "errors") as port:
        yield Served(port, path)


def test_wrong_password_and_unknown_name_get_the_same_reply(served: Served) -> None:
    """The last two get the same reply."""
    with served.client() as client:
        assert set(client.esmtp_features["auth"].split()) == {"PLAIN", "LOGIN", "SCRAM-SHA-256"}
    assert served.log_in("alice", "secret")[0] == 235
    assert served.log_in("Alice@example.test", "secret")[0] == 235
    wrong = served.log_in("alice", "wrong")
    assert wrong[0] == 535
    assert served.log_in("nobody", "secret") == wrong


def test_a_changed_file_ends_the_sessions_of_changed_accounts(served: Served) -> None:
    with served.client() as alice, served.client() as bob:
        alice.login("alice", "secret")
        bob.login("bob", "other")
        alice.noop()
        accounts = json.loads(served.path.read_text())
        accounts["alice"] = write_credential("SCRAM-SHA-256", b"new")
        served.path.write_text(json.dumps(accounts))
        assert served.log_in("alice", "secret")[0] == 535
        assert alice.getreply()[0] == 421
        assert bob.noop()[0] == 250
    assert served.log_in("alice", "new")[0] == 235
    served.path.write_text("{}}")
    assert served.log_in("alice", "new")[0] == 235  # an invalid file changes nothing


def test_password_is_hashed_once_for_known_and_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """architecture.md, invariant 6: the store knows nothing of decoys."""
    store: Accounts = account_store.JsonAccounts(write(tmp_path / "accounts.json", alice=b"secret"))
    authenticator = server.Authenticator(store)
    hashed: list[str] = []
    real = hashlib.pbkdf2_hmac

    def counted(hash_name: str, *args: Any) -> bytes:
        hashed.append(hash_name)
        return real(hash_name, *args)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)

    async def main() -> None:
        for name in ("alice", "nobody", ""):
            hashed.clear()
            assert not await authenticator.check_password(name, b"wrong")
            assert hashed == ["sha256"]

    run_on_asyncio(main)


def test_scram_salt_is_unchanged_after_reloading_a_plain_password(tmp_path: Path) -> None:
    """A salt that changes would show that the name is known: that of an unknown name does not."""
    store = account_store.JsonAccounts(write(tmp_path / "accounts.json", "PLAIN", alice=b"secret"))
    authenticator = server.Authenticator(store)

    async def main() -> None:
        for name in ("alice", "nobody"):
            keys = await authenticator.scram_keys(name, "sha256")
            store.accounts = account_store.read_accounts(store.path)
            assert await authenticator.scram_keys(name, "sha256") == keys
            assert await authenticator.check_password("alice", b"secret")

    run_on_asyncio(main)


def test_a_change_that_could_not_be_read_is_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = account_store.JsonAccounts(write(tmp_path / "accounts.json", alice=b"secret"))
    write(store.path, bob=b"other")

    def fail(path: Path) -> dict[str, Any]:
        raise OSError("Too many open files")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(account_store, "read_accounts", fail)
            with pytest.raises(OSError, match="Too many"):
                await store.refresh()
        changes = await store.refresh()
        assert changes is not None
        assert changes.revoked == {"alice"}
        assert await store.refresh() is None

    run_on_asyncio(main)


def test_missing_or_invalid_accounts_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "accounts.json"
    assert account_store.main([str(path)]) == 1
    path.write_text('{"alice": "secret"}')
    assert account_store.main([str(path)]) == 1
    path.write_text('{"al ice": "{PLAIN}secret"}')
    assert account_store.main([str(path)]) == 1
    first, second, third = capsys.readouterr().err.splitlines()
    assert "No such file" in first
    assert second == "Cannot serve: has no password scheme; write {PLAIN} before the password, or use mailauth passwd"
    assert third == "Cannot serve: 'al ice' is not a mailbox name"
