"""The accounts file is reloaded when it has changed.  Errors in it are reported, and do not affect other accounts."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import attrs
import pytest

from mailauth_io.server import Authenticator
from mailauth_io.stores import (
    AccountsFile,
    Changes,
    Hashing,
    LoginSource,
    MemoryAccounts,
    from_password,
    write_credential,
)
from tests.io import file_calls
from tests.io.server_support import Clock, Run, on_both_loops

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NOW = 1_700_000_000.0


@attrs.define
class ServerState:
    """An accounts file, a clock, and the accounts that are loaded from the file."""

    path: Path
    clock: Clock
    accounts: Authenticator
    names: Callable[[], tuple[str, ...]]

    def write(self, text: str) -> None:
        """Write the file.  Its mtime is the time of the clock."""
        self.path.write_text(text)
        os.utime(self.path, (self.clock.now, self.clock.now))

    async def later(self, seconds: float) -> Changes | None:
        self.clock.now += seconds
        changes = await self.accounts.refresh()
        warnings = self.accounts.update()
        return None if changes is None else attrs.evolve(changes, warnings=(*changes.warnings, *warnings))


@pytest.fixture
def server_state(tmp_path: Path) -> ServerState:
    path = tmp_path / "users"
    path.touch(mode=0o600)
    path.write_text("alice:{PLAIN}one\nbob:{PLAIN}two\n")
    clock = Clock(NOW)
    accounts = MemoryAccounts([from_password("root", b"zero")], file=AccountsFile(path, clock=clock))
    return ServerState(path, clock, Authenticator(accounts), lambda: accounts.names)


@on_both_loops
def test_reload_at_once_is_not_lost_while_a_check_is_in_progress(run: Run, tmp_path: Path) -> None:
    """SIGHUP arrives while a login checks the file, which was replaced just now: the login leaves that to the next."""
    path, clock = tmp_path / "users", Clock(NOW)
    path.touch(mode=0o600)
    path.write_text("alice:{PLAIN}one\n")
    begun, may_go_on = threading.Event(), threading.Event()
    waiting = [False]

    def stat(path: Path) -> os.stat_result:
        if waiting.pop():
            begun.set()
            may_go_on.wait(60)
        waiting.append(False)
        return os.stat(path)

    async def main() -> None:
        accounts = MemoryAccounts(file=AccountsFile(path, clock=clock, stat=stat))
        changes: list[Changes | None] = []
        clock.now += 5
        waiting[:] = [True]

        async def refresh(*, at_once: bool) -> None:
            changes.append(await accounts.refresh(at_once=at_once))

        async with anyio.create_task_group() as group:
            group.start_soon(partial(refresh, at_once=False))
            await anyio.to_thread.run_sync(begun.wait, 60)
            path.write_text("alice:{PLAIN}two\n")
            os.utime(path, (clock.now, clock.now))
            group.start_soon(partial(refresh, at_once=True))
            await anyio.wait_all_tasks_blocked()
            may_go_on.set()
        assert changes[0] is None
        assert changes[1] is not None
        assert changes[1].revoked == {"alice"}

    run(main)


@on_both_loops
def test_file_change_is_applied_within_two_seconds(run: Run, server_state: ServerState) -> None:
    """A changed password, a new account and a removed one.  Grants of the first and the last are revoked."""

    async def main() -> None:
        assert await server_state.later(1) is None
        server_state.write("alice:{PLAIN}new\ncarol:{PLAIN}three\n")
        assert await server_state.later(0.5) is None
        assert await server_state.accounts.check_password("alice", b"one")
        changes = await server_state.later(1)
        assert changes is not None
        assert changes.revoked == {"alice", "bob"}
        assert changes.notices == (f"reloaded {server_state.path}: 3 accounts",)
        assert changes.warnings == ()
        assert server_state.names() == ("root", "alice", "carol")
        assert await server_state.accounts.check_password("alice", b"new")
        assert not await server_state.accounts.check_password("alice", b"one")
        assert not await server_state.accounts.exists("bob")
        assert await server_state.accounts.check_password("root", b"zero")
        assert await server_state.later(5) is None

    run(main)


@on_both_loops
def test_mechanisms_no_longer_available_are_reported(run: Run, server_state: ServerState) -> None:
    """One account with a hash disables SCRAM and CRAM-MD5 for all accounts, so a warning is logged."""

    async def main() -> None:
        server_state.clock.now += 1
        server_state.write(f"alice:{write_credential('SCRAM-SHA-256', b'new')}\nbob:{{PLAIN}}two\n")
        changes = await server_state.later(2)
        assert changes is not None
        assert any("CRAM-MD5, APOP and SCRAM-SHA-1 are not available" in warning for warning in changes.warnings)
        assert not any("SCRAM-SHA-256 is not available" in warning for warning in changes.warnings)
        server_state.write(f"alice:{write_credential('SHA512-CRYPT', b'new')}\nbob:{{PLAIN}}two\n")
        changes = await server_state.later(2)
        assert changes is not None
        assert any("SCRAM-SHA-256 is not available" in warning for warning in changes.warnings)
        assert not any("CRAM-MD5" in warning for warning in changes.warnings)

    run(main)


@on_both_loops
def test_file_being_written_is_not_read_yet(run: Run, server_state: ServerState) -> None:
    """An editor that truncates the file before writing must not remove all accounts for a moment."""

    async def main() -> None:
        server_state.clock.now += 5
        server_state.write("")
        assert await server_state.accounts.refresh() is None
        server_state.clock.now += 0.5
        server_state.write("alice:{PLAIN}one\nbob:{PLAIN}two\n")
        changes = await server_state.later(1)
        assert changes is not None
        assert changes.revoked == frozenset()
        assert await server_state.accounts.exists("bob")

    run(main)


@on_both_loops
def test_a_file_that_changes_while_it_is_read_is_read_again(
    run: Run, server_state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        server_state.write("alice:{PLAIN}half\n")
        server_state.clock.now += 5

        def change(path: Path) -> None:
            os.utime(server_state.path, (NOW + 1, NOW + 1))

        with monkeypatch.context() as patch:
            file_calls.after(patch, "open", change)
            assert await server_state.accounts.refresh() is None
        assert await server_state.accounts.check_password("alice", b"one")
        assert await server_state.later(1) is not None
        assert await server_state.accounts.check_password("alice", b"half")

    run(main)


@on_both_loops
def test_file_is_checked_once_a_second(run: Run, tmp_path: Path) -> None:
    """The number of logins does not matter."""
    path = tmp_path / "users"
    path.touch(mode=0o600)
    checks: list[Path] = []

    def stat(path: Path) -> os.stat_result:
        checks.append(path)
        return os.stat(path)

    clock = Clock(NOW)
    accounts = MemoryAccounts(file=AccountsFile(path, clock=clock, stat=stat))

    async def main() -> None:
        checks.clear()
        for _ in range(40):
            clock.now += 0.25
            assert await accounts.refresh() is None
        assert len(checks) == 10

    run(main)


@on_both_loops
def test_invalid_line_is_reported_and_does_not_affect_other_accounts(run: Run, server_state: ServerState) -> None:
    """The account of an invalid line keeps its mailbox, if its name is valid, and cannot log in."""

    async def main() -> None:
        server_state.write("alice:{MD4}hunter2\nbob:{PLAIN}two\nhunter2\nBOB:{PLAIN}hunter2\n.x:{PLAIN}hunter2\n")
        changes = await server_state.later(5)
        assert changes is not None
        assert changes.revoked == {"alice"}
        named = [line for line in changes.warnings if "line " in line]
        assert [line.partition("line ")[2][0] for line in named] == ["1", "3", "2", "5"]
        assert "hunter2" not in str(changes)
        assert await server_state.accounts.exists("alice")
        assert not await server_state.accounts.check_password("alice", b"hunter2")
        assert not await server_state.accounts.check_password("alice", b"one")
        assert await server_state.accounts.secret("alice") is None
        assert await server_state.accounts.check_password("bob", b"two")
        assert server_state.names() == ("root", "alice", "bob")

    run(main)


@on_both_loops
@pytest.mark.parametrize("how", ["gone", "open to others", "a pipe"])
def test_unreadable_file_is_reported_once_and_changes_nothing(run: Run, server_state: ServerState, how: str) -> None:
    async def main() -> None:
        if how == "open to others":
            server_state.path.chmod(0o644)
        else:
            server_state.path.unlink()
        if how == "a pipe":  # without a writer: reading it would block
            os.mkfifo(server_state.path, 0o600)
        changes = await server_state.later(5)
        assert changes is not None
        assert changes.revoked == frozenset()
        (warning,) = changes.warnings
        assert str(server_state.path) in warning
        assert warning.endswith("; the accounts are unchanged")
        assert await server_state.later(5) is None
        assert await server_state.accounts.check_password("alice", b"one")
        server_state.path.unlink(missing_ok=True)
        server_state.path.touch(mode=0o600)
        server_state.write("alice:{PLAIN}new\n")
        assert await server_state.later(5) is not None
        assert await server_state.accounts.check_password("alice", b"new")

    run(main)


@on_both_loops
@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("", 0),
        ("# no accounts\n\n", 0),
        ("alice\nbob\n", 2),
        ("alice:{PLA", 1),
        ("../alice:{PLAIN}one\n", 1),
        ("a\0l\0i\0c\0e\0:\0{\0P\0L\0A\0I\0N\0}\0", 1),
    ],
    ids=["empty", "comments", "no colons", "half a line", "an invalid name", "UTF-16"],
)
def test_a_file_without_a_valid_account_changes_nothing(
    run: Run, server_state: ServerState, text: str, errors: int
) -> None:
    """A program that writes the file has failed, for example.  The log says so once."""

    async def main() -> None:
        server_state.write(text)
        changes = await server_state.later(5)
        assert changes is not None
        assert (changes.revoked, changes.notices) == (frozenset(), ())
        assert changes.warnings[0] == f"{server_state.path} has no valid account; the accounts are unchanged"
        assert len(changes.warnings) == 1 + errors
        assert await server_state.later(5) is None
        assert server_state.names() == ("root", "alice", "bob")
        assert await server_state.accounts.check_password("alice", b"one")
        server_state.write(f"{text}\nbob:{{PLAIN}}two\n")
        changes = await server_state.later(5)
        assert changes is not None
        assert "alice" in changes.revoked
        assert await server_state.accounts.check_password("bob", b"two")

    run(main)


@on_both_loops
def test_a_change_that_could_not_be_read_is_read_later(
    run: Run, server_state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason may not be in the file, so that it does not change again."""

    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        server_state.write("alice:{PLAIN}new\n")
        with monkeypatch.context() as patched:
            file_calls.before(patched, "open", fail)
            changes = await server_state.later(5)
            assert changes is not None
            assert changes.warnings == (
                f"{server_state.path} cannot be read: Too many open files; the accounts are unchanged",
            )
            assert await server_state.later(5) is None
        changes = await server_state.later(5)
        assert changes is not None
        assert changes.revoked == {"alice", "bob"}
        assert await server_state.accounts.check_password("alice", b"new")
        assert await server_state.later(5) is None

    run(main)


