"""What the SMTP servers of other projects offer and reply."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import attrs
import pytest

from tests.interop.peers import Peer, Recipe
from tests.interop.smtp_peers import COURIER, EXIM, OPENSMTPD, POSTFIX, SENDMAIL

Start = Callable[[Recipe], Peer]
SENDER, UNKNOWN, BLOCKED = "bob@example.org", "unknown@example.test", "blocked@example.test"
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-1")


@attrs.frozen(kw_only=True)
class Expected:
    """What a server offers and replies."""

    recipe: Recipe
    mechanisms: tuple[str, ...]
    """Inside TLS, for a client with a certificate; those that mailauth implements."""
    extensions: frozenset[str]
    """Inside TLS, before the login; those that mailauth implements."""
    vrfy: int
    blocked: int
    """The reply to RCPT for ``BLOCKED``, if it is not in the grammar of RFC 5321."""


ESMTP = frozenset({"SIZE", "8BITMIME", "DSN"})
SERVERS = {
    "Postfix": Expected(
        recipe=POSTFIX, mechanisms=(*SCRAM, "CRAM-MD5", "PLAIN", "LOGIN"), vrfy=252, blocked=571,
        extensions=ESMTP | {"PIPELINING", "CHUNKING", "SMTPUTF8", "ENHANCEDSTATUSCODES"},
    ),
    "Exim": Expected(
        recipe=EXIM, mechanisms=(*SCRAM, "CRAM-MD5", "PLAIN", "LOGIN", "EXTERNAL"), vrfy=250, blocked=571,
        extensions=ESMTP | {"PIPELINING", "CHUNKING", "SMTPUTF8"},
    ),
    "sendmail": Expected(
        recipe=SENDMAIL, mechanisms=(*SCRAM, "CRAM-MD5", "PLAIN", "LOGIN", "EXTERNAL"), vrfy=250, blocked=571,
        extensions=ESMTP | {"PIPELINING", "ENHANCEDSTATUSCODES"},
    ),
    "Courier": Expected(
        recipe=COURIER, mechanisms=("CRAM-MD5", "PLAIN", "LOGIN", "EXTERNAL"), vrfy=250, blocked=0,
        extensions=ESMTP | {"PIPELINING", "SMTPUTF8"},
    ),
    "OpenSMTPD": Expected(
        recipe=OPENSMTPD, mechanisms=(), vrfy=500, blocked=0, extensions=ESMTP | {"ENHANCEDSTATUSCODES"},
    ),
}  # fmt: skip
KNOWN = frozenset().union(*(each.extensions for each in SERVERS.values()))
ALL_MECHANISMS = frozenset().union(*(each.mechanisms for each in SERVERS.values()))
WITH_TLS = tuple(name for name in SERVERS if name != "OpenSMTPD")

every_server = pytest.mark.parametrize("name", SERVERS)
every_server_with_tls = pytest.mark.parametrize("name", WITH_TLS)
every_password_login = pytest.mark.parametrize(
    ("name", "mechanism"),
    [(name, each) for name in WITH_TLS for each in SERVERS[name].mechanisms if each != "EXTERNAL"],
)


def make_message(body: bytes = b"body\r\n") -> tuple[bytes, bytes]:
    """Return a mark that no other message has, and a message with it."""
    mark = secrets.token_hex(8).encode()
    return mark, b"From: bob@example.org\r\nTo: alice@example.test\r\nSubject: " + mark + b"\r\n\r\n" + body


def body_of(data: bytes) -> bytes:
    return data.partition(b"\n\n")[2]
