"""The texts of the replies that the server sends without asking the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import sasl
from .replies import Reply, Unavailable

MESSAGE_FOLLOWS: Final = Reply(True, "", "message follows")
PASSWORD_REQUIRED: Final = Reply(True, "", "password required")
NOOP: Final = Reply(True, "", "ok")
GOODBYE: Final = Reply(True, "", "goodbye")

UNKNOWN_COMMAND: Final = Reply(False, "", "unknown command")
LINE_TOO_LONG: Final = Reply(False, "", "command line too long")
BAD_SEQUENCE: Final = Reply(False, "", "command not valid in this state")
NO_MECHANISM: Final = Reply(False, "", "authentication mechanism not supported")
TLS_ACTIVE: Final = Reply(False, "", "TLS already active")
NO_TLS_AFTER_UTF8: Final = Reply(False, "", "STLS not allowed after UTF8")  # RFC 6856 section 2.1
NO_UTF8: Final = Reply(False, "", "UTF8 not supported")
NEEDS_UTF8: Final = Reply(False, "UTF8", "message requires UTF8: send UTF8 before logging in")
NO_TLS: Final = Reply(False, "", "TLS not supported")
NOT_POP3: Final = Reply(False, "", "this is a POP3 server, closing connection")
TOO_MANY_ERRORS: Final = Reply(False, "", "too many errors, closing connection")
SHUTTING_DOWN: Final = Reply(False, "SYS/TEMP", "service shutting down, try again later")

UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "command not available") for reason in Unavailable
}
CONNECTION_REFUSED: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "service not available") for reason in Unavailable
}
TLS_UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "TLS not available") for reason in Unavailable
}
MAILDROP_UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    Unavailable.IN_USE: Reply(False, "IN-USE", "maildrop in use by another session"),
    Unavailable.TEMPORARY: Reply(False, "SYS/TEMP", "maildrop temporarily unavailable"),
    Unavailable.PERMANENT: Reply(False, "SYS/PERM", "maildrop cannot be opened"),
    Unavailable.LOGIN_DELAY: Reply(False, "LOGIN-DELAY", "too soon after the last login"),
    Unavailable.UTF8: Reply(False, "UTF8", "maildrop requires UTF8"),
}
MESSAGE_UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "message cannot be read") for reason in Unavailable
}
UPDATE_FAILED: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "some deleted messages were not removed") for reason in Unavailable
}
"""RFC 1939 section 6."""

LOGIN_FAILURES: Final[Mapping[sasl.Refusal | sasl.Fault, Reply]] = {
    # RFC 3206 section 4.  The text does not show whether the name or the password was wrong.
    sasl.Refusal.BAD_CREDENTIALS: Reply(False, "AUTH", "authentication failed"),
    sasl.Refusal.NOT_AUTHORIZED: Reply(False, "AUTH", "authentication failed"),
    sasl.Refusal.TEMPORARY: Reply(False, "SYS/TEMP", "temporary authentication failure"),
    sasl.Refusal.TRANSITION_NEEDED: Reply(False, "AUTH", "password transition needed"),
    sasl.Refusal.TOO_WEAK: Reply(False, "AUTH", "authentication mechanism is too weak"),
    sasl.Fault.CANCELLED: Reply(False, "", "authentication cancelled"),
    sasl.Fault.UNDECODABLE: Reply(False, "", "invalid base64 in response"),
    sasl.Fault.UNEXPECTED_INITIAL_RESPONSE: Reply(False, "", "initial response not allowed with this mechanism"),
    sasl.Fault.MALFORMED: Reply(False, "", "malformed authentication response"),
    sasl.Fault.TOO_LONG: Reply(False, "", "authentication exchange line is too long"),
}
