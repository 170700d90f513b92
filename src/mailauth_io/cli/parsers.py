"""Parsers of setting values, from the command line or a configuration file.

Each takes a text and returns the value, or raises ValueParseError.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

from mailauth import LocalProtocolError, smtp
from mailauth.addresses import Network, limit_key

from ..adapters.tls.certificate_names import KINDS, certificate_name

if TYPE_CHECKING:
    from ..stores.redis_address import RedisAddress

_NUMBER = re.compile(r"[0-9]{1,18}")
_NEXT_HOP = re.compile(r"(smtps?)://(?:([^:/?#\s]+)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?")
_LOCALHOST = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")


class ValueParseError(ValueError):
    """The text is not a valid value.  The message says what to use instead, and never quotes a possible secret."""


def address(text: str) -> str:
    """Return *text* if it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueParseError(f"invalid IP address: {text!r}; use one such as 192.0.2.1 or 2001:db8::1") from None
    return text


def domain(text: str) -> str:
    """Return the domain *text* in lower case.  It must be ASCII, because the server does not offer SMTPUTF8."""
    try:
        smtp.Mailbox("somebody", text)
    except LocalProtocolError:
        raise ValueParseError(f"invalid domain: {text!r}; use a name such as example.org") from None
    if not text.isascii():
        raise ValueParseError(f"invalid domain: {text!r} is not ASCII; use its A-label, xn--...")
    return text.lower()


def number(least: int, most: int, what: str) -> Callable[[str], int]:
    """Return a parser of integers from *least* to *most*.  *what* names the value in the error."""

    def read(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            raise ValueParseError(f"invalid {what}: {text!r}; use {least} to {most}")
        return int(text)

    return read


port = number(0, 65535, "port")


def seconds(text: str) -> float:
    """Return a finite number of seconds, 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise ValueParseError(f"invalid number of seconds: {text!r}; use a finite number, 0 or more")
    return found


def seconds_up_to(most: float) -> Callable[[str], float]:
    """Return a parser of seconds from 0 to *most*."""

    def read(text: str) -> float:
        found = seconds(text)
        if found > most:
            raise ValueParseError(f"invalid number of seconds: {text!r}; use 0 to {most:.15g}")
        return found

    return read


def positive(text: str) -> float:
    """Return a finite number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise ValueParseError(f"invalid number: {text!r}; use a finite number above 0")
    return found


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser that accepts one of *names*."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueParseError(f"invalid value: {text!r}; use one of {', '.join(names)}")
        return text

    return read


def network(text: str) -> Network:
    """Return an IP network; a single address is a network of one.

    A network of IPv4-mapped IPv6 addresses becomes the IPv4 network, as IPv4-mapped addresses count as IPv4 everywhere.
    """
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise ValueParseError(
            f"invalid network: {text!r}; use the first address and the prefix length, such as 192.0.2.0/24"
        ) from None
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, found.prefixlen - 96))
    return found


def nat64_prefix(text: str) -> ipaddress.IPv6Network:
    """Return a NAT64 prefix: an IPv6 network with a length that RFC 6052 section 2.2 allows."""
    found = network(text)
    if not isinstance(found, ipaddress.IPv6Network):
        raise ValueParseError(f"invalid NAT64 prefix: {text!r}; use an IPv6 network such as 2001:db8:64::/96")
    try:
        limit_key("::", nat64_prefixes=(found,))
    except LocalProtocolError:
        raise ValueParseError(
            f"invalid NAT64 prefix: {text!r}; use a prefix length of 32, 40, 48, 56, 64 or 96 (RFC 6052 section 2.2)"
        ) from None
    return found


@attrs.frozen(kw_only=True)
class GrantsLocation:
    """Where grants are stored: a SQLite file, Redis, or memory if both are None.  ``str()`` omits the password."""

    sqlite: Path | None = None
    redis: RedisAddress | None = None

    def resolve(self, directory: Path) -> GrantsLocation:
        """Return the same place, with a relative SQLite path taken relative to *directory*."""
        return self if self.sqlite is None else GrantsLocation(sqlite=directory / self.sqlite)

    def __str__(self) -> str:
        if self.redis is not None:
            return str(self.redis)
        return "memory" if self.sqlite is None else f"sqlite:{self.sqlite}"


