"""Grants in Redis 5 or later, for servers on several hosts.

Each operation is one Lua script, run in a thread, so it is atomic, and the only clock is that of Redis.  A grant whose
login is later than now was made before the clock stepped back, and counts as expired.

There are six keys, all in one slot of a Redis cluster, and every script declares them.  A cluster node that does not
have the slot answers MOVED, with the address of the node that has it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection
from functools import partial
from ipaddress import IPv6Network
from typing import Any, Final, TypeVar, cast

import attrs
import redis
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, ReadOnlyError
from redis.retry import Retry

from mailauth.addresses import grant_key
from mailauth.grants import ADDRESSES_PER_IDENTITY, IDENTITIES_PER_ADDRESS, LIFETIME, MAX_GRANTS, Grant, Lookup

from .._checks import check_text, check_type
from ._bounded_executor import THREADS, BoundedExecutor
from .grants import MAX_SWEPT_PER_LOGIN, TIMEOUT, ActiveGrant, GrantsError, GrantSettings, make_table
from .redis_address import RedisAddress

__all__ = [
    "RedisAddress",
    "RedisGrants",
]

T = TypeVar("T")
Script = Callable[..., Any]

_MICRO: Final = 1_000_000  # scores are doubles, which hold microseconds exactly up to the year 2255

REPLY_TIMEOUT: Final = 0.75 * TIMEOUT
"""Seconds to wait for one reply of Redis: less than the timeout of the call, so that its thread ends first."""

_KEEPALIVE: Final = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20))
    if hasattr(socket, name)
}
"""Keepalive settings: a NAT or firewall may drop a connection that is idle for minutes."""

KEYS: Final = tuple(f"{{mailauth}}:{name}" for name in ("grants", "logins", "at", "of", "identities", "made_with"))
"""Five sorted sets and a text.  The first two have each grant, "address identity", with the times of its expiry and of
its login.  The next two are indexes, in alphabetical order: "address identity" and "identity address".  An address
contains no blank.  The fifth has the number of grants of each identity.  The text has the settings that decide the
addresses.  Each key expires with the last grant.  The hash tag in braces puts them into one slot of a Redis cluster."""

_OTHER_SETTINGS: Final = "OTHERSETTINGS "
"""Begins the error of a script if the grants were made with other settings.  These follow."""

_BEGIN: Final = f"""
local all, logins, at, of, identities, made_with = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local time = redis.call('TIME')
local now = time[1] * {_MICRO} + time[2]
local settings = redis.call('GET', made_with)
if settings and settings ~= ARGV[1] then
    return redis.error_reply('{_OTHER_SETTINGS}' .. settings)
end

local function text(number)
    return string.format('%.0f', number)
end

local function drop(address, identity)
    redis.call('ZREM', all, address .. ' ' .. identity)
    redis.call('ZREM', logins, address .. ' ' .. identity)
    redis.call('ZREM', at, address .. ' ' .. identity)
    if redis.call('ZREM', of, identity .. ' ' .. address) > 0 then
        if tonumber(redis.call('ZINCRBY', identities, -1, identity)) < 1 then
            redis.call('ZREM', identities, identity)
        end
    end
end

local function drop_each(members)
    for _, member in ipairs(members) do
        drop(string.match(member, '^(%S+) (.*)$'))
    end
end

local function sweep()
    drop_each(redis.call('ZRANGEBYSCORE', all, '-inf', text(now), 'LIMIT', 0, {MAX_SWEPT_PER_LOGIN}))
    drop_each(redis.call('ZRANGEBYSCORE', logins, '(' .. text(now), '+inf', 'LIMIT', 0, {MAX_SWEPT_PER_LOGIN}))
end

