"""The replies that a server sends by itself: one constant for each situation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import sasl
from .events import ContentFault
from .replies import Reply

RESET: Final = Reply(250, "2.0.0", "reset")
NOOP: Final = Reply(250, "2.0.0", "ok")
VRFY: Final = Reply(252, "2.5.0", "cannot verify user; use RCPT to attempt delivery")
GOODBYE: Final = Reply(221, "2.0.0", "goodbye")
LOGGED_IN: Final = Reply(235, "2.7.0", "authentication succeeded")

ASCII_REVERSE_PATH: Final = Reply(550, "5.6.7", "non-ASCII sender address requires SMTPUTF8")
ASCII_FORWARD_PATH: Final = Reply(553, "5.6.7", "non-ASCII recipient address requires SMTPUTF8 in MAIL")
UNKNOWN_COMMAND: Final = Reply(500, "5.5.1", "command not recognized")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "line too long")
BAD_LINE: Final = Reply(500, "5.5.2", "invalid characters in command")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "command not implemented")
BAD_SEQUENCE: Final = Reply(503, "5.5.1", "bad sequence of commands")
EHLO_NEEDED: Final = Reply(503, "5.5.1", "send EHLO or HELO first, also after STARTTLS")
LHLO_NEEDED: Final = Reply(503, "5.5.1", "send LHLO first, also after STARTTLS")
NO_SERVICE: Final = Reply(503, "5.5.1", "service refused; only QUIT is allowed")
ALREADY_LOGGED_IN: Final = Reply(503, "5.5.1", "already authenticated")
TLS_ACTIVE: Final = Reply(503, "5.5.1", "TLS already active")
NO_MECHANISM: Final = Reply(504, "5.5.4", "authentication mechanism not supported")
ENCRYPTION_REQUIRED: Final = Reply(504, "5.5.4", "encryption required for this mechanism")  # RFC 4954 section 4
LOGIN_REQUIRED: Final = Reply(530, "5.7.0", "authentication required")
TLS_REQUIRED: Final = Reply(530, "5.7.0", "must issue a STARTTLS command first")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "too many recipients")
TOO_MANY_TRANSACTIONS: Final = Reply(421, "4.7.0", "too many transactions in this session")
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "too many errors")
TOO_MANY_JUNK_COMMANDS: Final = Reply(421, "4.7.0", "too many junk commands")
NOT_SMTP: Final = Reply(421, "4.7.0", "this is an SMTP server, closing connection")
TOO_MANY_LOGINS: Final = Reply(421, "4.7.0", "too many authentication failures")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "service shutting down, closing connection")
ENDLESS_CONTENT: Final = Reply(421, "4.7.0", "message too large, closing connection")
BINARY_NEEDS_BDAT: Final = Reply(503, "5.5.1", "BODY=BINARYMIME requires BDAT, not DATA")
TIMED_OUT: Final = Reply(421, "4.4.2", "timeout exceeded, closing connection")

CONTENT_FAULTS: Final[Mapping[ContentFault, Reply]] = {
    ContentFault.TOO_LARGE: Reply(552, "5.3.4", "message size exceeds limit"),
    ContentFault.BARE_LINE_END: Reply(554, "5.6.0", "bare CR, bare LF or NUL in message content"),
    ContentFault.LONG_LINE: Reply(554, "5.6.0", "line too long in message content"),
}

LOGIN_FAILURES: Final[Mapping[sasl.Refusal | sasl.Fault, Reply]] = {
    # RFC 4954 section 6. One text for an unknown user and for a wrong password: architecture.md, invariant 6.
    sasl.Refusal.BAD_CREDENTIALS: Reply(535, "5.7.8", "authentication credentials invalid"),
    sasl.Refusal.NOT_AUTHORIZED: Reply(535, "5.7.8", "authentication credentials invalid"),
    sasl.Refusal.TEMPORARY: Reply(454, "4.7.0", "temporary authentication failure"),
    sasl.Refusal.TRANSITION_NEEDED: Reply(432, "4.7.12", "password transition needed"),
    sasl.Refusal.TOO_WEAK: Reply(534, "5.7.9", "authentication mechanism is too weak"),
    sasl.Fault.CANCELLED: Reply(501, "5.7.0", "authentication cancelled"),
    sasl.Fault.UNDECODABLE: Reply(501, "5.5.2", "invalid base64 in response"),
    sasl.Fault.UNEXPECTED_INITIAL_RESPONSE: Reply(501, "5.5.4", "initial response not allowed with this mechanism"),
    sasl.Fault.MALFORMED: Reply(501, "5.5.2", "malformed authentication response"),
    sasl.Fault.TOO_LONG: Reply(500, "5.5.6", "authentication exchange line is too long"),
}