@on_both_loops
def test_mixed_schemes_after_a_reload_are_reported(run: Run, server_state: ServerState) -> None:
    async def main() -> None:
        server_state.write(
            "alice:{PLAIN}one\nbob:{BLF-CRYPT}$2y$05$wQy/3Oy/wVrzX/bYBv.m8.KNe8n9cH7lPzt.EqwsaAUEDrvC5O3Ei\n"
        )
        changes = await server_state.later(5)
        assert changes is not None
        assert "{PLAIN}; {BLF-CRYPT} with rounds=5" in changes.warnings[-1]

    run(main)


@on_both_loops
def test_unchanged_password_keeps_its_derived_scram_keys(run: Run, server_state: ServerState) -> None:
    """Their salts must not change: a client may have stored them."""

    async def main() -> None:
        before = await server_state.accounts.scram_keys("alice", "sha256")
        unknown = await server_state.accounts.scram_keys("nobody", "sha256")
        server_state.write("alice:{PLAIN}one\n")
        assert await server_state.later(5) is not None
        assert await server_state.accounts.scram_keys("alice", "sha256") == before
        assert await server_state.accounts.scram_keys("nobody", "sha256") == unknown

    run(main)


@on_both_loops
@pytest.mark.parametrize("text", ["bob:{PLAIN}two\n", "alice:{PLAIN}new\n"], ids=["removed", "another password"])
def test_password_changed_during_hashing_is_rejected(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.touch(mode=0o600)
    path.write_text(f"alice:{write_credential('SCRAM-SHA-256', b'one')}\n")
    clock = Clock(NOW)

    class Meanwhile(Hashing):
        """The file is changed while the hash is computed."""

        async def run(self, source: LoginSource, function: Callable[[*Ts], T], *args: *Ts) -> T:
            result = await super().run(source, function, *args)
            if change:
                server_state.write(change)
                await server_state.later(5)
            return result

    accounts = MemoryAccounts(file=AccountsFile(path, clock=clock))
    server_state = ServerState(path, clock, Authenticator(accounts, hashing=Meanwhile()), lambda: accounts.names)
    change = ""

    async def main() -> None:
        nonlocal change
        assert await server_state.accounts.check_password("alice", b"one")
        change = text
        assert not await server_state.accounts.check_password("alice", b"one")

    run(main)
