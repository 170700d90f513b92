"""The server and the grant store: excluded networks, a warning about shared addresses, and a store that fails."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import poplib
import smtplib
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mailauth.grants import LIFETIME, UNAVAILABLE, Grant, Lookup
from mailauth_io import server, stores
from mailauth_io.logs import Event
from mailauth_io.server import _grant_service
from mailauth_io.server._grant_service import MANY_IDENTITIES, GrantService
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests.io import loops
from tests.io.grant_stores import on_both_loops as on_each_loop
from tests.io.server_support import PASSWORD, Clock, Run, Served, accounts, meet, on_both_loops


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    found = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    return [dict(event.fields) for event in found if event.name == name]


@on_both_loops
def test_login_from_excluded_network_makes_no_grant(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Many clients may share the address of a proxy.  Mail can be read, and the missing grant is logged."""
    caplog.set_level(logging.INFO)

    def client(served: Served) -> None:
        served.log_in().quit()
        assert not served.may_relay()

    meet(run, client, no_grants_from=(ipaddress.ip_network("127.0.0.0/8"),))
    (fields,) = events(caplog, "grant not made")
    assert (fields["peer"], fields["identity"]) == ("127.0.0.1", "alice")


@on_both_loops
def test_login_outside_excluded_networks_makes_a_grant(run: Run) -> None:
    def client(served: Served) -> None:
        served.log_in().quit()
        assert served.may_relay()

    meet(run, client, no_grants_from=(ipaddress.ip_network("127.0.0.2"), ipaddress.ip_network("::/0")))


@on_each_loop
async def test_grant_of_another_server_in_excluded_network_is_ignored(loop: loops.Loop) -> None:
    """In every spelling of the address."""
    shared = stores.MemoryGrants()
    grant_service = GrantService(shared, (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("fe80::/64")))
    for address in ("192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0"):
        await shared.grant(address, "alice")
        assert await grant_service.find(address) is None
        assert isinstance(await shared.find(address), Grant)
    await grant_service.grant("s", "198.51.100.1", "alice")
    assert isinstance(await grant_service.find("198.51.100.1"), Grant)


@on_both_loops
def test_grant_of_a_dual_stack_client_is_for_one_of_its_addresses(run: Run) -> None:
    """POP3 over ``::1`` and SMTP over ``127.0.0.1``: 550, and each remedy of docs/grants.md, "Dual stack"."""

    async def add(grants: stores.Grants) -> None:
        await grants.grant("127.0.0.1", "alice")

    def client(served: Served) -> None:
        assert served.ports.pop3 is not None
        assert served.ports.smtp is not None
        reader = poplib.POP3("::1", served.ports.pop3, timeout=30)
        reader.user("alice")
        reader.pass_(PASSWORD)
        reader.quit()
        assert not served.may_relay()
        with smtplib.SMTP("::1", served.ports.smtp, "client.test", timeout=30) as same_family:
            same_family.ehlo()
            same_family.mail("someone@far.test")
            assert same_family.rcpt("bob@far.test")[0] == 250
        with served.smtp() as other_family:
            other_family.login("alice", PASSWORD)
            other_family.mail("someone@far.test")
            assert other_family.rcpt("bob@far.test")[0] == 250
        assert not served.may_relay()
        grants = served.stores.grants
        assert grants is not None
        asyncio.run(add(grants))  # as "mailauth grants add 127.0.0.1 alice" does
        assert served.may_relay()

    kept = server.Stores(
        accounts=accounts(),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
        grants=stores.MemoryGrants(),
    )
    meet(run, client, kept=kept, hosts=("127.0.0.1", "::1"), legacy=True)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock counts the time of a suspended system")
@pytest.mark.parametrize("grants", [None, stores.MemoryGrants()], ids=["default", "own"])
@on_both_loops
def test_grant_expires_while_the_system_is_suspended(
    run: Run, monkeypatch: pytest.MonkeyPatch, grants: stores.Grants | None
) -> None:
    """The address may have another user when the computer wakes up.  ``time.monotonic()`` has not advanced."""
    slept = [0.0]
    read = time.clock_gettime
    monkeypatch.setattr(
        time, "clock_gettime", lambda number: read(number) + (slept[0] if number == time.CLOCK_BOOTTIME else 0)
    )

    def client(served: Served) -> None:
        served.log_in("pop3").quit()
        slept[0] += 0.9 * LIFETIME
        assert served.may_relay()
        slept[0] += 0.2 * LIFETIME
        assert not served.may_relay()
        served.log_in("pop3").quit()
        assert served.may_relay()

    async def main() -> None:
        outbox = stores.MemoryOutbox()
        kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox, grants=grants)
        config = server.Config(smtp=0, pop3=0, domains=("example.test",), legacy=True)
        async with server.serve(config, kept) as ports:
            await loops.current().in_thread(client, Served(ports=ports, stores=kept, outbox=outbox, clock=Clock()))

    run(main)


