"""The store of grants that the settings name, for the server and for ``mailauth grants``.

Knows files, the URL of a Redis, and whether the package for it is there; asks no store.  Each mistake is a Complaint.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from .. import stores
from ..stores.sqlite_grants import check_file
from . import secret_file
from .settings import OPTIONS, Settings

NO_PACKAGE = "grants in Redis need the package redis: pip install 'mailauth[redis]'"


def shared(settings: Settings) -> stores.Grants | None:
    """The store that *settings* name, for whoever closes it; None for memory.  Raises Complaint."""
    check(settings)
    place, options = settings.grants, _options(settings)
    try:
        if place.sqlite is not None:
            return stores.SqliteGrants(place.sqlite, **options)
        if place.redis is not None:
            from ..stores.redis_grants import RedisGrants

            return RedisGrants(place.redis, password=_password(settings), **options)
    except stores.GrantsError as error:
        raise settings.config_error("grants", str(error)) from error
    return None


def describe_error(error: Exception) -> str:
    """What Redis or SQLite say of *error*, for a sentence, without the arguments of a command that Redis did not know.

    One that was told to know no AUTH quotes the password among them.
    """
    return str(error).partition("\n")[0].partition(", with args")[0].rstrip(".") or type(error).__name__


def _options(settings: Settings) -> dict[str, Any]:
    return {"lifetime": settings.grant_lifetime, "ipv6_prefix": settings.grant_ipv6_prefix}


def check(settings: Settings) -> None:
    """All that can be told without making or asking the store.  Raises Complaint."""
    place = settings.grants
    if place.sqlite is not None:
        _check_file(settings, place.sqlite)
    if place.redis is None:
        if settings.redis_password is not None:
            raise settings.config_error("redis_password", f"is of use only with a Redis in {settings.names('grants')}")
        return
    if place.redis.password is not None and "grants" in settings.places:
        raise settings.config_error("grants", f"leave the password to {OPTIONS['redis_password'].title}")
    if importlib.util.find_spec("redis") is None:
        raise settings.config_error("grants", NO_PACKAGE)
    _password(settings)


def _check_file(settings: Settings, path: Path) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise settings.config_error("grants", f"{path.parent} is no directory that can be written")
    if path.exists():
        try:
            check_file(path)
        except stores.GrantsError as error:
            raise settings.config_error("grants", str(error)) from error


def _password(settings: Settings) -> str | None:
    """The password for Redis from its file."""
    path = settings.redis_password
    if path is None:
        return None
    try:
        text = secret_file.read(settings, "redis_password", path).decode()
    except UnicodeDecodeError as error:
        raise settings.config_error("redis_password", f"{path} is not text in UTF-8") from error
    if not text:
        raise settings.config_error("redis_password", f"{path} is empty")
    return text