-- What follows the word and a blank in the members of an index.
local function after(index, word)
    local found = redis.call('ZRANGEBYLEX', index, '[' .. word .. ' ', '(' .. word .. '!')
    for place, member in ipairs(found) do
        found[place] = string.sub(member, #word + 2)
    end
    return found
end

-- The addresses of an identity.  Those of another identity, which begins with this one and a blank, contain a blank.
local function addresses_of(identity)
    local addresses = {{}}
    for _, address in ipairs(after(of, identity)) do
        if not string.find(address, ' ') then
            table.insert(addresses, address)
        end
    end
    return addresses
end

-- The time of the login of an active grant, and of its expiry.  Nothing if it is not active.
local function active(address, identity)
    local login = tonumber(redis.call('ZSCORE', logins, address .. ' ' .. identity) or now + 1)
    local expires = tonumber(redis.call('ZSCORE', all, address .. ' ' .. identity) or now)
    if login <= now and now < expires then
        return login, expires
    end
end
"""

# A grant counts only while it is in the index by identity.  Redis may evict a key when memory is short, and a grant
# that is missing there could not be revoked.
_FIND: Final = """
local address = ARGV[2]
local latest = redis.call('ZREVRANGE', logins, 0, 0, 'WITHSCORES')[2]
if latest and tonumber(latest) > now then
    sweep()
end
local newest, whose, last = 0, nil, nil
for _, identity in ipairs(after(at, address)) do
    local login, expires = active(address, identity)
    if login and login > newest and redis.call('ZSCORE', of, identity .. ' ' .. address) then
        newest, whose, last = login, identity, expires
    end
end
return whose and {whose, text(last)}
"""

# If Redis has evicted one of the keys, no grant counts, and what the others have is left over.
#
# While its memory is full, Redis rejects a command that adds something, unless the script has already written.  So a
# script writes nothing before ZADD if it has nothing to remove.
_GRANT: Final = """
local function drop_oldest(identity, excess)
    if excess <= 0 then
        return
    end
    local grants = {}
    for _, address in ipairs(addresses_of(identity)) do
        table.insert(grants, {tonumber(redis.call('ZSCORE', logins, address .. ' ' .. identity) or 0), address})
    end
    table.sort(grants, function(one, other) return one[1] < other[1] end)
    for place = 1, math.min(excess, #grants, MAX_SWEPT_PER_LOGIN) do
        drop(grants[place][2], identity)
    end
end

local address, identity = ARGV[2], ARGV[3]
local per_address, per_identity, maximum = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local late = now - ARGV[7]
if late < 0 or late > tonumber(ARGV[8]) then
    return false
end
sweep()
local found = redis.call('EXISTS', unpack(KEYS))
if found > 0 and found < #KEYS then
    redis.call('UNLINK', unpack(KEYS))
end
local kept = {}
for _, other in ipairs(after(at, address)) do
    local login = active(address, other)
    if other ~= identity and login then
        table.insert(kept, {login, other})
    elseif other ~= identity then
        drop(address, other)
    end
end
table.sort(kept, function(one, other) return one[1] < other[1] end)
while #kept >= per_address do
    drop(address, table.remove(kept, 1)[2])
end
redis.call('ZADD', all, text(now + ARGV[9]), address .. ' ' .. identity)
redis.call('ZADD', logins, text(now), address .. ' ' .. identity)
redis.call('SET', made_with, ARGV[1])
redis.call('ZADD', at, 0, address .. ' ' .. identity)
if redis.call('ZADD', of, 0, identity .. ' ' .. address) > 0 then
    redis.call('ZINCRBY', identities, 1, identity)
end
drop_oldest(identity, redis.call('ZSCORE', identities, identity) - per_identity)
for _ = 1, math.min(redis.call('ZCARD', all) - maximum, MAX_SWEPT_PER_LOGIN) do
    local most = redis.call('ZREVRANGE', identities, 0, 0, 'WITHSCORES')
    if tonumber(most[2]) > 1 then
        drop_oldest(most[1], 1)
    else
        drop_each(redis.call('ZRANGE', logins, 0, 0))
    end
end
local last = tonumber(redis.call('ZREVRANGE', all, 0, 0, 'WITHSCORES')[2] or now)
for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, text(math.ceil((last - now) / 1000)))
end
return #after(at, address)
""".replace("MAX_SWEPT_PER_LOGIN", str(MAX_SWEPT_PER_LOGIN))

_REVOKE_IDENTITY: Final = """
local identity, until_ = ARGV[2], now - ARGV[3]
local revoked = 0
for _, address in ipairs(addresses_of(identity)) do
    local login = active(address, identity)
    if login and login <= until_ then
        revoked = revoked + 1
    end
    if not login or login <= until_ then
        drop(address, identity)
    end
end
return revoked
"""

_REVOKE_ADDRESS: Final = """
local address = ARGV[2]
local revoked = 0
for _, identity in ipairs(after(at, address)) do
    if active(address, identity) then
        revoked = revoked + 1
    end
    drop(address, identity)
end
return revoked
"""

_TIME: Final = "return time"


class RedisGrants:
    """Grants in the Redis server at *address*, or in the Redis cluster of which it is a node.

    *password* is used instead of the one in *address*, if given.  The other settings are those of GrantTable; an
    invalid one is a ValueError.  *ipv6_prefix* and *nat64_prefixes* must be the same on all servers, otherwise every
    call raises GrantsError; *lifetime* is that of the grants made here.  The first call connects to Redis.

        address = redis_grants.RedisAddress(host="redis.example", tls=True)
        grant_store = redis_grants.RedisGrants(address, password=password, lifetime=900.0)
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        password: str | None = None,
        lifetime: float = LIFETIME,
        ipv6_prefix: int = 128,
        nat64_prefixes: Collection[IPv6Network] = (),
        identities_per_address: int = IDENTITIES_PER_ADDRESS,
        addresses_per_identity: int = ADDRESSES_PER_IDENTITY,
        max_grants: int = MAX_GRANTS,
    ) -> None:
        check_type("address", address, RedisAddress, use="RedisAddress.read('redis://127.0.0.1/0')")
        check_text("password", password, optional=True)
        self.settings = GrantSettings(lifetime=lifetime, ipv6_prefix=ipv6_prefix, nat64_prefixes=nat64_prefixes)
        make_table(
            identities_per_address=identities_per_address,
            addresses_per_identity=addresses_per_identity,
            max_grants=max_grants,
        )
        self._lifetime = round(lifetime * _MICRO)
        self._identities = identities_per_address
        self._addresses = addresses_per_identity
        self._max_grants = max_grants
        self._executor = BoundedExecutor(nat64_prefixes=self.settings.nat64_prefixes)
        self._address = attrs.evolve(address, password=password or address.password)
        self._first: Any = redis.Redis(connection_pool=_pool(self._address))  # its types are incomplete
        self._redis = self._first  # the node that has the keys
        self._lock = threading.Lock()
        (
            self._find_script,
            self._grant_script,
            self._revoke_identity_script,
            self._revoke_address_script,
            self._time_script,
        ) = (
            self._first.register_script(_BEGIN + script)
            for script in (_FIND, _GRANT, _REVOKE_IDENTITY, _REVOKE_ADDRESS, _TIME)
        )

    async def find(self, address: str) -> Lookup:
        """Return the newest active grant of *address*, or None.

        Raises an exception if Redis does not answer in two seconds.
        """
        key = self._key(address)
        found = await self._executor.run(self._run, self._find_script, key, address=address)
        return None if found is None else Grant(key, found[0].decode(), int(found[1]) / _MICRO)

    async def grant(self, address: str, identity: str) -> int:
        """Store a grant, and return the number of identities that have grants at *address*."""
        grant = Grant(self._key(address), identity, 0.0)  # raises for an empty identity
        return await self._executor.run(self._grant, str(grant.address), grant.identity, address=address)

    async def revoke_identity(self, identity: str, older_than: float = 0.0) -> int:
        """Revoke the grants of *identity* that are *older_than* seconds old or more.  Return how many were active."""
        age = round(older_than * _MICRO)
        return int(await self._executor.run(self._run, self._revoke_identity_script, identity, age))

    async def revoke_address(self, address: str) -> int:
        """Revoke every grant of *address*, and return the number of active ones."""
        return int(await self._executor.run(self._run, self._revoke_address_script, self._key(address)))

    async def active(self) -> list[ActiveGrant]:
        """Return all active grants, the oldest login first."""
        return await self._executor.run_without_timeout(self._active)  # a million grants take seconds

    async def eviction_policy(self) -> str | None:
        """Return the ``maxmemory-policy`` of Redis if it evicts keys when its memory is full, or None.

        Evicted grants are lost.  Raises an exception if Redis does not answer, or forbids the command INFO.
        """
        memory = await self._executor.run(self._call, _memory)
        policy = str(memory["maxmemory_policy"])
        return policy if memory["maxmemory"] and policy != "noeviction" else None

    def close(self) -> None:
        """Close all connections to Redis."""
        for client in {self._first, self._redis}:
            client.connection_pool.disconnect()

    def _key(self, address: str) -> str:
        return str(self.settings.key(address))

    def _run(self, script: Script, *args: str | int) -> Any:
        settings = self.settings.describe_keys()
        try:
            return self._call(lambda client: script(keys=KEYS, args=[settings, *args], client=client))
        except redis.ResponseError as error:
            made_with = str(error).partition(_OTHER_SETTINGS)[2]
            if not made_with:
                raise
            raise GrantsError(
                f"the grants in Redis were made with {made_with}, not with {settings}; use the same settings in all "
                f"processes, or stop them and delete the keys {' '.join(KEYS)}"
            ) from None

    def _call(self, operation: Callable[[Any], T]) -> T:
        """Call *operation* with the client of the node that has the keys, and follow a cluster to another node."""
        client = self._redis
        try:
            try:
                return operation(client)
            except MovedError as moved:
                client = self._node(cast("Any", moved))
                return operation(client)
        except redis.TimeoutError:
            # The idle connections are probably dead too.
            client.connection_pool.disconnect(inuse_connections=False)
            self._redis = self._first
            raise TimeoutError from None
        except redis.ConnectionError:
            self._redis = self._first  # if the node has failed, another one knows which replaced it
            raise
        except redis.ResponseError as error:
            if _is_read_only(error):
                # The server was demoted in a failover, and keeps its connections.  The next call makes a new one, which
                # reaches the new primary.  This one is not repeated, since its time is that of another clock.
                for each in {client, self._first}:
                    each.connection_pool.disconnect(inuse_connections=False)
                self._redis = self._first
            raise

    def _node(self, moved: Any) -> Any:
        """Use the cluster node that *moved* names from now on, and return its client.

        A node that does not know its own address names none: then it is that of the connection.
        """
        host, port = moved.host or self._address.host or "127.0.0.1", moved.port
        with self._lock:
            used = self._redis.connection_pool.connection_kwargs
            if (used.get("host"), used.get("port")) != (host, port):
                if self._redis is not self._first:
                    self._redis.connection_pool.disconnect(inuse_connections=False)
                address = attrs.evolve(self._address, host=host, port=port, path="")
                self._redis = redis.Redis(connection_pool=_pool(address))
            return self._redis

    def _time(self) -> int:
        seconds, microseconds = map(int, self._run(self._time_script))
        return seconds * _MICRO + microseconds

    def _grant(self, address: str, identity: str) -> int:
        """Store a grant.  The script receives the time of the call, and does nothing if it runs after the timeout."""
        called_at = self._time()
        timeout = round(TIMEOUT * _MICRO)
        identities = self._run(
            self._grant_script,
            address,
            identity,
            self._identities,
            self._addresses,
            self._max_grants,
            called_at,
            timeout,
            self._lifetime,
        )
        if identities is None:
            raise TimeoutError
        return int(identities)

    def _active(self) -> list[ActiveGrant]:
        expiries, logins = (self._call(partial(_scores, key)) for key in KEYS[:2])
        now = self._time()
        grants: list[ActiveGrant] = []
        for member, login in sorted(logins.items(), key=lambda item: item[1]):
            address, _, identity = member.decode().partition(" ")
            expires = expiries.get(member, now)
            if login <= now < expires:
                remaining = (expires - now) / _MICRO
                grants.append(ActiveGrant(address=grant_key(address), identity=identity, remaining=remaining))
        return grants


