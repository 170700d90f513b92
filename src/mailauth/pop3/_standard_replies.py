"""The replies that a server gives by itself, as data: one per situation, none of them said in two places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import sasl
from .replies import Reply, Unavailable

SEND_PASSWORD: Final = Reply(True, "", "now the password")  # for every name (RFC 1939 section 13)
UTF8_MODE: Final = Reply(True, "", "UTF8 it is")
BEGIN_TLS: Final = Reply(True, "", "begin the TLS handshake")
MESSAGE_FOLLOWS: Final = Reply(True, "", "message follows")
NOOP: Final = Reply(True, "", "still here")
GOODBYE: Final = Reply(True, "", "goodbye")

UNKNOWN_COMMAND: Final = Reply(False, "", "unknown command")
LINE_TOO_LONG: Final = Reply(False, "", "command line too long")
BAD_SEQUENCE: Final = Reply(False, "", "this command is not valid in this state")
NO_MECHANISM: Final = Reply(False, "", "this authentication mechanism is not offered here")
TLS_ACTIVE: Final = Reply(False, "", "TLS is active already")
NO_TLS_AFTER_UTF8: Final = Reply(False, "", "no STLS after UTF8")  # RFC 6856 section 2.1
NO_UTF8: Final = Reply(False, "", "UTF8 is not offered here")
NEEDS_UTF8: Final = Reply(False, "UTF8", "this message holds UTF-8: say UTF8 before the login")
NO_TLS: Final = Reply(False, "", "TLS is not offered here")
TOO_MANY_ERRORS: Final = Reply(False, "", "too many errors, closing the connection")
SHUTTING_DOWN: Final = Reply(False, "SYS/TEMP", "service shutting down, try again later")

CONNECTION_REFUSED: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "service not available") for reason in Unavailable
}
TLS_UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "TLS is not available now") for reason in Unavailable
}
MAILDROP_UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    Unavailable.IN_USE: Reply(False, "IN-USE", "maildrop is in use by another session"),
    Unavailable.TEMPORARY: Reply(False, "SYS/TEMP", "maildrop is not available now"),
    Unavailable.PERMANENT: Reply(False, "SYS/PERM", "maildrop is broken"),
    Unavailable.LOGIN_DELAY: Reply(False, "LOGIN-DELAY", "too soon after the last login"),
    Unavailable.UTF8: Reply(False, "UTF8", "maildrop needs UTF8"),
}
MESSAGE_UNAVAILABLE: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "message cannot be read") for reason in Unavailable
}
UPDATE_FAILED: Final[Mapping[Unavailable, Reply]] = {
    reason: Reply(False, reason.value, "some deleted messages were not removed") for reason in Unavailable
}
"""RFC 1939 section 6."""

LOGIN_FAILURES: Final[Mapping[sasl.Refusal | sasl.Fault, Reply]] = {
    # RFC 3206 section 4; one text for every cause that has to do with who it is.
    sasl.Refusal.BAD_CREDENTIALS: Reply(False, "AUTH", "authentication failed"),
    sasl.Refusal.NOT_AUTHORIZED: Reply(False, "AUTH", "authentication failed"),
    sasl.Refusal.TEMPORARY: Reply(False, "SYS/TEMP", "temporary authentication failure"),
    sasl.Refusal.TRANSITION_NEEDED: Reply(False, "AUTH", "a password transition is needed"),
    sasl.Refusal.TOO_WEAK: Reply(False, "AUTH", "authentication mechanism is too weak"),
    sasl.Fault.CANCELLED: Reply(False, "", "authentication cancelled"),
    sasl.Fault.UNDECODABLE: Reply(False, "", "cannot decode the base64 of the response"),
    sasl.Fault.UNEXPECTED_INITIAL_RESPONSE: Reply(False, "", "this mechanism takes no initial response"),
    sasl.Fault.MALFORMED: Reply(False, "", "the response is not what the mechanism asks for"),
    sasl.Fault.TOO_LONG: Reply(False, "", "authentication exchange line is too long"),
}