@on_each_loop
async def test_peer_without_an_ip_address_gets_no_grant(loop: loops.Loop, caplog: pytest.LogCaptureFixture) -> None:
    """An adapter of the application may serve a Unix socket.  The store has not failed: the reply is 550, not 451."""
    caplog.set_level(logging.INFO)
    grant_service = GrantService(stores.MemoryGrants(), ())
    for address in ("", "/run/mail.sock"):
        await grant_service.grant("s", address, "alice")
        assert await grant_service.find(address) is None
    assert [fields["peer"] for fields in events(caplog, "grant not made")] == ["", "/run/mail.sock"]


@on_each_loop
async def test_many_identities_are_logged_once_for_all_spellings_of_an_address(
    loop: loops.Loop, caplog: pytest.LogCaptureFixture
) -> None:
    grant_service = GrantService(stores.MemoryGrants(), ())
    for address in ("192.0.2.1", "::ffff:192.0.2.1"):
        for number in range(MANY_IDENTITIES + 1):
            await grant_service.grant("s", address, f"user{number}")
    assert len(events(caplog, "many identities at one address")) == 1


@on_each_loop
async def test_many_identities_at_one_address_are_logged_once(
    loop: loops.Loop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning is for more than eight identities.  The number of remembered addresses is limited."""
    monkeypatch.setattr(_grant_service, "REMEMBERED", 2)
    grant_service = GrantService(stores.MemoryGrants(), ())
    for number in range(MANY_IDENTITIES):
        await grant_service.grant("s", "192.0.2.1", f"user{number}")
    assert events(caplog, "many identities at one address") == []
    for number in range(MANY_IDENTITIES, MANY_IDENTITIES + 3):
        await grant_service.grant("s", "192.0.2.1", f"user{number}")
    assert events(caplog, "many identities at one address") == [
        {"connection": "s", "peer": "192.0.2.1", "identities": MANY_IDENTITIES + 1}
    ]
    for last in range(2, 5):
        for number in range(MANY_IDENTITIES + 1):
            await grant_service.grant("s", f"192.0.2.{last}", f"user{number}")
    assert len(events(caplog, "many identities at one address")) == 4
    assert len(grant_service._warned) <= 2


@attrs.define
class Failing:
    """A store that fails to store grants while *failing* is True, but finds those that it has."""

    real: stores.Grants
    failing: bool = True

    @property
    def settings(self) -> stores.GrantSettings:
        return self.real.settings

    async def grant(self, address: str, identity: str) -> int:
        if self.failing:
            raise OSError("disk full")
        return await self.real.grant(address, identity)

    async def find(self, address: str) -> Lookup:
        return await self.real.find(address)

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        return await self.real.revoke_identity(identity, older_than)

    async def revoke_address(self, address: str) -> int:
        return await self.real.revoke_address(address)

    async def active(self) -> list[stores.ActiveGrant]:
        return await self.real.active()

    def close(self) -> None:
        self.real.close()


class FailingAccounts(stores.MemoryAccounts):
    """Accounts that cannot be refreshed after *left* more times."""

    left: int | None = None

    async def refresh(self, *, at_once: bool = False) -> stores.Changes | None:
        if self.left is not None:
            if not self.left:
                raise OSError("no answer")
            self.left -= 1
        return await super().refresh(at_once=at_once)


ONE, OTHER = "2001:db8::1", "2001:db8::2"


@contextlib.contextmanager
def failing_service(clock: Clock) -> Iterator[tuple[Failing, GrantService]]:
    store = Failing(stores.MemoryGrants(clock=clock))
    yield store, GrantService(store, (ipaddress.ip_network("192.0.2.0/24"),), clock=clock)


async def log_in(service: GrantService, address: str, identity: str = "alice") -> None:
    with contextlib.suppress(OSError):
        await service.grant("s", address, identity)


@on_each_loop
async def test_lookup_after_a_login_whose_grant_was_not_stored_is_unavailable(loop: loops.Loop) -> None:
    """For the lifetime of the grant, and only for its address."""
    with failing_service(clock := Clock()) as (_, service):
        await log_in(service, ONE)
        await log_in(service, "192.0.2.1")
        for address in (OTHER, "192.0.2.1", ""):
            assert await service.find(address) is None
        clock.now += LIFETIME - 1
        assert await service.find(ONE) is UNAVAILABLE
        clock.now += 1
        assert await service.find(ONE) is None
        await log_in(service, OTHER)
        assert len(service._not_stored) == 1  # the next one removes those that have expired


@on_each_loop
async def test_next_grant_of_the_address_ends_the_uncertainty(loop: loops.Loop) -> None:
    with failing_service(Clock()) as (store, service):
        await log_in(service, ONE)
        store.failing = False
        assert await service.find(ONE) is UNAVAILABLE
        await log_in(service, ONE, "bob")
        assert isinstance(await service.find(ONE), Grant)
        await store.real.revoke_address(ONE)
        assert await service.find(ONE) is None


@on_each_loop
async def test_older_grant_permits_although_the_next_one_was_not_stored(loop: loops.Loop) -> None:
    with failing_service(Clock()) as (store, service):
        await store.real.grant(ONE, "alice")
        await log_in(service, ONE)
        assert isinstance(await service.find(ONE), Grant)


@on_each_loop
async def test_grant_that_was_not_stored_can_be_revoked(loop: loops.Loop) -> None:
    """After the account was removed, its mail is not deferred, but refused.  Later logins are not affected."""
    with failing_service(clock := Clock()) as (_, service):
        await log_in(service, ONE)
        await log_in(service, OTHER, "bob")
        clock.now += 60
        await log_in(service, "2001:db8::3")
        await service.revoke_identity("alice", 30.0)
        found = [await service.find(address) for address in (ONE, OTHER, "2001:db8::3")]
        assert found == [None, UNAVAILABLE, UNAVAILABLE]


@on_each_loop
async def test_table_of_grants_not_stored_is_bounded(loop: loops.Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_grant_service, "MAX_NOT_STORED", 2)
    with failing_service(Clock()) as (_, service):
        for address in (ONE, OTHER, ONE, "2001:db8::3"):
            await log_in(service, address)
        found = [await service.find(address) for address in (OTHER, ONE, "2001:db8::3")]
        assert found == [None, UNAVAILABLE, UNAVAILABLE]


@on_each_loop
async def test_an_account_does_not_evict_grants_of_others_that_were_not_stored(
    loop: loops.Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mail of the others would bounce."""
    monkeypatch.setattr(_grant_service, "MAX_NOT_STORED", 10)
    with failing_service(Clock()) as (_, service):
        await log_in(service, ONE, "bob")
        for number in range(20):
            await log_in(service, f"198.51.100.{number}")
        await log_in(service, OTHER, "carol")
        assert [await service.find(address) for address in (ONE, OTHER)] == [UNAVAILABLE, UNAVAILABLE]
        assert await service.find("198.51.100.0") is None
        assert len(service._not_stored) == 10


@pytest.mark.parametrize("kind", ["memory", "sqlite", "accounts"])
@on_both_loops
def test_mail_of_a_login_without_its_grant_gets_451_and_not_550(
    run: Run, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A 550 would bounce the mail of a user who has logged in.  The login itself succeeds.

    The accounts are looked up again before the grant is made, which may fail too.
    """
    grants = Failing(SqliteGrants(tmp_path / "grants.db") if kind == "sqlite" else stores.MemoryGrants(), failing=False)
    found = FailingAccounts({"alice": PASSWORD.encode()})

    def reply(served: Served) -> int:
        with served.smtp() as smtp:
            smtp.mail("alice@example.test")
            assert smtp.rcpt("alice@example.test")[0] == 250
            return smtp.rcpt("bob@far.test")[0]

    def client(served: Served) -> None:
        assert reply(served) == 550
        if kind == "accounts":
            found.left = 1  # for the check of the password
        else:
            grants.failing = True
        served.log_in().quit()
        grants.failing, found.left = False, None
        assert reply(served) == 451
        served.log_in().quit()
        assert reply(served) == 250

    kept = server.Stores(
        accounts=found, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), grants=grants
    )
    meet(run, client, kept=kept, postmaster=None)
    grants.close()
    (fields,) = events(caplog, "store failed")
    assert fields["part"] == ("accounts" if kind == "accounts" else "grants")


class StoreTimeout(stores.MemoryGrants):
    """A store that does not respond."""

    async def grant(self, address: str, identity: str) -> int:
        raise TimeoutError

    async def find(self, address: str) -> None:
        raise TimeoutError


@on_both_loops
def test_unresponsive_grant_store_affects_only_relaying_by_grant(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Only mail that needs a grant gets 451 (not 550); a client that has logged in by SMTP needs none."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert smtp.sendmail("anybody@far.test", ["alice@example.test"], "Subject: hello\r\n\r\nbody") == {}
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test") == (451, b"4.7.1 cannot check relay permission, try again later")
        assert len(served.mail_of("alice")) == 1
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            smtp.mail("alice@example.test")
            assert smtp.rcpt("bob@far.test")[0] == 250

    kept = server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), grants=StoreTimeout()
    )
    meet(run, client, kept=kept)
    failures = events(caplog, "store failed")
    assert {(fields["part"], fields["reason"]) for fields in failures} == {("grants", "TimeoutError")}
    assert len(failures) == 2
