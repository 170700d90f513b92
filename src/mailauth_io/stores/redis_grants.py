"""Grants in Redis 5 or later, for servers on several hosts.

Each operation is one Lua script, run in a thread, so it is atomic, and the only clock is that of Redis.  A grant that
expires later than now plus the lifetime was made before the clock stepped back, and counts as expired.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from functools import partial
from ipaddress import IPv6Network
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailauth.addresses import grant_key
from mailauth.grants import IDENTITIES_PER_ADDRESS, LIFETIME, MAX_GRANTS, Grant, Lookup

from .._checks import check_text, check_type
from ._bounded_executor import THREADS, BoundedExecutor
from .grants import MAX_SWEPT_PER_LOGIN, TIMEOUT, ActiveGrant, make_table
from .redis_address import RedisAddress

__all__ = [
    "RedisAddress",
    "RedisGrants",
]

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

_ALL: Final = "{mailauth}:grants"  # the hash tag in braces puts all keys into one slot of a Redis cluster

# Three kinds of sorted sets: all grants, the grants at an address, the grants of an identity.  Each is sorted by
# expiry, which is the order of the logins, and expires with its last grant.
_BEGIN: Final = f"""
local all, at, of = '{_ALL}', '{{mailauth}}:at:', '{{mailauth}}:of:'
local time = redis.call('TIME')
local now = time[1] * {_MICRO} + time[2]
local last = now + ARGV[1]

local function text(number)
    return string.format('%.0f', number)
end

local function drop(address, identity)
    redis.call('ZREM', all, address .. ' ' .. identity)
    redis.call('ZREM', at .. address, identity)
    redis.call('ZREM', of .. identity, address)
end

local function drop_each(members)
    for _, member in ipairs(members) do
        drop(string.match(member, '^(%S+) (.*)$'))
    end
end

local function sweep()
    drop_each(redis.call('ZRANGEBYSCORE', all, '-inf', text(now), 'LIMIT', 0, {MAX_SWEPT_PER_LOGIN}))
    drop_each(redis.call('ZRANGEBYSCORE', all, '(' .. text(last), '+inf', 'LIMIT', 0, {MAX_SWEPT_PER_LOGIN}))
end
"""

# A grant counts only while it is in both sets, of its address and of its identity.  Redis may evict one of the sets
# when memory is short, and a grant that is missing from the set of its identity could not be revoked.
_FIND: Final = """
local address = ARGV[2]
local highest = redis.call('ZREVRANGE', all, 0, 0, 'WITHSCORES')[2]
if highest and tonumber(highest) > last then
    sweep()
end
local here = redis.call('ZREVRANGEBYSCORE', at .. address, text(last), '(' .. text(now), 'WITHSCORES')
for place = 1, #here, 2 do
    if redis.call('ZSCORE', of .. here[place], address) == here[place + 1] then
        return {here[place], here[place + 1]}
    end
end
return false
"""

_GRANT: Final = """
local address, identity, identities, maximum = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local late = now - ARGV[6]
if late < 0 or late > tonumber(ARGV[7]) then
    return false
end
sweep()
for _, other in ipairs(redis.call('ZRANGEBYSCORE', at .. address, '-inf', text(now))) do
    drop(address, other)
end
redis.call('ZADD', all, text(last), address .. ' ' .. identity)
redis.call('ZADD', at .. address, text(last), identity)
redis.call('ZADD', of .. identity, text(last), address)
for _, other in ipairs(redis.call('ZRANGE', at .. address, 0, -1 - identities)) do
    drop(address, other)
end
local excess = redis.call('ZCARD', all) - maximum
if excess > 0 then
    drop_each(redis.call('ZRANGE', all, 0, math.min(excess, MAX_SWEPT_PER_LOGIN) - 1))
end
for _, key in ipairs({all, at .. address, of .. identity}) do
    redis.call('PEXPIRE', key, text(math.ceil(ARGV[1] / 1000)))
end
return redis.call('ZCARD', at .. address)
""".replace("MAX_SWEPT_PER_LOGIN", str(MAX_SWEPT_PER_LOGIN))

_REVOKE_IDENTITY: Final = """
local identity, until_ = ARGV[2], last - ARGV[3]
local active = 0
local there = redis.call('ZRANGEBYSCORE', of .. identity, '-inf', text(until_), 'WITHSCORES')
for place = 1, #there, 2 do
    if tonumber(there[place + 1]) > now then
        active = active + 1
    end
    drop(there[place], identity)
