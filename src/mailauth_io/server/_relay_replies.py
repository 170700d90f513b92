"""Replies to the client and reasons for the log, from the replies and failures of the next hop."""

from __future__ import annotations

import os
import ssl
from typing import Final

import attrs

from mailauth import LocalProtocolError, RemoteProtocolError, smtp

from ..adapters.tls.verification import describe_verification
from ..client import ClientError, ConnectionFailed, ServerRejected

UNREACHABLE: Final = smtp.Reply(451, "4.4.1", "next hop unavailable, try again later")
BUSY: Final = smtp.Reply(451, "4.3.2", "too many sessions with the next hop, try again later")
TAKEN_BACK: Final = smtp.Reply(451, "4.3.2", "client too slow while others wait for the next hop, try again later")
LOOP: Final = smtp.Reply(451, "4.4.6", "mail loop: the next hop is this server")
NO_EIGHT_BITS: Final = smtp.Reply(554, "5.6.3", "next hop does not support 8BITMIME, message not converted")
TOO_BIG: Final = smtp.Reply(554, "5.3.4", "message size exceeds the limit of the next hop")

MAX_TEXT: Final = 400
"""Maximum number of characters of a next-hop reply that are passed on, so that it fits on one line.  No RFC gives a
number."""

_TRUST_HINT: Final = "use --relay-ca FILE, or the ssl_context of NextHop, to trust its CA"
_NAME_HINT: Final = "use a host name for the relay that is in the certificate"
_UNBOUND_HINT: Final = "--relay-mechanism SCRAM-SHA-256, or mechanism= of NextHop"

_TOO_MANY_RECIPIENTS: Final = (552, "5.5.3")
"""An old code for a temporary failure: the client should send the rest in another transaction (RFC 5321 section
4.5.3.1.10).  Without the enhanced status code, 552 may mean that the mailbox is full."""

_SERVER_FAULT_CODES: Final = frozenset({503, 521, 523, 524, 525, 530, 534, 535, 538})
"""Permanent reply codes that report a problem with this server's session or login, not with the mail: the commands are
out of order (503), the next hop accepts no mail at all (521, RFC 7504), and those for TLS and logins (RFC 4954 section
6, and the registry of RFC 5248).  They must not cause a bounce."""

_SERVER_FAULT_STATUS: Final = frozenset({"5.7.8", "5.7.9", "5.7.10", "5.7.11", "5.7.12", "5.7.13"})
"""The same as enhanced status codes, which may come with another code such as 550 (RFC 4954 section 6, and the registry
of RFC 5248)."""


class ConnectionLost(Exception):
    """The transaction at the next hop has failed.  The text is the reason; *reply* is sent to the client."""

    def __init__(self, reason: str, reply: smtp.Reply = UNREACHABLE) -> None:
        super().__init__(reason)
        self.reply = reply


FAILURES: Final = (ConnectionLost, ClientError, OSError, LocalProtocolError, RemoteProtocolError, ValueError)
"""The exceptions that end a transaction at the next hop."""


def is_server_fault(reply: smtp.Reply) -> bool:
    """Return whether *reply* is about this server instead of the mail."""
    return reply.code in _SERVER_FAULT_CODES or reply.enhanced_status_code in _SERVER_FAULT_STATUS


def client_reply(reply: smtp.Reply, *, code: int | None = None) -> smtp.Reply:
    """Return *reply* as it is sent to the client: on one line, always with an enhanced status code.

    *code* replaces its code.  So does 451 or 554 if the code is one that cannot be sent, such as 571 (RFC 5321 section
    4.2: the second digit is 0 to 5); a client decides by the first digit (section 4.2.1).
    """
    enhanced = reply.enhanced_status_code or f"{reply.code // 100}.0.0"
    return smtp.Reply(code or reply.with_standard_code().code, enhanced, _one_line(reply.text))


def recipient_reply(reply: smtp.Reply, *, first: bool) -> smtp.Reply:
    """Return *reply*, which rejects a recipient, as it is sent to the client.

    *first* is whether the transaction has no other recipient.
    """
    if not first and (reply.code, reply.enhanced_status_code) == _TOO_MANY_RECIPIENTS:
        return client_reply(attrs.evolve(reply, enhanced_status_code="4.5.3"), code=452)
    return client_reply(reply)


def failure_reply(error: Exception) -> smtp.Reply:
    """Return the reply that rejects the rest of the client's transaction after *error*."""
    if isinstance(error, ConnectionLost):
        return error.reply
    if isinstance(error, ServerRejected) and isinstance(error.reply, smtp.Reply) and error.reply.code == 421:
        return client_reply(error.reply, code=451)
    return UNREACHABLE


def login_failure(event: smtp.AuthenticationRejected) -> ConnectionLost:
    """Return the exception for a refused login.  It does not quote the reply, which may contain the credentials."""
    reply = event.reply
    tried = ", ".join(each.mechanism for each in (*event.earlier, event))
    text = f"login rejected with {reply.code} {reply.enhanced_status_code} ({tried})"
    if event.channel_bindings:
        bindings = ", ".join(event.channel_bindings)
        text += f"; if the relay does not support channel binding ({bindings}), use {_UNBOUND_HINT}"
    return ConnectionLost(text)


def reason(error: Exception) -> str:
    """Return the reason of a next-hop failure for the log.  It contains no text from a login."""
    if isinstance(error, ConnectionFailed) and isinstance(error.__cause__, Exception):
        return reason(error.__cause__)
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _one_line(describe_verification(error, trust=_TRUST_HINT, name=_NAME_HINT))
    if isinstance(error, ssl.SSLError):
        found = getattr(error, "reason", None)  # of OpenSSL: WRONG_VERSION_NUMBER
        return f"TLS failed: {_one_line(found.replace('_', ' ').lower() if found else str(error))}"
    if isinstance(error, RemoteProtocolError):
        return f"it violated the protocol: {_one_line(str(error))}"
    if isinstance(error, OSError) and error.errno:
        # asyncio has its own text for a refused connection.  The number of a socket.gaierror is negative.
        return os.strerror(error.errno) if error.errno > 0 else _one_line(error.strerror or str(error))
    kind = "" if isinstance(error, (ConnectionLost, ClientError, LocalProtocolError)) else f"{type(error).__name__}: "
    return f"{kind}{_one_line(str(error))}"


def _one_line(text: str) -> str:
    """Return *text* in printable ASCII on one line, so that it cannot forge a line of the log."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")[:MAX_TEXT]
