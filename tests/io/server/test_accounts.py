"""The server and its accounts: mechanisms offered, effects of a changed file, and logins that wait for hashing."""

from __future__ import annotations

import os
import poplib
import smtplib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import attrs
import pytest

from mailauth import pop3
from mailauth.grants import Grant
from mailauth_io import server, stores
from mailauth_io.server.state import ServerState
from mailauth_io.stores import Account, AccountsFile, Hashing, LoginSource, MemoryAccounts, write_credential
from mailauth_io.stores.credentials import read_credential
from tests.io.server_support import PASSWORD, Clock, Run, Served, authenticate, meet, on_both_loops

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NOW = 1_700_000_000.0


def behind(accounts: stores.Accounts, grants: stores.Grants | None = None) -> server.Stores:
    return server.Stores(
        accounts=accounts, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), grants=grants
    )


def hashed(name: str, scheme: str = "BLF-CRYPT") -> Account:
    return Account(name=name, credential=read_credential(write_credential(scheme, PASSWORD.encode()).encode()))


def mechanisms(served: Served, port: str = "starttls") -> set[str]:
    with served.smtp(port) as smtp:
        return set(smtp.esmtp_features.get("auth", "").split())


def capabilities(served: Served, port: str = "stls") -> dict[str, list[str]]:
    pop3 = served.pop3(port)
    found = pop3.capa()
    pop3.quit()
    return found


@on_both_loops
def test_hashed_passwords_offer_only_mechanisms_that_send_the_password(run: Run) -> None:
    """No mechanism that needs the stored password is offered or accepted."""

    def client(served: Served) -> None:
        assert mechanisms(served) == {"PLAIN", "LOGIN"}
        assert capabilities(served)["SASL"] == ["PLAIN", "LOGIN"]
        assert "USER" in capabilities(served)
        greeting = served.pop3("pop3s")
        assert b"<" not in greeting.getwelcome()
        greeting.close()
        with served.smtp("smtps") as smtp:
            assert authenticate(smtp, "PLAIN", "alice@example.test") == 235
        with served.smtp("smtps") as smtp, pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            authenticate(smtp, "CRAM-MD5")
        assert caught.value.smtp_code == 504
        served.log_in().quit()
        with pytest.raises(poplib.error_proto, match=r"\[AUTH\]"):
            served.log_in(password="wrong")

    meet(run, client, kept=behind(MemoryAccounts([hashed("alice"), hashed("bob")])))


@on_both_loops
def test_plain_passwords_offer_cram_md5_and_apop(run: Run) -> None:
    def client(served: Served) -> None:
        assert {"PLAIN", "LOGIN", "CRAM-MD5"} <= mechanisms(served)
        greeting = served.pop3("pop3s")
        assert b"<" in greeting.getwelcome()
        greeting.close()

    meet(run, client)


@on_both_loops
def test_busy_hashing_is_a_temporary_login_failure(run: Run) -> None:
    """RFC 4954 section 6: 454; RFC 3206: [SYS/TEMP].  The password was not checked."""

    class Busy(Hashing):
        async def run(self, source: LoginSource, function: Callable[[*Ts], T], *args: *Ts) -> T:
            raise stores.HashingBusy

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp, pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            authenticate(smtp, "PLAIN")
        assert caught.value.smtp_code == 454
        with pytest.raises(poplib.error_proto, match=r"\[SYS/TEMP\]"):
            served.log_in()

    meet(run, client, kept=attrs.evolve(behind(MemoryAccounts([hashed("alice"), hashed("bob")])), hashing=Busy()))


class Fragile(stores.MemoryGrants):
    """Grants whose revocation can fail."""

    broken: bool = False

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        if self.broken:
            raise OSError(5, "Input/output error")
        return await super().revoke_identity(identity, older_than)


@attrs.define
class File:
    path: Path
    clock: Clock = attrs.field(factory=lambda: Clock(NOW))

    def write(self, text: str) -> None:
        """Write the file and advance the clock, so that the file counts as complete."""
        self.path.touch(mode=0o600)
        self.path.write_text(text)
        os.utime(self.path, (self.clock.now, self.clock.now))
        self.clock.now += 5


class After(MemoryAccounts):
    """Accounts that call *then* after each lookup of alice."""

    then: Callable[[bytes], bytes] = bytes

    async def find(self, name: str) -> stores.Account | None:
        account = await super().find(name)
        if account is not None and name == "alice":
            self.then(b"")
        return account


WRITTEN = f"alice:{{PLAIN}}{PASSWORD}\nbob:{{PLAIN}}other\n"


