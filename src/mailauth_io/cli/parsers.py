"""What one word of a command line or of a configuration file means: text in, a checked value out, or Wrong.

Knows how a value is written; where it stands, and what it is for, is told by ``settings``.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import attrs

from mailauth import LocalProtocolError, smtp

from .._addresses import Network
from ..certificate_names import KINDS, certificate_name
from ..stores.redis_address import RedisAddress

_NUMBER = re.compile(r"[0-9]{1,18}")
_NEXT_HOP = re.compile(r"(smtps?)://(?:([^:/?#\s]+)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")


class ValueParseError(ValueError):
    """This text means nothing here; the message says what to write, and quotes nothing that may be a secret."""


def address(text: str) -> str:
    """An IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueParseError(f"{text!r} is no IP address") from None
    return text


def domain(text: str) -> str:
    """A domain, in lower case; one beyond ASCII as its A-label, for the ready server offers no SMTPUTF8."""
    try:
        smtp.Mailbox("somebody", text)
    except LocalProtocolError:
        raise ValueParseError(f"{text!r} is no domain") from None
    if not text.isascii():
        raise ValueParseError(f"{text!r} is beyond ASCII: write it as its A-label, xn--...")
    return text.lower()


def number(least: int, most: int, what: str) -> Callable[[str], int]:
    """What reads a whole number from *least* to *most*; *what* it counts is for the complaint."""

    def read(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            raise ValueParseError(f"{text!r} is no {what} from {least} to {most}")
        return int(text)

    return read


port = number(0, 65535, "port")


def seconds(text: str) -> float:
    """Seconds, 0 or more."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise ValueParseError(f"{text!r} is no number of seconds, 0 or more")
    return found


def seconds_up_to(most: float) -> Callable[[str], float]:
    """What reads seconds, *most* of them at most."""

    def read(text: str) -> float:
        found = seconds(text)
        if found > most:
            raise ValueParseError(f"{text!r} is no number of seconds from 0 to {most:g}")
        return found

    return read


def positive(text: str) -> float:
    """More than 0: seconds, or whatever else can be had in parts."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise ValueParseError(f"{text!r} is no number above 0")
    return found


def one_of(*names: str) -> Callable[[str], str]:
    """What reads one of *names*."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueParseError(f"{text!r} is none of {', '.join(names)}")
        return text

    return read


def network(text: str) -> Network:
    """An IP network, or a single address; one of IPv4-mapped addresses is that of IPv4, as these are everywhere."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise ValueParseError(
            f"{text!r} is no network; write its first address and its bits, as in 192.0.2.0/24"
        ) from None
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, found.prefixlen - 96))
    return found


@attrs.frozen(kw_only=True)
class GrantsPlace:
    """Where grants are kept: in a SQLite file, in Redis, or with neither in memory.  Its text has no password."""

    sqlite: Path | None = None
    redis: RedisAddress | None = None

    def below(self, directory: Path) -> GrantsPlace:
        """The same, seen from *directory*."""
        return self if self.sqlite is None else GrantsPlace(sqlite=directory / self.sqlite)

    def __str__(self) -> str:
        if self.redis is not None:
            return str(self.redis)
        return "memory" if self.sqlite is None else f"sqlite:{self.sqlite}"


def grants_place(text: str) -> GrantsPlace:
    """``memory``, ``sqlite:FILE`` or the URL of a Redis."""
    if text == "memory":
        return GrantsPlace()
    if text.startswith("sqlite:"):
        return GrantsPlace(sqlite=path(text.removeprefix("sqlite:")))
    try:
        return GrantsPlace(redis=RedisAddress.read(text))
    except ValueError as error:
        raise ValueParseError(f"write memory or sqlite:FILE, or {str(error).removeprefix('write ')}") from None


def path(text: str) -> Path:
    """The name of a file or of a directory."""
    if not text or "\0" in text:
        raise ValueParseError("there is no file without a name")
    return Path(text)


def user(text: str) -> tuple[str, bytes]:
    """``NAME:PASSWORD``: the name of an account, and its password as octets."""
    name, colon, password = text.partition(":")
    if not colon:
        # Not quoted: what stands there may well be a password.
        raise ValueParseError("write NAME:PASSWORD, with a colon between the two")
    return name, os.fsencode(password)


def token(text: str) -> tuple[str, bytes]:
    """``NAME:TOKEN``: the name of an account, and a bearer token for it."""
    name, colon, found = text.partition(":")
    if not colon or not _TOKEN.fullmatch(found):
        # Not quoted, as above.
        raise ValueParseError("write NAME:TOKEN, the token of letters, digits and -._~+/ (RFC 6750)")
    return name, found.encode("ascii")


def client_name(text: str) -> tuple[str, str]:
    """``KIND:NAME=ACCOUNT``: a name as certificates have it, and the account that it opens."""
    written, equals, account = text.rpartition("=")
    kind, colon, name = written.partition(":")
    if not (equals and colon and name and account) or kind not in KINDS:
        raise ValueParseError(f"{text!r} is no KIND:NAME=ACCOUNT with a KIND of {', '.join(KINDS)}")
    return certificate_name(kind, name), account


@attrs.frozen(kw_only=True)
class NextHopUrl:
    """A server that mail is handed on to, and who we are there."""

    host: str
    port: int
    implicit_tls: bool
    user: str | None


def next_hop(text: str) -> NextHopUrl:
    """``smtp://HOST:PORT``, ``smtps://USER@HOST:PORT``; ports 25 and 465 unless given, ``%40`` for an ``@`` in USER."""
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
        # Not quoted: somebody may have written a password into it.
        raise ValueParseError(
            "write smtp://HOST:PORT or smtps://USER@HOST:PORT, and the password into a file"
        ) from None
    implicit = found[1] == "smtps"
    return NextHopUrl(
        host=host,
        port=int(found[4] or (465 if implicit else 25)),
        implicit_tls=implicit,
        user=None if found[2] is None else unquote(found[2]),
    )
