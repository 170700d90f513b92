"""The address of a Redis server, parsed from a URL.  The package ``redis`` is not needed for this."""

from __future__ import annotations

import contextlib
import urllib.parse
from typing import Any, Final

import attrs

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

    host: str = ""
    port: int = _PORT
    database: int = 0
    tls: bool = False
    path: str = ""
    """The path of a Unix socket.  If it is set, *host*, *port*, *database* and *tls* are ignored."""
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def read(cls, url: str) -> RedisAddress:
        """Parse *url*.  Raises ValueError, which does not quote the URL, if it is invalid."""
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