@on_both_loops
@pytest.mark.parametrize(
    ("text", "open_after"),
    [
        (WRITTEN + "carol:{PLAIN}third\n", True),
        ("bob:{PLAIN}other\n", False),
        (WRITTEN.replace(PASSWORD, "another"), False),
        (WRITTEN.replace("{PLAIN}" + PASSWORD, PASSWORD), False),
    ],
    ids=["others changed", "removed", "another password", "broken line"],
)
def test_file_change_revokes_grants_of_changed_accounts_only(
    run: Run, tmp_path: Path, text: str, open_after: bool
) -> None:
    """A grant does not outlive the password with which it was made."""
    file = File(tmp_path / "users")
    file.write(WRITTEN)

    def client(served: Served) -> None:
        served.log_in().quit()
        assert served.may_relay()
        file.write(text)
        assert served.may_relay() is open_after

    meet(run, client, kept=behind(MemoryAccounts(file=AccountsFile(file.path, clock=file.clock))))


@on_both_loops
@pytest.mark.parametrize(
    "text", ["bob:{PLAIN}other\n", WRITTEN.replace(PASSWORD, "another")], ids=["removed", "another password"]
)
def test_account_change_closes_only_sessions_of_that_account(run: Run, tmp_path: Path, text: str) -> None:
    """RFC 5321 section 3.8: 421.  RFC 1939 section 6: only QUIT deletes messages."""
    file = File(tmp_path / "users")
    file.write(WRITTEN)
    maildrops = stores.MemoryMaildrops()
    kept = server.Stores(
        accounts=MemoryAccounts(file=AccountsFile(file.path, clock=file.clock)),
        maildrops=maildrops,
        outbox=stores.MemoryOutbox(),
    )

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.sendmail("sender@far.test", ["alice@example.test", "bob@example.test"], "x")
        hers, his = served.log_in(), served.log_in(name="bob", password="other")
        hers.dele(1)
        his.dele(1)
        with served.smtp("smtps") as smtp, served.smtp("smtps") as other:
            authenticate(smtp, "PLAIN")
            other.user, other.password = "bob", "other"
            other.auth("PLAIN", other.auth_plain)
            file.write(text)
            assert other.noop()[0] == 250
            served.may_relay()  # the accounts are refreshed at the next lookup
            assert smtp.getreply()[0] == 421
            with pytest.raises((poplib.error_proto, OSError)):
                hers.quit()
            assert other.noop()[0] == 250
            his.quit()
        hers.close()

    async def left() -> list[int]:
        opened = [await maildrops.open(name) for name in ("alice", "bob")]
        return [len(maildrop.messages) for maildrop in opened if not isinstance(maildrop, pop3.Unavailable)]

    meet(run, client, kept=kept)
    assert run(left) == [1, 0]


class WithoutCredentials(MemoryAccounts):
    """Accounts that sometimes cannot return their passwords."""

    broken: bool = False

    def credentials(self) -> tuple[stores.Credential, ...]:
        if self.broken:
            raise OSError(5, "Input/output error")
        return super().credentials()


@on_both_loops
def test_a_change_is_carried_out_if_the_passwords_cannot_be_read(run: Run, tmp_path: Path) -> None:
    """The store returns a change only once.  Until the passwords can be read, logins fail temporarily."""
    file = File(tmp_path / "users")
    file.write(WRITTEN)
    accounts = WithoutCredentials(file=AccountsFile(file.path, clock=file.clock))

    def client(served: Served) -> None:
        served.log_in().quit()
        assert served.may_relay()
        with served.smtp("smtps") as smtp, served.smtp("smtps") as other:
            authenticate(smtp, "PLAIN")
            accounts.broken = True
            file.write(f"alice:{write_credential('SHA512-CRYPT', b'another')}\nbob:{{PLAIN}}other\n")
            for _ in range(2):
                with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                    authenticate(other, "PLAIN")
                assert caught.value.smtp_code == 454
            assert smtp.getreply()[0] == 421
        accounts.broken = False
        assert not served.may_relay()
        assert mechanisms(served) == {"PLAIN", "LOGIN"}
        served.log_in(password="another").quit()
        assert served.may_relay()

    meet(run, client, kept=behind(accounts))


@on_both_loops
def test_a_reload_is_logged_as_information_and_a_problem_as_a_warning(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mailauth_io.server")
    file = File(tmp_path / "users")
    file.write(WRITTEN)
    kept = behind(MemoryAccounts(file=AccountsFile(file.path, clock=file.clock)))

    async def main() -> None:
        async with server.serve(server.Config(smtp=0, mechanisms=()), kept) as ports:
            file.write("bob:{PLAIN}other\ncarol\n")
            await ports.reload()

    run(main)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f'accounts warning="reloaded {file.path}: 1 account"'),
        ("WARNING", f'accounts warning="line 2 of {file.path} has no colon; write name:{{SCHEME}}password"'),
    ]


