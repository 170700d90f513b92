"""The address of a Redis server, parsed from a URL.  The package ``redis`` is not needed for this."""

from __future__ import annotations

import contextlib
import urllib.parse
from typing import Any, Final

import attrs

from .._checks import check_integer, check_port, check_text, check_type, field

_PORT: Final = 6379
_RULE: Final = "write redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE (TLS) or unix:///PATH"


@attrs.frozen(kw_only=True)
class RedisAddress:
    """The address of a Redis server, and the credentials for it.  ``str()`` and ``repr()`` omit the password.

    For example:

        >>> address = redis_grants.RedisAddress.read("rediss://:secret@redis.example/2")
        >>> str(address), address.port
        ('rediss://redis.example:6379/2', 6379)
    """

    host: str = attrs.field(default="", validator=field(check_text, empty=True))
    port: int = attrs.field(default=_PORT, validator=field(check_port, 1))
    database: int = attrs.field(default=0, validator=field(check_integer, 0))
    tls: bool = attrs.field(default=False, validator=field(check_type, bool))
    path: str = attrs.field(default="", validator=field(check_text, empty=True))
    """The path of a Unix socket.  If it is set, *host*, *port*, *database* and *tls* are ignored."""
    username: str | None = attrs.field(default=None, validator=field(check_text, optional=True))
    password: str | None = attrs.field(default=None, repr=False, validator=field(check_text, optional=True))

    def __attrs_post_init__(self) -> None:
        if not self.host and not self.path:
            raise ValueError("host and path must not both be empty; use RedisAddress.read('redis://127.0.0.1/0')")

    @classmethod
    def read(cls, url: str) -> RedisAddress:
        """Parse *url*.  Raises ValueError, which does not quote the URL, if it is invalid."""
        check_type("url", url, str)
        with contextlib.suppress(ValueError):
            parts = urllib.parse.urlsplit(url)
            credentials: dict[str, Any] = {
                "username": urllib.parse.unquote(parts.username) if parts.username else None,
                "password": urllib.parse.unquote(parts.password) if parts.password else None,
            }
            if not (parts.query or parts.fragment):
                if parts.scheme == "unix" and parts.path and not parts.hostname:
                    return cls(path=urllib.parse.unquote(parts.path), **credentials)
                if parts.scheme in ("redis", "rediss") and parts.hostname:
                    database = parts.path.removeprefix("/") or "0"
                    if database.isascii() and database.isdecimal():
                        return cls(
                            host=parts.hostname,
                            port=_PORT if parts.port is None else parts.port,
                            database=int(database),
                            tls=parts.scheme == "rediss",
                            **credentials,
                        )
        raise ValueError(_RULE)

    def __str__(self) -> str:
        if self.path:
            return f"unix://{urllib.parse.quote(self.path)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}"