end
return active
"""

_REVOKE_ADDRESS: Final = """
local address = ARGV[2]
local active = redis.call('ZCOUNT', at .. address, '(' .. text(now), text(last))
for _, identity in ipairs(redis.call('ZRANGE', at .. address, 0, -1)) do
    drop(address, identity)
end
return active
"""


class RedisGrants:
    """Grants in the Redis server at *address*.

    *password* is used instead of the one in *address*, if given.  The other settings are those of GrantTable; an
    invalid one is a ValueError.  They must be the same on all servers.  The first call connects to Redis.

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
        max_grants: int = MAX_GRANTS,
    ) -> None:
        check_type("address", address, RedisAddress, use="RedisAddress.read('redis://127.0.0.1/0')")
        check_text("password", password, optional=True)
        make_table(
            lifetime=lifetime,
            ipv6_prefix=ipv6_prefix,
            nat64_prefixes=nat64_prefixes,
            identities_per_address=identities_per_address,
            max_grants=max_grants,
        )
        self._lifetime = round(lifetime * _MICRO)
        self._grant_key = partial(grant_key, ipv6_prefix=ipv6_prefix, nat64_prefixes=tuple(nat64_prefixes))
        self._identities = identities_per_address
        self._max_grants = max_grants
        self._executor = BoundedExecutor()
        self._redis: Any = redis.Redis(connection_pool=_pool(address, password))  # its types are incomplete
        self._find_script, self._grant_script, self._revoke_identity_script, self._revoke_address_script = (
            self._redis.register_script(_BEGIN + script)
            for script in (_FIND, _GRANT, _REVOKE_IDENTITY, _REVOKE_ADDRESS)
        )

    async def find(self, address: str) -> Lookup:
        """Return the newest active grant of *address*, or None.

        Raises an exception if Redis does not answer in two seconds.
        """
        key = self._key(address)
        found = await self._executor.run(self._run, self._find_script, key)
        return None if found is None else Grant(key, found[0].decode(), int(found[1]) / _MICRO)

    async def grant(self, address: str, identity: str) -> int:
        """Store a grant, and return the number of identities that have grants at *address*."""
        grant = Grant(self._key(address), identity, 0.0)  # raises for an empty identity
        return await self._executor.run(self._grant, str(grant.address), grant.identity)

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

    def close(self) -> None:
        """Close all connections to Redis."""
        self._redis.connection_pool.disconnect()

    def _key(self, address: str) -> str:
        return str(self._grant_key(address))

    def _run(self, script: Script, *args: str | int) -> Any:
        try:
            return script(args=[self._lifetime, *args])
        except redis.TimeoutError:
            raise self._on_timeout() from None

    def _time(self) -> int:
        try:
            seconds, microseconds = map(int, self._redis.time())
        except redis.TimeoutError:
            raise self._on_timeout() from None
        return seconds * _MICRO + microseconds

    def _on_timeout(self) -> TimeoutError:
        """Close the idle connections, which are probably dead too, and return the error to raise."""
        self._redis.connection_pool.disconnect(inuse_connections=False)
        return TimeoutError()

    def _grant(self, address: str, identity: str) -> int:
        """Store a grant.  The script receives the time of the call, and does nothing if it runs after the timeout."""
        called_at = self._time()
        timeout = round(TIMEOUT * _MICRO)
        identities = self._run(
            self._grant_script, address, identity, self._identities, self._max_grants, called_at, timeout
        )
        if identities is None:
            raise TimeoutError
        return int(identities)

    def _active(self) -> list[ActiveGrant]:
        members: dict[bytes, int] = dict(self._redis.zscan_iter(_ALL, count=1000, score_cast_func=int))
        now = self._time()
        grants: list[ActiveGrant] = []
        for member, expires in sorted(members.items(), key=lambda item: item[1]):
            address, _, identity = member.decode().partition(" ")
            if now < expires <= now + self._lifetime:
                remaining = (expires - now) / _MICRO
                grants.append(ActiveGrant(address=grant_key(address), identity=identity, remaining=remaining))
        return grants


def _pool(address: RedisAddress, password: str | None) -> redis.ConnectionPool:
    """Return a pool with one connection per thread, timeouts on each operation, and no retries."""
    options: dict[str, Any] = {
        "username": address.username,
        "password": password or address.password,
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
