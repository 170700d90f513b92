"""The behavior of all grant stores: in memory, SQLite and Redis, on both loops."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailauth import LocalProtocolError
from mailauth.addresses import grant_key
from mailauth.grants import Grant
from mailauth_io import stores
from tests.io import loops
from tests.io.grant_stores import LIFETIME, InRedis, Keeper, Memory, Sqlite, on_both_loops
from tests.io.server_support import run_on_asyncio
from tests.redis_server import PASSWORD, RedisServer, redis_server
from tests.serving import environment

pytestmark = pytest.mark.usefixtures("long_timeouts")

HERE = "192.0.2.1"
REMOTE_ADDRESS = "192.0.2.2"


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeper]:
    kept = make_keeper(request, tmp_path)
    yield kept
    kept.close()


@pytest.fixture(params=["sqlite", "redis"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeper]:
    kept = make_keeper(request, tmp_path)
    yield kept
    kept.close()


def make_keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Keeper:
    if request.param == "memory":
        return Memory()
    if request.param == "sqlite":
        return Sqlite(tmp_path / "grants.db")
    server = request.getfixturevalue("redis")
    assert isinstance(server, RedisServer)
    return InRedis(server)


async def who(grants: stores.Grants, address: str) -> str | None:
    found = await grants.find(address)
    assert found is None or isinstance(found, Grant)
    return None if found is None else found.identity


# Grants (docs/grants.md)


@on_both_loops
async def test_grant_applies_to_its_address_only(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    assert await grants.find(HERE) is None
    await grants.grant(HERE, "alice")
    found = await grants.find(HERE)
    assert isinstance(found, Grant)
    assert (str(found.address), found.identity) == (HERE, "alice")
    for address in (REMOTE_ADDRESS, "127.0.0.1", "::1"):
        assert await grants.find(address) is None


@on_both_loops
async def test_expiry_is_checked_at_lookup(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    await grants.grant(HERE, "alice")
    keeper.move(LIFETIME - 100)
    assert await who(grants, HERE) == "alice"
    keeper.move(100)
    assert await grants.find(HERE) is None


@on_both_loops
async def test_new_login_renews_grant_but_lookup_does_not(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    await grants.grant(HERE, "alice")
    keeper.move(LIFETIME / 2)
    assert await grants.grant(HERE, "alice") == 1
    keeper.move(LIFETIME - 100)
    assert await who(grants, HERE) == "alice"
    assert len(await grants.active()) == 1
    keeper.move(100)
    assert await grants.find(HERE) is None


@on_both_loops
async def test_find_returns_latest_identity_and_keeps_older_grants(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    assert await grants.grant(HERE, "alice") == 1
    keeper.move(10)
    assert await grants.grant(HERE, "bob") == 2
    assert await who(grants, HERE) == "bob"
    keeper.move(10)
    await grants.grant(HERE, "alice")
    assert await who(grants, HERE) == "alice"
    assert await grants.revoke_identity("alice") == 1
    assert await who(grants, HERE) == "bob"


@on_both_loops
@pytest.mark.parametrize("spelling", ["::ffff:192.0.2.1", "::FFFF:c000:201", "0:0:0:0:0:ffff:c000:0201"])
async def test_ipv4_mapped_address_equals_ipv4_address(loop: loops.Loop, keeper: Keeper, spelling: str) -> None:
    """The prefix applies to IPv6 addresses only."""
    grants = keeper.open(ipv6_prefix=64)
    await grants.grant(spelling, "alice")
    assert await who(grants, HERE) == "alice"
    assert await grants.find(REMOTE_ADDRESS) is None
    assert await grants.revoke_address(HERE) == 1
    await grants.grant(HERE, "alice")
    assert await who(grants, spelling) == "alice"


@on_both_loops
async def test_link_local_address_keeps_its_zone(loop: loops.Loop, keeper: Keeper) -> None:
    """The same address on another link is another client; the zone of a global address means nothing."""
    grants = keeper.open()
    await grants.grant("FE80:0::1%2", "alice")
    await grants.grant("2001:db8::1%2", "bob")
    assert [await who(grants, f"fe80::1{zone}") for zone in ("%2", "%3", "")] == ["alice", None, None]
    assert await who(grants, "2001:db8::1%3") == "bob"
    assert [str(each.address) for each in await grants.active()] == ["fe80::1%2", "2001:db8::1"]
    assert await grants.revoke_address("fe80::1%2") == 1


@on_both_loops
async def test_grant_behind_nat64_covers_one_address(loop: loops.Loop, keeper: Keeper) -> None:
    """A prefix of 64 bits does not apply there: the whole IPv4 Internet may be behind it."""
    grants = keeper.open(ipv6_prefix=64, nat64_prefixes=[ipaddress.IPv6Network("2001:db8:64::/96")])
    for network in ("64:ff9b::", "64:ff9b:1:2::", "2001:db8:64::"):
        await grants.grant(f"{network}192.0.2.1", "alice")
        addresses = (f"{network}192.0.2.1", f"{network}192.0.2.2", "192.0.2.1", "::ffff:192.0.2.1")
        assert [await who(grants, address) for address in addresses] == ["alice", None, None, None]
    assert await who(grants, "2001:db8:64::1:0:0") is None  # in the /64, but not behind NAT64


@on_both_loops
async def test_ipv6_prefix_grants_whole_network_only(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open(ipv6_prefix=64)
    await grants.grant("2001:db8::1", "alice")
    assert await who(grants, "2001:db8::ffff:1") == "alice"
    assert await grants.find("2001:db8:0:1::1") is None
    (shown,) = await grants.active()
    assert shown.address == grant_key("2001:db8::")
    assert await grants.revoke_address("2001:db8::2") == 1


@on_both_loops
async def test_invalid_address_and_empty_identity_are_rejected(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    for text in ("", "localhost", "192.0.2.1:25", "[::1]"):
        with pytest.raises(LocalProtocolError):
            await grants.find(text)
        with pytest.raises(LocalProtocolError):
            await grants.grant(text, "alice")
    with pytest.raises(LocalProtocolError):
        await grants.grant(HERE, "")


@on_both_loops
async def test_settings_out_of_range_are_rejected(loop: loops.Loop, keeper: Keeper) -> None:
    for settings in (
        *({"lifetime": -1.0}, {"lifetime": 31_536_001}),
        *(
            {"ipv6_prefix": 0},
            {"nat64_prefixes": [ipaddress.ip_network("::/49")]},
            {"identities_per_address": 0},
            {"addresses_per_identity": 0},
            {"max_grants": 0},
        ),
    ):
        with pytest.raises(ValueError, match=next(iter(settings))):
            keeper.open(**settings)


# Revocation


@on_both_loops
async def test_revoke_identity_keeps_other_identities_at_same_address(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    for address in (HERE, REMOTE_ADDRESS):
        await grants.grant(address, "bob")
        await grants.grant(address, "alice")
    await grants.grant("2001:db8::1", "alice")
    assert await grants.revoke_identity("alice") == 3
    assert await grants.revoke_identity("alice") == 0
    assert await who(grants, HERE) == await who(grants, REMOTE_ADDRESS) == "bob"
    assert await grants.find("2001:db8::1") is None
    await grants.grant(HERE, "alice")
    assert await who(grants, HERE) == "alice"


@on_both_loops
async def test_revoke_address_keeps_grants_at_other_addresses(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    for identity in ("alice", "bob"):
        await grants.grant(HERE, identity)
        await grants.grant(REMOTE_ADDRESS, identity)
    assert await grants.revoke_address(HERE) == 2
    assert await grants.revoke_address(HERE) == 0
    assert await grants.find(HERE) is None
    assert await grants.revoke_identity("bob") == 1
    assert await who(grants, REMOTE_ADDRESS) == "alice"


@on_both_loops
async def test_revocation_with_earlier_time_keeps_later_grants(loop: loops.Loop, keeper: Keeper) -> None:
    """A process that notices a changed password late must not revoke grants made with the new password."""
    grants = keeper.open()
    await grants.grant(HERE, "alice")
    keeper.move(1000)
    await grants.grant(REMOTE_ADDRESS, "alice")
    keeper.move(1000)
    assert await grants.revoke_identity("alice", 1500) == 1
    assert await grants.find(HERE) is None
    assert await who(grants, REMOTE_ADDRESS) == "alice"


@on_both_loops
async def test_expired_grants_are_neither_listed_nor_counted(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open()
    await grants.grant(HERE, "alice")
    keeper.move(LIFETIME / 2)
    await grants.grant(HERE, "bob")
    await grants.grant(REMOTE_ADDRESS, "alice")
    assert [(str(each.address), each.identity) for each in await grants.active()] == [
        (HERE, "alice"),
        (HERE, "bob"),
        (REMOTE_ADDRESS, "alice"),
    ]
    keeper.move(LIFETIME / 2)
    shown = await grants.active()
    assert [(str(each.address), each.identity) for each in shown] == [(HERE, "bob"), (REMOTE_ADDRESS, "alice")]
    assert all(LIFETIME / 2 - 100 < each.remaining <= LIFETIME / 2 for each in shown)
    assert await grants.revoke_identity("alice") == 1
    assert await grants.grant(HERE, "carol") == 2


# Limits


@on_both_loops
async def test_identities_per_address_limit_evicts_oldest(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open(identities_per_address=3)
    for number, identity in enumerate(("alice", "bob", "carol", "alice", "dave"), start=1):
        assert await grants.grant(HERE, identity) == min(number, 3)
        keeper.move(1)
    await grants.grant(REMOTE_ADDRESS, "bob")
    assert {each.identity for each in await grants.active() if str(each.address) == HERE} == {"carol", "alice", "dave"}
    assert await grants.revoke_identity("bob") == 1  # only the grant at REMOTE_ADDRESS is left


@on_both_loops
async def test_addresses_per_identity_limit_evicts_its_oldest(loop: loops.Loop, keeper: Keeper) -> None:
    """One account can neither fill the store nor evict the grants of others, such as those of "alice 1"."""
    grants = keeper.open(addresses_per_identity=3)
    for identity in ("alice 1", "alice"):
        for number in (0, 1, 2, 0, 3, 3):
            await grants.grant(f"192.0.2.{number}", identity)
            keeper.move(1)
        held = [str(each.address) for each in await grants.active() if each.identity == identity]
        assert held == ["192.0.2.2", "192.0.2.0", "192.0.2.3"]
    assert await grants.revoke_identity("alice 1") == 3
    assert await grants.revoke_identity("alice") == 3


@on_both_loops
async def test_max_grants_limit_evicts_from_identity_with_the_most(loop: loops.Loop, keeper: Keeper) -> None:
    grants = keeper.open(max_grants=5)
    for number, name in enumerate(("bob", "alice", "carol", "alice", "alice", "dave", "alice", "erin")):
        await grants.grant(f"192.0.2.{number}", name)
        keeper.move(1)
    assert [each.identity for each in await grants.active()] == ["bob", "carol", "dave", "alice", "erin"]
    assert await who(grants, "192.0.2.4") is None
    await grants.grant("192.0.2.8", "frank")  # each identity has one: the oldest of all is evicted
    assert [each.identity for each in await grants.active()] == ["carol", "dave", "alice", "erin", "frank"]


@on_both_loops
async def test_grants_of_each_identity_are_counted_after_every_change(loop: loops.Loop, keeper: Keeper) -> None:
    """A wrong count would evict from an identity that does not have the most."""
    grants = keeper.open(max_grants=4, identities_per_address=2)
    await grants.grant(HERE, "alice")
    await grants.grant(REMOTE_ADDRESS, "alice")
    keeper.move(LIFETIME)  # expired, and removed by the next login
    for identity in ("bob", "carol", "dave"):  # bob's is evicted by the limit of the address
        await grants.grant(HERE, identity)
        keeper.move(1)
    await grants.grant(REMOTE_ADDRESS, "carol")
    await grants.revoke_address(HERE)
    keeper.move(1)
    for number, identity in enumerate(("alice", "bob", "dave", "dave", "erin")):
        await grants.grant(f"198.51.100.{number}", identity)
        keeper.move(1)
    assert [each.identity for each in await grants.active()] == ["alice", "bob", "dave", "erin"]
    assert await who(grants, "198.51.100.2") is None


@on_both_loops
async def test_lowered_limits_apply_after_some_logins(loop: loops.Loop, shared: Keeper) -> None:
    grants = shared.open()
    for number in range(120):
        await grants.grant(f"192.0.2.{number}", "alice")
        shared.move(1)
    lowered = shared.open(addresses_per_identity=2)
    counts = []
    for _ in range(3):
        await lowered.grant(HERE, "alice")
        counts.append(kept(shared))
    assert counts == [20, 2, 2]
    assert await who(lowered, HERE) == "alice"


# Shared stores: several processes, restarts, the wall clock

FIND = """
import asyncio, sys
from pathlib import Path
from mailauth_io.stores.sqlite_grants import SqliteGrants
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import RedisGrants