def grants_location(text: str) -> GrantsLocation:
    """Parse ``memory``, ``sqlite:FILE`` or a Redis URL."""
    if text == "memory":
        return GrantsLocation()
    if text.startswith("sqlite:"):
        return GrantsLocation(sqlite=path(text.removeprefix("sqlite:")))
    from ..stores.redis_address import RedisAddress  # needs anyio, as all stores do

    try:
        return GrantsLocation(redis=RedisAddress.read(text))
    except ValueError:
        # Not quoted: a URL may contain a password.
        raise ValueParseError(
            "invalid grants store; use memory, sqlite:FILE, redis://HOST:PORT/DATABASE, "
            "rediss://HOST:PORT/DATABASE (TLS) or unix:///PATH"
        ) from None


@attrs.frozen
class Reference:
    """An object in a Python module: ``module:attribute``."""

    module: str
    attribute: str
    directory: Path = Path()
    """Where the module is searched if it is not installed: the directory of the configuration file."""

    def resolve(self, directory: Path) -> Reference:
        """Return the same reference, with *directory*."""
        return attrs.evolve(self, directory=directory.absolute())

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def reference(text: str) -> Reference:
    """Parse ``module:attribute``; both may contain dots."""
    module, _, attribute = text.partition(":")
    if not all(part.isidentifier() for name in (module, attribute) for part in name.split(".")):
        raise ValueParseError(f"invalid reference: {text!r}; use module:attribute, such as mymodule:name")
    return Reference(module, attribute)


def path(text: str) -> Path:
    """Return the path of a file or directory."""
    if not text or "\0" in text:
        raise ValueParseError(f"invalid path: {text!r}; use the name of a file or directory")
    return Path(text)


def user(text: str) -> tuple[str, bytes]:
    """Parse ``NAME:PASSWORD``: return the name of an account and its password as bytes."""
    name, colon, password = text.partition(":")
    if not colon:
        # Not quoted: the text may be a password.
        raise ValueParseError("invalid account; use NAME:PASSWORD, with a colon between name and password")
    return name, os.fsencode(password)


def token(text: str) -> tuple[str, bytes]:
    """Parse ``NAME:TOKEN``: return the name of an account and a bearer token for it."""
    name, colon, found = text.partition(":")
    if not colon or not _TOKEN.fullmatch(found):
        # Not quoted: the text may be a token.
        raise ValueParseError("invalid token; use NAME:TOKEN, with a token of letters, digits and -._~+/ (RFC 6750)")
    return name, found.encode("ascii")


def client_name(text: str) -> tuple[str, str]:
    """Parse ``KIND:NAME=ACCOUNT``: return a name in a client certificate and the account that it logs in to."""
    written, equals, account = text.rpartition("=")
    kind, colon, name = written.partition(":")
    if not (equals and colon and name and account) or kind not in KINDS:
        raise ValueParseError(
            f"invalid client name: {text!r}; use KIND:NAME=ACCOUNT, with KIND one of {', '.join(KINDS)}"
        )
    return certificate_name(kind, name), account


@attrs.frozen(kw_only=True)
class NextHopUrl:
    """The server that remote mail is relayed to, and the user name for the login there."""

    host: str
    port: int
    implicit_tls: bool
    user: str | None

    def names(self, address: str) -> bool:
        """Return whether the host is certainly a server that listens on the IP address *address*."""
        listening = ipaddress.ip_address(address)
        try:
            local = self.host.removesuffix(".").lower() == "localhost"
            found = _LOCALHOST if local else (ipaddress.ip_address(self.host),)
        except ValueError:  # another name: the connection test when the server starts finds out
            return False
        if listening.is_unspecified:
            return any(each.version == listening.version and (each.is_loopback or each == listening) for each in found)
        return listening in found


def next_hop(text: str) -> NextHopUrl:
    """Parse ``smtp://HOST:PORT`` or ``smtps://USER@HOST:PORT``.

    The default ports are 25 and 465.  An ``@`` in USER can be written as ``%40``.
    """
    found = _NEXT_HOP.fullmatch(text)
    host = found[3].strip("[]") if found else ""
    try:
        if found is None or not 0 < int(found[4] or 25) < 65536:
            raise ValueError
        if found[3].startswith("["):
            ipaddress.IPv6Address(host)
        else:
            smtp.Hello(domain=host)
    except (ValueError, LocalProtocolError):
        # Not quoted: the text may contain a password.
        raise ValueParseError(
            "invalid relay URL; use smtp://HOST:PORT or smtps://USER@HOST:PORT, and put the password in a file"
        ) from None
    implicit = found[1] == "smtps"
    return NextHopUrl(
        host=host,
        port=int(found[4] or (465 if implicit else 25)),
        implicit_tls=implicit,
        user=None if found[2] is None else unquote(found[2]),
    )