def _memory(client: Any) -> dict[str, Any]:
    """Return what Redis tells about its memory."""
    told: dict[str, Any] = client.info("memory")
    return told


def _is_read_only(error: redis.ResponseError) -> bool:
    """Return whether a replica refused a write.  Redis 7 replies READONLY; before, an error of the script quotes it."""
    return isinstance(error, ReadOnlyError) or "READONLY" in str(error)


def _scores(key: str, client: Any) -> dict[bytes, int]:
    return dict(client.zscan_iter(key, count=1000, score_cast_func=int))


def _pool(address: RedisAddress) -> redis.ConnectionPool:
    """Return a pool with one connection per thread, timeouts on each operation, and no retries."""
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "protocol": 2,  # RESP3 is not needed, and costs another round trip per connection
        "socket_timeout": REPLY_TIMEOUT,
        "max_connections": THREADS,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.path:
        return redis.ConnectionPool(cast(Any, redis.UnixDomainSocketConnection), path=address.path, **options)
    options |= {
        "host": address.host,
        "port": address.port,
        "db": address.database,
        "socket_connect_timeout": REPLY_TIMEOUT,
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
    }
    if address.tls:
        return redis.ConnectionPool(redis.SSLConnection, ssl_check_hostname=True, **options)
    return redis.ConnectionPool(**options)