if sys.argv[1] == "sqlite":
    grants = SqliteGrants(Path(sys.argv[2]), lifetime=float(sys.argv[3]), clock=lambda: float(sys.argv[4]))
else:
    grants = RedisGrants(RedisAddress(path=sys.argv[2]), password=sys.argv[4], lifetime=float(sys.argv[3]))
found = asyncio.run(grants.find("192.0.2.1"))
print(found.identity if found else "-")
grants.close()
"""


@on_both_loops
async def test_grant_and_revocation_are_visible_to_another_process(
    loop: loops.Loop, shared: Keeper, request: pytest.FixtureRequest
) -> None:
    """The grant is stored before +OK is sent, so a client that has read +OK may relay at every server."""
    if isinstance(shared, Sqlite):
        words = ["sqlite", str(shared.path), str(LIFETIME), str(shared.clock.now)]
    else:
        words = ["redis", str(request.getfixturevalue("redis").socket), str(LIFETIME), PASSWORD]
    grants = shared.open()

    def ask() -> str:
        program = [sys.executable, "-c", FIND, *words]
        return subprocess.run(program, env=environment(), check=True, capture_output=True, text=True).stdout.strip()

    await grants.grant(HERE, "alice")
    assert await loop.in_thread(ask) == "alice"
    await grants.revoke_address(HERE)
    assert await loop.in_thread(ask) == "-"


@on_both_loops
async def test_grants_revocations_and_expiry_persist_across_restart(loop: loops.Loop, shared: Keeper) -> None:
    grants = shared.open()
    await grants.grant(HERE, "alice")
    await grants.grant(REMOTE_ADDRESS, "bob")
    await grants.revoke_identity("bob")
    shared.move(LIFETIME - 100)
    grants.close()
    again = shared.open()
    assert await who(again, HERE) == "alice"
    assert await again.find(REMOTE_ADDRESS) is None
    shared.move(100)
    assert await again.find(HERE) is None


@on_both_loops
async def test_clock_step_forward_expires_grants(loop: loops.Loop, shared: Keeper) -> None:
    """The alternative would be to allow relaying for longer than the lifetime."""
    grants = shared.open()
    await grants.grant(HERE, "alice")
    shared.move(LIFETIME + 3600)
    assert await grants.find(HERE) is None
    await grants.grant(HERE, "alice")
    assert await who(grants, HERE) == "alice"


@on_both_loops
async def test_clock_step_back_expires_grants_permanently(loop: loops.Loop, shared: Keeper) -> None:
    """A grant that expires later than now plus the lifetime counts as expired, even after the clock has caught up."""
    grants = shared.open()
    await grants.grant(HERE, "alice")
    await grants.grant(REMOTE_ADDRESS, "bob")
    shared.move(-3600)
    assert await grants.find(HERE) is None
    assert await grants.active() == []
    shared.move(3600)
    for address in (HERE, REMOTE_ADDRESS):
        assert await grants.find(address) is None
    await grants.grant(HERE, "alice")
    assert await who(grants, HERE) == "alice"


@on_both_loops
async def test_clock_step_back_expires_grants_beyond_one_sweep(loop: loops.Loop, shared: Keeper) -> None:
    """There are more grants than one sweep removes.  No lookup returns the others, now or later."""
    grants = shared.open()
    addresses = [HERE, *(f"198.51.100.{number}" for number in range(120))]
    for address in addresses:
        await grants.grant(address, "alice")
    shared.move(-3600)
    for address in addresses:
        assert await grants.find(address) is None
    assert await grants.active() == []
    shared.move(3600)
    for address in addresses:
        assert await grants.find(address) is None


@on_both_loops
async def test_grant_keeps_the_lifetime_of_the_store_that_made_it(loop: loops.Loop, shared: Keeper) -> None:
    """Another process may have another lifetime: a policy service, ``mailauth grants``, or a server after a change.

    Neither its lookups nor its logins remove or shorten the grant.
    """
    longer, shorter = shared.open(), shared.open(lifetime=LIFETIME / 2)
    await longer.grant(HERE, "alice")
    await shorter.grant(REMOTE_ADDRESS, "bob")
    for grants in (shorter, longer):
        assert [await who(grants, address) for address in (HERE, REMOTE_ADDRESS)] == ["alice", "bob"]
        assert [each.identity for each in await grants.active()] == ["alice", "bob"]
    shared.move(LIFETIME * 3 / 4)
    for grants in (shorter, longer):
        assert [await who(grants, address) for address in (HERE, REMOTE_ADDRESS)] == ["alice", None]
    shared.move(LIFETIME / 4)
    for grants in (shorter, longer):
        assert await grants.find(HERE) is None


@on_both_loops
async def test_latest_login_is_found_whichever_grant_expires_last(loop: loops.Loop, shared: Keeper) -> None:
    """The order is that of the logins, also where the oldest grant of an address is replaced."""
    longer, shorter = (
        shared.open(identities_per_address=2),
        shared.open(lifetime=LIFETIME / 2, identities_per_address=2),
    )
    await longer.grant(HERE, "alice")
    shared.move(10)
    await shorter.grant(HERE, "bob")
    assert await who(longer, HERE) == "bob"
    shared.move(10)
    await shorter.grant(HERE, "carol")
    assert [each.identity for each in await longer.active()] == ["bob", "carol"]


@on_both_loops
async def test_revocation_counts_from_the_login_whatever_the_lifetime_is(loop: loops.Loop, shared: Keeper) -> None:
    longer, shorter = shared.open(), shared.open(lifetime=LIFETIME / 2)
    await longer.grant(HERE, "alice")
    shared.move(1000)
    await shorter.grant(REMOTE_ADDRESS, "alice")
    shared.move(1000)
    assert await shorter.revoke_identity("alice", 1500) == 1
    assert [await who(longer, address) for address in (HERE, REMOTE_ADDRESS)] == [None, "alice"]


@on_both_loops
async def test_revocation_includes_grants_from_before_the_clock_was_set_back(loop: loops.Loop, shared: Keeper) -> None:
    """They count as expired, and must not become active when the clock reaches their login again."""
    grants = shared.open()
    await grants.grant(HERE, "alice")
    shared.move(-3600)
    assert await grants.revoke_identity("alice", 100) == 0
    shared.move(3700)
    assert await grants.find(HERE) is None


@on_both_loops
async def test_store_with_other_prefixes_is_refused(loop: loops.Loop, shared: Keeper) -> None:
    """It would look up other addresses than the other processes store."""
    networks = [ipaddress.IPv6Network(f"2001:db8:{number}::/96") for number in (64, 65)]
    grants = shared.open(ipv6_prefix=64, nat64_prefixes=networks)
    await grants.grant("2001:db8::1", "alice")

    async def use(**settings: object) -> str | None:
        return await who(shared.open(**settings), "2001:db8::2")

    assert await use(ipv6_prefix=64, nat64_prefixes=networks[::-1]) == "alice"
    made_with = r'ipv6_prefix = 64 and nat64_prefixes = \["2001:db8:64::/96", "2001:db8:65::/96"\]'
    for settings in ({}, {"ipv6_prefix": 64}, {"nat64_prefixes": networks}):
        with pytest.raises(stores.GrantsError, match=f"made with {made_with}, not with ipv6_prefix = "):
            await use(**settings)
    assert await who(grants, "2001:db8::2") == "alice"


@on_both_loops
async def test_sweep_of_expired_grants_keeps_concurrent_renewal(loop: loops.Loop, shared: Keeper) -> None:
    """One process removes an expired grant while another renews it.  The renewal stays, in either order."""
    sweeping, renewing = shared.open(), shared.open()
    for number in range(20):
        await renewing.grant(HERE, "alice")
        shared.move(LIFETIME)
        sweep = threading.Thread(target=run_on_asyncio, args=(lambda: sweeping.grant(REMOTE_ADDRESS, "bob"),))
        sweep.start()
        await renewing.grant(HERE, "alice")
        await loop.in_thread(sweep.join)
        assert await who(renewing, HERE) == "alice", number
        assert await who(sweeping, HERE) == "alice", number


@on_both_loops
async def test_each_login_removes_limited_number_of_expired_grants(loop: loops.Loop, shared: Keeper) -> None:
    """Each login removes a limited number of expired grants."""
    grants = shared.open()
    for number in range(150):
        await grants.grant(f"192.0.2.{number}", "alice")
    shared.move(LIFETIME)
    counts = []
    for _ in range(3):
        await grants.grant(HERE, "bob")
        counts.append(kept(shared))
    assert counts == [51, 1, 1]


def kept(keeper: Keeper) -> int:
    """Return the number of grants in the store, including expired ones."""
    if isinstance(keeper, Sqlite):
        return keeper.count()
    assert isinstance(keeper, InRedis)
    return int(keeper.client.zcard("{mailauth}:grants"))