@on_both_loops
def test_reload_applies_a_change_that_was_just_written(run: Run, tmp_path: Path) -> None:
    file = File(tmp_path / "users")
    file.write(WRITTEN)
    kept = behind(MemoryAccounts(file=AccountsFile(file.path, clock=file.clock)))

    async def main() -> None:
        async with server.serve(server.Config(smtp=0), kept) as ports:
            file.path.write_text("bob:{PLAIN}other\ndave:{PLAIN}fourth\n")
            os.utime(file.path, (file.clock.now, file.clock.now))
            await kept.accounts.refresh()
            assert await kept.accounts.find("alice")
            await ports.reload()
            assert await kept.accounts.find("dave")
            assert not await kept.accounts.find("alice")

    run(main)


@on_both_loops
def test_failed_reload_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryAccounts):
        async def refresh(self, *, at_once: bool = False) -> stores.Changes | None:
            raise OSError(5, "Input/output error")

    async def main() -> None:
        async with server.serve(server.Config(smtp=0), behind(Broken({"alice": b"x"}))) as ports:
            await ports.reload()

    run(main)
    assert 'store failed connection=reload part=accounts reason="OSError: [Errno 5] Input/output error"' in caplog.text


@on_both_loops
def test_login_begun_before_password_change_makes_no_grant_and_is_closed(run: Run, tmp_path: Path) -> None:
    """The APOP digest was computed with a password that was changed before it arrived."""
    file = File(tmp_path / "users")
    file.write(WRITTEN)

    def change(secret: bytes) -> bytes:
        file.write(WRITTEN.replace(PASSWORD, "another"))
        return secret

    accounts = After(file=AccountsFile(file.path, clock=file.clock))
    accounts.then = change

    def log_in_and_go_on(reader: poplib.POP3) -> None:
        reader.apop("alice", PASSWORD)
        reader.noop()

    def client(served: Served) -> None:
        reader = served.pop3("pop3s")
        with pytest.raises((poplib.error_proto, OSError)):
            log_in_and_go_on(reader)
        reader.close()
        assert not served.may_relay()
        accounts.then = bytes
        served.log_in(password="another").quit()
        assert served.may_relay()

    meet(run, client, kept=behind(accounts))


class SlowGrants(stores.MemoryGrants):
    """Calls *meanwhile* before it stores a grant, and raises *error* afterwards, if there is one."""

    meanwhile: Callable[[], Awaitable[object]]
    error: Exception | None = None

    async def grant(self, address: str, identity: str) -> int:
        await self.meanwhile()
        identities = await super().grant(address, identity)
        if self.error is not None:
            raise self.error
        return identities


@on_both_loops
@pytest.mark.parametrize("error", [None, TimeoutError("no answer in time")], ids=["stored", "late"])
@pytest.mark.parametrize("change", [("alice:", "alison:"), (PASSWORD, "another")], ids=["removed", "new password"])
def test_account_that_changes_while_its_grant_is_stored_has_none(
    run: Run, tmp_path: Path, change: tuple[str, str], error: Exception | None
) -> None:
    """Another session has noticed the change, and revoked the grants, before this one was stored."""
    file, grants = File(tmp_path / "users"), SlowGrants()
    file.write(WRITTEN)
    grants.error = error
    accounts = MemoryAccounts(file=AccountsFile(file.path, clock=file.clock))
    state = ServerState.of(server.Config(), behind(accounts, grants), Clock())

    async def meanwhile() -> None:
        file.write(WRITTEN.replace(*change))
        assert await state.find_grant("other", "192.0.2.1") is None

    async def main() -> None:
        grants.meanwhile = meanwhile
        await state.grant("s", "192.0.2.1", "alice", state.next_sequence())
        assert await grants.find("192.0.2.1") is None
        assert await state.find_grant("s", "192.0.2.1") is None

    run(main)


@on_both_loops
def test_failed_grant_revocation_gives_451_and_is_retried(run: Run, tmp_path: Path) -> None:
    """If the grant store fails, the reply is 451; the grant is revoked when the store works again."""
    file, grants = File(tmp_path / "users"), Fragile()
    file.write(WRITTEN)

    def client(served: Served) -> None:
        served.log_in().quit()
        assert served.may_relay()
        grants.broken = True
        file.write("bob:{PLAIN}other\n")
        with served.smtp() as smtp:
            smtp.mail("someone@far.test")
            assert smtp.rcpt("bob@far.test")[0] == 451
        grants.broken = False
        assert not served.may_relay()

    meet(run, client, kept=behind(MemoryAccounts(file=AccountsFile(file.path, clock=file.clock)), grants))


