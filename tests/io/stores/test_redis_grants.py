"""Grants in Redis: its address, expiry and eviction, and a Redis that is down or does not respond."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import redis
import trustme

from mailauth.grants import Grant
from mailauth_io.stores import GrantsError, redis_grants
from mailauth_io.stores._bounded_executor import StoreTimeout
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import KEYS, RedisGrants
from tests.io import loops
from tests.io.grant_stores import LIFETIME, on_both_loops
from tests.io.server_support import TIMEOUT
from tests.redis_server import PASSWORD, RedisServer, redis_server

pytestmark = pytest.mark.usefixtures("long_timeouts")

HERE = "192.0.2.1"
REMOTE_ADDRESS = "192.0.2.2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def grants(server: RedisServer) -> Iterator[RedisGrants]:
    with server.client as client:
        client.flushall()
    made = RedisGrants(RedisAddress(host="127.0.0.1", port=server.port), password=PASSWORD, lifetime=LIFETIME)
    yield made
    made.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "redis://",
        "http://:hunter2@127.0.0.1",
        "redis://:hunter2@127.0.0.1:port",
        "redis://:hunter2@127.0.0.1:70000",
        "redis://:hunter2@127.0.0.1/first",
        "redis://:hunter2@[::1",
        "redis://127.0.0.1?password=hunter2",
        "unix://",
        "unix://h.test/r",
        "redis://h.test/٣",
    ],
)
def test_invalid_url_is_rejected_without_quoting_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^write redis://HOST:PORT/DATABASE, ") as refused:
        RedisAddress.read(url)
    assert "hunter2" not in repr(refused.value)


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("redis://h.test", RedisAddress(host="h.test"), "redis://h.test:6379/0"),
        (
            "redis://u:p%40s@h.test:99/3",
            RedisAddress(host="h.test", port=99, database=3, username="u", password="p@s"),
            "redis://h.test:99/3",
        ),
        ("rediss://:hunter2@[::1]", RedisAddress(host="::1", tls=True, password="hunter2"), "rediss://[::1]:6379/0"),
        ("unix:///run/a%20b.sock", RedisAddress(path="/run/a b.sock"), "unix:///run/a%20b.sock"),
        ("unix://:hunter2@/r", RedisAddress(path="/r", password="hunter2"), "unix:///r"),
    ],
)
def test_url_is_parsed_and_shown_without_password(url: str, address: RedisAddress, shown: str) -> None:
    assert RedisAddress.read(url) == address
    assert str(address) == shown
    assert "hunter2" not in repr(address)


@pytest.mark.parametrize(
    ("address", "kind", "place"),
    [
        (RedisAddress(host="h.test", database=3), redis.Connection, {"host": "h.test", "port": 6379, "db": 3}),
        (RedisAddress(host="::1", tls=True), redis.SSLConnection, {"host": "::1", "check_hostname": True}),
        (RedisAddress(path="/r"), redis.UnixDomainSocketConnection, {"path": "/r"}),
    ],
)
def test_each_address_kind_uses_its_connection_class(
    address: RedisAddress, kind: type, place: dict[str, object]
) -> None:
    """With TLS the certificate must match the host."""
    connection = RedisGrants(address)._redis.connection_pool.make_connection()
    assert type(connection) is kind
    assert {name: getattr(connection, name) for name in place} == place


def test_repr_and_attributes_contain_no_password() -> None:
    grants = RedisGrants(RedisAddress(host="h.test", password="hunter2"), password="hunter2")
    assert "hunter2" not in f"{grants!r} {grants.__dict__!r}"


@on_both_loops
async def test_wrong_password_raises_error_that_does_not_contain_it(loop: loops.Loop, server: RedisServer) -> None:
    grants = RedisGrants(RedisAddress(host="127.0.0.1", port=server.port, password="hunter2"))
    with pytest.raises(redis.AuthenticationError) as refused:
        await grants.find(HERE)
    assert "hunter2" not in repr(refused.value)
    grants.close()


@on_both_loops
async def test_tls_certificate_must_be_trusted_and_match_host(
    loop: loops.Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA must be trusted by the system.  Otherwise the password could be sent to an attacker."""
    authority, ports = trustme.CA(), tmp_path / "pair.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(ports)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    with redis_server(tmp_path, ports) as server:

        async def ask(host: str) -> None:
            grants = RedisGrants(RedisAddress(host=host, port=server.port, tls=True), password=PASSWORD)
            with contextlib.closing(grants):
                assert await grants.grant(HERE, "alice") == 1
                assert isinstance(await grants.find(HERE), Grant)

        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            await ask("localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        await ask("localhost")
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            await ask("127.0.0.1")


@on_both_loops
async def test_shorter_lifetime_of_another_server_does_not_shorten_the_expiry_of_the_keys(
    loop: loops.Loop, grants: RedisGrants, server: RedisServer
) -> None:
    shorter = RedisGrants(RedisAddress(path=str(server.socket)), password=PASSWORD, lifetime=60)
    await grants.grant(HERE, "alice")
    await shorter.grant(REMOTE_ADDRESS, "bob")
    shorter.close()
    with server.client as client:
        assert all(LIFETIME - 100 < client.ttl(key) <= LIFETIME for key in KEYS)


@on_both_loops
async def test_other_settings_are_accepted_after_the_last_grant_has_expired(
    loop: loops.Loop, grants: RedisGrants, server: RedisServer
) -> None:
    other = RedisGrants(RedisAddress(path=str(server.socket)), password=PASSWORD, ipv6_prefix=64)
    await grants.grant(HERE, "alice")
    with pytest.raises(GrantsError):
        await other.grant(HERE, "alice")
    with server.client as client:
        for key in KEYS:
            client.pexpire(key, 0)
    await other.grant(HERE, "alice")
    with pytest.raises(GrantsError):
        await grants.find(HERE)
    other.close()


@on_both_loops
async def test_every_key_has_an_expiry(loop: loops.Loop, grants: RedisGrants, server: RedisServer) -> None:
    """Each key expires with its last grant, even if no server is running."""
    await grants.grant(HERE, "alice")
    await grants.grant(REMOTE_ADDRESS, "alice")
    with server.client as client:
        keys = list(client.scan_iter("*"))
        assert set(keys) == set(KEYS)
        assert all(LIFETIME - 100 < client.ttl(key) <= LIFETIME for key in keys)


@pytest.mark.parametrize("forgotten", KEYS[:4])
@on_both_loops
async def test_grant_with_evicted_index_key_is_not_found(
    loop: loops.Loop, grants: RedisGrants, server: RedisServer, forgotten: str
) -> None:
    """Redis may be configured to evict keys when memory is short.  Then relaying must not stay allowed."""
    await grants.grant(HERE, "alice")
    with server.client as client:
        assert client.delete(forgotten) == 1
    assert await grants.find(HERE) is None
    await grants.grant(REMOTE_ADDRESS, "alice")
    assert await grants.find(HERE) is None
    await grants.revoke_identity("alice")
    assert await grants.find(REMOTE_ADDRESS) is None


@pytest.mark.parametrize("evicted", KEYS)
@on_both_loops
async def test_entries_left_by_an_evicted_key_are_removed_by_the_next_login(
    loop: loops.Loop, grants: RedisGrants, server: RedisServer, evicted: str
) -> None:
    """Otherwise the others would grow without a limit, because each login extends the lifetime of all keys."""
    for number in range(20):
        await grants.grant(f"192.0.2.{number}", "alice")
    with server.client as client:
        assert client.delete(evicted) == 1
        await grants.grant(REMOTE_ADDRESS, "bob")
        assert [client.zcard(key) for key in KEYS[:5]] == [1] * 5
    assert await grants.find(HERE) is None
    assert isinstance(await grants.find(REMOTE_ADDRESS), Grant)


@contextlib.contextmanager
def full_memory(server: RedisServer, policy: str) -> Iterator[redis.Redis]:
    """Set the limit of memory below what Redis uses already."""
    with server.client as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", 1)
        yield client


@on_both_loops
async def test_login_makes_no_grant_while_memory_is_full(loop: loops.Loop, tmp_path: Path) -> None:
    """With the policy noeviction.  A script that has written something may go on, so the first write must add."""
    with redis_server(tmp_path) as server:
        grants = RedisGrants(RedisAddress(path=str(server.socket)), password=PASSWORD)
        await grants.grant(HERE, "alice")
        with full_memory(server, "noeviction") as client:
            for address, identity in ((HERE, "alice"), (HERE, "bob"), (REMOTE_ADDRESS, "alice")):
                with pytest.raises(redis.ResponseError, match="maxmemory"):
                    await grants.grant(address, identity)
            assert isinstance(await grants.find(HERE), Grant)
            assert [client.zcard(key) for key in KEYS[:5]] == [1] * 5
            assert await grants.revoke_identity("alice") == 1
            client.config_set("maxmemory", 0)
        assert await grants.grant(HERE, "bob") == 1
        grants.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@on_both_loops
async def test_evicting_policy_leaves_no_grant_that_cannot_be_revoked(
    loop: loops.Loop, tmp_path: Path, policy: str
) -> None:
    """Redis evicts keys before each script, here all of them; the next script finds an empty store."""
    with redis_server(tmp_path) as server:
        grants = RedisGrants(RedisAddress(path=str(server.socket)), password=PASSWORD)
        await grants.grant(HERE, "alice")
        with full_memory(server, policy) as client:
            assert await grants.find(HERE) is None
            assert client.info("stats")["evicted_keys"] == len(KEYS)
            client.config_set("maxmemory", 0)
        assert await grants.active() == []
        assert await grants.grant(HERE, "alice") == 1
        assert await grants.revoke_identity("alice") == 1
        grants.close()


@pytest.mark.parametrize(
    ("policy", "maximum", "evicts"),
    [("allkeys-lru", 10**9, True), ("volatile-ttl", 10**9, True), ("allkeys-lru", 0, False), ("noeviction", 1, False)],
)
@on_both_loops
async def test_eviction_is_reported_if_memory_is_limited_and_the_policy_evicts(
    loop: loops.Loop, tmp_path: Path, policy: str, maximum: int, evicts: bool
) -> None:
    with redis_server(tmp_path) as server, server.client as client:
        grants = RedisGrants(RedisAddress(path=str(server.socket)), password=PASSWORD)
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", maximum)
        assert await grants.eviction_policy() == (policy if evicts else None)
        grants.close()


class Late(RedisGrants):
    """A store whose script runs only after the login has given up."""

    def _time(self) -> int:
        return super()._time() - 1_500_000 * round(TIMEOUT)


@on_both_loops
async def test_grant_received_after_deadline_raises_and_is_not_stored(
    loop: loops.Loop, grants: RedisGrants, server: RedisServer
) -> None:
    """The lifetime starts at the login, not when a stopped Redis continues hours later."""
    late = Late(RedisAddress(path=str(server.socket)), password=PASSWORD, lifetime=LIFETIME)
    with pytest.raises(StoreTimeout):
        await late.grant(HERE, "alice")
    late.close()
    assert await grants.find(HERE) is None


@on_both_loops
async def test_outage_raises_connection_error_and_restart_recovers(loop: loops.Loop, tmp_path: Path) -> None:
    """The old connections are broken.  The restarted Redis is empty, so no grant is found."""
    with redis_server(tmp_path) as server:
        grants = RedisGrants(RedisAddress(host="127.0.0.1", port=server.port), password=PASSWORD)
        await grants.grant(HERE, "alice")
        server.kill()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                await grants.find(HERE)
            with pytest.raises(redis.ConnectionError):
                await grants.grant(HERE, "alice")
        server.start()
        assert await grants.find(HERE) is None
        await grants.grant(HERE, "alice")
        assert isinstance(await grants.find(HERE), Grant)
        grants.close()


def fill_pool(grants: RedisGrants) -> None:
    """Make three connections that are not in use."""
    pool = grants._redis.connection_pool
    for connection in [pool.get_connection() for _ in range(3)]:
        pool.release(connection)


@on_both_loops
async def test_timeout_closes_all_pooled_connections(
    loop: loops.Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one connection is dead, the other idle ones probably are too, and each would cost another timeout."""
    monkeypatch.setattr(redis_grants, "REPLY_TIMEOUT", 4.0)
    with redis_server(tmp_path) as server, server.client as client:
        grants = RedisGrants(RedisAddress(host="127.0.0.1", port=server.port), password=PASSWORD)
        fill_pool(grants)
        assert len(client.client_list()) == 4
        server.signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await loop.in_thread(grants._run, grants._find_script, HERE)
        server.signal(signal.SIGCONT)
        deadline = time.monotonic() + TIMEOUT
        while len(client.client_list()) > 1:
            assert time.monotonic() < deadline
        grants.close()


@on_both_loops
async def test_unresponsive_redis_raises_store_timeout(loop: loops.Loop, tmp_path: Path) -> None:
    """A stopped Redis accepts connections, and does not answer."""
    with redis_server(tmp_path) as server:
        grants = RedisGrants(RedisAddress(host="127.0.0.1", port=server.port), password=PASSWORD)
        await grants.grant(HERE, "alice")
        server.signal(signal.SIGSTOP)
        grants._executor._timeout = 0.1
        with pytest.raises(StoreTimeout), anyio.fail_after(TIMEOUT):
            await grants.find(HERE)
        with pytest.raises(StoreTimeout):
            await grants.grant(REMOTE_ADDRESS, "bob")
        server.signal(signal.SIGCONT)
        grants._executor._timeout, grants._executor._paused_until = TIMEOUT, None  # the pause is over
        assert isinstance(await grants.find(HERE), Grant)
        assert await grants.find(REMOTE_ADDRESS) is None
        grants.close()


@pytest.mark.parametrize("several", [False, True])
@on_both_loops
async def test_demoted_server_causes_a_new_connection(loop: loops.Loop, tmp_path: Path, several: bool) -> None:
    """After a failover the address leads to the new primary, but the old one keeps its connections, as a replica."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    place = tmp_path / "redis.sock"
    with redis_server(tmp_path / "old") as old, redis_server(tmp_path / "new") as new:
        place.symlink_to(old.socket)
        grants = RedisGrants(RedisAddress(path=str(place)), password=PASSWORD)
        await grants.grant(HERE, "alice")
        if several:
            fill_pool(grants)
        with old.client as client:
            client.replicaof("127.0.0.1", "1")  # a copy of the data is not needed, and could delay the next call
        place.unlink()
        place.symlink_to(new.socket)
        with pytest.raises(redis.ResponseError, match="read only"):
            await grants.grant(REMOTE_ADDRESS, "bob")
        for _ in range(3):
            assert await grants.grant(REMOTE_ADDRESS, "bob") == 1
        assert await grants.find(HERE) is None
        assert await grants.find(REMOTE_ADDRESS) is not None
        with new.client as client:
            assert client.zcard(KEYS[0]) == 1
        grants.close()


@on_both_loops
async def test_address_of_a_replica_raises_an_error_for_a_login(loop: loops.Loop, tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        grants = RedisGrants(RedisAddress(host="127.0.0.1", port=server.port), password=PASSWORD)
        with server.client as client:
            client.replicaof("127.0.0.1", "1")
        for _ in range(2):
            with pytest.raises(redis.ResponseError, match="read only"):
                await grants.grant(HERE, "alice")
        grants.close()


def test_refused_write_is_recognized_in_the_replies_of_all_versions() -> None:
    """Redis 7 replies with the code of its own, Redis 5 and 6 with an error of the script."""
    text = (
        "Error running script (call to f_2458): @user_script:12: -READONLY You can't write against a read only slave."
    )
    assert redis_grants._is_read_only(redis.ResponseError(text))
    assert redis_grants._is_read_only(redis.ReadOnlyError("You can't write against a read only replica."))
    assert not redis_grants._is_read_only(redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'"))
