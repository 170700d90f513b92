"""The store of grants that the settings name, for the server and for the commands that share its grants.

Invalid settings raise ConfigError.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from .. import stores
from . import references, secret_file
from .errors import ConfigError
from .settings import OPTIONS, Settings

NO_PACKAGE = "grants in Redis require the package redis; run: pip install 'mailauth[redis]'"


def required(settings: Settings) -> stores.Grants:
    """Return the store that the servers share.  The caller closes it.  Raises ConfigError if there is none."""
    if settings.grant_lifetime == 0:
        raise settings.config_error("grant_lifetime", "0 disables grants; use the lifetime that the servers use")
    found: stores.Grants | None = references.store(settings, "grants_store")
    if found is None:
        found = shared(settings)
    if found is None:
        raise ConfigError(
            "grants in memory can be accessed only by their own server; "
            f"set a SQLite file or a Redis URL with {settings.names('grants')}"
        )
    return found


async def problem(grants: stores.Grants) -> str | None:
    """Return why *grants* cannot be read; None if they can."""
    try:
        await grants.find("0.0.0.0")
    except Exception as error:  # a store of the user, SQLite and Redis have exceptions of their own
        return describe_error(error)
    return None


def shared(settings: Settings) -> stores.Grants | None:
    """Return the shared store that *settings* name, or None for memory.  The caller closes it.

    Raises ConfigError if the settings are invalid or the store cannot be opened.
    """
    check(settings)
    place, options = settings.grants, _options(settings)
    try:
        if place.sqlite is not None:
            from ..stores.sqlite_grants import SqliteGrants

            return SqliteGrants(place.sqlite, **options)
        if place.redis is not None:
            from ..stores.redis_grants import RedisGrants

            return RedisGrants(place.redis, password=_password(settings), **options)
    except stores.GrantsError as error:
        raise settings.config_error("grants", str(error)) from error
    return None


async def eviction_warnings(grants: stores.Grants) -> list[str]:
    """Return a warning if *grants* are in a Redis that may evict them.  If Redis does not tell, there is no warning."""
    if "redis" not in sys.modules:  # then it is another store
        return []
    from ..stores.redis_grants import RedisGrants

    try:
        policy = await grants.eviction_policy() if isinstance(grants, RedisGrants) else None
    except Exception:  # INFO is forbidden, or Redis has failed since it was asked for a grant
        return []
    if policy is None:
        return []
    effect = "may remove grants when its memory is full, and the mail that needs them is then rejected"
    return [f"Redis {effect} (maxmemory-policy {policy}). Use noeviction."]


def describe_error(error: Exception) -> str:
    """Return the first line of a Redis or SQLite error, without the arguments of a command unknown to Redis.

    If ``rename-command`` has removed AUTH from Redis, these arguments contain the password.
    """
    return str(error).partition("\n")[0].partition(", with args")[0].rstrip(".") or type(error).__name__


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "lifetime": settings.grant_lifetime,
        "ipv6_prefix": settings.grant_ipv6_prefix,
        "nat64_prefixes": settings.nat64_prefixes,
    }


def check(settings: Settings) -> None:
    """Check the settings without creating or querying the store.  Raises ConfigError."""
    place = settings.grants
    if place.sqlite is not None:
        _check_file(settings, place.sqlite)
    if place.redis is None:
        if settings.redis_password is not None:
            raise settings.config_error("redis_password", f"requires a Redis URL in {settings.names('grants')}")
        return
    if place.redis.password is not None and "grants" in settings.places:
        raise settings.config_error(
            "grants", f"the URL must not contain a password; use {OPTIONS['redis_password'].title}"
        )
    if importlib.util.find_spec("redis") is None:
        raise settings.config_error("grants", NO_PACKAGE)
    _password(settings)


def check_access(settings: Settings, path: Path) -> None:
    """Raise ConfigError if this user may not use the SQLite file *path*.  It need not exist."""
    from ..stores.sqlite_grants import access_problem

    problem = access_problem(path)
    if problem is not None:
        raise settings.config_error("grants", problem)


def _check_file(settings: Settings, path: Path) -> None:
    from ..stores.sqlite_grants import check_file

    check_access(settings, path)
    if not path.parent.is_dir():
        raise settings.config_error("grants", f"{path.parent} is not a writable directory")
    if path.exists():
        try:
            check_file(path)
        except stores.GrantsError as error:
            raise settings.config_error("grants", str(error)) from error


def _password(settings: Settings) -> str | None:
    """Return the Redis password from its file, or None if no file is set."""
    path = settings.redis_password
    if path is None:
        return None
    try:
        return secret_file.read(settings, "redis_password", path).decode()
    except UnicodeDecodeError as error:
        raise settings.config_error("redis_password", f"{path} is not valid UTF-8") from error
