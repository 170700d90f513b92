"""Lookup of host names."""

from __future__ import annotations

import socket


def resolve(host: str, port: int, flags: int = 0) -> list[str]:
    """Return the IP addresses of *host*, the preferred one first.  It blocks until the name servers have answered.

    *flags* are those of ``socket.getaddrinfo()``.  Raises OSError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return list(dict.fromkeys(socket.getnameinfo(address, numeric)[0] for *_, address in found))
