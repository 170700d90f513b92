"""Grants in a Redis cluster: the keys are declared, are in one slot, and are found through every node."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from mailauth.grants import Grant
from mailauth_io.stores import redis_grants
from mailauth_io.stores.redis_address import RedisAddress
from mailauth_io.stores.redis_grants import KEYS, RedisGrants
from tests.io import loops
from tests.io.grant_stores import LIFETIME, on_both_loops
from tests.redis_server import PASSWORD, RedisCluster, redis_cluster

pytestmark = pytest.mark.usefixtures("long_timeouts")

HERE = "192.0.2.1"
ELSEWHERE = "2001:db8::1"
SCRIPTS = {name: text for name, text in vars(redis_grants).items() if isinstance(text, str) and "redis.call" in text}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def opened(cluster: RedisCluster) -> Iterator[list[RedisGrants]]:
    """One store for each node, without data."""
    for number in range(3):
        with cluster.client(number) as client:
            client.flushall()
    with contextlib.ExitStack() as stack:
        stores = [RedisGrants(at(port), password=PASSWORD, lifetime=LIFETIME) for port in cluster.ports]
        for store in stores:
            stack.callback(store.close)
        yield stores


def at(port: int) -> RedisAddress:
    return RedisAddress(host="127.0.0.1", port=port)


def undeclared(script: str) -> list[str]:
    """Return the calls in *script* whose key is not in KEYS (``index`` and ``key`` are variables with one of these)."""
    calls = re.findall(r"redis\.call\('(\w+)'(?:, ([^,)]+))?", script)
    declared = {"unpack(KEYS", "all", "logins", "at", "of", "identities", "made_with", "index", "key"}
    return [f"{verb} {key}" for verb, key in calls if verb != "TIME" and key not in declared]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_uses_only_declared_keys(name: str) -> None:
    """A Redis cluster requires it, and so do other servers with its protocol."""
    assert undeclared(SCRIPTS[name]) == []


def test_undeclared_key_is_detected() -> None:
    assert undeclared(
        "redis.call('TIME') redis.call('ZADD', all, 1, 'x') redis.call('ZADD', at .. address, 1, 'x')"
    ) == ["ZADD at .. address"]
    assert undeclared("redis.call('ZCARD', '{mailauth}:x')") == ["ZCARD '{mailauth}:x'"]


def test_keys_are_passed_to_every_script(cluster: RedisCluster, opened: list[RedisGrants]) -> None:
    scripts = [value for name, value in vars(opened[0]).items() if name.endswith("_script")]
    assert len(scripts) == 5
    with cluster.client(0) as client:
        assert len({client.cluster("KEYSLOT", key) for key in KEYS}) == 1


@on_both_loops
async def test_grants_are_shared_through_every_node(
    loop: loops.Loop, cluster: RedisCluster, opened: list[RedisGrants]
) -> None:
    """One node has the keys; the others name it."""
    for number, grants in enumerate(opened):
        assert await grants.grant(HERE, f"user{number}") == number + 1
    assert await opened[0].grant(ELSEWHERE, "user0") == 1
    for grants in opened:
        found = await grants.find(HERE)
        assert isinstance(found, Grant)
        assert found.identity == "user2"
        assert await grants.find("192.0.2.2") is None
        assert len(await grants.active()) == 4
    assert await opened[1].revoke_identity("user0") == 2
    assert await opened[2].revoke_address(HERE) == 2
    assert [await grants.active() for grants in opened] == [[], [], []]


@on_both_loops
async def test_grants_follow_their_slot_to_another_node(
    loop: loops.Loop, cluster: RedisCluster, opened: list[RedisGrants]
) -> None:
    for grants in opened:
        await grants.grant(HERE, "alice")
    moved_to = move_slot(cluster)
    assert await opened[0].find(HERE) is None  # the new node has no data
    for grants in opened:
        assert await grants.grant(HERE, "bob") == 1
        found = await grants.find(HERE)
        assert isinstance(found, Grant)
        assert found.identity == "bob"
    with cluster.client(moved_to) as client:
        assert set(client.keys()) == set(KEYS)


def move_slot(cluster: RedisCluster) -> int:
    """Delete the grants, and give their slot to the next node.  Return its number."""
    clients = [cluster.client(number) for number in range(3)]
    names = [client.cluster("MYID") for client in clients]
    slot = clients[0].cluster("KEYSLOT", KEYS[0])
    (owner,) = [number for number, client in enumerate(clients) if owns(client)]
    clients[owner].flushall()
    new = (owner + 1) % 3
    for client in [clients[new], *clients]:
        client.cluster("SETSLOT", slot, "NODE", names[new])
        client.close()
    return new


def owns(client: Any) -> bool:
    try:
        client.execute_command("ZCARD", KEYS[0])
    except redis.exceptions.MovedError:
        return False
    return True


@on_both_loops
async def test_store_returns_to_the_configured_node_if_another_one_fails(
    loop: loops.Loop, cluster: RedisCluster, opened: list[RedisGrants]
) -> None:
    """After a failover, the configured node names the node that has replaced the failed one."""
    redirected, *_ = [grants for grants in opened if await is_redirected(grants)]
    node = redirected._redis
    with contextlib.closing(redirected):
        redirected._redis = redis.Redis(connection_pool=redis_grants._pool(at(1)))  # no node listens there
        with pytest.raises(redis.ConnectionError):
            await redirected.find(HERE)
        assert redirected._redis is redirected._first
        assert await redirected.find(HERE) is None
        assert (
            redirected._redis.connection_pool.connection_kwargs["port"]
            == node.connection_pool.connection_kwargs["port"]
        )


async def is_redirected(grants: RedisGrants) -> bool:
    await grants.find(HERE)
    return grants._redis is not grants._first