@on_both_loops
def test_late_refresh_keeps_grant_made_with_the_new_password(run: Run, tmp_path: Path) -> None:
    """Two processes share the grants.  Each refreshes its accounts only when it needs them."""
    path, clock = tmp_path / "users", Clock(time.time())
    path.touch(mode=0o600)
    path.write_text(WRITTEN)
    grants = stores.MemoryGrants(clock=clock)
    one, other = (
        ServerState.of(
            server.Config(),
            behind(MemoryAccounts(file=AccountsFile(path, clock=clock, monotonic=clock)), grants),
            clock,
        )
        for _ in range(2)
    )

    async def main() -> None:
        await one.grant("s", "192.0.2.1", "alice", one.next_sequence())
        path.write_text(WRITTEN.replace(PASSWORD, "another"))
        clock.now += 60
        assert await other.find_grant("s", "192.0.2.1") is None
        await other.grant("s", "192.0.2.1", "alice", other.next_sequence())
        clock.now += 60
        assert isinstance(await one.find_grant("s", "192.0.2.1"), Grant)

    run(main)


@on_both_loops
@pytest.mark.parametrize("step", [3600.0, -3600.0, 315_576_000.0])
def test_grant_of_a_removed_account_is_revoked_if_the_wall_clock_was_set(run: Run, tmp_path: Path, step: float) -> None:
    """The age of the file by the wall clock would be wrong by an hour: the grant would seem to be later."""
    path, wall, boot = tmp_path / "users", Clock(time.time()), Clock()
    path.touch(mode=0o600)
    path.write_text(WRITTEN)
    state = ServerState.of(
        server.Config(),
        behind(MemoryAccounts(file=AccountsFile(path, clock=wall, monotonic=boot)), stores.MemoryGrants(clock=boot)),
        boot,
    )

    async def main() -> None:
        await state.grant("s", "192.0.2.1", "alice", state.next_sequence())
        path.write_text(WRITTEN.replace("alice:", "alison:"))
        boot.now += 60
        wall.now += 60 + step
        assert await state.find_grant("s", "192.0.2.1") is None

    run(main)


@on_both_loops
def test_rcpt_accepts_new_account_and_invalid_line_is_logged(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = File(tmp_path / "users")
    file.write(WRITTEN)

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("someone@far.test")
            assert smtp.rcpt("carol@example.test")[0] == 550
            file.write(WRITTEN + "carol:{PLAIN}third\ndave:hunter2\n")
            assert smtp.rcpt("carol@example.test")[0] == 250
            assert smtp.rcpt("dave@example.test")[0] == 250

    meet(run, client, kept=behind(MemoryAccounts(file=AccountsFile(file.path, clock=file.clock))))
    assert f"line 4 of {file.path} has no password scheme" in caplog.text
    assert "hunter2" not in caplog.text


@on_both_loops
def test_offered_mechanisms_change_with_the_accounts_file(run: Run, tmp_path: Path) -> None:
    """A change applies to new connections."""
    file = File(tmp_path / "users")
    file.write(WRITTEN)

    def client(served: Served) -> None:
        assert "CRAM-MD5" in mechanisms(served)
        file.write(WRITTEN + f"carol:{write_credential('BLF-CRYPT', b'third')}\n")
        assert not served.may_relay()  # a lookup, which refreshes the accounts
        assert "CRAM-MD5" not in mechanisms(served)

    meet(run, client, kept=behind(MemoryAccounts(file=AccountsFile(file.path, clock=file.clock))))


@on_both_loops
def test_authorization_identity_is_compared_as_canonical_mailbox_name(run: Run) -> None:
    """RFC 4422 section 3.4.1: acting as another user is rejected; alice@example.test is alice."""

    def client(served: Served) -> None:
        for acting_as, code in (("alice@EXAMPLE.test", 235), ("bob", 535), ("alice@far.test", 535)):
            with served.smtp("smtps") as smtp:

                def plain(challenge: bytes | None = None, acting_as: str = acting_as) -> str:
                    return f"{acting_as}\0alice\0{PASSWORD}"

                if code == 235:
                    assert smtp.auth("PLAIN", plain)[0] == 235
                else:
                    with pytest.raises(smtplib.SMTPAuthenticationError):
                        smtp.auth("PLAIN", plain)

    meet(run, client)
